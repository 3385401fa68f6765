"""Centring and scaling: x ↦ (x − mean) / scale, with scale chosen so that E‖x‖² = d afterwards.

One number scales all coordinates, so that angles and the shapes of manifolds stay what they are. The mean is one vector
for all tokens (1, d), or one per token (T, d) where position alone moves the activations.

Limit case: mean 0 and scale 1 is the identity. Not covered: whitening, which changes shapes.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from backend.core.errors import Corrupt, Invalid


@dataclass(frozen=True, eq=False)
class Centring:
    """``mean`` (1|T, d) and one ``scale``."""

    mean: Tensor
    scale: float

    @classmethod
    def fit(cls, x: Tensor | Iterable[Tensor], *, per_token: bool = False) -> Centring:
        """Mean and scale of x (N, d) or (N, T, d), or of a stream of such tensors, in one pass and float64.

        ``per_token`` keeps a mean per token. Raises ``Invalid`` for no rows or activations that do not vary.
        """
        n, total, squares = 0, None, 0.0
        for part in [x] if isinstance(x, Tensor) else x:
            part = part.double()
            part = part[:, None] if part.ndim == 2 else part
            part = part if per_token else part.reshape(-1, 1, part.shape[-1])
            if total is None:
                # Sums are taken around the first rows' mean: far from the origin they would cancel.
                origin = part.mean(0)
                total = torch.zeros_like(origin)
            part = part - origin
            n, total, squares = n + part.shape[0], total + part.sum(0), squares + part.square().sum((0, 2))
        if n == 0:
            raise Invalid("A centring was asked for.", "There are no activations.", "Harvest some first.")
        shift = total / n
        d = shift.shape[-1]
        variance = float((squares / n - shift.square().sum(-1)).mean())
        scale = (max(variance, 0.0) / d) ** 0.5
        if scale < 1e-12:
            raise Invalid(
                "A centring was asked for.", "These activations do not vary.", "Use more rows or another site."
            )
        return cls((origin + shift).float(), scale)

    def apply(self, x: Tensor) -> Tensor:
        """x (..., d) centred and scaled."""
        return (x - self.mean_for(x)) / self.scale

    def undo(self, x: Tensor) -> Tensor:
        """Inverse of ``apply``."""
        return x * self.scale + self.mean_for(x)

    def codes_in_model(self, z: Tensor, frame: Tensor) -> Tensor:
        """Codes z (1|T, k) of the centred space as the codes x F that an intervention at the site must set."""
        return z * self.scale + self.mean.to(z) @ frame.to(z)

    def mean_for(self, x: Tensor) -> Tensor:
        return self.mean.to(x) if x.ndim > 2 or self.mean.shape[0] != 1 else self.mean[0].to(x)

    def save(self, path: Path) -> None:
        """Write ``mean`` and ``scale`` as safetensors."""
        save_file({"mean": self.mean.contiguous(), "scale": torch.tensor(self.scale, dtype=torch.float64)}, path)

    @classmethod
    def load(cls, path: Path) -> Centring:
        """Read back; raises ``Corrupt`` naming the file."""
        try:
            with safe_open(path, "pt") as handle:
                return cls(handle.get_tensor("mean"), float(handle.get_tensor("scale")))
        except (OSError, SafetensorError) as error:
            raise Corrupt(
                f"The centring {Path(path).name} was asked for.",
                f"The file cannot be read: {error}.",
                "Fit it again from the store.",
            ) from error
