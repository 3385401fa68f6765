"""The factor reader: a small convolutional network that says what a tabletop picture shows.

It is the measuring instrument of the steering studies. One picture in, and out come shape (logits), hue, light
azimuth and yaw (each as a vector (cos, sin), so the circle has no seam: angle = atan2), light elevation, size and
place. The length of a (cos, sin) vector is the reader's confidence in that angle. ``features`` are the activations
before the last layer, for a Fréchet distance between sets of pictures.

Not covered: pictures that are not of the tabletop world (it answers anyway), more than one object.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel

from backend.core.errors import Invalid

ANGLES: tuple[str, ...] = ("hue", "light_azimuth", "yaw")
SCALARS: tuple[str, ...] = ("light_elevation", "size", "x", "y")


class FactorReaderConfig(PreTrainedConfig):
    """Widths of the three stages, of the features, and the world's shape names and scalar ranges."""

    model_type = "factor-reader"

    image_size: int = 128
    d_stages: list[int] | tuple[int, ...] = (32, 64, 128)
    d_squeeze: int = 32
    d_features: int = 192
    shapes: list[str] | tuple[str, ...] = ("sphere", "cube", "cylinder", "cone", "torus", "pyramid")
    # low and high of each of SCALARS, in their own units; outputs are learned on [-1, 1].
    low: list[float] | tuple[float, ...] = (0.0, 0.0, -1.0, -1.0)
    high: list[float] | tuple[float, ...] = (1.5707963, 1.0, 1.0, 1.0)


class Reading(NamedTuple):
    """Raw outputs: ``shape`` (N, S) logits, ``angles`` (N, 3, 2) as (cos, sin), ``scalars`` (N, 4) in [-1, 1]."""

    shape: Tensor
    angles: Tensor
    scalars: Tensor


class _Residual(nn.Module):
    def __init__(self, d: int) -> None:
        super().__init__()
        self.first, self.norm_first = nn.Conv2d(d, d, 3, padding=1, bias=False), nn.BatchNorm2d(d)
        self.second, self.norm_second = nn.Conv2d(d, d, 3, padding=1, bias=False), nn.BatchNorm2d(d)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x + self.norm_second(self.second(F.relu(self.norm_first(self.first(x))))))


