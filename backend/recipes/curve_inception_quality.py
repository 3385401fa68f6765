"""What ``curve-inception`` can do, measured on fresh stimuli against a copy with untrained weights; and its gate."""

from __future__ import annotations

import math
from pathlib import Path

import torch
from safetensors.torch import load_file

from backend.models.inception import CurveInception
from backend.recipes import loop
from backend.recipes.curve_classes import LABELS, N_CURVE_BINS, N_LINE_BINS, config, labels
from backend.recipes.curve_tuning import judge_units
from backend.worlds import curves

GATE_LAYER = "mixed3b"
GATE_UNITS = 10


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
