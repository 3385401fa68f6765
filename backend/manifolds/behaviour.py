"""Manifolds of output distributions: square-root geometry, where distances are Hellinger's.

A distribution p over W classes and one bin "other" sits at √p on the unit sphere. With b* the normalised mean of √b_i,
the curve is a cubic spline through log_{b*}(√b_i) in the tangent plane, decoded by exp_{b*} and squared:

    d_H(p, q) = ‖√p − √q‖ / √2,     d_BC(p, M_y) = min_{q ∈ M_y} −log Σ √(p q),     E = ∫ d_BC(γ(s), M_y) ds

after "Manifold Steering" (arXiv 2605.05115, sec. 2.2, 3.2 and 3.5 of its appendix A). For nearby p and q,
d_BC ≈ d_H². The limit W = 1 is a coin.

Not covered: distributions over sequences; only the next token's.
"""

from __future__ import annotations

from typing import NamedTuple

import torch

from backend.core.errors import Invalid
from backend.manifolds.curve import KINDS, Curve
from backend.manifolds.fit import line_coordinates, pca, ring_coordinates
from backend.manifolds.manifold import arc

CLIP = 1e-8
FLOOR = 1e-7
N_DENSE = 1050


class Energy(NamedTuple):
    """Distance to the behaviour manifold along paths: mean over waypoints (≈ the integral) and sum, each ``(...,)``."""

    mean: torch.Tensor
    total: torch.Tensor


class Coherence(NamedTuple):
    """Probability on the concept along paths: mean and worst waypoint, each ``(...,)``."""

    mean: torch.Tensor
    worst: torch.Tensor


def with_other(classes: torch.Tensor) -> torch.Tensor:
    """Append the bin "other" = 1 − Σ (at least 0): ``(..., W)`` to ``(..., W + 1)``."""
    return torch.cat([classes, (1 - classes.sum(-1, keepdim=True)).clamp_min(0)], dim=-1)


def root(p: torch.Tensor) -> torch.Tensor:
    """Distributions ``(..., W + 1)`` to unit vectors √p, in float64."""
    r = p.double().clamp_min(CLIP).sqrt()
    return r / r.norm(dim=-1, keepdim=True)


def hellinger(p: torch.Tensor, q: torch.Tensor) -> torch.Tensor:
    """Hellinger distance ``(...,)`` in [0, 1] of distributions ``(..., W + 1)``."""
    return (root(p) - root(q)).norm(dim=-1) / 2**0.5


def bhattacharyya(p: torch.Tensor, q: torch.Tensor) -> torch.Tensor:
    """Bhattacharyya distance −log Σ √(p q) = −log(1 − d_H²), ``(...,)``."""
    return -(root(p) * root(q)).sum(-1).clamp(FLOOR, 1.0).log()


def log_map(base: torch.Tensor, r: torch.Tensor) -> torch.Tensor:
    """Unit vectors ``r (..., D)`` to the tangent plane at the unit vector ``base (D,)``."""
    inner = (r * base).sum(-1, keepdim=True).clamp(-1.0, 1.0)
    across = r - inner * base
    size = across.norm(dim=-1, keepdim=True)
    angle = torch.atan2(size, inner)
    return across * torch.where(size > 1e-12, angle / size.clamp_min(1e-12), torch.ones_like(size))


