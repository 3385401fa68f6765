"""Bars of a cloud of points, and the clouds without shape that they are compared with.

    cloud → centred, divided by its root-mean-square radius → axes below 1 % of the variance cut → strays left out
          → distances between landmarks far from each other → Vietoris-Rips bars of H1 (loops) and H2 (voids) (ripser)

A distance is the straight one, unless the way along the cloud (shortest path over nearest neighbours) is more than
twice as long: then it is that way. So the turns of a roll or a helix that come near each other make no loop. The
neighbour graph is joined by the shortest bridges between its pieces, so that a gap between two draws does not cut a
curve; a wide bridge says that the cloud has several pieces. A bar still alive at the largest scale counts as long as
the scale allows: a thin circle of radius 1 lives from the landmarks' spacing to √3, the tube of a torus R = 1, r = 0.4
to 0.64 of the cloud's radius.

The correlation dimension says how the number of pairs within reach e grows, d log C(e) / d log e, between two small
reaches: near 1 on a curve, 2 on a sheet, and the number of axes in a blob (Grassberger and Procaccia 1983).

The null draws Gaussian clouds of the same shares of variance, rounded to twentieths so that equal spectra share their
draws. Not covered: confidence sets of bars, coefficients other than Z/2, clouds in more than a handful of dimensions.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from scipy.sparse import csr_matrix
from scipy.sparse.csgraph import connected_components, minimum_spanning_tree, shortest_path
from scipy.spatial import cKDTree
from scipy.spatial.distance import pdist, squareform

N_POINTS = 1500
"""Points of a cloud that distances are measured along."""
N_LANDMARKS = (180, 320)
"""Landmarks for loops and for voids."""
REACH = (0.22, 0.5)
"""Reaches between which the correlation dimension is taken, in radii of the cloud."""
SCALE = (1.75, 0.9)
"""Largest scales of the bars of loops and of voids, in radii of the cloud."""
DETOUR = 2.0
"""How many times the straight way noise and bends may lengthen the way along the cloud; a half circle does 1.57."""
_NEIGHBOURS = 30
_STEP = (0.2, 0.4)


@dataclass(frozen=True)
class Frame:
    """The axes of a cloud that hold 1 % of its variance or more, and its radius."""

    centre: np.ndarray
    axes: np.ndarray
    """(m, b), orthonormal rows."""
    radius: float
    share: np.ndarray
    """Shares of variance of all b axes."""

    @classmethod
    def of(cls, cloud: np.ndarray) -> Frame:
        """Principal axes of a cloud ``(n, b)``."""
        centre = cloud.mean(0)
        _, size, axes = np.linalg.svd(cloud - centre, full_matrices=False)
        share = size**2 / max((size**2).sum(), 1e-24)
        keep = share >= 0.01
        radius = np.sqrt((size[keep] ** 2).sum() / len(cloud))
        return cls(centre, axes[keep], max(float(radius), 1e-12), share)

    def standard(self, codes: np.ndarray) -> np.ndarray:
        """Codes ``(n, b)`` as points ``(n, m)`` of a cloud of radius 1 around 0."""
        return (np.asarray(codes, np.float64) - self.centre) @ self.axes.T / self.radius


@dataclass(frozen=True)
class Prepared:
    """A cloud of radius 1 with its distances."""

    points: np.ndarray
    """(n, m), centred, radius 1, on the axes that matter."""
    frame: Frame
    """How they come from codes."""
    along: np.ndarray
    """(landmarks, n) shortest paths over the neighbour graph."""
    landmarks: np.ndarray
    """Indices into ``points``."""
    gap: float
    """Longest step of the shortest tree through the points that cuts off a tenth of them or more."""

    def between(self, n: int | None = None) -> np.ndarray:
        """Distances between the first ``n`` landmarks, ``(n, n)``: straight, or along the cloud where that is far."""
        marks = self.landmarks[:n]
        along = self.along[: len(marks), marks]
        along = np.minimum(along, along.T)
        straight = squareform(pdist(self.points[marks]))
        return np.where(along > DETOUR * straight, along, straight)


def prepare(cloud: np.ndarray, *, rng: np.random.Generator, n_points: int = N_POINTS,
            n_landmarks: int = N_LANDMARKS[1]) -> Prepared:  # fmt: skip
    """Draw ``n_points`` of a cloud ``(n, b)``, leave strays out and measure distances along it."""
    frame = Frame.of(cloud)
    points = frame.standard(cloud)
    points = without_strays(points[rng.permutation(len(points))[: int(1.05 * n_points)]])[:n_points]
    nearest = neighbour_graph(points)
    tree = minimum_spanning_tree(nearest)
    if connected_components(tree, directed=False)[0] > 1:
        tree = minimum_spanning_tree(csr_matrix(np.maximum(squareform(pdist(points)), 1e-9)))
    # Steps much longer than any that holds the cloud together would jump from turn to turn.
    step = float(np.clip(1.6 * np.quantile(tree.data, 0.99), *_STEP))
    nearest.data[nearest.data > step] = 0
    nearest.eliminate_zeros()
    graph = nearest.maximum(tree.maximum(tree.T))
    marks = farthest(points, n_landmarks, rng=rng)
    return Prepared(points, frame, shortest_path(graph, directed=False, indices=marks), marks, widest_gap(tree))


def without_strays(points: np.ndarray, *, k: int = 12, ratio: float = 1.4, most: float = 0.08) -> np.ndarray:
    """Leave out points whose ``k``-th neighbour is ``ratio`` times as far as those of the points around them.

    A few strays make bridges where there are none. They are compared with their neighbours, not with the whole cloud:
    a region that is thin everywhere belongs to the manifold, and cutting it out would tear a hole.
    """
    distance, index = cKDTree(points).query(points, k=min(k + 1, len(points)))
    lonely = distance[:, -1] / np.maximum(np.median(distance[index[:, 1:], -1], axis=1), 1e-12)
    limit = max(ratio, float(np.quantile(lonely, 1 - most)))
    return points[lonely <= limit]


def widest_gap(tree: csr_matrix, *, share: float = 0.1) -> float:
    """Longest edge of a spanning tree whose removal leaves ``share`` of the points or more on both sides."""
    n, tree = tree.shape[0], tree.tocoo()
    order = np.argsort(-tree.data)
    # A cluster of a tenth can hide behind edges to single outliers, so the longest are cut one after the other.
    for cut in range(1, min(40, len(order)) + 1):
        keep = order[cut:]
        graph = csr_matrix((tree.data[keep], (tree.row[keep], tree.col[keep])), shape=(n, n))
        size = np.bincount(connected_components(graph, directed=False)[1])
        if (size >= share * n).sum() > 1:
            return float(tree.data[order[cut - 1]])
    return 0.0


def neighbour_graph(points: np.ndarray, k: int = _NEIGHBOURS) -> csr_matrix:
    """Distances ``(n, n)`` to the ``k`` nearest neighbours, symmetric."""
    n = len(points)
    distance, index = cKDTree(points).query(points, k=min(k + 1, n))
    rows = np.repeat(np.arange(n), distance.shape[1] - 1)
    # Two points in one place have an edge all the same: a stored zero would be none.
    graph = csr_matrix((np.maximum(distance[:, 1:].ravel(), 1e-9), (rows, index[:, 1:].ravel())), shape=(n, n))
    return graph.maximum(graph.T)


def farthest(points: np.ndarray, n: int, *, rng: np.random.Generator) -> np.ndarray:
    """Indices of ``n`` points, each the farthest from those before it."""
    chosen = [int(rng.integers(len(points)))]
    distance = np.full(len(points), np.inf)
    while len(chosen) < min(n, len(points)):
        distance = np.minimum(distance, ((points - points[chosen[-1]]) ** 2).sum(1))
        chosen.append(int(distance.argmax()))
    return np.array(chosen)


def bars(prepared: Prepared, *, maxdim: int = 1) -> list[np.ndarray]:
    """Lengths of the bars of H1 .. H``maxdim``, longest first; a bar alive at ``SCALE`` ends there."""
    from ripser import ripser

    out = []
    for dim in range(1, maxdim + 1):
        between, scale = prepared.between(N_LANDMARKS[dim - 1]), SCALE[dim - 1]
        found = ripser(between, distance_matrix=True, maxdim=dim, thresh=scale)["dgms"][dim]
        out.append(np.sort(np.minimum(found[:, 1], scale) - found[:, 0])[::-1] if len(found) else np.zeros(0))
    return out


def correlation_dimension(points: np.ndarray, *, reach: tuple[float, float] = REACH) -> float:
    """Growth of the number of pairs between two reaches; ``points`` (n, m) of radius 1; 0 where no pair is near."""
    distance = pdist(points[:N_POINTS])
    near, far = ((distance < e).sum() for e in reach)
    return float(np.log(far / near) / np.log(reach[1] / reach[0])) if near else 0.0


@lru_cache(maxsize=256)
def _null(shares: tuple[float, ...], n: int, maxdim: int, n_null: int, seed: int) -> tuple[np.ndarray, ...]:
    rng = np.random.default_rng(seed)
    spread = np.sqrt(np.array(shares))
    drawn = [bars(prepare(rng.standard_normal((n, len(spread))) * spread, rng=rng), maxdim=maxdim)
             for _ in range(n_null)]  # fmt: skip
    return tuple(np.array([d[i][0] if len(d[i]) else 0.0 for d in drawn]) for i in range(maxdim))


def null_bars(share: np.ndarray, n: int, *, maxdim: int = 1, n_null: int = 19,
              seed: int = 0) -> tuple[np.ndarray, ...]:  # fmt: skip
    """Longest bar of each homology ``(n_null,)`` over Gaussian clouds of ``n`` points with variances ``share`` (b,)."""
    rounded = np.maximum(np.round(share[share >= 0.01] * 20), 0.4) / 20
    return _null(tuple(float(v) for v in rounded / rounded.sum()), min(n, N_POINTS), maxdim, n_null, seed)
