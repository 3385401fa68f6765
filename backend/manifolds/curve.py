"""Cubic curves through given knots: a ring (periodic) and a line (natural ends).

Between knots t_j and t_{j+1} the curve is the cubic whose second derivatives M_j solve, with h_j = t_{j+1} − t_j and
D_j = (y_{j+1} − y_j) / h_j,

    h_{j−1} M_{j−1} + 2 (h_{j−1} + h_j) M_j + h_j M_{j+1} = 6 (D_j − D_{j−1})

(cyclic for a ring; M = 0 at both ends of a line), so it passes through every knot exactly: "Manifold Steering Reveals
the Shared Geometry of Neural Network Representation and Behavior" (arXiv 2605.05115, App. A.3, smoothness 0).
Two knots make a line the straight chord.

Not covered: smoothing of noisy knots (fit them first, ``backend.manifolds.fit``) and thin-plate sheets.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import torch
from scipy.interpolate import CubicSpline

from backend.core.errors import Invalid
from backend.manifolds.manifold import arc, between


class Curve:
    """Cubic spline through ``knots (n, d)`` at ``knots_t (n,)``, rising in [0, 1); computed in float64.

    Raises Invalid where the coordinates do not rise, leave [0, 1], or the shapes do not fit.
    """

    kind: ClassVar[str]
    n_min: ClassVar[int]

    def __init__(self, knots_t: torch.Tensor, knots: torch.Tensor) -> None:
        knots_t, knots = torch.as_tensor(knots_t), torch.as_tensor(knots)
        if knots.ndim != 2 or knots_t.shape != knots.shape[:1] or len(knots) < self.n_min:
            raise Invalid(
                f"A {self.kind} was asked for through knots of shape {tuple(knots.shape)} at {tuple(knots_t.shape)}.",
                f"It needs knots (n, d) at coordinates (n,), n at least {self.n_min}.",
                "Give one coordinate for each knot.",
            )
        order = torch.argsort(knots_t)
        self.knots_t, self.knots = knots_t[order].double(), knots[order]
        self.d = knots.shape[1]
        top = 1.0 if self.kind == "line" else 1.0 - 1e-9
        if bool((self.knots_t.diff() <= 0).any()) or float(self.knots_t[0]) < 0 or float(self.knots_t[-1]) > top:
            raise Invalid(
                f"A {self.kind} was asked for with knots at {[round(float(v), 4) for v in self.knots_t]}.",
                "Coordinates must all differ and lie in [0, 1).",
                "Merge knots that share a coordinate and wrap angles to one turn.",
            )
        spline = self._spline(self.knots_t.numpy(), self.knots.detach().cpu().double().numpy())
        self._breaks = torch.from_numpy(np.ascontiguousarray(spline.x))
        # (4, n_segments, d), highest power first
        self._powers = torch.from_numpy(np.ascontiguousarray(spline.c))

    def _spline(self, t: np.ndarray, y: np.ndarray) -> CubicSpline:
        raise NotImplementedError

    def _place(self, t: torch.Tensor | float) -> tuple[torch.Tensor, torch.Tensor]:
        t = torch.as_tensor(t, dtype=torch.float64)
        low, high = self._breaks[0], self._breaks[-1]
        t = low + (t - low) % 1.0 if self.kind == "ring" else t.clamp(low, high)
        index = (torch.searchsorted(self._breaks, t.contiguous(), right=True) - 1).clamp(0, len(self._breaks) - 2)
        return index, t - self._breaks[index]

    def _derivative(self, t: torch.Tensor | float, order: int) -> torch.Tensor:
        index, u = self._place(t)
        a, b, c, e = (self._powers[i][index] for i in range(4))
        u = u[..., None]
        if order == 0:
            return ((a * u + b) * u + c) * u + e
        if order == 1:
            return (3 * a * u + 2 * b) * u + c
        return 6 * a * u + 2 * b

    def point(self, t: torch.Tensor | float) -> torch.Tensor:
        """Points ``(..., d)`` at ``t (...,)``; a ring wraps, a line holds its ends. dtype of the knots."""
        return self._derivative(t, 0).to(self.knots.dtype)

    def tangent(self, t: torch.Tensor | float) -> torch.Tensor:
        """First derivative ``(..., d)`` at ``t (...,)``, per unit of t."""
        return self._derivative(t, 1).to(self.knots.dtype)

    def grid(self, n: int) -> torch.Tensor:
        """``n`` equally spaced coordinates over the whole curve (a ring's last one does not repeat its first)."""
        if self.kind == "ring":
            return torch.arange(n, dtype=torch.float64) / n
        return torch.linspace(float(self.knots_t[0]), float(self.knots_t[-1]), n, dtype=torch.float64)

    def project(
        self, z: torch.Tensor, *, n_dense: int | None = None, n_steps: int = 12
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Nearest point: ``z (..., d)`` to ``(t (...,), Euclidean distance (...,))``.

        The best of ``n_dense`` samples, then bounded Newton steps on ½‖γ(t) − z‖², each kept where it comes nearer.
        """
        n_dense = max(512, 16 * len(self.knots)) if n_dense is None else n_dense
        shape, flat = z.shape[:-1], z.detach().reshape(-1, self.d).double().cpu()
        t_grid = self.grid(n_dense)
        dense = self._derivative(t_grid, 0)
        start = [self._valleys(torch.cdist(part, dense)) for part in flat.split(4096)]
        # (2, N): the two deepest valleys, since the better of them may change places below the grid's resolution.
        t = t_grid[torch.cat(start, dim=1)]
        reach = 1.0 / n_dense
        best, share = (self._derivative(t, 0) - flat).norm(dim=-1), torch.ones_like(t)
        for _ in range(n_steps):
            gap, slope, bend = self._derivative(t, 0) - flat, self._derivative(t, 1), self._derivative(t, 2)
            speed = (slope * slope).sum(-1).clamp_min(1e-12)
            curvature = speed + (gap * bend).sum(-1)
            # Gauss-Newton where the distance is not convex in t: its step still points downhill.
            step = -(gap * slope).sum(-1) / torch.where(curvature > 0.1 * speed, curvature, speed)
            new = t + share * step.clamp(-reach, reach)
            new = new % 1.0 if self.kind == "ring" else new.clamp(self._breaks[0], self._breaks[-1])
            distance = (self._derivative(new, 0) - flat).norm(dim=-1)
            closer = distance < best
            t, best = torch.where(closer, new, t), torch.where(closer, distance, best)
            share = torch.where(closer, share, share / 4)
        best, which = best.min(0)
        t = t.gather(0, which[None])[0]
        return t.reshape(shape), best.reshape(shape).to(self.knots.dtype)

    def _valleys(self, distance: torch.Tensor) -> torch.Tensor:
        if self.kind == "ring":
            left, right = distance.roll(1, dims=1), distance.roll(-1, dims=1)
        else:
            wall = torch.full_like(distance[:, :1], torch.inf)
            left, right = torch.cat([wall, distance[:, :-1]], 1), torch.cat([distance[:, 1:], wall], 1)
        low = torch.where((distance <= left) & (distance <= right), distance, torch.inf)
        return low.topk(2, dim=1, largest=False).indices.T

    def length(self, t_from: torch.Tensor | float, t_to: torch.Tensor | float, *, n: int = 150) -> torch.Tensor:
        """Length ``(...,)`` of the way from ``t_from`` to ``t_to`` (shorter arc on a ring): sum of ``n`` chords."""
        share = torch.linspace(0, 1, n + 1, dtype=torch.float64)
        start = torch.as_tensor(t_from, dtype=torch.float64)[..., None]
        t = start + share * arc(t_from, t_to, kind=self.kind)[..., None]
        return self._derivative(t, 0).diff(dim=-2).norm(dim=-1).sum(-1)

    def between(self, t_from: float, t_to: float, s: torch.Tensor | float) -> torch.Tensor:
        """Coordinate at share ``s`` of the way (shorter arc on a ring)."""
        return between(t_from, t_to, s, kind=self.kind)


class Ring(Curve):
    """Closed curve with period 1: periodic cubic, at least 3 knots."""

    kind = "ring"
    n_min = 3

    def _spline(self, t: np.ndarray, y: np.ndarray) -> CubicSpline:
        return CubicSpline(np.append(t, t[0] + 1.0), np.concatenate([y, y[:1]]), bc_type="periodic")


class Line(Curve):
    """Open curve with two ends: natural cubic, at least 2 knots; beyond its ends it stays at its ends."""

    kind = "line"
    n_min = 2

    def _spline(self, t: np.ndarray, y: np.ndarray) -> CubicSpline:
        return CubicSpline(t, y, bc_type="natural")


KINDS: dict[str, type[Curve]] = {"ring": Ring, "line": Line}