def exp_map(base: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """Tangent vectors ``v (..., D)`` at the unit vector ``base (D,)`` to the sphere."""
    size = v.norm(dim=-1, keepdim=True)
    return size.cos() * base + torch.sinc(size / torch.pi) * v


def coherence(p: torch.Tensor) -> Coherence:
    """Probability on the concept along paths ``(..., K, W + 1)``."""
    inside = 1 - p[..., -1]
    return Coherence(inside.mean(-1), inside.amin(-1))


def behaviour_coordinates(p: torch.Tensor, labels: torch.Tensor, *, kind: str) -> torch.Tensor:
    """Coordinates ``(W,)`` of the classes of distributions ``p (N, W + 1)``: angle in PCA(3) of √p, or rank."""
    n_classes = int(labels.max()) + 1
    if kind == "line":
        return line_coordinates(n_classes)
    z = pca(root(p), 3).encode(root(p))
    mean = torch.stack([z[labels == i].mean(0) for i in range(n_classes)])
    return ring_coordinates(mean)


class BehaviourManifold:
    """The curve through W mean distributions ``distributions (W, W + 1)`` at ``knots_t (W,)``.

    Without ``knots_t`` the classes are spread evenly, in their order. Raises Invalid where rows are no distributions.
    """

    def __init__(self, distributions: torch.Tensor, knots_t: torch.Tensor | None = None, *, kind: str = "ring") -> None:
        p = torch.as_tensor(distributions)
        n = len(p)
        if (
            p.ndim != 2
            or bool((p < -1e-4).any())
            or not torch.allclose(p.double().sum(-1), p.new_ones(n).double(), atol=1e-3)
        ):
            raise Invalid(
                f"A behaviour manifold was asked for through a table of shape {tuple(p.shape)}.",
                "Its rows must be distributions over the classes and one bin for everything else.",
                "Normalise each row to 1.",
            )
        if knots_t is None:
            knots_t = torch.arange(n, dtype=torch.float64) / n if kind == "ring" else line_coordinates(n)
        self.kind, self.distributions, self.knots_t = kind, p, torch.as_tensor(knots_t).double()
        self.d = p.shape[1]
        embedded = root(p)
        self.base = embedded.mean(0) / embedded.mean(0).norm()
        self.curve: Curve = KINDS[kind](self.knots_t, log_map(self.base, embedded))
        self._t = self.grid(N_DENSE)
        self._dense = self.root_point(self._t)
        space = pca(embedded, 3)
        self._mean, self._axes = space.mean, torch.zeros(self.d, 3, dtype=torch.float64)
        self._axes[:, : space.frame.shape[1]] = space.frame

    @classmethod
    def fit(cls, p: torch.Tensor, labels: torch.Tensor, *, kind: str = "ring") -> BehaviourManifold:
        """From distributions ``p (N, W + 1)`` of un-intervened runs, grouped by ground truth ``labels (N,)``."""
        means = torch.stack([p[labels == i].double().mean(0) for i in range(int(labels.max()) + 1)])
        return cls(means, behaviour_coordinates(p, labels, kind=kind), kind=kind)

    def grid(self, n: int, *, closed: bool = False) -> torch.Tensor:
        """``n`` equal coordinates over the curve; ``closed``: a ring's last repeats its first."""
        if self.kind == "ring" and closed:
            return torch.linspace(0, 1, n, dtype=torch.float64)
        return self.curve.grid(n)

    def root_point(self, t: torch.Tensor | float) -> torch.Tensor:
        """√ of the distribution at ``t (...,)``, a unit vector ``(..., W + 1)``, float64."""
        return exp_map(self.base, self.curve.point(t))

    def point(self, t: torch.Tensor | float) -> torch.Tensor:
        """Distribution at ``t (...,)``, ``(..., W + 1)``."""
        return self.root_point(t) ** 2

    def project(self, p: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Coordinate ``(...,)`` of the nearest of 1050 samples, and the Bhattacharyya distance ``(...,)`` to it."""
        flat = root(p).reshape(-1, self.d)
        best = [(part @ self._dense.T).max(-1) for part in flat.split(4096)]
        inner = torch.cat([b.values for b in best]).clamp(FLOOR, 1.0)
        t = self._t[torch.cat([b.indices for b in best])]
        return t.reshape(p.shape[:-1]), -inner.log().reshape(p.shape[:-1])

    def distance(self, p: torch.Tensor) -> torch.Tensor:
        """Bhattacharyya distance ``(...,)`` of distributions ``p (..., W + 1)`` to the curve."""
        return self.project(p)[1]

    def distance_by_newton(self, p: torch.Tensor, *, n_steps: int = 5, step: float = 1e-5) -> torch.Tensor:
        """The same by Gauss-Newton from the nearest class mean, damped by 1e-6 (the paper's way)."""
        flat = root(p).reshape(-1, self.d)
        t = self.knots_t[(flat @ root(self.distributions).T).argmax(-1)]
        best = (flat * self.root_point(t)).sum(-1)
        for _ in range(n_steps):
            gap = self.root_point(t) - flat
            slope = (self.root_point(t + step) - self.root_point(t - step)) / (2 * step)
            t = t - (gap * slope).sum(-1) / ((slope * slope).sum(-1) + 1e-6)
            best = torch.maximum(best, (flat * self.root_point(t)).sum(-1))
        return -best.clamp(FLOOR, 1.0).log().reshape(p.shape[:-1])

    def energy(self, p: torch.Tensor) -> Energy:
        """Energy of paths ``p (..., K, W + 1)``: mean and sum over the K waypoints of the distance to the curve."""
        distance = self.distance(p)
        return Energy(distance.mean(-1), distance.sum(-1))

    def length(self, t_from: torch.Tensor | float, t_to: torch.Tensor | float, *, n: int = 150) -> torch.Tensor:
        """Hellinger length ``(...,)`` of the way between two coordinates (shorter arc on a ring)."""
        share = torch.linspace(0, 1, n + 1, dtype=torch.float64)
        start = torch.as_tensor(t_from, dtype=torch.float64)[..., None]
        t = start + share * arc(t_from, t_to, kind=self.kind)[..., None]
        return self.root_point(t).diff(dim=-2).norm(dim=-1).sum(-1) / 2**0.5

    def xyz(self, p: torch.Tensor) -> torch.Tensor:
        """Distributions ``(..., W + 1)`` on the first three PCs of the class means' square roots, ``(..., 3)``."""
        return (root(p) - self._mean) @ self._axes
