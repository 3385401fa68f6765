"""How ``curve-inception`` is made: a small InceptionV1 learns the classes of the curves world.

    loss = CE(class) + 0.3 CE(class, auxiliary head on mixed3b) + 0.5 CE(radius bin, curves only)

Classes are 24 curve orientations (360 degrees), 12 line orientations (180 degrees), the textures and the shapes, so
that telling a curve from a line of the same orientation, and its two sides from each other, is what it is paid for.
Nothing asks for single units with narrow tuning: whether there are some is measured afterwards, on stimuli with radii,
widths, contrasts and positions that the stored tuning curves did not use.

The tuning curve of a unit is its response at the middle of its map to a curve turned through 360 degrees in steps of
0.5, averaged over radii and both signs of contrast (after Cammarata et al., "Curve Detectors", 2020, and table 1 of the
block-sparse featurizer paper).
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch.nn import functional

from backend.core.device import autocast, pick_device
from backend.core.settings import assets_dir
from backend.models.inception import CurveInception, CurveInceptionConfig
from backend.recipes import gates, loop
from backend.worlds import curves, curves_render

NAME = "curve-inception"
N_CURVE_BINS, N_LINE_BINS, N_RADIUS_BINS = 24, 12, 6
STEPS, BATCH = 1200, 64
TUNED_LAYERS = ("mixed3a", "mixed3b", "mixed4a")
GATE_LAYER = "mixed3b"
GATE_UNITS = 10
TUNING_STIMULI = {"radius": (8.0, 11.0, 15.0, 20.0), "width": (2.5,), "contrast": (0.4, -0.4)}
HELD_OUT_STIMULI = {"radius": (9.5, 13.0, 17.5), "width": (2.0, 3.2), "contrast": (0.33, -0.33)}

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


def loss(model: CurveInception, sample: curves.CurveSample, device: torch.device) -> tuple[torch.Tensor, dict]:
    """The training loss of one batch (equation in the module docstring) and its parts."""
    target, radius = (t.to(device) for t in labels(sample))
    out = model(sample.pixels.to(device, memory_format=torch.channels_last))
    parts = {
        "class": functional.cross_entropy(out.logits.float(), target),
        "aux": functional.cross_entropy(out.aux_logits.float(), target),
        "radius": functional.cross_entropy(out.radius_logits.float(), radius),
    }
    right = (out.logits.argmax(-1) == target).float().mean()
    total = parts["class"] + 0.3 * parts["aux"] + 0.5 * parts["radius"]
    return total, {**{k: v.detach() for k, v in parts.items()}, "accuracy": right}


def train(
    out: Path | None = None,
    *,
    seed: int = 0,
    steps: int = STEPS,
    batch: int = BATCH,
    device: torch.device | None = None,
    name: str = NAME,
) -> Path:
    """Train from nothing (or from the last checkpoint of ``name``), write weights, tuning curves and card to ``out``.

    Returns the folder, by default the model's place in the collection.
    """
    device = device or pick_device()
    out = Path(out or assets_dir() / "models" / NAME)
    torch.manual_seed(seed)
    model = CurveInception(config()).to(device, memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=0.02)

    def step(i: int) -> dict[str, float]:
        model.train()
        for group in optimizer.param_groups:
            group["lr"] = loop.cosine(i, steps, peak=3e-3)
        sample = curves.sample(batch, loop.rng(seed, i))
        with autocast(device):
            total, parts = loss(model, sample, device)
        optimizer.zero_grad(set_to_none=True)
        total.backward()
        optimizer.step()
        return {"loss": float(total.detach()), **{k: float(v) for k, v in parts.items()}}

    seconds = loop.run(name, steps, modules={"model": model}, optimizer=optimizer, step=step)
    model.to(memory_format=torch.contiguous_format).eval()
    out.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(out)
    save_tuning(model, out)
    quality = evaluate(out)
    write_card(out, quality, seed=seed, steps=steps, batch=batch, seconds=seconds)
    return out


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


def untrained(seed: int = 1, n_batches: int = 8) -> CurveInception:
    """A copy with fresh weights whose batch norms saw the stimuli: the control for everything learned."""
    torch.manual_seed(seed)
    model = CurveInception(config()).train()
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = None
    with torch.no_grad():
        for i in range(n_batches):
            model(curves.sample(64, loop.rng(seed + 999, i)).pixels)
    return model.eval()


def judge_units(model: CurveInception, *, seed: int = 77, step_deg: float = 4.0) -> dict[str, dict[str, torch.Tensor]]:
    """``curve_units`` of every tuned layer of a model on held-out stimuli drawn from ``seed``."""
    draw = torch.Generator().manual_seed(seed)
    stored = tuning(model, step_deg=step_deg)
    arc = tuning(model, stimuli=HELD_OUT_STIMULI, step_deg=step_deg, generator=draw)
    line = tuning(model, curves_render.render_lines, stimuli=HELD_OUT_STIMULI, step_deg=step_deg, generator=draw)
    texture = respond(model, curves.sample(480, draw, kind="texture", noise=0.03).pixels)
    return {k: curve_units(stored[k], arc[k], line[k], texture[k]) for k in TUNED_LAYERS}


@torch.no_grad()
def accuracy(model: CurveInception, *, n: int = 3000, seed: int = 424_242) -> dict[str, float]:
    """Shares right on ``n`` fresh stimuli: class by kind, kind alone, radius bin; median curve error in degrees."""
    model.eval()
    sample = curves.sample(n, torch.Generator().manual_seed(seed))
    target, radius = labels(sample)
    outs = [model(part.to(model.device)) for part in sample.pixels.split(250)]
    logits = torch.cat([o.logits.cpu().float() for o in outs])
    radius_logits = torch.cat([o.radius_logits.cpu().float() for o in outs])
    right = (logits.argmax(-1) == target).float()
    edges = torch.tensor([0, N_CURVE_BINS, N_CURVE_BINS + N_LINE_BINS, len(LABELS) - len(curves.SHAPES), len(LABELS)])
    kinds = torch.bucketize(logits.argmax(-1), edges, right=True) - 1
    arc = sample.kind == 0
    # Circular mean of the curve classes: an angle finer than its bins.
    angle = torch.arange(N_CURVE_BINS) * 2 * math.pi / N_CURVE_BINS
    share = logits[arc, :N_CURVE_BINS].softmax(-1)
    read = torch.atan2(share @ angle.sin(), share @ angle.cos())
    error = torch.rad2deg(torch.remainder(read - sample.orientation[arc] + math.pi, 2 * math.pi) - math.pi).abs()
    return {
        "class_accuracy": float(right.mean()),
        **{f"{name}_accuracy": float(right[sample.kind == i].mean()) for i, name in enumerate(curves.KINDS)},
        "kind_accuracy": float((kinds == sample.kind).float().mean()),
        "radius_bin_accuracy": float((radius_logits.argmax(-1) == radius)[arc].float().mean()),
        "curve_error_deg_median": float(error.median()),
    }


def evaluate(folder: Path) -> dict:
    """Measure a saved model on held-out stimuli against its untrained copy.

    Returns accuracies, ``curve_units`` per layer, the gate layer's units with their orientations and widths, the same
    counts for the untrained copy, the largest gap of orientation that these units leave, and ``passed``.
    """
    model = CurveInception.from_pretrained(folder).eval()
    stored = load_file(Path(folder) / "tuning.safetensors")
    judged, fresh = judge_units(model), untrained(seed=1)
    control = judge_units(fresh)
    gate = judged[GATE_LAYER]
    chosen = gate["counts"].nonzero()[:, 0]
    chosen = chosen[gate["orientation_deg"][chosen].argsort()]
    angles = gate["orientation_deg"][chosen]
    gap = float((angles.roll(-1) - angles).remainder(360).max()) if len(chosen) > 1 else 360.0
    return {
        "accuracy": accuracy(model),
        "curve_units": {k: int(v["counts"].sum()) for k, v in judged.items()},
        "n_units": {k: len(v["counts"]) for k, v in judged.items()},
        "units": [
            {"unit": int(u), "orientation_deg": round(float(gate["orientation_deg"][u]), 1),
             "share_above_half": round(float(gate["width"][u]), 3),
             "curve": round(float(gate["curve"][u]), 3), "line": round(float(gate["line"][u]), 3),
             "texture_95": round(float(gate["texture_95"][u]), 3)}
            for u in chosen
        ],
        "largest_gap_deg": gap,
        "tuning_shape": list(stored[GATE_LAYER].shape),
        "controls": {
            "untrained_curve_units": {k: int(v["counts"].sum()) for k, v in control.items()},
            "untrained_class_accuracy": accuracy(fresh, n=1000)["class_accuracy"],
        },
        "passed": len(chosen) >= GATE_UNITS,
    }  # fmt: skip


def write_card(folder: Path, quality: dict, *, seed: int, steps: int, batch: int, seconds: float) -> None:
    """Write ``card.json`` and ``README.md`` beside the weights, from measured values alone."""
    model = CurveInception.from_pretrained(folder)
    weights = folder / "model.safetensors"
    card = {
        "name": NAME,
        "kind": "model",
        "class": "backend.models.inception.CurveInception",
        "task": "classify curves and lines by orientation, textures, shapes; radius of curvature",
        "world": "curves",
        "n_parameters": sum(p.numel() for p in model.parameters()),
        "bytes": weights.stat().st_size,
        "data": f"{steps * batch} procedural 64 x 64 stimuli, each drawn once from (seed, step)",
        "seed": seed,
        "steps": steps,
        "batch": batch,
        "seconds": round(seconds, 1),
        "sites": [f"{NAME}/{layer}" for layer in model.config.mixed_widths],
        "tuning": "tuning.safetensors: theta (720,) radians; per layer (720, n_units) to curves, LAYER.lines to lines",
        "quality": quality,
        "gates": [gates.at_least(f"curve units in {GATE_LAYER}", quality["curve_units"][GATE_LAYER], GATE_UNITS)],
        "command": f"manifold-atlas train {NAME}",
        "licence": "same as the project",
    }
    gates.write(folder, card)
    score, control = quality["accuracy"], quality["controls"]
    twice = sum(u["curve"] > 2 * u["line"] for u in quality["units"])
    rows = "\n".join(
        f"| {u['unit']} | {u['orientation_deg']} | {100 * u['share_above_half']:.0f} % | {u['curve']:.2f} | "
        f"{u['line']:.2f} | {u['texture_95']:.2f} |"
        for u in quality["units"]
    )
    (folder / "README.md").write_text(
        f"""# {NAME}

