"""Which block holds which factor, and how much of it: presence matching and R² from the matched block alone.

    match(i) = block whose ‖z_g‖ correlates most with "factor i is on" over rows      (point-biserial correlation)
    R²(i)    = 1 − Σ ‖m_i − m̂_i‖² / Σ ‖m_i − mean‖²  over rows in which factor i is on,   m̂_i = z_g D_g

Blocks are matched on the first half of the held-out rows, R² is measured on the second. m̂ is the block's own
contribution, nothing is fitted; zero where the block is silent. Beside it stands R² of an affine map from the block's
code to m_i, fitted on the first half. Atoms (b = 1) may use as many as the factor has dimensions: the best b_i by the
same correlation. The oracle solves for all active factors at once by least squares in their true subspaces.

Controls: presence with its rows shuffled before matching; a random living block. After Fel et al. 2606.25234, sec. 3.1.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from backend.featurizers.featurizer import Featurizer, Selection
from backend.worlds.zoo import SPAN, Zoo, ZooSample


@torch.no_grad()
def read(featurizer: Featurizer, x: Tensor, *, batch: int = 4096) -> Selection:
    """Active blocks and codes of raw rows ``x`` (N, d), padded to one width with zero codes."""
    parts = [featurizer.select(featurizer.normalise(part)) for part in x.split(batch)]
    widest = max(p.block.shape[1] for p in parts)
    pad = torch.nn.functional.pad
    return Selection(torch.cat([pad(p.block, (0, widest - p.block.shape[1])) for p in parts]),
                     torch.cat([pad(p.code, (0, 0, 0, widest - p.code.shape[1])) for p in parts]))  # fmt: skip


def code_of(picked: Selection, block: int, rows: Tensor) -> Tensor:
    """Code ``(n, b)`` of one block in ``rows``; zero where it is silent."""
    on = (picked.block[rows] == block).to(picked.code)
    return (picked.code[rows] * on.unsqueeze(-1)).sum(1)


def presence_correlation(picked: Selection, mask: Tensor, n_blocks: int, *, batch: int = 8192) -> Tensor:
    """Correlation ``(M, G)`` of presence ``mask`` (N, M) with every block's norm; 0 for silent blocks."""
    n = len(mask)
    both = torch.zeros(mask.shape[1], n_blocks, dtype=torch.float64)
    first, second = torch.zeros(n_blocks, dtype=torch.float64), torch.zeros(n_blocks, dtype=torch.float64)
    for start in range(0, n, batch):
        rows = slice(start, start + batch)
        size = picked.code[rows].norm(dim=-1)
        norm = torch.zeros(len(size), n_blocks).scatter_add_(1, picked.block[rows], size)
        both += (mask[rows].to(norm).T @ norm).double()
        first += norm.sum(0).double()
        second += norm.square().sum(0).double()
    p, mean = mask.double().mean(0), first / n
    spread = (second / n - mean.square()).clamp_min(0).sqrt()
    joint = both / n - p[:, None] * mean
    return joint / ((p * (1 - p)).sqrt()[:, None] * spread).clamp_min(1e-12)


def r_squared(m: Tensor, guess: Tensor) -> float:
    """1 − Σ‖m − guess‖² / Σ‖m − mean‖²."""
    m = m.double()
    return 1 - float((m - guess.double()).square().sum() / (m - m.mean(0)).square().sum().clamp_min(1e-12))


@dataclass(frozen=True)
class Matched:
    """What was found of every factor, arrays of length M."""

    r2: np.ndarray
    fitted: np.ndarray
    """R² with an affine map from the code."""
    presence: np.ndarray
    """Correlation of the matched block's norm with presence."""
    blocks: list[list[int]]
    """The matched block, or the matched atoms."""
    shuffled: np.ndarray
    random: np.ndarray


