"""Coordinates on a cloud of codes, found without labels, for every kind of manifold that shape.py knows.

    ring, band   circular coordinate of the longest loop: an integer cocycle c of H1 at a scale where the loop lives;
                 f = argmin Σ w_ij (c_ij − (f_j − f_i))²,  t = f mod 1   (de Silva, Morozov, Vejdemo-Johansson 2011)
    torus        the same of the two longest loops, a pair
    line         distance along the cloud from one end to the other (Isomap in one dimension)
    sheet        self-organising map: a grid of nodes laid out by Isomap in two dimensions, then drawn to the codes
                 (Kohonen 1982), a pair
    sphere       height and azimuth of the direction from the centre, a pair

Cocycles come from ripser over Z/47, lifted to integers around zero. Distances are those along the cloud (homology.py),
so a roll unrolls. A new code takes the mean of the coordinates of its nearest landmarks (circular where it goes round).

``quality`` is the share of the cloud's variance that is explained by a point's neighbours in the coordinates alone:
near 1 where they say where a code is. Not covered: Moebius and Klein twists, coordinates over several blocks.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.sparse import coo_matrix
from scipy.sparse.linalg import lsqr
from scipy.spatial import cKDTree

from backend.core.errors import Refused
from backend.manifolds.homology import N_LANDMARKS, SCALE, Prepared, prepare
from backend.manifolds.shape import Shape

PRIME = 47
LEAST = 0.2
"""Shortest bar, in radii of the cloud, that a circular coordinate is read from."""
_NEAR = 6
GRID = 12
"""Side of the self-organising map."""


@dataclass(frozen=True)
class Coordinates:
    """Coordinates of a cloud and the way from new codes to them."""

    kind: str
    t: np.ndarray
    """(n, 1) or (n, 2) in [0, 1)."""
    cyclic: tuple[bool, ...]
    """Which of them go round."""
    quality: float
    project: Callable[[np.ndarray], np.ndarray]
    """New codes ``(m, b)`` to coordinates ``(m, 1 | 2)``."""


def coordinates(cloud: np.ndarray, topology: Shape | str, *, seed: int = 0) -> Coordinates:
    """Coordinates of codes ``(n, b)`` on the manifold of kind ``topology`` (a ``Shape``, or the kind by name).

    Raises ``Refused`` for a point, for "none", and where a ring is asked for and the cloud has no loop.
    """
    kind = topology if isinstance(topology, str) else topology.kind
    cloud = np.asarray(cloud, np.float64)
    if kind not in _FITS or len(cloud) < 60:
        raise Refused(f"Coordinates on a {kind} were asked for, from {len(cloud)} codes.",
                      f"They exist for {', '.join(_FITS)}, from 60 codes on.",
                      "Decide on the kind of the cloud first.")  # fmt: skip
    prepared = prepare(cloud, rng=np.random.default_rng(seed))
    fit, cyclic = _FITS[kind]
    place = fit(prepared)

    def project(codes: np.ndarray) -> np.ndarray:
        return place(prepared.frame.standard(np.atleast_2d(codes)))

    t = project(cloud)
    return Coordinates(kind, t, cyclic, explained(prepared.frame.standard(cloud), t, cyclic=cyclic), project)


def explained(points: np.ndarray, t: np.ndarray, *, cyclic: tuple[bool, ...], k: int = 6) -> float:
    """Share of the variance of ``points`` (n, m) that the mean of a point's ``k`` neighbours in ``t`` explains."""
    tree = cKDTree(t % 1.0, boxsize=[1.0 if round_ else 0.0 for round_ in cyclic])
    index = tree.query(t % 1.0, k=k + 1)[1]
    # A point is not its own neighbour; equal coordinates may put it at any place of the list.
    own = index == np.arange(len(t))[:, None]
    own[~own.any(1), -1] = True
    guess = points[index[~own].reshape(len(t), k)].mean(1)
    # The mean of k points keeps a k-th of the spread that is no error of the coordinate.
    error = ((points - guess) ** 2).sum() / (1 + 1 / k)
    return float(1 - error / ((points - points.mean(0)) ** 2).sum())