A small InceptionV1 ({card["n_parameters"]:,} parameters, {card["bytes"] / 1e6:.1f} MB) trained on procedural curves,
lines, textures and shapes: {card["data"]}. Training took {card["seconds"]:.0f} s by
the clock on two shared cores ({steps} steps of {batch}, seed {seed}).
Re-create it with `{card["command"]}`. Input: (N, 1 or 3, 64, 64) in 0..1.

Held-out stimuli: class {100 * score["class_accuracy"]:.1f} % of {len(LABELS)} classes (untrained copy
{100 * control["untrained_class_accuracy"]:.1f} %), kind {100 * score["kind_accuracy"]:.1f} %, radius bin
{100 * score["radius_bin_accuracy"]:.1f} % of {N_RADIUS_BINS}, median curve orientation error
{score["curve_error_deg_median"]:.1f} degrees.

## Curve units of `{GATE_LAYER}`

{quality["curve_units"][GATE_LAYER]} of {quality["n_units"][GATE_LAYER]} units are narrowly tuned to one curve
orientation (untrained copy: {control["untrained_curve_units"][GATE_LAYER]}): above half-maximum over at most 25 % of
the circle, the same preferred orientation (15 degrees) on other radii, widths, contrasts and positions, more to the
curve than to the line of that orientation and than to 95 % of textures. {twice} of them give the curve more than
twice what they give the line. The largest gap between their orientations is {quality["largest_gap_deg"]:.0f} degrees.

| unit | prefers (deg) | above half | curve | line | texture, 95 % |
|---|---|---|---|---|---|
{rows}

`tuning.safetensors` holds the tuning curves of all units: `theta` (720,), `mixed3a`, `mixed3b`, `mixed4a` (720, n),
averaged over radii {", ".join(str(r) for r in TUNING_STIMULI["radius"])} and both signs of contrast, and the same for
lines under `LAYER.lines`.

What it does not cover: natural images, colour (the channels are averaged), curves longer than a half circle.
"""
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=None)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=STEPS)
    args = parser.parse_args()
    folder = train(args.out, seed=args.seed, steps=args.steps)
    print((folder / "card.json").read_text())


if __name__ == "__main__":
    main()
