"""The cards of ``tabletop-reader``, and of ``tabletop-sdxl`` with its autoencoder and its few-step copy."""

from __future__ import annotations

import numpy as np
import torch

from backend.core.settings import assets_dir, atlas_home
from backend.core.stats import circular_error, mean_interval, median_interval, proportion_interval
from backend.models.registry import folder_of
from backend.recipes import tabletop_reader
from backend.studies.base import Progress, StudyContext
from backend.wire.findings import Finding
from backend.worlds import tabletop

READER_SHAPE = "The factor reader names the shape in held-out renders."
READER_AZIMUTH = "Median error of the light's direction that the factor reader reads off held-out renders."
PSNR = "Peak signal-to-noise ratio of tabletop-sdxl's autoencoder on held-out renders."
SHAPE = "tabletop-sdxl draws the shape that the prompt names, as the factor reader sees it."
HUE = "Median difference between the hue that the prompt names and the hue that tabletop-sdxl draws."
N_PICTURES = 1000
"""What the gate counts, whatever the scale: four minutes on two cores."""
LCM = "The few-step copy of tabletop-sdxl draws the shape that the prompt names, in four steps."


def ensure_test(say) -> None:
    """Render the held-out split where it is absent; it takes about a minute, once."""
    folder = tabletop.dataset_folder("test")
    say("rendering the held-out scenes, once")
    tabletop.render_dataset(folder, tabletop_reader.N_TEST, tabletop_reader.TEST_SEED)


def reader(ctx: StudyContext, share: Progress) -> list[Finding]:
    """Findings about ``tabletop-reader``, the instrument of all the others."""
    folder = folder_of(tabletop_reader.NAME)
    if folder is None:
        reason = "tabletop-reader is not on disk; train it first"
        return [ctx.absent("reader-shape-accuracy", READER_SHAPE, reason),
                ctx.absent("reader-azimuth-error-deg", READER_AZIMUTH, reason)]  # fmt: skip
    ensure_test(lambda m: share(0.0, m))
    pictures, truth = tabletop.load_rendered(tabletop.dataset_folder("test"))
    n = 1000 if ctx.scale == "small" else len(pictures)
    share(0.5, "tabletop-reader")
    images = tabletop_reader.to_float(pictures[:n])
    with torch.inference_mode():
        read = tabletop_reader.load_reader(folder).float().cpu().read(images)
    hits = read["shape"].numpy() == truth["shape"][:n]
    error = np.rad2deg(circular_error(read["light_azimuth"].numpy(), truth["light_azimuth"][:n]))
    rolled = circular_error(read["light_azimuth"].numpy(), np.roll(truth["light_azimuth"][:n], 1))
    common = {"model": tabletop_reader.NAME, "data": f"{n} held-out renders", "evidence": "observational"}
    return [
        ctx.finding(
            "reader-shape-accuracy", READER_SHAPE, proportion_interval(int(hits.sum()), n),
            aim=f">= {tabletop_reader.GATE['shape_accuracy']}", controls={"a guess": 1 / len(tabletop.SHAPES)},
            **common,
        ),
        ctx.finding(
            "reader-azimuth-error-deg", READER_AZIMUTH, median_interval(error, seed=ctx.seed), unit="°",
            aim=f"<= {tabletop_reader.GATE['light_azimuth_median_deg']}",
            controls={"against another scene": float(np.rad2deg(np.median(rolled))), "a guess": 90.0}, **common,
        ),
    ]  # fmt: skip


