"""Which kind of manifold is a cloud of codes? Read from its bars (homology.py) and its correlation dimension D:

    point   nine tenths of the squared code is its mean       line   D < 1.5, no loop; or one axis holds 85 %
    ring    D < 1.5, one loop                                 band   D ≥ 1.5, one loop, no void (annulus, Moebius, tube)
    sheet   D ≥ 1.5, neither loop nor void                    sphere a void, no loop        torus  a void and loops

A loop or a void must outlast those of Gaussian clouds of the same shares of variance, and be long by itself; one that
is not seen makes the kind simpler, not "none". "none" is a cloud in several pieces, one that fills its axes (D > 2.6),
or one with several separate loops. Bars cannot tell a Moebius band from an annulus: both are a thickened loop.

A gate that chooses codes by their norm cuts a hole into anything. Where all rows are given, a hole is believed only if
topology.py finds its ridge in them. ``antipodal`` says how nearly a cloud is its own mirror image, which signed codes
alone can bring about. Not covered: clouds of many manifolds at once; Klein bottles, whose bars over Z/2 are a torus's.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from backend.manifolds.homology import Frame, Prepared, bars, correlation_dimension, null_bars, prepare
from backend.manifolds.topology import IDEAL, antipodal, decide

ShapeKind = Literal["point", "line", "ring", "band", "sheet", "torus", "sphere", "none"]
LOOP, VOID = 0.4, 0.15
"""Least bars, in radii of the cloud, of a loop and of a void that count."""
GAP = 0.5
"""A cloud whose nearest parts are farther apart, in radii, is several."""


@dataclass(frozen=True)
class Shape:
    """What ``recognise`` found and what it rests on; lengths in radii of the cloud."""

    kind: ShapeKind
    confidence: float
    """0 to 1: of a hole, how far its bar stands above the null; else how far D stands from its limits."""
    dimension: float
    """Correlation dimension."""
    loops: tuple[float, float]
    """The two longest bars of H1."""
    void: float
    """The longest bar of H2."""
    null: tuple[float, float]
    """95 % quantiles of the longest bars of Gaussian clouds, H1 and H2; 0 where none was drawn."""
    p_values: tuple[float, float]
    gap: float
    antipodal: float
    variance: np.ndarray
    reason: str


def recognise(cloud: np.ndarray, *, rows: np.ndarray | None = None, seed: int = 0, n_null: int = 19) -> Shape:
    """Decide on the kind of a cloud ``(n, b)``; ``rows`` (N, b), codes on all rows, where a gate chose the cloud.

    Without ``rows`` a hole is believed: then the cloud must not have been selected by its norm.
    """
    cloud = np.asarray(cloud, np.float64)
    rng = np.random.default_rng(seed)
    mean, n = cloud.mean(0), len(cloud)
    total = float(((cloud - mean) ** 2).sum(1).mean())
    found = {"dimension": 0.0, "loops": (0.0, 0.0), "void": 0.0, "null": (0.0, 0.0), "p_values": (1.0, 1.0), "gap": 0.0}
    frame = Frame.of(cloud) if n > 1 else None
    variance = frame.share if frame else np.zeros(cloud.shape[1])
    mirrored = antipodal(cloud, rng=rng)

    def result(kind: ShapeKind, confidence: float, reason: str) -> Shape:
        return Shape(kind=kind, confidence=float(np.clip(confidence, 0, 1)), antipodal=mirrored, variance=variance,
                     reason=reason, **found)  # fmt: skip

    if n < 60 or total <= 0:
        return result("none", 0.0, f"Only {n} codes, or all in one place: too few to see a shape.")
    if total < 0.1 * float(mean @ mean):
        return result("point", 1 - 10 * total / float(mean @ mean), "Nine tenths of the squared code is its mean.")
    straight = variance[0] > 0.85
    # On one axis the gaps are those between sorted numbers: no graph is needed.
    prepared = None if straight else prepare(cloud, rng=rng)
    found["gap"] = _line_gap(frame.standard(cloud)[:, 0]) if straight else prepared.gap
    if found["gap"] > GAP:
        return result("none", 0.0, f"Two parts of the cloud are {found['gap']:.2f} radii apart.")
    if straight:
        found["dimension"] = 1.0
        return result("line", (variance[0] - 0.85) / 0.15, f"One axis holds {variance[0]:.0%} of the variance.")
    found["dimension"] = dimension = correlation_dimension(prepared.points)
    if dimension > 2.6:
        return result("none", 0.0, f"It fills its axes: correlation dimension {dimension:.1f}.")
    curve = dimension < 1.5
    loop, void, confidence = _holes(prepared, found, maxdim=1 if curve or prepared.points.shape[1] < 3 else 2, n=n,
                                    n_null=n_null, seed=seed)  # fmt: skip
    if (loop or void) and rows is not None and decide(cloud, rows=rows, seed=seed, n_null=n_null).kind != "ring":
        return result("none", 0.0, "The rows that did not fire show no ridge: the gate alone can make this hole.")
    said = (f"Correlation dimension {dimension:.1f}; longest loops {found['loops'][0]:.2f} and "
            f"{found['loops'][1]:.2f}, longest void {found['void']:.2f} radii.")  # fmt: skip
    away = min(abs(dimension - 1.5), 2.6 - dimension) / 0.5
    if void:
        return result("torus" if loop else "sphere", confidence, said)
    if loop:
        several = found["loops"][1] > 0.5 * found["loops"][0]
        return result("none" if several else "ring" if curve else "band", 0.0 if several else confidence, said)
    return result("line" if curve else "sheet", away, said)


def _line_gap(position: np.ndarray) -> float:
    # Widest gap between neighbours on a line with a tenth of the points or more on both sides.
    n = len(position)
    return float(np.diff(np.sort(position))[n // 10 : n - n // 10].max())


def _holes(prepared: Prepared, found: dict, *, maxdim: int, n: int, n_null: int,
           seed: int) -> tuple[bool, bool, float]:  # fmt: skip
    # Whether there is a loop and a void, and how far the surer of them stands above its null; fills ``found``.
    length = [np.concatenate([b, np.zeros(2)]) for b in bars(prepared, maxdim=maxdim)]
    found["loops"] = (float(length[0][0]), float(length[0][1]))
    found["void"] = float(length[1][0]) if maxdim == 2 else 0.0
    observed, least = (found["loops"][0], found["void"]), (LOOP, VOID)
    if not any(o >= m for o, m in zip(observed, least)):
        return False, False, 0.0
    drawn = null_bars(prepared.frame.share, n, maxdim=maxdim, n_null=n_null, seed=seed)
    limit = [float(np.quantile(d, 0.95)) for d in drawn] + [0.0] * (2 - maxdim)
    p = [float((1 + (d >= o).sum()) / (n_null + 1)) for d, o in zip(drawn, observed)] + [1.0] * (2 - maxdim)
    found["null"], found["p_values"] = tuple(limit), tuple(p)
    # 1.15: a Gaussian is only a stand-in for "no shape".
    there = [o >= m and q <= 0.05 and o >= 1.15 * top for o, m, q, top in zip(observed, least, p, limit)]
    sure = [(o - top) / max(IDEAL - top, 1e-9) for o, top, yes in zip(observed, limit, there) if yes]
    return there[0], there[1], max(sure, default=0.0)
