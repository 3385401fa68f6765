"""Fitting manifolds to labelled activations: PCA, a centroid for each class or bin, coordinates, a curve through them.

    Z = (X − mean) Q,    c_i = mean of Z over class i,    γ(t_i) = c_i
    cyclic:  t_i = atan2(ẑ_2, ẑ_1) / 2π,   ẑ the centroids' first two PCs, centred and divided by their spread
    ordered: t_i = rank

after "Manifold Steering" (arXiv 2605.05115, App. A.3, with the normalised angle of the authors' code). Where the
factor itself is known (an angle in radians), knots come from bins of it or from a few harmonics of it.
In the limit of one prompt for each class the centroids are the data.

Not covered: finding the classes, and manifolds of dimension two.
"""

from __future__ import annotations

from typing import NamedTuple

import torch

from backend.core.errors import Invalid
from backend.manifolds.curve import Line, Ring


class Subspace(NamedTuple):
    """A PCA subspace: ``mean (d,)``, orthonormal ``frame (d, k)``, ``variance (k,)`` of the axes, ``total``."""

    mean: torch.Tensor
    frame: torch.Tensor
    variance: torch.Tensor
    total: float

    def encode(self, x: torch.Tensor) -> torch.Tensor:
        """``x (..., d)`` to coordinates ``(..., k)``."""
        return (x - self.mean) @ self.frame

    def decode(self, z: torch.Tensor) -> torch.Tensor:
        """Coordinates ``(..., k)`` to ``(..., d)``."""
        return z @ self.frame.T + self.mean


def pca(x: torch.Tensor, k: int = 64) -> Subspace:
    """Centred PCA of ``x (N, d)`` to at most ``k`` axes, capped at min(N − 1, d); signs fixed by the largest entry."""
    mean = x.double().mean(0)
    _, spread, axes = torch.linalg.svd(x.double() - mean, full_matrices=False)
    k = max(1, min(k, len(x) - 1, x.shape[1]))
    axes = axes[:k]
    sign = axes.gather(1, axes.abs().argmax(1, keepdim=True)).sign()
    variance = spread**2 / max(1, len(x) - 1)
    return Subspace(
        mean.to(x.dtype), (axes * sign).T.contiguous().to(x.dtype), variance[:k].to(x.dtype), float(variance.sum())
    )


def centroids(x: torch.Tensor, labels: torch.Tensor, *, n_classes: int | None = None) -> torch.Tensor:
    """Mean of ``x (N, ...)`` over each class of ``labels (N,)``, ``(W, ...)``; Invalid where a class is empty."""
    labels = torch.as_tensor(labels, device=x.device)
    n_classes = int(labels.max()) + 1 if n_classes is None else n_classes
    count = torch.bincount(labels, minlength=n_classes)
    if bool((count == 0).any()):
        raise Invalid(
            f"Centroids of {n_classes} classes were asked for.",
            f"Classes {torch.nonzero(count == 0).flatten().tolist()[:10]} have no rows.",
            "Give at least one row for each class, or leave the class out.",
        )
    total = torch.zeros(n_classes, *x.shape[1:], dtype=torch.float64, device=x.device).index_add_(0, labels, x.double())
    return (total / count.view(-1, *[1] * (x.ndim - 1))).to(x.dtype)


def ring_coordinates(points: torch.Tensor, *, first: int = 0) -> torch.Tensor:
    """Coordinates ``(W,)`` in [0, 1) of centroids ``points (W, d)``: normalised angle in their first two columns.

    Class ``first`` gets 0, and the direction is the one in which ``first + 1`` comes before half a turn.
    """
    flat = points[:, :2].double()
    flat = (flat - flat.mean(0)) / flat.std(0, unbiased=False).clamp_min(1e-12)
    t = torch.atan2(flat[:, 1], flat[:, 0]) / (2 * torch.pi)
    t = (t - t[first]) % 1.0
    return t if float(t[(first + 1) % len(t)]) <= 0.5 else (-t) % 1.0


def line_coordinates(n_classes: int) -> torch.Tensor:
    """Ranks of ``n_classes`` ordered classes, spread over [0, 1]."""
    return torch.linspace(0, 1, n_classes, dtype=torch.float64)


def natural_order(t: torch.Tensor, *, cyclic: bool) -> float:
    """Share of natural neighbours (i, i + 1) that are neighbours along ``t (W,)`` too; 1.0 is the natural order."""
    n = len(t)
    rank = torch.empty(n, dtype=torch.long)
    rank[torch.argsort(t)] = torch.arange(n)
    step = (torch.roll(rank, -1) - rank)[: n if cyclic else n - 1]
    near = (step.abs() == 1) | (step.abs() == n - 1) if cyclic else step.abs() == 1
    return float(near.double().mean())


