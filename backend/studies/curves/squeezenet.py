"""SqueezeNet 1.1, a real ImageNet network: read from a folder with ``model.safetensors``, run up to a fire module.

    fire(x) = [ ReLU(1×1(s)) ; ReLU(3×3(s)) ],   s = ReLU(1×1(x))          (Iandola et al. 1602.07360; torchvision 1.1)

Tensors have torchvision's names (``features.7.expand3x3.weight``); half precision is widened to float32. Grey pictures
in 0..1 become three equal channels, and ImageNet's mean and standard deviation are applied inside. Not covered: the
classifier, which the study does not ask.
"""

from __future__ import annotations

import math
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional as F

from backend.core.errors import Corrupt

POOLS = (2, 5, 8)
LAST = 12
_MEAN = torch.tensor([0.485, 0.456, 0.406])[:, None, None]
_STD = torch.tensor([0.229, 0.224, 0.225])[:, None, None]


class SqueezeNet:
    """The convolutional part of SqueezeNet 1.1 from its named tensors; raises ``Corrupt`` where one is missing."""

    def __init__(self, tensors: dict[str, Tensor]) -> None:
        fires = [i for i in range(3, LAST + 1) if i not in POOLS]
        parts = [f"{i}.{part}" for i in fires for part in ("squeeze", "expand1x1", "expand3x3")]
        names = [f"features.{p}.{kind}" for p in ["0", *parts] for kind in ("weight", "bias")]
        missing = [name for name in names if name not in tensors]
        if missing:
            raise Corrupt("SqueezeNet 1.1 was to be read.", f"The tensor {missing[0]} is missing.",
                          "Save torchvision's state dict as model.safetensors.")  # fmt: skip
        self.tensors = {name: tensors[name].float() for name in names}

    @classmethod
    def from_folder(cls, folder: Path) -> SqueezeNet:
        """The network whose tensors lie in ``folder/model.safetensors``."""
        return cls(load_file(folder / "model.safetensors"))

    def untrained(self, generator: torch.Generator) -> SqueezeNet:
        """A copy with random weights (He) and no bias: the control for everything learned."""
        fresh = {}
        for name, value in self.tensors.items():
            spread = math.sqrt(2 / value[0].numel()) if value.ndim > 1 else 0.0
            fresh[name] = spread * torch.randn(value.shape, generator=generator)
        return SqueezeNet(fresh)

    def _conv(self, x: Tensor, name: str, **kwargs) -> Tensor:
        own = self.tensors
        return F.relu(F.conv2d(x, own[f"features.{name}.weight"], own[f"features.{name}.bias"], **kwargs))

    def between(self, x: Tensor, first: int, last: int) -> Tensor:
        """Output (N, d, h, w) of ``features[last]`` for ``x``, the input of ``features[first]``."""
        for i in range(first, last + 1):
            if i in POOLS:
                x = F.max_pool2d(x, 3, 2, ceil_mode=True)
            else:
                s = self._conv(x, f"{i}.squeeze")
                x = torch.cat([self._conv(s, f"{i}.expand1x1"), self._conv(s, f"{i}.expand3x3", padding=1)], 1)
        return x

    def features(self, pixels: Tensor, last: int) -> Tensor:
        """Output of ``features[last]`` for grey or RGB pictures (N, 1 or 3, H, W) in 0..1."""
        return self.between(self._conv((pixels.expand(-1, 3, -1, -1) - _MEAN) / _STD, "0", stride=2), 2, last)
