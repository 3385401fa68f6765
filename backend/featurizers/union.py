"""A factor may live in several blocks at once; the union that holds it best is found greedily.

Starting from the best single block, the co-active block that raises the R² of the factor most is added, while the
gain is at least ``gain``. Blocks are chosen on one half of the pictures (fitted on its inner part, judged on its
check part); the R² that is reported comes from the other half, which nothing was chosen on (the split is
``Halves``). Not covered: exhaustive search; unions across sites.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from backend.featurizers.statistics import Halves, held_out_r2


@dataclass(frozen=True)
class Union:
    """The chosen blocks in the order of choice, with R² on the test half after each."""

    blocks: list[int]
    r2: list[float]

    @property
    def best_r2(self) -> float:
        return self.r2[-1]


def greedy_union(features: Tensor, y: Tensor, halves: Halves, *, overlap: np.ndarray | None = None, n_most: int = 6,
                 gain: float = 0.01, n_candidates: int = 48) -> Union:  # fmt: skip
    """Blocks that together hold ``y`` (n, m) best; ``features`` (G, n, p) from ``pooled``.

    With ``overlap`` (G, G) from ``co_activation`` only blocks that fire together with a chosen one are candidates.
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