def nearest_neighbours(points: torch.Tensor, *, cyclic: bool) -> float:
    """Share of the classes, centroids ``points (W, d)``, whose nearest other centroid is the class before or after."""
    n = len(points)
    distance = torch.cdist(points.double(), points.double()).fill_diagonal_(torch.inf)
    step = (distance.argmin(1) - torch.arange(n, device=points.device)).abs()
    near = (step == 1) | (step == n - 1) if cyclic else step == 1
    return float(near.double().mean())


def bin_knots(x: torch.Tensor, angle: torch.Tensor, *, n_knots: int = 24) -> tuple[torch.Tensor, torch.Tensor]:
    """Ring knots of a known angle: mean of ``x (N, ...)`` in equal bins of ``angle (N,)`` radians.

    Returns coordinates ``(n,)`` (each bin's circular mean / 2π) and knots ``(n, ...)``; Invalid where a bin is empty.
    """
    t = (torch.as_tensor(angle, device=x.device).double() / (2 * torch.pi)) % 1.0
    index = (t * n_knots).long().clamp_max(n_knots - 1)
    knots = centroids(x, index, n_classes=n_knots)
    inside = centroids(t, index, n_classes=n_knots)
    return inside.cpu(), knots


def harmonic_knots(
    x: torch.Tensor, angle: torch.Tensor, *, n_knots: int = 24, n_harmonics: int = 3
) -> tuple[torch.Tensor, torch.Tensor]:
    """Ring knots of a known angle by least squares on harmonics: x ≈ a_0 + Σ_h a_h cos hθ + b_h sin hθ.

    ``x (N, ...)``, ``angle (N,)`` radians, to ``n_knots`` equal coordinates ``(n,)`` and knots ``(n, ...)``: less noise
    than bins where rows are few, at the price of a curve with ``n_harmonics`` harmonics only.
    """
    flat = x.reshape(len(x), -1).double()
    basis = _harmonics(torch.as_tensor(angle, device=x.device).double(), n_harmonics)
    weights = torch.linalg.lstsq(basis, flat).solution
    t = torch.arange(n_knots, dtype=torch.float64) / n_knots
    knots = _harmonics(2 * torch.pi * t.to(x.device), n_harmonics) @ weights
    return t, knots.reshape(n_knots, *x.shape[1:]).to(x.dtype)


def _harmonics(angle: torch.Tensor, n: int) -> torch.Tensor:
    h = torch.arange(1, n + 1, dtype=torch.float64, device=angle.device) * angle[:, None]
    return torch.cat([torch.ones_like(angle)[:, None], h.cos(), h.sin()], dim=1)


def fit_ring(
    x: torch.Tensor,
    labels: torch.Tensor | None = None,
    *,
    angle: torch.Tensor | None = None,
    n_knots: int = 24,
    n_harmonics: int | None = None,
) -> Ring:
    """Ring through the centroids of ``x (N, d)``: by ``labels (N,)`` of classes, or by a known ``angle (N,)`` radians.

    With an angle, knots are means of ``n_knots`` bins, or of ``n_harmonics`` harmonics where given. Raises Invalid
    unless exactly one of labels and angle is given.
    """
    if (labels is None) == (angle is None):
        raise Invalid("A ring was to be fitted.", "It needs labels or an angle, and not both.", "Give one of the two.")
    if labels is not None:
        knots = centroids(x, labels)
        return Ring(ring_coordinates(knots), knots)
    if n_harmonics is not None:
        return Ring(*harmonic_knots(x, angle, n_knots=n_knots, n_harmonics=n_harmonics))
    return Ring(*bin_knots(x, angle, n_knots=n_knots))


def fit_line(
    x: torch.Tensor, labels: torch.Tensor | None = None, *, value: torch.Tensor | None = None, n_knots: int = 12
) -> Line:
    """Line through the centroids of ``x (N, d)``: by ``labels (N,)`` in rank order, or by bins of ``value (N,)``.

    With a value, bins have equal counts, and a knot's coordinate is its mean value over the range of the data.
    Raises Invalid unless exactly one is given.
    """
    if (labels is None) == (value is None):
        raise Invalid("A line was to be fitted.", "It needs labels or a value, and not both.", "Give one of the two.")
    if labels is not None:
        knots = centroids(x, labels)
        return Line(line_coordinates(len(knots)), knots)
    value = torch.as_tensor(value, device=x.device).double()
    order = torch.argsort(value)
    index = torch.empty_like(order)
    index[order] = torch.arange(len(value), device=x.device) * n_knots // len(value)
    t = centroids((value - value.min()) / (value.max() - value.min()).clamp_min(1e-12), index, n_classes=n_knots)
    return Line(t.cpu(), centroids(x, index, n_classes=n_knots))
