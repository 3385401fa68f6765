"""Rings of directions: blocks whose code points the same way all over a sample, and every way over samples.

A token that shows little of a factor has a short code, so codes fill a cone over the ring instead of the ring alone,
and no hole shows in their density (``topology``). What remains, without any label, is agreement: in the plane of a
block's two leading axes, the angles φ of its strong codes

    agreement = mean over pairs of tokens of one sample of cos(φ_i − φ_j)      (1: one direction a sample; 0: none)
    chance    = the same over tokens of different samples, |mean exp(iφ)|²

and coverage, the share of twelve directions that samples take. High agreement at low chance and full coverage says that
the direction is a coordinate of the sample that turns all the way round.

This is other evidence than a hole in the density, so it has a type of its own (``Directions``) and no p-value.
Not covered: telling a factor of the whole sample from one that only changes slowly over positions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from backend.featurizers.featurizer import Featurizer
from backend.manifolds.block_ring import BlockRing, block_codes, firings
from backend.manifolds.topology import TurningPlane, antipodal, coverage

AGREES = 0.7
"""Least agreement, above chance, of a direction that belongs to the sample."""
COVERS = 0.9
"""Least share of the twelve directions that samples take: eleven of twelve."""
STRONG = 0.5
"""Share of a block's firing codes, the longest, that are looked at."""


@dataclass(frozen=True)
class Directions(TurningPlane):
    """What a ring of directions rests on."""

    agreement: float
    """Mean cosine between the directions of two tokens of one sample."""
    chance: float
    """The same between tokens of different samples."""
    coverage: float
    """Share of twelve directions that samples take."""
    antipodal: float
    """How alike the cloud is to its mirror image, 0 to 1."""
    kind: Literal["ring of directions"] = "ring of directions"

    @property
    def confidence(self) -> float:
        """Agreement above chance."""
        return self.agreement - self.chance

    @property
    def reason(self) -> str:
        """One sentence: why this kind."""
        return (f"Tokens of one sample agree on the direction ({self.agreement:.2f}, chance {self.chance:.2f}); "
                f"samples take {self.coverage:.0%} of the directions.")  # fmt: skip

    def measured(self) -> dict[str, float]:
        """The numbers that it rests on, for the record of a manifold."""
        names = ("agreement", "chance", "confidence", "coverage", "antipodal")
        return {name: getattr(self, name) for name in names}


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
    axes = np.linalg.svd(cloud - centre, full_matrices=False)[2]
    u = (cloud - centre) @ axes[:2].T
    angle = np.arctan2(u[:, 1], u[:, 0])
    within, chance, n = agreement(angle, sample)
    # Every sample counts once: a large object must not fill a direction by itself.
    first = np.unique(sample, return_index=True)[1]
    covered = coverage(angle[first] / (2 * np.pi) % 1.0)
    if n < min_samples or within - chance < AGREES or covered < COVERS:
        return None
    mirrored = antipodal(cloud, rng=np.random.default_rng(seed))
    found = Directions(plane=axes[:2], centre=centre, agreement=within, chance=chance, coverage=covered,
                       antipodal=mirrored)  # fmt: skip
    return BlockRing.through(torch.as_tensor(cloud), found, block=block, n_knots=n_knots)


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
    return sorted(found, key=lambda r: -r.evidence.confidence)
