"""A ridge around a hole: does the density of points fall and then rise again, in every direction from a centre?

    ridge = log( low quantile over directions of the crest  /  high quantile over directions of the valley before it )

compared with the nearest cloud whose density only falls (isotonic fit, Poisson counts). It asks nothing of a gate that
chose points by their norm, which is why the topology of gated clouds rests on it. Not covered: more than two axes.
"""

from __future__ import annotations

import numpy as np

_SECTORS, _RINGS = 12, 20
_AREA = np.diff(np.linspace(0, 1, _RINGS + 1) ** 2) / _SECTORS


def counts_around(flat: np.ndarray, reach: float) -> np.ndarray:
    """Counts ``(12, 20)`` of points ``(n, 2)`` in sectors and rings out to ``reach``."""
    ring = (np.linalg.norm(flat, axis=1) / reach * _RINGS).astype(int)
    sector = (np.arctan2(flat[:, 1], flat[:, 0]) / (2 * np.pi) % 1.0 * _SECTORS).astype(int) % _SECTORS
    inside = ring < _RINGS
    return np.bincount(sector[inside] * _RINGS + ring[inside], minlength=_SECTORS * _RINGS).reshape(_SECTORS, _RINGS)


def _smooth(v: np.ndarray) -> np.ndarray:
    v = np.roll(v, 1, 0) + 2 * v + np.roll(v, -1, 0)
    wide = np.pad(v, ((0, 0), (1, 1)), mode="edge")
    return wide[:, :-2] + 2 * wide[:, 1:-1] + wide[:, 2:]


_SMOOTH_AREA = _smooth(np.tile(_AREA, (_SECTORS, 1)))


def crest_over_valley(counts: np.ndarray) -> tuple[float, float]:
    """Log of crest over valley of the density that ``counts_around`` gives, and the ring index of the valley."""
    # Smoothed before they are divided by the area, because the innermost cells hold next to nothing.
    density = (_smooth(counts.astype(float)) + 1.0) / _SMOOTH_AREA
    # The crest is where the density stands highest above the lowest place before it; a low quantile over directions,
    # so that a blob on one side (the rows that do not hold the factor, seen from the centre) is no crest.
    profile = np.quantile(density, 0.3, axis=0)
    top = int((profile / np.minimum.accumulate(profile)).argmax())
    first, last = int(0.6 * top), min(_RINGS, int(1.25 * top) + 2)
    # In one direction: where it stands highest above the lowest place since ``first``, which steps over the blob.
    near = density[:, first:last]
    crest = (near / np.minimum.accumulate(near, axis=1)).argmax(1) + first
    lowest = np.minimum.accumulate(density, axis=1)
    rows = np.arange(_SECTORS)
    valley = np.array([row[: c + 1].argmin() for row, c in zip(density, crest)])
    low, high = np.quantile(density[rows, crest], 0.2), np.quantile(lowest[rows, crest], 0.8)
    return float(np.log(low / high)), float(np.median(valley))


def ridge(rows: np.ndarray, reach: float, *, rng: np.random.Generator,
          n_null: int = 199) -> tuple[float, float, float]:  # fmt: skip
    """Ridge of the density of points ``(N, 2)`` around the origin within ``reach``, its p-value, the valley's radius.

    The null draws Poisson counts around the nearest density that only falls.
    """
    from sklearn.isotonic import IsotonicRegression

    counts = counts_around(rows, reach)
    observed, valley = crest_over_valley(counts)
    falling = IsotonicRegression(increasing=False).fit_transform(
        np.arange(_RINGS), counts.sum(0) / _AREA, sample_weight=_AREA
    )
    expected = np.tile(falling * _AREA / _SECTORS, (_SECTORS, 1))
    null = np.array([crest_over_valley(rng.poisson(expected))[0] for _ in range(n_null)])
    p = float((1 + (null >= observed).sum()) / (n_null + 1)) if n_null else 1.0
    return observed, p, (valley + 0.5) / _RINGS * reach
