"""How a manifold is drawn: three axes for its coordinates, and the cloud of activations that it was fitted on."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch


@dataclass(eq=False)
class Display:
    """Axes for drawing coordinates of the first site: ``axes (k, 3)``, ``origin (k,)``, variance shares, a cloud."""

    axes: torch.Tensor
    origin: torch.Tensor
    variance: list[float] = field(default_factory=list)
    points: torch.Tensor = field(default_factory=lambda: torch.zeros(0, 3))
    """(N, 3) activations that it was fitted on."""
    point_t: torch.Tensor = field(default_factory=lambda: torch.zeros(0))

    def __call__(self, z: torch.Tensor) -> torch.Tensor:
        """Coordinates ``z (..., k)`` to ``(..., 3)``."""
        return (z.to(self.axes.dtype) - self.origin) @ self.axes


def triples(xyz: torch.Tensor) -> list[tuple[float, float, float]]:
    """Points ``(n, 3)`` as the wire carries them, to five decimals."""
    return [tuple(round(float(v), 5) for v in row) for row in xyz]
