"""What a manifold is: a coordinate t, a point for every t, and the way back.

    γ : [0, 1) → R^d,      project(z) = argmin_t ‖γ(t) − z‖

A ring has γ(0) = γ(1) and coordinates that wrap; a line has two ends. In the limit of two knots a line is the
straight chord, and steering along it is steering along a direction.

Not covered: sheets and tori, whose coordinate is a pair.
"""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import torch


@runtime_checkable
class Manifold(Protocol):
    """A curve inside a block or a PCA subspace."""

    kind: str
    """``ring`` or ``line``."""
    d: int
    """Dimension of the space that the manifold lies in."""

    def point(self, t: torch.Tensor | float) -> torch.Tensor:
        """``t (...,)`` in [0, 1) to points ``(..., d)``."""
        ...

    def project(self, z: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """``z (..., d)`` to the coordinate ``(...,)`` of the nearest point and the distance ``(...,)`` to it."""
        ...

    def tangent(self, t: torch.Tensor | float) -> torch.Tensor:
        """Derivative of ``point`` at ``t (...,)``, ``(..., d)``, per unit of t."""
        ...


def arc(t_from: torch.Tensor | float, t_to: torch.Tensor | float, *, kind: str) -> torch.Tensor:
    """Signed way from ``t_from`` to ``t_to``: the shorter one, in [−½, ½), on a ring; the difference on a line."""
    way = torch.as_tensor(t_to, dtype=torch.float64) - torch.as_tensor(t_from, dtype=torch.float64)
    return (way + 0.5) % 1.0 - 0.5 if kind == "ring" else way


def between(
    t_from: torch.Tensor | float, t_to: torch.Tensor | float, s: torch.Tensor | float, *, kind: str
) -> torch.Tensor:
    """Coordinate at share ``s`` of the way from ``t_from`` to ``t_to``: shorter arc on a ring, clamped on a line."""
    start = torch.as_tensor(t_from, dtype=torch.float64)
    t = start + torch.as_tensor(s, dtype=torch.float64) * arc(t_from, t_to, kind=kind)
    return t % 1.0 if kind == "ring" else t.clamp(0.0, 1.0)


def mean_coordinate(weights: torch.Tensor, t: torch.Tensor, *, kind: str) -> torch.Tensor:
    """Mean of ``t (W,)`` under ``weights (..., W)``: circular on a ring, plain on a line; ``(...,)``."""
    weights, t = weights.double(), t.double()
    if kind == "ring":
        angle = 2 * torch.pi * t
        return torch.atan2((weights * angle.sin()).sum(-1), (weights * angle.cos()).sum(-1)) / (2 * torch.pi) % 1.0
    return (weights * t).sum(-1) / weights.sum(-1).clamp_min(1e-12)