def autoencoder(ctx: StudyContext, share: Progress) -> list[Finding]:
    """The autoencoder of ``tabletop-sdxl``."""
    from backend.recipes import tabletop_vae

    # The autoencoder is a model of its own before the pipeline around it is whole.
    places = [root / "models" / "tabletop-sdxl" / "vae" for root in (assets_dir(), atlas_home())]
    folder = next((place for place in places if (place / "config.json").exists()), None)
    if folder is None:
        return [ctx.absent("vae-psnr-db", PSNR, "tabletop-sdxl has no autoencoder on disk; train it first")]
    ensure_test(lambda m: share(0.0, m))
    n = 200 if ctx.scale == "small" else 2000
    share(0.5, "autoencoder")
    found = tabletop_vae.evaluate(folder, n=n)
    return [
        ctx.finding(
            "vae-psnr-db", PSNR, mean_interval(found["psnr_db_each"], seed=ctx.seed), unit="dB",
            aim=_aim(tabletop_vae, "psnr_db", ">="),
            controls={k.removeprefix("control_").removesuffix("_db").replace("_", " "): v
                      for k, v in found.items() if k.startswith("control_")},
            model="tabletop-sdxl", data=f"{found['n']} held-out renders", evidence="observational",
        )
    ]  # fmt: skip


def _aim(module, key: str, sign: str) -> str:
    """The recipe's own gate for ``key``, where it has one."""
    gate = getattr(module, "GATE", {})
    return f"{sign} {gate[key]}" if key in gate else ""


def diffusion(ctx: StudyContext, share: Progress) -> list[Finding]:
    """What ``tabletop-sdxl`` draws, as the factor reader sees it."""
    from backend.recipes import tabletop_sdxl

    folder = folder_of("tabletop-sdxl")
    if folder is None or folder_of(tabletop_reader.NAME) is None:
        reason = "tabletop-sdxl or its instrument tabletop-reader is not on disk; train them first"
        return [ctx.absent("sdxl-shape-accuracy", SHAPE, reason), ctx.absent("sdxl-hue-error-deg", HUE, reason)]
    ensure_test(lambda m: share(0.0, m))
    n = N_PICTURES
    share(0.1, f"tabletop-sdxl, {n} pictures")
    found = tabletop_sdxl.evaluate(folder, n=n, seed=ctx.seed)
    data = f"{found['n']} pictures of prompts that name shape and colour, {found['steps']} steps"
    common = {"model": "tabletop-sdxl", "data": data, "evidence": "observational"}
    return [
        ctx.finding(
            "sdxl-shape-accuracy", SHAPE, proportion_interval(sum(found["shape_right"]), found["n"]),
            aim=_aim(tabletop_sdxl, "shape_accuracy", ">="),
            controls={"another prompt's shape": found["control_shape_shuffled"]}, **common,
        ),
        ctx.finding(
            "sdxl-hue-error-deg", HUE, median_interval(found["hue_errors_deg"], seed=ctx.seed), unit="°",
            aim=_aim(tabletop_sdxl, "hue_error_deg", "<="),
            controls={"another prompt's hue": found["control_hue_shuffled_deg"], "a guess": 90.0}, **common,
        ),
    ]  # fmt: skip


def few_step(ctx: StudyContext, share: Progress) -> list[Finding]:
    """The few-step copy that answers while dragging."""
    from backend.recipes import tabletop_sdxl_lcm as recipe

    folder = folder_of("tabletop-sdxl-lcm")
    if folder is None or folder_of("tabletop-sdxl") is None or folder_of(tabletop_reader.NAME) is None:
        return [ctx.absent("lcm-shape-accuracy", LCM, "tabletop-sdxl-lcm is not on disk; train it first")]
    ensure_test(lambda m: share(0.0, m))
    n = N_PICTURES
    share(0.1, f"tabletop-sdxl-lcm, {n} pictures")
    found = recipe.evaluate(folder, n=n, seed=ctx.seed)
    return [
        ctx.finding(
            "lcm-shape-accuracy", LCM, proportion_interval(sum(found["shape_right"]), found["n"]),
            aim=_aim(recipe, "shape_accuracy", ">="), model="tabletop-sdxl-lcm", evidence="observational",
            controls={
                "the undistilled model in four steps": found["control_undistilled_shape_accuracy"],
                "another prompt's shape": found["control_shape_shuffled"],
            },
            data=f"{found['n']} pictures of prompts that name shape and colour, four steps, no guidance",
        )
    ]  # fmt: skip

