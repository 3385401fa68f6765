"""Is a cloud of codes a ring, a line, a point, or none of these? The decision that knows of the gate.

A ring has one long-lived loop: the longest bar of first persistent homology (Vietoris-Rips, ripser), divided by the
cloud's root-mean-square radius (a thin ring gives about 1.7). The bar is compared with those of Gaussian clouds of the
same mean and covariance; a ring must also have one loop, not several, and go all the way round.

A hole alone proves little, because a block fires only where its code is long: the gate cuts the middle out of any
cloud, and a gated Gaussian plane passes the test above. So the block's code on *all* rows, fired or not, must have a
ridge: seen from the ring's centre, the density must fall and then rise again in every direction (ridge.py).

Signed codes make clouds that equal their mirror image; ``antipodal`` says how nearly. A centred ring is its own
mirror image too, so a high value does not refute a ring: it says that the codes cannot tell whether z and -z are one
concept or two, which only labels or interventions can.

Not covered: sheets, bands, tori and spheres (shape.py), rings that are not planar even roughly.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy.spatial import cKDTree

from backend.manifolds.ridge import counts_around, crest_over_valley, ridge

Kind = Literal["ring", "line", "point", "none"]
N_NULL = 39
"""Null clouds; the smallest p-value is 1 / (N_NULL + 1) = 0.025."""
RIDGE = 0.15
"""Least ridge that counts as one, whatever its p-value."""
IDEAL = 3**0.5
"""Longest bar of a thin circle of radius 1: the loop closes at the side of the inscribed triangle."""


@dataclass(frozen=True)
class TurningPlane:
    """Two axes of a block's code and a centre, around which a coordinate turns."""

    plane: np.ndarray
    """Two orthonormal axes ``(2, b)`` in which the coordinate turns."""
    centre: np.ndarray
    """Centre ``(b,)`` around which it turns."""

    def coordinate(self, code: np.ndarray) -> np.ndarray:
        """Coordinate ``(n,)`` in [0, 1) of codes ``(n, b)``: the angle around the centre in the plane."""
        u = (np.asarray(code, np.float64) - self.centre) @ self.plane.T
        return np.arctan2(u[:, 1], u[:, 0]) / (2 * np.pi) % 1.0


@dataclass(frozen=True)
class Topology(TurningPlane):
    """The decision on one cloud and what it rests on."""

    kind: Kind
    persistence: float | None
    """Longest loop over the cloud's radius; ``None`` where the decision fell before loops were looked at."""
    null: float | None
    """95 % quantile of the same over Gaussian clouds of the same mean and covariance."""
    p_value: float | None
    confidence: float
    """How far the loop of a ring stands from the null (0) towards a perfect circle (1); 0 for other kinds."""
    second: float | None
    """Second longest loop over the longest."""
    ridge: float | None
    """Log of crest over valley of the density of all rows; ``None`` where only fired codes were given."""
    ridge_p: float | None
    coverage: float
    """Share of twelve directions in the ring's plane that hold a fair number of points."""
    antipodal: float
    """How alike the cloud is to its mirror image, 0 to 1."""
    reason: str
    """One sentence: why this kind."""

    def measured(self) -> dict[str, float | None]:
        """The numbers that the decision rests on, for the record of a manifold."""
        names = ("persistence", "null", "p_value", "confidence", "antipodal", "ridge", "ridge_p", "coverage")
        return {name: getattr(self, name) for name in names}


def coverage(t: np.ndarray) -> float:
    """Share of twelve equal parts of a turn that hold a fair number of coordinates ``t`` (n,) in [0, 1)."""
    bins = np.bincount((t * 12).astype(int) % 12, minlength=12)
    return float((bins >= 0.2 * len(t) / 12).mean())


