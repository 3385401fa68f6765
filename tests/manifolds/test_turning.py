"""Rings of directions: a planted cone over a ring is found without labels, noise and a short arc are not."""

from __future__ import annotations

import numpy as np
import torch

from backend.manifolds.turning import agreement, turn_of_block

N, T = 400, 6


def cone(angle: torch.Tensor, *, noise: float = 0.1, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Codes of ``N`` samples of ``T`` tokens: one direction a sample, any length, a third column of noise."""
    g = torch.Generator().manual_seed(seed)
    length = torch.rand(N, T, generator=g)
    code = torch.stack([angle.cos(), angle.sin(), torch.zeros(N)], 1)[:, None] * length[..., None]
    code = code + noise * torch.randn(N, T, 3, generator=g)
    return code.flatten(0, 1), torch.ones(N * T, dtype=torch.bool)


def test_a_cone_over_a_ring_is_found_and_its_coordinate_is_the_angle():
    angle = 2 * torch.pi * torch.rand(N, generator=torch.Generator().manual_seed(1))
    code, fired = cone(angle)
    found = turn_of_block(code, fired, T, block=7)
    assert found is not None and found.block == 7 and found.evidence.kind == "ring of directions"
    assert found.evidence.confidence > 0.9 and found.evidence.coverage == 1.0
    clean = torch.stack([angle.cos(), angle.sin(), torch.zeros(N)], 1)
    t = 2 * np.pi * found.coordinate(clean)
    best = max(abs(np.exp(1j * (t - s * angle.numpy())).mean()) for s in (1, -1))
    assert best > 0.98


def test_directions_that_tokens_do_not_share_and_short_arcs_are_no_ring():
    g = torch.Generator().manual_seed(2)
    code, fired = torch.randn(N * T, 3, generator=g), torch.ones(N * T, dtype=torch.bool)
    assert turn_of_block(code, fired, T, block=0) is None
    arc, fired = cone(torch.rand(N, generator=g))
    turned = turn_of_block(arc, fired, T, block=0)
    assert turned is None or turned.evidence.coverage < 1.0
    assert turn_of_block(code, torch.zeros_like(fired), T, block=0) is None


def test_agreement_is_one_within_samples_and_chance_is_of_all():
    angle = np.repeat([0.0, np.pi / 2, np.pi, 3 * np.pi / 2], 3)
    within, chance, n = agreement(angle, np.repeat(np.arange(4), 3))
    assert abs(within - 1) < 1e-12 and chance < 1e-12 and n == 4
    mixed, _, _ = agreement(angle, np.tile(np.arange(3), 4))
    assert abs(mixed + 1 / 3) < 1e-12
