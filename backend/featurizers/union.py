"""A factor may live in several blocks at once: unions of co-active blocks, chosen with labels or found without.

    neighbourhoods   every block with the n − 1 blocks that fire most where it fires            (no label)
    communities      Louvain communities of the graph whose weights are co-activations          (no label; Bhalla et al.
                     2604.28119 cluster pairwise couplings in the same way)
    greedy_union     from the best single block on, the co-active block that raises the R² of a factor most

Greedy unions are chosen on one half of the pictures (fitted on its inner part, judged on its check part); the R² that
is reported comes from the other half, which nothing was chosen on (the split is ``Halves``).

``BlockUnion`` makes of such a set one object with a code and a subspace, so that what can be done with a block (draw
its cloud, decide its shape, fit a ring, clamp) can be done with a union. Not covered: exhaustive search; unions
across sites.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from backend.core.errors import Invalid
from backend.featurizers.featurizer import Featurizer
from backend.featurizers.statistics import Halves, held_out_r2, neighbours


@dataclass(frozen=True)
class Union:
    """The chosen blocks in the order of choice, with R² on the test half after each."""

    blocks: list[int]
    r2: list[float]

    @property
    def best_r2(self) -> float:
        return self.r2[-1]


class BlockUnion:
    """Blocks of one featurizer taken together; raises ``Invalid`` for blocks that are not there or come twice."""

    def __init__(self, featurizer: Featurizer, blocks: Sequence[int]) -> None:
        blocks = [int(block) for block in blocks]
        if not blocks or len(set(blocks)) < len(blocks) or not all(0 <= b < featurizer.n_blocks for b in blocks):
            raise Invalid(f"A union of the blocks {blocks} was asked for.",
                          f"The featurizer has the blocks 0 to {featurizer.n_blocks - 1}, each once.",
                          "Name one or more of them, each once.")  # fmt: skip
        self.featurizer, self.blocks = featurizer, blocks

    @property
    def d_code(self) -> int:
        return len(self.blocks) * self.featurizer.d_block

    @torch.no_grad()
    def code(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Codes ``(N, m·b)`` of rows ``x`` (N, d), normalised, zero where a block is silent; where any fires (N,)."""
        picked = self.featurizer.select(x)
        on = picked.code.square().sum(-1) > 0
        code = x.new_zeros(len(x), len(self.blocks), self.featurizer.d_block)
        for i, block in enumerate(self.blocks):
            row, slot = ((picked.block == block) & on).nonzero(as_tuple=True)
            code[row, i] = picked.code[row, slot]
        return code.flatten(1), code.square().sum((1, 2)) > 0

    def decode(self, code: Tensor) -> Tensor:
        """What codes ``(N, m·b)`` contribute to the normalised activation, ``(N, d)``."""
        return code @ self.featurizer.frames()[self.blocks].flatten(0, 1)

    @torch.no_grad()
    def subspace(self, *, least: float = 1e-3) -> Tensor:
        """Orthonormal basis ``(d, r)`` of what the blocks span together; overlapping frames give r < m·b."""
        atoms = self.featurizer.frames()[self.blocks].flatten(0, 1)
        _, size, axes = torch.linalg.svd(atoms, full_matrices=False)
        return axes[size > least * size[0]].T.contiguous()


def neighbourhoods(overlap: np.ndarray, *, n: int = 4) -> list[list[int]]:
    """Every block with the ``n`` − 1 blocks that fire most where it fires; ``overlap`` (G, G) from ``co_activation``.

    Blocks that fire with no other are left out; a set that several blocks give comes once.
    """
    found: dict[frozenset[int], list[int]] = {}
    for block in range(len(overlap)):
        near = neighbours(overlap, block, n=n - 1)
        if near:
            found.setdefault(frozenset([block, *near]), [block, *near])
    return list(found.values())


def communities(overlap: np.ndarray, *, resolution: float = 1.0, seed: int = 0) -> list[list[int]]:
    """Louvain communities of two or more blocks, the largest first; ``overlap`` (G, G) from ``co_activation``."""
    import networkx

    graph = networkx.from_numpy_array(np.asarray(overlap))
    found = networkx.community.louvain_communities(graph, weight="weight", resolution=resolution, seed=seed)
    groups = [sorted(map(int, group)) for group in found if len(group) > 1]
    return sorted(groups, key=lambda group: (-len(group), group))


def greedy_union(features: Tensor, y: Tensor, halves: Halves, *, overlap: np.ndarray | None = None, n_most: int = 6,
                 gain: float = 0.01, n_candidates: int = 48) -> Union:  # fmt: skip
    """Blocks that together hold ``y`` (n, m) best; ``features`` (G, n, p) from ``pooled``.

    Stops at ``n_most`` blocks or where no candidate raises R² by ``gain``. With ``overlap`` (G, G) from
    ``co_activation`` only blocks that fire together with a chosen one are candidates.
    """
    alone, tested = held_out_r2(features, y, halves)
    chosen, r2, best = [int(alone.argmax())], [float(tested[alone.argmax()])], float(alone.max())
    while len(chosen) < n_most:
        allowed = np.ones(len(alone), bool)
        if overlap is not None:
            allowed = overlap[chosen].max(0) > 0
        allowed[chosen] = False
        candidates = [int(i) for i in np.argsort(-alone, kind="stable") if allowed[i]][:n_candidates]
        if not candidates:
            break
        # (B, n, p (m + 1)): the blocks chosen so far beside each candidate
        base = torch.cat([features[i] for i in chosen], -1)
        joint = torch.stack([torch.cat([base, features[i]], -1) for i in candidates])
        checked, reported = held_out_r2(joint, y, halves, chunk=8)
        top = int(checked.argmax())
        if checked[top] < best + gain:
            break
        chosen.append(candidates[top])
        r2.append(float(reported[top]))
        best = float(checked[top])
    return Union(chosen, r2)
