"""Rings of directions: blocks whose code points the same way all over a sample, and every way over samples.

A token that shows little of a factor has a short code, so codes fill a cone over the ring instead of the ring alone,
and no hole shows in their density (``topology``). What remains, without any label, is agreement: in the plane of a
block's two leading axes, the angles φ of its strong codes

    agreement = mean over pairs of tokens of one sample of cos(φ_i − φ_j)      (1: one direction a sample; 0: none)
    chance    = the same over tokens of different samples, |mean exp(iφ)|²

and coverage, the share of twelve directions that samples take. High agreement at low chance and full coverage says that
the direction is a coordinate of the sample that turns all the way round.

Not covered: telling a factor of the whole sample from one that only changes slowly over positions.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from backend.featurizers.featurizer import Featurizer
from backend.manifolds.block_ring import BlockRing, block_codes, firings, ring_through
from backend.manifolds.topology import Topology, antipodal

AGREES = 0.7
"""Least agreement, above chance, of a direction that belongs to the sample."""
COVERS = 0.9
"""Least share of the twelve directions that samples take: eleven of twelve."""
STRONG = 0.5
"""Share of a block's firing codes, the longest, that are looked at."""


def agreement(angle: np.ndarray, sample: np.ndarray) -> tuple[float, float, int]:
    """Agreement within samples and chance of angles ``(n,)`` with sample numbers ``(n,)``; samples that hold a pair."""
    z = np.exp(1j * angle)
    size = np.bincount(sample)
    total = np.bincount(sample, weights=z.real) + 1j * np.bincount(sample, weights=z.imag)
    pair = size >= 2
    within = (np.abs(total[pair]) ** 2 - size[pair]) / (size[pair] * (size[pair] - 1))
    return float(within.mean()) if pair.any() else 0.0, float(abs(z.mean()) ** 2), int(pair.sum())


@torch.no_grad()
def turn_of_block(code: Tensor, fired: Tensor, n_tokens: int, *, block: int, n_knots: int = 24, seed: int = 0,
                  min_samples: int = 100) -> BlockRing | None:  # fmt: skip
    """The ring of directions of a block's codes ``(n · n_tokens, b)``, or ``None`` where there is none."""
    norm = code.norm(dim=1)
    if code.shape[1] < 2 or int(fired.sum()) < 2 * min_samples:
        return None
    strong = fired & (norm >= norm[fired].quantile(1 - STRONG))
    cloud = code[strong].double().numpy()
    sample = np.flatnonzero(strong.numpy()) // n_tokens
    centre = cloud.mean(0)
    _, spread, axes = np.linalg.svd(cloud - centre, full_matrices=False)
    u = (cloud - centre) @ axes[:2].T
    angle = np.arctan2(u[:, 1], u[:, 0])
    within, chance, n = agreement(angle, sample)
    # Every sample counts once: a large object must not fill a direction by itself.
    first = np.unique(sample, return_index=True)[1]
    bins = np.bincount((angle[first] / (2 * np.pi) % 1.0 * 12).astype(int) % 12, minlength=12)
    coverage = float((bins >= 0.2 * len(first) / 12).mean())
    if n < min_samples or within - chance < AGREES or coverage < COVERS:
        return None
    variance = spread**2 / (spread**2).sum()
    topology = Topology(
        kind="ring", persistence=0.0, null=0.0, p_value=1.0, confidence=within - chance, second=0.0, ridge=None,
        ridge_p=None, coverage=coverage, antipodal=antipodal(cloud, rng=np.random.default_rng(seed)),
        variance=variance, plane=axes[:2], centre=centre,
        reason=f"Tokens of one sample agree on the direction ({within:.2f}, chance {chance:.2f}); samples take "
        f"{coverage:.0%} of the directions.",
    )  # fmt: skip
    ring = ring_through(torch.as_tensor(cloud), topology, n_knots=n_knots)
    radius = (ring.knots.double() - torch.as_tensor(centre)).square().sum(1).mean().sqrt()
    distance = ring.project(torch.as_tensor(cloud[:4000]))[1].double()
    return BlockRing(block, ring, topology, len(cloud), float(distance.square().mean().sqrt() / radius))


def find_turns(featurizer: Featurizer, x: Tensor, *, blocks: Sequence[int] | None = None,
               seed: int = 0) -> list[BlockRing]:  # fmt: skip
    """All blocks with a ring of directions on normalised rows ``x`` (n, T, d), the surest first; no label is used."""
    flat = x.flatten(0, 1)
    active = firings(featurizer, flat)
    found = []
    for block in range(featurizer.n_blocks) if blocks is None else blocks:
        code, fired = block_codes(featurizer, block, flat, active=active)
        turn = turn_of_block(code, fired, x.shape[1], block=block, seed=seed)
        if turn is not None:
            found.append(turn)
    return sorted(found, key=lambda r: -r.topology.confidence)