def _weights(known: np.ndarray, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    # Nearest known points of each point and weights that fall with the distance.
    distance, index = cKDTree(known).query(points, k=min(_NEAR, len(known)))
    width = np.maximum(distance[:, -1:], 1e-12)
    weight = np.maximum(1 - (distance / width) ** 2, 0) + 1e-6
    return index, weight / weight.sum(1, keepdims=True)


def _spread(known: np.ndarray, t: np.ndarray, *, cyclic: bool) -> Callable[[np.ndarray], np.ndarray]:
    # From the coordinate ``t`` (n,) of known points to that of any point.
    def place(points: np.ndarray) -> np.ndarray:
        index, weight = _weights(known, points)
        if cyclic:
            # Twice, because the remainder of a tiny negative number rounds to 1.
            return np.angle((weight * np.exp(2j * np.pi * t[index])).sum(1)) / (2 * np.pi) % 1.0 % 1.0
        return (weight * t[index]).sum(1)

    return place


def _stacked(*places: Callable[[np.ndarray], np.ndarray]) -> Callable[[np.ndarray], np.ndarray]:
    return lambda points: np.stack([place(points) for place in places], -1)


def circular(prepared: Prepared, *, n: int = 1) -> list[np.ndarray]:
    """Circular coordinates ``(landmarks,)`` in [0, 1) of the ``n`` longest loops; raises ``Refused`` for fewer."""
    from ripser import ripser

    between = prepared.between(N_LANDMARKS[0])
    found = ripser(between, distance_matrix=True, maxdim=1, coeff=PRIME, do_cocycles=True, thresh=SCALE[0])
    loops, cocycles = found["dgms"][1], found["cocycles"][1]
    length = np.minimum(loops[:, 1], SCALE[0]) - loops[:, 0]
    if (length >= LEAST).sum() < n:
        raise Refused("A circular coordinate was asked for.",
                      f"The cloud has {(length >= LEAST).sum()} loops of {LEAST} radii or more, not {n}.",
                      "Ask for a line or a sheet.")  # fmt: skip
    out = []
    for i in np.argsort(-length)[:n]:
        birth, death = loops[i, 0], min(loops[i, 1], SCALE[0])
        # Late in the loop's life there are more edges and the coordinate is smoother; the edge of life is avoided.
        out.append(_integrate(between, cocycles[i], birth + 0.7 * (death - birth)))
    return out


def _integrate(between: np.ndarray, cocycle: np.ndarray, scale: float) -> np.ndarray:
    # f mod 1 of the smoothest cocycle in the class of ``cocycle`` at ``scale``.
    n = len(between)
    value = np.zeros((n, n))
    lifted = np.where(cocycle[:, 2] > PRIME // 2, cocycle[:, 2] - PRIME, cocycle[:, 2])
    value[cocycle[:, 0], cocycle[:, 1]] = lifted
    value[cocycle[:, 1], cocycle[:, 0]] = -lifted
    first, second = np.nonzero(np.triu(between <= scale, 1))
    # Short edges weigh more: long ones cut corners, where the coordinate is not linear.
    weight = np.exp(-((2 * between[first, second] / scale) ** 2))
    rows = np.arange(len(first))
    step = coo_matrix((np.concatenate([weight, -weight]), (np.tile(rows, 2), np.concatenate([second, first]))),
                      shape=(len(first), n)).tocsr()  # fmt: skip
    return lsqr(step, weight * value[first, second], atol=1e-10, btol=1e-10)[0] % 1.0


def _ring(prepared: Prepared) -> Callable[[np.ndarray], np.ndarray]:
    marks = prepared.points[prepared.landmarks[: N_LANDMARKS[0]]]
    return _stacked(_spread(marks, circular(prepared)[0], cyclic=True))


def _torus(prepared: Prepared) -> Callable[[np.ndarray], np.ndarray]:
    marks = prepared.points[prepared.landmarks[: N_LANDMARKS[0]]]
    return _stacked(*(_spread(marks, t, cyclic=True) for t in circular(prepared, n=2)))


def _line(prepared: Prepared) -> Callable[[np.ndarray], np.ndarray]:
    along = prepared.along
    between = along[:, prepared.landmarks]
    one, other = np.unravel_index(between.argmax(), between.shape)
    # Halfway between "far from one end" and "near the other": bends of the shortest paths cancel.
    way = (along[one] - along[other] + between[one, other]) / (2 * between[one, other])
    return _stacked(_spread(prepared.points, np.clip(way, 0, 1 - 1e-9), cyclic=False))


def _sphere(prepared: Prepared) -> Callable[[np.ndarray], np.ndarray]:
    def place(points: np.ndarray) -> np.ndarray:
        p = points[:, :3] / np.maximum(np.linalg.norm(points[:, :3], axis=1, keepdims=True), 1e-12)
        return np.stack([np.clip((p[:, 2] + 1) / 2, 0, 1 - 1e-9), np.arctan2(p[:, 1], p[:, 0]) / (2 * np.pi) % 1.0], 1)

    if prepared.points.shape[1] < 3:
        raise Refused("Coordinates on a sphere were asked for.", "The cloud has fewer than three axes.",
                      "Ask for a sheet or a ring.")  # fmt: skip
    return place


def isomap(prepared: Prepared, *, n: int = 2) -> np.ndarray:
    """Classical scaling of the distances along the cloud, ``(points, n)``: landmarks first, all points from them."""
    square = prepared.along[:, prepared.landmarks] ** 2
    square = np.minimum(square, square.T)
    mean = square.mean(0)
    inner = -0.5 * (square - mean - square.mean(1, keepdims=True) + square.mean())
    value, axes = np.linalg.eigh((inner + inner.T) / 2)
    axes = axes[:, ::-1][:, :n] / np.sqrt(np.maximum(value[::-1][:n], 1e-12))
    return -0.5 * (prepared.along**2 - mean[:, None]).T @ axes


def _sheet(prepared: Prepared) -> Callable[[np.ndarray], np.ndarray]:
    return self_organising_map(prepared.points, isomap(prepared))


def self_organising_map(points: np.ndarray, start: np.ndarray, *, side: int = GRID,
                        rounds: int = 12) -> Callable[[np.ndarray], np.ndarray]:  # fmt: skip
    """Fit a ``side`` × ``side`` map to ``points`` (n, m), laid out by ``start`` (n, 2); returns points → (n, 2)."""
    axis = (np.arange(side) + 0.5) / side
    grid = np.stack(np.meshgrid(axis, axis, indexing="ij"), -1).reshape(-1, 2)
    # Ranks, so that every column and row of the map starts with as many points.
    t = np.argsort(np.argsort(start, axis=0), axis=0) / len(start)
    for i in range(rounds):
        width = (0.2 if i == 0 else 0.12 * 0.75**i + 0.5 / side) ** 2
        pull = np.exp(-((grid[:, None] - t[None]) ** 2).sum(-1) / (2 * width))
        nodes = pull @ points / np.maximum(pull.sum(1, keepdims=True), 1e-12)
        # A point stays near its place on the map, so that folds of a roll do not trade points.
        t = _place_on(nodes, grid, points, near=t, reach=3.0 / side)
    # A new point has no place yet: it takes that of the points around it.
    return _stacked(*(_spread(points, t[:, j], cyclic=False) for j in range(2)))


def _place_on(nodes: np.ndarray, grid: np.ndarray, points: np.ndarray, *, near: np.ndarray,
              reach: float) -> np.ndarray:  # fmt: skip
    distance = ((points[:, None] - nodes[None]) ** 2).sum(-1)
    far = np.abs(near[:, None] - grid[None]).max(-1) > reach
    distance = np.where(far, np.inf, distance)
    best = np.argsort(distance, axis=1)[:, :4]
    weight = 1 / np.maximum(np.take_along_axis(distance, best, 1), 1e-9)
    weight = np.where(np.isfinite(np.take_along_axis(distance, best, 1)), weight, 0.0)
    return np.clip((weight[..., None] * grid[best]).sum(1) / weight.sum(1, keepdims=True), 0, 1 - 1e-9)


_FITS: dict[str, tuple[Callable[[Prepared], Callable[[np.ndarray], np.ndarray]], tuple[bool, ...]]] = {
    "ring": (_ring, (True,)),
    "band": (_ring, (True,)),
    "torus": (_torus, (True, True)),
    "line": (_line, (False,)),
    "sheet": (_sheet, (False, False)),
    "sphere": (_sphere, (False, True)),
}

__all__ = ["Coordinates", "circular", "coordinates", "explained", "isomap", "self_organising_map"]
