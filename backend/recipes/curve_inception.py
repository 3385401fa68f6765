"""How ``curve-inception`` is made: a small InceptionV1 learns the classes of the curves world.

    loss = CE(class) + 0.3 CE(class, auxiliary head on mixed3b) + 0.5 CE(radius bin, curves only)

Nothing asks for single units with narrow tuning: whether there are some is measured afterwards (``curve_tuning``), on
stimuli that the stored tuning curves did not use.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from torch.nn import functional

from backend.core.device import autocast, pick_device
from backend.core.settings import assets_dir
from backend.models.inception import CurveInception
from backend.recipes import gates, loop
from backend.recipes.curve_classes import LABELS, N_RADIUS_BINS, config, labels
from backend.recipes.curve_inception_quality import GATE_LAYER, GATE_UNITS, evaluate
from backend.recipes.curve_tuning import TUNING_STIMULI, save_tuning
from backend.worlds import curves

NAME = "curve-inception"
STEPS, BATCH = 1200, 64


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
