"""A small InceptionV1: two stem convolutions, four mixed modules, global average pooling, linear heads.

One mixed module concatenates four branches over its channels,

    mixed(x) = [ c1(x) ; c3(c1(x)) ; c5(c1(x)) ; c1(maxpool3(x)) ],     c_k = ReLU ∘ batch norm ∘ k × k convolution,

as in Szegedy et al., "Going deeper with convolutions" (2015), whose layer names are kept: ``mixed3b`` is the layer in
which curve detectors were found. As there, an auxiliary classifier hangs on the middle of the network.

The classes are the library's own ``PreTrainedModel`` and ``PretrainedConfig``, so that ``from_pretrained`` and
``save_pretrained`` work on a folder with ``config.json`` and ``model.safetensors``. Not covered: the 9-module
ImageNet network and its weights.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn
from transformers import AutoConfig, AutoModel, PretrainedConfig, PreTrainedModel
from transformers import initialization as init
from transformers.utils import ModelOutput

from backend.core.errors import Invalid

MIXED = {
    "mixed3a": [32, 32, 64, 8, 16, 16],
    "mixed3b": [48, 48, 80, 12, 32, 32],
    "mixed4a": [96, 64, 128, 16, 48, 48],
    "mixed4b": [128, 96, 192, 24, 64, 64],
}


class CurveInceptionConfig(PretrainedConfig):
    """Widths and heads of a ``CurveInception``.

    ``mixed_widths`` maps a module's name to the channels of (1×1, 3×3 reduce, 3×3, 5×5 reduce, 5×5, pool projection);
    modules named in ``pool_before`` halve the map first. Images are ``image_size`` pixels square in 0..1;
    ``image_mean`` and ``image_std`` are applied inside the network.
    """

    model_type = "curve-inception"

    def __init__(
        self,
        image_size: int = 64,
        stem_widths: list[int] | None = None,
        mixed_widths: dict[str, list[int]] | None = None,
        pool_before: list[str] | None = None,
        aux_after: str = "mixed3b",
        n_radius_bins: int = 6,
        image_mean: float = 0.5,
        image_std: float = 0.25,
        **kwargs,
    ) -> None:
        self.image_size = image_size
        self.stem_widths = list(stem_widths or (24, 48))
        self.mixed_widths = dict(mixed_widths or MIXED)
        self.pool_before = list(pool_before if pool_before is not None else ("mixed4a", "mixed4b"))
        self.aux_after = aux_after
        self.n_radius_bins = n_radius_bins
        self.image_mean = image_mean
        self.image_std = image_std
        super().__init__(**kwargs)


@dataclass
class CurveInceptionOutput(ModelOutput):
    """What one forward pass returns; ``None`` where it was not asked for."""

    logits: torch.Tensor | None = None
    """(N, num_labels) classes of the picture."""
    radius_logits: torch.Tensor | None = None
    """(N, n_radius_bins) radius of curvature."""
    aux_logits: torch.Tensor | None = None
    """(N, num_labels) from the auxiliary classifier."""
    pooler_output: torch.Tensor | None = None
    """(N, d) average of the last module over positions."""
    hidden_states: tuple[torch.Tensor, ...] | None = None
    """(N, d, h, w) per mixed module, in order."""


class ConvUnit(nn.Module):
    """ReLU(batch norm(convolution)), stride as given, padding that keeps the size at stride 1."""

    def __init__(self, d_in: int, d_out: int, kernel: int, stride: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(d_in, d_out, kernel, stride, kernel // 2, bias=False)
        self.norm = nn.BatchNorm2d(d_out)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu_(self.norm(self.conv(x)))


class Mixed(nn.Module):
    """One inception module: (N, d_in, h, w) → (N, d_out, h, w), channels ordered 1×1, 3×3, 5×5, pool."""

    def __init__(self, d_in: int, widths: list[int]) -> None:
        super().__init__()
        one, reduce3, three, reduce5, five, pool = widths
        self.branch1 = ConvUnit(d_in, one, 1)
        self.branch3 = nn.Sequential(ConvUnit(d_in, reduce3, 1), ConvUnit(reduce3, three, 3))
        self.branch5 = nn.Sequential(ConvUnit(d_in, reduce5, 1), ConvUnit(reduce5, five, 5))
        self.branch_pool = nn.Sequential(nn.MaxPool2d(3, 1, 1), ConvUnit(d_in, pool, 1))
        self.d_out = one + three + five + pool

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([self.branch1(x), self.branch3(x), self.branch5(x), self.branch_pool(x)], dim=1)


class CurveInception(PreTrainedModel):
    """The network of the curves world: (N, 1 or 3, H, W) in 0..1 → classes, radius bins, module activations."""

    config_class = CurveInceptionConfig
    base_model_prefix = "inception"
    main_input_name = "pixel_values"
    input_modalities = ("image",)

    def __init__(self, config: CurveInceptionConfig) -> None:
        super().__init__(config)
        first, second = config.stem_widths
        self.conv1 = ConvUnit(1, first, 5, stride=2)
        self.conv2 = ConvUnit(first, second, 3)
        self.pool = nn.MaxPool2d(3, 2, 1)
        width = second
        for name, widths in config.mixed_widths.items():
            module = Mixed(width, widths)
            self.add_module(name, module)
            if name == config.aux_after:
                self.aux_head = nn.Linear(module.d_out, config.num_labels)
            width = module.d_out
        self.head = nn.Linear(width, config.num_labels)
        self.radius_head = nn.Linear(width, config.n_radius_bins)
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, nn.Conv2d):
            init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        elif isinstance(module, nn.Linear):
            init.normal_(module.weight, std=0.02)
            init.zeros_(module.bias)
        elif isinstance(module, nn.BatchNorm2d):
            init.ones_(module.weight)
            init.zeros_(module.bias)
            init.zeros_(module.running_mean)
            init.ones_(module.running_var)
            init.zeros_(module.num_batches_tracked)

    def stem(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """Grey or RGB pictures in 0..1 to (N, d, H / 4, W / 4); raises ``Invalid`` for another number of channels."""
        if pixel_values.ndim != 4 or pixel_values.shape[1] not in (1, 3):
            raise Invalid(
                f"Pixels of shape {tuple(pixel_values.shape)} were given.",
                "The network reads (N, 1, H, W) grey or (N, 3, H, W) RGB pictures in 0..1.",
                "Put the channels second and add a batch axis.",
            )
        # The average of the channels: a grey picture gives the same result in either format.
        grey = pixel_values.mean(dim=1, keepdim=True)
        return self.conv2(self.pool(self.conv1((grey - self.config.image_mean) / self.config.image_std)))

    def features(self, pixel_values: torch.Tensor, *, until: str | None = None) -> dict[str, torch.Tensor]:
        """Activations (N, d, h, w) of every mixed module by name, in order, stopping after ``until``."""
        x = self.stem(pixel_values)
        out = {}
        for name in self.config.mixed_widths:
            x = getattr(self, name)(self.pool(x) if name in self.config.pool_before else x)
            out[name] = x
            if name == until:
                break
        return out

    def forward(
        self, pixel_values: torch.Tensor, output_hidden_states: bool = False, **kwargs
    ) -> CurveInceptionOutput:
        maps = self.features(pixel_values)
        pooled = list(maps.values())[-1].mean(dim=(2, 3))
        aux = maps.get(self.config.aux_after)
        return CurveInceptionOutput(
            logits=self.head(pooled),
            radius_logits=self.radius_head(pooled),
            aux_logits=None if aux is None else self.aux_head(aux.mean(dim=(2, 3))),
            pooler_output=pooled,
            hidden_states=tuple(maps.values()) if output_hidden_states else None,
        )


AutoConfig.register("curve-inception", CurveInceptionConfig, exist_ok=True)
AutoModel.register(CurveInceptionConfig, CurveInception, exist_ok=True)