def _down(d_in: int, d_out: int, kernel: int, stride: int) -> nn.Sequential:
    convolution = nn.Conv2d(d_in, d_out, kernel, stride, padding=(kernel - 1) // 2, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(d_out), nn.ReLU())


class FactorReader(PreTrainedModel):
    """Stride-4 stem, three residual stages at 1/4, 1/8 and 1/16 of the picture, one hidden layer, one linear head."""

    config_class = FactorReaderConfig
    base_model_prefix = "reader"
    main_input_name = "images"

    def __init__(self, config: FactorReaderConfig) -> None:
        super().__init__(config)
        d = list(config.d_stages)
        layers: list[nn.Module] = [_down(3, d[0], 7, 4), _Residual(d[0])]
        for before, after in zip(d, d[1:], strict=False):
            layers += [_down(before, after, 3, 2), _Residual(after)]
        self.trunk = nn.Sequential(*layers, nn.Conv2d(d[-1], config.d_squeeze, 1), nn.ReLU())
        side = config.image_size // (4 * 2 ** (len(d) - 1))
        self.hidden = nn.Linear(config.d_squeeze * side * side, config.d_features)
        self.head = nn.Linear(config.d_features, len(config.shapes) + 2 * len(ANGLES) + len(SCALARS))
        self.post_init()

    def features(self, images: Tensor) -> Tensor:
        """Activations before the head, ``(N, d_features)``, of ``images`` (N, 3, H, W) float in [0, 1].

        Other sizes are resampled to the trained one. Raises ``Invalid`` for another layout.
        """
        if images.ndim != 4 or images.shape[1] != 3 or not images.is_floating_point():
            raise Invalid("Pictures were given to the factor reader.",
                          f"Their shape is {tuple(images.shape)} and their type {images.dtype}.",
                          "Give floats in [0, 1] of shape (N, 3, H, W).")  # fmt: skip
        size = self.config.image_size
        if images.shape[-2:] != (size, size):
            images = F.interpolate(images, (size, size), mode="bilinear", antialias=True)
        x = ((images - 0.65) / 0.22).to(memory_format=torch.channels_last)
        return F.relu(self.hidden(self.trunk(x).flatten(1)))

    def forward(self, images: Tensor) -> Reading:
        """``Reading`` of ``images`` (N, 3, H, W) float in [0, 1]."""
        n_shapes, n_angles = len(self.config.shapes), 2 * len(ANGLES)
        out = self.head(self.features(images)).float()
        shape, angles, scalars = out.split([n_shapes, n_angles, len(SCALARS)], dim=1)
        return Reading(shape, angles.view(-1, len(ANGLES), 2), scalars)

    @torch.inference_mode()
    def read(self, images: Tensor, *, batch: int = 128) -> dict[str, Tensor]:
        """Factors of ``images`` (N, 3, H, W) float in [0, 1], by the names of the tabletop world.

        ``shape`` (N,) int, angles in radians in [0, 2 pi), the rest in the world's units; ``shape_probability``
        (N,) and ``NAME_confidence`` (N,) for each angle, about 1 where the reader is sure and 0 where it is not.
        """
        was_training = self.training
        self.eval()
        device = next(self.parameters()).device
        parts = [self(chunk.to(device)) for chunk in images.split(batch)] or [self(images.to(device))]
        self.train(was_training)
        shape, angles, scalars = (torch.cat(column) for column in zip(*parts, strict=True))
        factors = {"shape": shape.argmax(1), "shape_probability": shape.softmax(1).amax(1)}
        for index, name in enumerate(ANGLES):
            factors[name] = torch.atan2(angles[:, index, 1], angles[:, index, 0]) % (2 * torch.pi)
            factors[f"{name}_confidence"] = angles[:, index].norm(dim=1).clamp_max(1)
        low, high = scalars.new_tensor(self.config.low), scalars.new_tensor(self.config.high)
        values = low + (scalars + 1) / 2 * (high - low)
        return factors | dict(zip(SCALARS, values.unbind(1), strict=True))

    def target(self, factors: dict[str, Tensor]) -> Reading:
        """What ``forward`` should have said for ground-truth ``factors`` (``shape`` stays a class index, (N,))."""
        angles = torch.stack([torch.stack([factors[a].cos(), factors[a].sin()], -1) for a in ANGLES], 1)
        scalars = torch.stack([factors[name] for name in SCALARS], 1)
        low, high = scalars.new_tensor(self.config.low), scalars.new_tensor(self.config.high)
        return Reading(factors["shape"].long(), angles, (scalars - low) / (high - low) * 2 - 1)


def load_reader(folder: Path) -> FactorReader:
    """The reader saved in ``folder``, in evaluation mode."""
    return FactorReader.from_pretrained(folder).eval()


def angle_error(a: Tensor, b: Tensor) -> Tensor:
    """Shortest way round the circle between angles in radians, in [0, pi]."""
    return ((a - b + torch.pi) % (2 * torch.pi) - torch.pi).abs()


def frechet_distance(a: Tensor, b: Tensor) -> float:
    """Fréchet distance between Gaussians fitted to two sets of features ``(N, d)``, ``(M, d)``.

    |mean_a - mean_b|^2 + tr(A + B - 2 (A^1/2 B A^1/2)^1/2), as in Heusel et al. 2017, in float64. It falls with N:
    compare only sets of equal size. Raises ``Invalid`` for fewer than two rows or unequal widths.
    """
    if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[1] or min(len(a), len(b)) < 2:
        raise Invalid("A Fréchet distance was asked for.", f"The sets are {tuple(a.shape)} and {tuple(b.shape)}.",
                      "Give two sets (N, d) and (M, d) of at least two rows.")  # fmt: skip
    a, b = a.double(), b.double()
    cov_a, cov_b = torch.cov(a.T).reshape(a.shape[1], -1), torch.cov(b.T).reshape(b.shape[1], -1)
    values, vectors = torch.linalg.eigh(cov_a)
    root = (vectors * values.clamp_min(0).sqrt()) @ vectors.T
    cross = torch.linalg.eigvalsh(root @ cov_b @ root).clamp_min(0).sqrt().sum()
    squared = (a.mean(0) - b.mean(0)).pow(2).sum() + cov_a.trace() + cov_b.trace() - 2 * cross
    return float(squared.clamp_min(0))