class Bench:
    """Held-out rows of a zoo, split into a half for matching and a half for measuring."""

    def __init__(self, zoo: Zoo, sample: ZooSample) -> None:
        self.zoo, self.sample, self.half = zoo, sample, len(sample) // 2
        self.mask = sample.mask(zoo.n_factors)

    def on(self, factor: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Rows where a factor is on and its contributions: of the matching half, then of the measuring half."""
        rows, t = self.sample.of(factor)
        m, first = self.zoo.contribution(factor, t), rows < self.half
        return rows[first], m[first], rows[~first], m[~first]

    def match(self, featurizer: Featurizer, *, seed: int = 0) -> tuple[Matched, Selection]:
        """Match and measure a featurizer; its selection over all held-out rows comes with it."""
        picked = read(featurizer, self.sample.x)
        first = Selection(*(part[: self.half] for part in picked))
        generator = torch.Generator().manual_seed(seed)
        kinds = self.zoo.kinds
        n_each = [SPAN[kind] if featurizer.d_block == 1 else 1 for kind in kinds]
        score = presence_correlation(first, self.mask[: self.half], featurizer.n_blocks)
        order = torch.randperm(self.half, generator=generator)
        wrong = presence_correlation(first, self.mask[: self.half][order], featurizer.n_blocks)
        alive = first.block[first.code.square().sum(-1) > 0].unique()

        def best(s: Tensor) -> list[list[int]]:
            return [s[i].topk(n).indices.tolist() for i, n in enumerate(n_each)]

        blocks = best(score)
        chance = [alive[torch.randperm(len(alive), generator=generator)[:n]].tolist() for n in n_each]
        direct, fitted = self._measure(featurizer, picked, blocks, fit=True)
        return Matched(
            r2=direct, fitted=fitted, presence=score.amax(1).numpy(), blocks=blocks,
            shuffled=self._measure(featurizer, picked, best(wrong))[0],
            random=self._measure(featurizer, picked, chance)[0],
        ), picked  # fmt: skip

    @torch.no_grad()
    def _measure(self, featurizer: Featurizer, picked: Selection, blocks: list[list[int]], *,
                 fit: bool = False) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
        frames, direct, fitted = featurizer.frames(), [], []
        for factor, own in enumerate(blocks):
            rows_fit, m_fit, rows, m = self.on(factor)
            # (n, b) of one block, (n, b_i) of several atoms
            code = torch.cat([code_of(picked, g, rows) for g in own], 1)
            direct.append(r_squared(m, code @ frames[own].flatten(0, 1) / featurizer.scale))
            if fit:
                known = torch.cat([code_of(picked, g, rows_fit) for g in own], 1)
                fitted.append(r_squared(m, affine(known, m_fit)(code)))
        return np.array(direct), np.array(fitted)

    @torch.no_grad()
    def contribution(self, featurizer: Featurizer, picked: Selection, blocks: list[int],
                     factor: int) -> tuple[Tensor, Tensor]:  # fmt: skip
        """Contributions ``(n, d)`` of the matched block where it fires and the factor is on, and the true ``t``."""
        rows, t = self.sample.of(factor)
        code = torch.cat([code_of(picked, g, rows) for g in blocks], 1)
        fired = code.square().sum(1) > 0
        return code[fired] @ featurizer.frames()[blocks].flatten(0, 1) / featurizer.scale, t[fired]

    def oracle(self) -> tuple[np.ndarray, Callable[[int], tuple[Tensor, Tensor]]]:
        """R² of every factor by least squares in the true active subspaces, and the contributions of any factor."""
        zoo, sample = self.zoo, self.sample
        local = torch.empty(*sample.active.shape, 3)
        spans = torch.tensor([SPAN[kind] for kind in zoo.kinds])
        axis = torch.arange(3)
        for start in range(0, len(sample), 4096):
            rows = slice(start, start + 4096)
            active = sample.active[rows]
            # (n, 3 |S|, d); rows beyond a span are zero and get a one on the Gram's diagonal
            frame = zoo.frames[active].flatten(1, 2).double()
            unused = (axis >= spans[active][..., None]).flatten(1).double()
            gram = frame @ frame.mT + torch.diag_embed(unused)
            right = (frame @ sample.x[rows].double().unsqueeze(-1)).squeeze(-1)
            local[rows] = torch.linalg.solve(gram, right).float().view(*active.shape, 3)

        def of(factor: int) -> tuple[Tensor, Tensor]:
            at, slot = (sample.active == factor).nonzero(as_tuple=True)
            return local[at, slot] @ zoo.frames[factor], sample.t[at, slot]

        found = []
        for factor in range(zoo.n_factors):
            guess, t = of(factor)
            found.append(r_squared(zoo.contribution(factor, t), guess))
        return np.array(found), of


def affine(x: Tensor, y: Tensor) -> Callable[[Tensor], Tensor]:
    """Least-squares map ``x`` (n, p) → ``y`` (n, m) with an offset, lightly regularised."""
    centre, middle = x.double().mean(0), y.double().mean(0)
    u = x.double() - centre
    gram = u.T @ u
    ridge = 1e-6 * float(gram.diagonal().mean()) + 1e-12
    weights = torch.linalg.solve(gram + ridge * torch.eye(len(gram), dtype=gram.dtype), u.T @ (y.double() - middle))
    return lambda new: (new.double() - centre) @ weights + middle
