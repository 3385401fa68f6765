"""The graph of blocks that fire together: its strongest edges, and a place in the plane for every block.

Two blocks are joined where one is among the other's strongest co-activations. The plane is a force layout of that
graph (Fruchterman and Reingold 1991): all blocks repel each other as 1 / distance, joined ones attract as distance²
times their overlap. Beside UMAP, which keeps neighbourhoods and breaks what lies between, it keeps hubs in the middle
and strangers outside. Repulsion is summed over all pairs, chunk by chunk: minutes for more than ten thousand blocks.
Not covered: a tree that would sum it faster.
"""

from __future__ import annotations

import numpy as np
import torch


def strongest(overlap: np.ndarray, *, n: int = 3, least: float = 0.01) -> list[tuple[int, int, float]]:
    """Edges ``(i, j, overlap)``, i < j: each block's ``n`` strongest co-activations of at least ``least``."""
    found: dict[tuple[int, int], float] = {}
    n = min(n, max(len(overlap) - 1, 0))
    for i, row in enumerate(overlap):
        for j in np.argpartition(-row, n)[:n] if n else []:
            if row[j] >= least:
                found[min(i, int(j)), max(i, int(j))] = float(row[j])
    return [(i, j, w) for (i, j), w in sorted(found.items())]


def graph_map(n: int, edges: list[tuple[int, int, float]], *, steps: int | None = None, seed: int = 0) -> np.ndarray:
    """A place for each of ``n`` blocks, ``(n, 2)`` in [-1, 1]; blocks without edges stand on a circle outside."""
    if not n:
        return np.zeros((0, 2))
    # Every step costs n² and large graphs settle slowly anyway.
    steps = steps or (150 if n < 1500 else 40)
    generator = torch.Generator().manual_seed(seed)
    first, second = (torch.tensor([e[k] for e in edges], dtype=torch.long) for k in (0, 1))
    weight = torch.tensor([e[2] for e in edges], dtype=torch.float32)
    degree = torch.zeros(n).index_add_(0, first, torch.ones(len(edges))).index_add_(0, second, torch.ones(len(edges)))
    joined = (degree > 0).nonzero()[:, 0]
    place = torch.randn(n, 2, generator=generator)
    # Overlaps are small and uneven: what counts is how strong an edge is among the edges.
    pull = (weight / max(weight.tolist(), default=1.0)).sqrt()
    size = 1.0 / max(len(joined), 1) ** 0.5
    for step in range(steps if len(joined) else 0):
        push = torch.zeros(n, 2)
        here = place[joined]
        far = here.square().sum(1)
        for rows in torch.arange(len(joined)).split(1024):
            # Σ_j w_ij (p_i − p_j) = p_i Σ_j w_ij − Σ_j w_ij p_j: three passes over (rows, n) and no (rows, n, 2).
            w = torch.addmm(far[rows, None] + far[None], here[rows], here.T, alpha=-2.0).clamp_min_(1e-6).reciprocal_()
            w[torch.arange(len(rows)), rows] = 0.0
            push[joined[rows]] = size**2 * (here[rows] * w.sum(1, keepdim=True) - w @ here)
        gap = place[first] - place[second]
        draw = gap * (gap.norm(dim=1, keepdim=True) / size) * pull[:, None]
        push.index_add_(0, first, -draw).index_add_(0, second, draw)
        # Islands that nothing joins would drift away for ever.
        push -= 0.6 * place * (place.norm(dim=1, keepdim=True) > 1.2)
        most = 0.25 * (1 - step / steps) + 0.002
        place += push * (most / push.norm(dim=1, keepdim=True).clamp_min(most))
    if len(joined):
        middle = place[joined].mean(0)
        reach = (place[joined] - middle).norm(dim=1).quantile(0.98).clamp_min(1e-6)
        place = (place - middle) / reach
        far = place.norm(dim=1, keepdim=True)
        place = torch.where(far > 1, place / far * (1 + 0.1 * (far - 1).clamp_max(1.0)), place)
    lonely = (degree == 0).nonzero()[:, 0]
    if len(lonely):
        turn = 2 * torch.pi * torch.arange(len(lonely)) / len(lonely)
        place[lonely] = 1.25 * torch.stack([turn.cos(), turn.sin()], 1)
    return (place / place.abs().max().clamp_min(1e-9)).numpy()


def principal_map(overlap: np.ndarray, *, seed: int = 0) -> np.ndarray:
    """A quick map ``(n, 2)`` in [-1, 1]: the leading two spectral coordinates of the graph's random walk, ranked."""
    from scipy.sparse.linalg import eigsh

    n = len(overlap)
    if n < 4:
        return graph_map(n, strongest(overlap), seed=seed)
    degree = np.sqrt(overlap.sum(1) + 1e-9)
    start = np.random.default_rng(seed).normal(size=n)
    value, vector = eigsh(overlap / degree[:, None] / degree[None], k=3, which="LA", v0=start, tol=1e-3)
    found = (vector / degree[:, None])[:, np.argsort(-value)[1:]]
    # Spectral coordinates crowd: ranks spread them evenly and keep who stands beside whom.
    return 2 * found.argsort(0).argsort(0) / (n - 1) - 1
