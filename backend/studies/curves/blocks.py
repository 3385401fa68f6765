"""Featurizers of a layer, and the block that is active at all orientations, found without a label.

What the search sees is ``probe``: activations of curves at random orientation, radius, width, contrast and position,
in no order. From a block's code z (zero where it is silent) on them, with e = ‖z‖²,

    share     of curves on which it is active
    evenness  (Σ e)² / (n Σ e²)          1: all curves get the same; a block that fires on a wedge of f has at most f
    variance  tr cov(z) / tr cov(x)      keeps out a block that says the same of every curve

The three blocks of largest evenness × variance are looked at by ``backend.manifolds.topology.decide``; rings go first,
otherwise the first of the three. The union starts there and takes the block that raises the share of curves on which
a member is active most, until ``EVERYWHERE``. Atoms (b = 1) are chosen by variance alone, which favours them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from backend.featurizers.featurizer import Featurizer
from backend.featurizers.grassmannian import Grassmannian
from backend.featurizers.trainer import Training, fit, measure
from backend.manifolds.topology import decide

EVERYWHERE = 0.95
"""Share of curves on which a block is active at all orientations: a wedge of 18 degrees may be missing."""
MOST = 6
"""Largest union."""


@torch.no_grad()
def codes(featurizer: Featurizer, x: Tensor) -> Tensor:
    """Codes (N, G, b) of raw rows ``x`` (N, d), zero where a block is silent."""
    picked = featurizer.select(featurizer.normalise(x))
    out = torch.zeros(len(x), featurizer.n_blocks, featurizer.d_block)
    return out.scatter_(1, picked.block[..., None].expand(-1, -1, featurizer.d_block), picked.code)


def trained(rows: Tensor, n_blocks: int, k: int, d_block: int, *, steps: int, batch: int, lr: float,
            seed: int) -> Grassmannian:  # fmt: skip
    """A Grassmannian featurizer of raw rows (N, d)."""
    featurizer = Grassmannian(rows.shape[1], n_blocks, d_block=d_block, k=k, aux="dead",
                              generator=torch.Generator().manual_seed(seed))  # fmt: skip
    featurizer.fit_centring(rows[:, None])
    fit(featurizer, rows[:, None], training=Training(steps=steps, batch=batch, lr=lr, warmup=50, seed=seed))
    return featurizer


def explained(featurizer: Featurizer, x: Tensor) -> float:
    """R² of the reconstruction of raw rows ``x`` (N, d)."""
    return measure(featurizer, featurizer.normalise(x)).r2


@dataclass(frozen=True)
class Chosen:
    """The block found without labels, and the union that begins with it."""

    block: int
    union: list[int]
    share: float
    evenness: float
    variance: float
    ring: bool
    persistence: float
    living: list[int]
    """Blocks that are active on a twentieth of the curves or more: what a random block is drawn from."""


def choose(featurizer: Featurizer, probe: Tensor, *, seed: int = 0, n_null: int = 19) -> Chosen:
    """Find the block and the union on unlabelled activations of curves (n, d), raw."""
    z = codes(featurizer, probe)
    energy = z.square().sum(2)
    active = energy > 0
    share = active.float().mean(0)
    even = energy.sum(0).square() / (len(z) * energy.square().sum(0)).clamp_min(1e-12)
    total = featurizer.normalise(probe).var(0, unbiased=False).sum()
    variance = (z - z.mean(0)).square().sum(2).mean(0) / total
    order = (even * variance).argsort(descending=True).tolist()
    first, looks = order[0], {}
    for block in order[:3]:
        if int(active[:, block].sum()) >= 60:
            rows = featurizer.pre_code(featurizer.normalise(probe), block).detach().double().numpy()
            looks[block] = decide(rows[active[:, block].numpy()], rows=rows, seed=seed, n_null=n_null)
    first = next((b for b, look in looks.items() if look.kind == "ring"), first)
    union, covered = [first], active[:, first]
    while float(covered.float().mean()) < EVERYWHERE and len(union) < MOST:
        gain = (active & ~covered[:, None]).float().mean(0)
        best = int(gain.argmax())
        if float(gain[best]) <= 0:
            break
        union.append(best)
        covered = covered | active[:, best]
    look = looks.get(first)
    return Chosen(
        first, union, float(share[first]), float(even[first]), float(variance[first]),
        bool(look and look.kind == "ring"), look.persistence if look else 0.0,
        (share >= 0.05).nonzero()[:, 0].tolist(),
    )  # fmt: skip


def loudest_atoms(atoms: Featurizer, probe: Tensor, n: int) -> list[int]:
    """The ``n`` atoms of largest variance over unlabelled curves."""
    z = codes(atoms, probe)[:, :, 0]
    return z.var(0).argsort(descending=True)[:n].tolist()


def random_frame(n: int, d: int, rng: np.random.Generator) -> Tensor:
    """``n`` random orthonormal directions (n, d); more than d are drawn as several such sets."""
    sets = [np.linalg.qr(rng.standard_normal((d, min(d, n - i))))[0].T for i in range(0, n, d)]
    return torch.as_tensor(np.concatenate(sets)).float()
