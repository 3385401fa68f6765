"""Ring fitting on planted activations: found where it is, absent where labels are shuffled."""

from __future__ import annotations

import math

import torch

from backend.manifolds.steerable import SteerableManifold
from backend.recipes.tabletop_manifolds import EDGES, harmonics, info, ring_entry, with_gain

SITE = "tabletop-sdxl/down.1.0#update"


def _planted(n: int = 600, n_tokens: int = 9, d: int = 20):
    """x = offset + per-position plane · (cos θ, sin θ) + noise."""
    generator = torch.Generator().manual_seed(3)
    angle = torch.rand(n, generator=generator) * 2 * math.pi
    planes = torch.randn(n_tokens, 2, d, generator=generator)
    offset = torch.randn(n_tokens, d, generator=generator)
    circle = torch.stack([angle.cos(), angle.sin()], 1)
    x = offset + torch.einsum("nc,tcd->ntd", circle, planes) + 0.3 * torch.randn(n, n_tokens, d, generator=generator)
    return x, angle, planes, offset


def test_a_planted_ring_is_recovered_position_by_position():
    x, angle, planes, offset = _planted()
    entry, shares = ring_entry([x] * len(EDGES), angle, rank=18)
    manifold = SteerableManifold(info("light_azimuth", [SITE]), {SITE: entry})
    theta = 1.1
    target = manifold.targets(SITE, theta / (2 * math.pi), time=0.5) @ entry.frame.T
    truth = offset + torch.einsum("c,tcd->td", torch.tensor([math.cos(theta), math.sin(theta)]), planes)
    projector = entry.frame @ entry.frame.T
    assert (target - truth @ projector).norm() / (truth @ projector).norm() < 0.1
    assert min(shares) > 0.8


def test_shuffled_labels_explain_nothing():
    x, angle, *_ = _planted()
    permuted = angle[torch.randperm(len(angle), generator=torch.Generator().manual_seed(5))]
    _, shares = ring_entry([x] * len(EDGES), permuted)
    assert max(shares) < 0.03


def test_gain_scales_the_distance_from_the_centre():
    x, angle, *_ = _planted()
    entry, _ = ring_entry([x] * len(EDGES), angle)
    about = info("light_azimuth", [SITE])
    one, two = (SteerableManifold(about, {SITE: with_gain(entry, g)}) for g in (1.0, 2.0))
    centre = entry.mean[0]
    moved = [m.targets(SITE, 0.3, time=0.2) - centre for m in (one, two)]
    assert torch.allclose(2 * moved[0], moved[1], atol=1e-4)


def test_harmonics_are_periodic():
    a = torch.tensor([0.2, 0.2 + 2 * math.pi])
    assert torch.allclose(harmonics(a)[0], harmonics(a)[1], atol=1e-5)
    assert harmonics(a).shape == (2, 4)
