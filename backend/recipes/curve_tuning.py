"""Tuning curves of ``curve-inception`` to orientation, and which of its units are curve units.

The tuning curve of a unit is its response at the middle of its map to a curve turned through 360 degrees in steps of
0.5, averaged over radii and both signs of contrast (after Cammarata et al., "Curve Detectors", 2020, and table 1 of the
block-sparse featurizer paper). Units are judged on stimuli with radii, widths, contrasts and positions that the stored
tuning curves did not use.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import save_file

from backend.models.inception import CurveInception
from backend.worlds import curves, curves_render

TUNED_LAYERS = ("mixed3a", "mixed3b", "mixed4a")
TUNING_STIMULI = {"radius": (8.0, 11.0, 15.0, 20.0), "width": (2.5,), "contrast": (0.4, -0.4)}
HELD_OUT_STIMULI = {"radius": (9.5, 13.0, 17.5), "width": (2.0, 3.2), "contrast": (0.33, -0.33)}


@torch.no_grad()
def respond(model: CurveInception, pixels: torch.Tensor, *, batch: int = 240) -> dict[str, torch.Tensor]:
    """Response (N, n_units) at the middle of the map for every tuned layer: the mean of the 2 × 2 central places."""
    model.eval()
    rows = []
    for part in pixels.split(batch):
        maps = model.features(part.to(model.device), until=TUNED_LAYERS[-1])
        rows.append({k: _middle(v).cpu() for k, v in maps.items() if k in TUNED_LAYERS})
    return {k: torch.cat([r[k] for r in rows]) for k in TUNED_LAYERS}


def _middle(x: torch.Tensor) -> torch.Tensor:
    h, w = x.shape[-2:]
    return x[..., (h - 1) // 2 : h // 2 + 1, (w - 1) // 2 : w // 2 + 1].mean(dim=(2, 3)).float()


def tuning(
    model: CurveInception,
    render: Callable[..., torch.Tensor] = curves_render.render_curves,
    *,
    stimuli: dict[str, tuple[float, ...]] = TUNING_STIMULI,
    step_deg: float = 0.5,
    generator: torch.Generator | None = None,
) -> dict[str, torch.Tensor]:
    """Mean response (M, n_units) per layer over every combination of ``stimuli`` at M = 360 / step orientations.

    A ``generator`` moves each stimulus by up to a pixel and adds noise of standard deviation 0.03: held-out stimuli.
    """
    theta = curves.sweep_angles(step_deg)
    radii = stimuli["radius"] if render is curves_render.render_curves else (None,)
    total, count = {}, 0
    for radius in radii:
        for width in stimuli["width"]:
            for contrast in stimuli["contrast"]:
                more = {} if radius is None else {"radius": radius}
                if generator is not None:
                    more["position"] = 2 * torch.rand(len(theta), 2, generator=generator) - 1
                pixels = render(theta, width=width, contrast=contrast, **more)
                if generator is not None:
                    pixels = (pixels + 0.03 * torch.randn(pixels.shape, generator=generator)).clamp(0, 1)
                for layer, values in respond(model, pixels).items():
                    total[layer] = total.get(layer, 0) + values
                count += 1
    return {layer: values / count for layer, values in total.items()}


def save_tuning(model: CurveInception, folder: Path) -> None:
    """Write ``tuning.safetensors``: ``theta`` (720,), and per layer (720, n_units) to curves and ``LAYER.lines``."""
    arc, line = tuning(model), tuning(model, curves_render.render_lines)
    tensors = {"theta": curves.sweep_angles(0.5), **arc, **{f"{k}.lines": v for k, v in line.items()}}
    save_file({k: v.contiguous() for k, v in tensors.items()}, Path(folder) / "tuning.safetensors")


def width_of_tuning(response: torch.Tensor) -> torch.Tensor:
    """Share of the circle on which each unit of ``response`` (M, n_units) is above half of its maximum, (n_units,)."""
    top = response.amax(0)
    return torch.where(top > 0, (response > top / 2).float().mean(0), 1.0)


def curve_units(
    stored: torch.Tensor, held_out: torch.Tensor, line: torch.Tensor, texture: torch.Tensor
) -> dict[str, torch.Tensor]:
    """Which units are narrowly tuned to a curve orientation, and the numbers behind each condition, (n_units,) each.

    ``stored`` (720, n) names the preferred orientation; everything else is judged on held-out stimuli: ``held_out`` and
    ``line`` (M, n) responses by orientation, ``texture`` (K, n) responses to textures. A unit counts where it is above
    half-maximum over at most 25 % of the circle, its held-out maximum is within 15 degrees of the stored one, and at
    the stored orientation the curve gives more than the line of that orientation and more than 95 % of textures do.
    """
    n_angles = len(held_out)
    prefers = stored.argmax(0) / len(stored)
    again = held_out.argmax(0) / n_angles
    apart = 360 * ((prefers - again + 0.5) % 1 - 0.5).abs()
    at = (prefers * n_angles).round().long() % n_angles
    units = torch.arange(stored.shape[1])
    curve_there, line_there = held_out[at, units], line[at, units]
    texture_high = texture.quantile(0.95, dim=0)
    width = width_of_tuning(held_out)
    alive = held_out.amax(0) > 0.1 * held_out.amax(0).median()
    counts = alive & (width <= 0.25) & (apart <= 15) & (curve_there > line_there) & (curve_there > texture_high)
    return {
        "counts": counts,
        "orientation_deg": 360 * prefers,
        "width": width,
        "drift_deg": apart,
        "curve": curve_there,
        "line": line_there,
        "texture_mean": texture.mean(0),
        "texture_95": texture_high,
    }


def judge_units(model: CurveInception, *, seed: int = 77, step_deg: float = 4.0) -> dict[str, dict[str, torch.Tensor]]:
    """``curve_units`` of every tuned layer of a model on held-out stimuli drawn from ``seed``."""
    draw = torch.Generator().manual_seed(seed)
    stored = tuning(model, step_deg=step_deg)
    arc = tuning(model, stimuli=HELD_OUT_STIMULI, step_deg=step_deg, generator=draw)
    line = tuning(model, curves_render.render_lines, stimuli=HELD_OUT_STIMULI, step_deg=step_deg, generator=draw)
    texture = respond(model, curves.sample(480, draw, kind="texture", noise=0.03).pixels)
    return {k: curve_units(stored[k], arc[k], line[k], texture[k]) for k in TUNED_LAYERS}