def loops(cloud: np.ndarray, *, rng: np.random.Generator, n_points: int = 150,
          dense: float = 0.85) -> tuple[float, float]:  # fmt: skip
    """The two longest bars of first homology over the cloud's radius; of the points the ``dense`` share is kept."""
    from ripser import ripser

    radius = float(np.sqrt(((cloud - cloud.mean(0)) ** 2).sum(1).mean()))
    if radius <= 0 or len(cloud) < 8:
        return 0.0, 0.0
    some = cloud[rng.permutation(len(cloud))[: 6 * n_points]]
    # A few stray points inside a ring close it early: the thinnest places are left out, in the null as well.
    far = cKDTree(some).query(some, k=min(12, len(some)))[0][:, -1]
    some = some[np.argsort(far)[: max(8, int(dense * len(some)))]]
    some = some[rng.permutation(len(some))[:n_points]]
    bars = ripser(some / radius, maxdim=1)["dgms"][1]
    length = np.sort(bars[:, 1] - bars[:, 0])[::-1] if len(bars) else np.zeros(0)
    return float(length[0]) if len(length) else 0.0, float(length[1]) if len(length) > 1 else 0.0


def antipodal(cloud: np.ndarray, *, rng: np.random.Generator, n_points: int = 1200) -> float:
    """How alike a cloud ``(n, b)`` is to its mirror image through the origin, 0 to 1.

    Distance from a point to the nearest of another half of the cloud, over the distance to the nearest of that half's
    mirror image; means of both. 1: the mirror image is as near as the cloud itself.
    """
    some = cloud[rng.permutation(len(cloud))[:n_points]]
    half = len(some) // 2
    if half < 4:
        return 0.0
    own = cKDTree(some[half:]).query(some[:half])[0].mean()
    mirror = cKDTree(-some[half:]).query(some[:half])[0].mean()
    return float(min(1.0, own / max(mirror, 1e-12)))


def circle_centre(flat: np.ndarray) -> np.ndarray:
    """Centre ``(2,)`` of the circle nearest to points ``(n, 2)`` by least squares (Kasa), both axes scaled alike.

    Falls back to the mean where the fitted centre leaves the middle of the cloud, as on a short arc.
    """
    mean, spread = flat.mean(0), np.maximum(flat.std(0), 1e-12)
    u = (flat - mean) / spread
    solution = np.linalg.lstsq(np.column_stack([2 * u, np.ones(len(u))]), (u**2).sum(1), rcond=None)[0]
    centre = solution[:2]
    return mean + spread * centre if np.abs(centre).max() < 0.8 else mean


@dataclass(frozen=True)
class _Turn:
    # A pair of axes, the centre in the code space, and the spread of the cloud on both.
    plane: np.ndarray
    centre: np.ndarray
    spread: np.ndarray

    def flat(self, codes: np.ndarray) -> np.ndarray:
        return (codes - self.centre) @ self.plane.T / self.spread

    def around(self, cloud: np.ndarray) -> _Turn:
        """The same plane, centred anew on ``cloud``."""
        at = (cloud - self.centre) @ self.plane.T
        return _Turn(self.plane, self.centre + circle_centre(at) @ self.plane, np.maximum(at.std(0), 1e-12))

    def coverage(self, cloud: np.ndarray) -> float:
        at = self.flat(cloud)
        return coverage(np.arctan2(at[:, 1], at[:, 0]) / (2 * np.pi) % 1.0)


def _turns(cloud: np.ndarray) -> list[_Turn]:
    # Pairs of the first four principal axes that hold at least 7 % of the variance each, the leading pair first.
    mean = cloud.mean(0)
    _, spread, axes = np.linalg.svd(cloud - mean, full_matrices=False)
    share = spread**2 / max((spread**2).sum(), 1e-24)
    n_axes = max(2, min(4, int((share >= 0.07).sum())))
    pairs = sorted(((i, j) for j in range(1, n_axes) for i in range(j)), key=sum)
    return [_Turn(axes[list(pair)], mean, np.ones(2)).around(cloud) for pair in pairs]


def _hollow(flat: np.ndarray) -> float:
    # How empty the middle is: 10 % quantile of the radius over its median.
    radius = np.linalg.norm(flat, axis=1)
    return float(np.quantile(radius, 0.1) / max(np.median(radius), 1e-12))


def _reach(flat: np.ndarray) -> float:
    return 1.1 * float(np.quantile(np.linalg.norm(flat, axis=1), 0.98))


