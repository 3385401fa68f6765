"""What ``curve-inception`` is taught to tell apart, and its configuration.

Classes are 24 curve orientations (360 degrees), 12 line orientations (180 degrees), the textures and the shapes, so
that telling a curve from a line of the same orientation, and its two sides from each other, is what it is paid for.
"""

from __future__ import annotations

import math

import torch

from backend.models.inception import CurveInceptionConfig
from backend.worlds import curves

N_CURVE_BINS, N_LINE_BINS, N_RADIUS_BINS = 24, 12, 6

LABELS = (
    [f"curve {360 * i // N_CURVE_BINS}" for i in range(N_CURVE_BINS)]
    + [f"line {180 * i // N_LINE_BINS}" for i in range(N_LINE_BINS)]
    + list(curves.TEXTURES)
    + list(curves.SHAPES)
)


def config() -> CurveInceptionConfig:
    """The configuration that ships, its labels named after the classes."""
    return CurveInceptionConfig(
        n_radius_bins=N_RADIUS_BINS,
        id2label=dict(enumerate(LABELS)),
        label2id={label: i for i, label in enumerate(LABELS)},
    )


def labels(sample: curves.CurveSample) -> tuple[torch.Tensor, torch.Tensor]:
    """Class (N,) and radius bin (N,) of each row, −100 where a row has no radius; bins are centred on their names."""
    turn = 2 * math.pi
    curve = torch.round(sample.orientation / turn * N_CURVE_BINS).nan_to_num(0).long() % N_CURVE_BINS
    line = torch.round(sample.orientation / (turn / 2) * N_LINE_BINS).nan_to_num(0).long() % N_LINE_BINS
    first_texture = N_CURVE_BINS + N_LINE_BINS
    first_shape = first_texture + len(curves.TEXTURES)
    choices = torch.stack([curve, N_CURVE_BINS + line, first_texture + sample.texture, first_shape + sample.shape])
    low, high = (math.log(r) for r in curves.RADIUS_RANGE)
    part = (torch.log(sample.radius) - low) / (high - low)
    bins = (part * N_RADIUS_BINS).nan_to_num(0, 0, 0).long().clamp(0, N_RADIUS_BINS - 1)
    return choices[sample.kind, torch.arange(len(sample))], torch.where(sample.kind == 0, bins, -100)
