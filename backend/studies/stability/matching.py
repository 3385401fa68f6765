"""How alike two dictionaries are: blocks matched one to one by the angles between their subspaces.

    overlap(g, h) = ‖B_g B_h'‖² / min(b_g, b_h)  = mean squared cosine of the principal angles     (B orthonormal)
    matched       = the assignment of blocks to blocks that makes the sum of overlaps largest (Hungarian)

A pair of random subspaces of dimension b in d dimensions overlaps by b / d on average; matching picks the largest of
many, so the null is a random dictionary matched in the same way. Splitting is asked of the codes: where a block g
fires, how many blocks of another dictionary carry what g contributed,

    shares_h = E ‖(code_h D_h) B_g'‖² / Σ,   effective number = exp(entropy of the shares).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from backend.featurizers.featurizer import Featurizer, Selection
from backend.featurizers.grassmannian import orthonormal


@dataclass(frozen=True)
class Matched:
    """Pairs of blocks of two dictionaries, one entry a pair."""

    first: np.ndarray
    second: np.ndarray
    overlap: np.ndarray
    """Mean squared cosine of the principal angles, 0 to 1."""
    largest: np.ndarray
    """Largest principal angle, radians."""


def match(one: Tensor, other: Tensor) -> Matched:
    """The best one-to-one matching of frames ``(G, b, d)`` and ``(H, c, d)``, orthonormal within a block."""
    n, b, _ = one.shape
    m, c, _ = other.shape
    cosines = (one.flatten(0, 1) @ other.flatten(0, 1).T).view(n, b, m, c)
    overlap = (cosines.square().sum((1, 3)) / min(b, c)).double().numpy()
    first, second = linear_sum_assignment(-overlap)
    pairs = cosines[torch.as_tensor(first), :, torch.as_tensor(second)].double()
    least = torch.linalg.svdvals(pairs)[:, min(b, c) - 1].clamp(0, 1)
    return Matched(first, second, overlap[first, second], least.acos().numpy())


def living(featurizer: Featurizer, picked: Selection) -> Tensor:
    """Orthonormal frames ``(G', b, d)`` of the blocks that fire anywhere in ``picked``."""
    fires = picked.block[picked.code.square().sum(-1) > 0].unique()
    return orthonormal(featurizer.frames().detach()[fires])


def random_frames(frames: Tensor, *, seed: int) -> Tensor:
    """Random orthonormal frames of the same shape ``(G, b, d)``."""
    return orthonormal(torch.randn(frames.shape, generator=torch.Generator().manual_seed(seed)))


@torch.no_grad()
def carriers(one: Featurizer, other: Featurizer, picked: Selection, again: Selection, *,
             least: int = 50) -> np.ndarray:  # fmt: skip
    """Effective number of ``other``'s blocks that carry what each block of ``one`` contributes, where it fires.

    ``picked`` and ``again`` are the two selections on the same rows; blocks that fire on fewer than ``least`` rows are
    left out.
    """
    found, frames = [], other.frames().detach()
    on = picked.code.square().sum(-1) > 0
    bases = orthonormal(one.frames().detach())
    for block in range(one.n_blocks):
        rows = ((picked.block == block) & on).any(1)
        if int(rows.sum()) < least:
            continue
        blocks, code = again.block[rows], again.code[rows]
        # (G', c, b): the other frames seen inside this block's subspace
        inside = frames @ bases[block].T
        energy = torch.einsum("nkc,nkcb->nkb", code, inside[blocks]).square().sum(-1)
        share = torch.zeros(other.n_blocks, dtype=torch.float64)
        share.index_add_(0, blocks.flatten(), energy.flatten().double())
        share = share[share > 0] / share.sum().clamp_min(1e-12)
        found.append(float(torch.exp(-(share * share.log()).sum())))
    return np.array(found)
