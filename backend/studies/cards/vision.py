"""The cards of ``curve-inception`` (curve units) and ``tabletop-dino`` (factors read off by ridge regression)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from transformers import DINOv3ViTModel

from backend.core.stats import Interval, proportion_interval, r2_interval
from backend.models.registry import folder_of
from backend.recipes import curve_inception, tabletop_dino, tabletop_reader
from backend.recipes import curve_inception_quality as quality
from backend.studies.base import Progress, StudyContext
from backend.wire.findings import Finding
from backend.worlds import tabletop

PENALTIES = [1e-5, 1e-4, 1e-3, 1e-2, 1e-1]
UNITS = "Units of curve-inception that are narrowly tuned to one curve orientation on held-out stimuli."
AZIMUTH = "The direction of the light can be read linearly off tabletop-dino's patch tokens (R² of sine and cosine)."
SHAPE = "The shape can be read linearly off tabletop-dino's patch tokens."


def inception(ctx: StudyContext, share: Progress) -> list[Finding]:
    """Findings about ``curve-inception``."""
    folder = folder_of(curve_inception.NAME)
    if folder is None:
        return [ctx.absent("inception-curve-units", UNITS, "curve-inception is not on disk; train it first")]
    share(0.0, "curve-inception")
    found = quality.evaluate(folder)
    layer = quality.GATE_LAYER
    n_units, count = found["n_units"][layer], found["curve_units"][layer]
    part = proportion_interval(count, n_units)
    return [
        ctx.finding(
            "inception-curve-units", UNITS, Interval(count, n_units * part.low, n_units * part.high, n_units),
            aim=f">= {quality.GATE_UNITS}", unit=f"of {n_units} units", model=curve_inception.NAME,
            data="curves of radii, widths, contrasts and places that the tuning curves did not use",
            controls={
                "untrained copy": float(found["controls"]["untrained_curve_units"][layer]),
                "largest gap of orientation, degrees": found["largest_gap_deg"],
            },
            published="10 curve detectors in InceptionV1's mixed3b (Cammarata et al., 2020)",
            caveat=f"Layer {layer}; the interval treats its units as draws.",
        )
    ]  # fmt: skip


def scenes(n: int, seed: int, split: str, say) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """The first ``n`` scenes of a seed: from ``split`` where it is rendered far enough, else rendered for this study.

    Scenes are drawn batch by batch from the seed, so a longer set begins with the shorter one.
    """
    folder = tabletop.dataset_folder(split)
    if (folder / "meta.json").exists():
        images, factors = tabletop.load_rendered(folder)
        if len(images) >= n:
            return images[:n], {k: v[:n] for k, v in factors.items()}
    say(f"rendering {n} scenes, once")
    return tabletop.load_rendered(tabletop.render_dataset(tabletop.dataset_folder(f"{split}-{n}"), n, seed))


def read_off(x: Tensor, y: Tensor, x_test: Tensor, *, factors: Sequence[slice] = (slice(None),)) -> list[Tensor]:
    """Ridge predictions on ``x_test``, one (M, k) for the columns of ``y`` (N, ..) of each factor.

    The penalty is a factor's own, chosen on the last tenth of (x, y), never on the test rows.
    """
    fit = len(x) * 9 // 10
    guesses = tabletop_dino.ridge(x[:fit], y[:fit], torch.cat([x[fit:], x_test]), PENALTIES)
    out = []
    for columns in factors:
        best = min(guesses, key=lambda g: float((g[: len(x) - fit, columns] - y[fit:, columns]).square().mean()))
        out.append(best[len(x) - fit :, columns])
    return out


def dino(ctx: StudyContext, share: Progress) -> list[Finding]:
    """Findings about ``tabletop-dino``."""
    folder = folder_of(tabletop_dino.NAME)
    if folder is None:
        reason = "tabletop-dino is not on disk; train it first"
        return [ctx.absent("dino-azimuth-r2", AZIMUTH, reason), ctx.absent("dino-shape-accuracy", SHAPE, reason)]
    # The card's own protocol: with half as many scenes to fit, 12,288 weights a class are too many for them.
    n, n_test = tabletop_dino.N_PROBE, tabletop_dino.N_TEST
    if ctx.scale == "paper":
        n = 16_000
    images, factors = scenes(n, tabletop_reader.TRAIN_SEED, "train", lambda m: share(0.0, m))
    images_test, factors_test = scenes(n_test, tabletop_reader.TEST_SEED, "test", lambda m: share(0.3, m))

    def target(values: dict[str, np.ndarray], name: str) -> Tensor:
        y, names = tabletop_dino.targets({name: values[name]})
        return y

    names = ("light_azimuth", "shape")
    y = torch.cat([target(factors, name) for name in names], 1)
    truth = torch.cat([target(factors_test, name) for name in names], 1)

    def scored(read) -> tuple[Interval, Interval]:
        x, x_test = read(images).flatten(1), read(images_test).flatten(1)
        azimuth, shape = read_off(x, y, x_test, factors=(slice(0, 2), slice(2, None)))
        hits = int((shape.argmax(1) == truth[:, 2:].argmax(1)).sum())
        return r2_interval(truth[:, :2], azimuth, n_draws=500, seed=ctx.seed), proportion_interval(hits, len(truth))

    share(0.4, "tabletop-dino")
    model = DINOv3ViTModel.from_pretrained(folder)
    azimuth, shape = scored(lambda pictures: tabletop_dino.patch_tokens(model, pictures))
    share(0.6, "tabletop-dino, untrained copy")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(ctx.seed + 1)
        fresh = DINOv3ViTModel(model.config)
    fresh_azimuth, fresh_shape = scored(lambda pictures: tabletop_dino.patch_tokens(fresh, pictures))
    share(0.8, "pixels")
    pixel_azimuth, pixel_shape = scored(tabletop_dino.small_pixels)
    common = {
        "model": tabletop_dino.NAME, "evidence": "correlational",
        "data": f"{n_test} held-out scenes, ridge regression on {n} others, last layer's patch tokens",
    }  # fmt: skip
    return [
        ctx.finding(
            "dino-azimuth-r2", AZIMUTH, azimuth, aim=f">= {tabletop_dino.GATE['light_azimuth_r2']}",
            controls={"untrained copy": fresh_azimuth.value, "pixels, 32 × 32": pixel_azimuth.value}, **common,
        ),
        ctx.finding(
            "dino-shape-accuracy", SHAPE, shape, aim=f">= {tabletop_dino.GATE['shape_accuracy']}",
            controls={"untrained copy": fresh_shape.value, "pixels, 32 × 32": pixel_shape.value,
                      "a guess": 1 / len(tabletop.SHAPES)}, **common,
        ),
    ]  # fmt: skip