def decide(cloud: np.ndarray, *, rows: np.ndarray | None = None, seed: int = 0,
           n_null: int = N_NULL) -> Topology:  # fmt: skip
    """Decide on a block's codes where it fires ``(n, b)``; ``rows`` (N, b) are its codes on all rows, fired or not.

    Without ``rows`` the cloud is taken as it is: then it must not have been selected by norm.
    """
    cloud = np.asarray(cloud, np.float64)
    rng = np.random.default_rng(seed)
    n, width = cloud.shape
    mean = cloud.mean(0)
    covariance = np.cov(cloud.T).reshape(width, width) if n > 1 else np.zeros((width, width))
    value = np.maximum(np.linalg.eigvalsh(covariance)[::-1], 0)
    variance = value / max(value.sum(), 1e-24)
    mirrored = antipodal(cloud, rng=rng)
    found = dict.fromkeys(("persistence", "null", "p_value", "second", "ridge", "ridge_p"))
    turns = _turns(cloud) if width > 1 and n > 3 else [_Turn(np.eye(2, width), mean, np.ones(2))]
    if rows is None:
        turn = max(turns, key=lambda t: t.coverage(cloud) * _hollow(t.flat(cloud)))
    else:
        rows = np.asarray(rows, np.float64)
        found_at = [crest_over_valley(counts_around(t.flat(rows), _reach(t.flat(cloud))))[0] for t in turns]
        turn, found["ridge"] = turns[int(np.argmax(found_at))], max(found_at)

    def result(kind: Kind, reason: str, *, confidence: float = 0.0) -> Topology:
        return Topology(kind=kind, **found, confidence=confidence, coverage=turn.coverage(cloud), antipodal=mirrored,
                        plane=turn.plane, centre=turn.centre, reason=reason)  # fmt: skip

    if n < 60:
        return result("none", f"Only {n} codes: too few to see a shape.")
    if value.sum() < 0.1 * float(mean @ mean):
        return result("point", "Nine tenths of the squared code is its mean: the block says that, not where.")
    if width == 1 or variance[0] > 0.85:
        return result("line", f"One axis holds {variance[0]:.0%} of the variance.")
    verdict = "the gate alone can make this shape."
    if rows is not None and found["ridge"] < RIDGE:
        # No null can make this a ring, so none is drawn.
        return result("none", f"No ridge around a hole (crest over valley e^{found['ridge']:.2f}): {verdict}")
    if rows is not None:
        strength, p, valley = ridge(turn.flat(rows), _reach(turn.flat(cloud)), rng=rng)
        # The best of several planes was taken.
        found["ridge"], found["ridge_p"] = strength, min(1.0, p * len(turns))
        if found["ridge_p"] > 0.05:
            return result("none", f"A ridge of e^{strength:.2f}, no more than chance gives: {verdict}")
        # Rows that fired by accident lie inside the valley; they would fill the loop and pull its centre.
        cloud = cloud[np.linalg.norm(turn.flat(cloud), axis=1) >= valley]
        if len(cloud) < 60:
            return result("none", f"Only {len(cloud)} codes lie on the ridge.")
        turn = turn.around(cloud)
    if turn.coverage(cloud) < 0.8:
        return result("none", f"Only {turn.coverage(cloud):.0%} of the directions around the centre are filled.")
    first, second = loops(cloud, rng=rng)
    found["persistence"], found["second"] = first, second / first if first > 0 else 1.0
    root = _root(covariance)
    drawn = [loops(mean + rng.standard_normal((min(n, 1200), width)) @ root, rng=rng)[0] for _ in range(n_null)]
    found["null"] = float(np.quantile(drawn, 0.95))
    found["p_value"] = float((1 + (np.array(drawn) >= first).sum()) / (n_null + 1))
    sentence = f"Longest loop {first:.2f} radii; Gaussians of its spectrum reach {found['null']:.2f}."
    # 1.15: a Gaussian is only a stand-in for "no shape"; a cloud a little rounder than one is not yet a ring.
    if found["p_value"] > 0.05 or first < 1.15 * found["null"] or found["second"] > 0.5:
        return result("none", sentence)
    share = (first - found["null"]) / max(IDEAL - found["null"], 1e-9)
    return result("ring", sentence, confidence=float(np.clip(share, 0, 1)))


def _root(c: np.ndarray) -> np.ndarray:
    value, axes = np.linalg.eigh((c + c.T) / 2)
    return (axes * np.sqrt(np.maximum(value, 0))) @ axes.T
