"""Does clamping the ring of light directions send the light where it is asked to go, and do the controls not?

The ring is fitted from scenes of known azimuth at the sites that move it, for each sampler time
(``backend.recipes.tabletop_manifolds``), then steered and read back (``backend.studies.ring_judgement``). Prompts,
seeds and scenes of the test are not those on which sites and gain were chosen.

Without labels, what a block-sparse featurizer holds of the azimuth is measured on held-out scenes: the best single
block, the best union of co-active blocks, and all of them, with the azimuth shuffled among scenes as the control.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from backend.core.settings import assets_dir, atlas_home
from backend.featurizers import statistics
from backend.featurizers.grassmannian import Grassmannian
from backend.manifolds.steerable import SteerableManifold
from backend.manifolds.store import read_manifold, save_manifold
from backend.models.registry import load
from backend.recipes import tabletop_activations as activations
from backend.recipes import tabletop_blocks as blocks
from backend.recipes import tabletop_manifolds as rings
from backend.studies.base import StudyContext, study
from backend.studies.ring_judgement import SHAPES, measure, report, the_reader
from backend.wire.findings import Finding

FACTOR = "light_azimuth"


def ring(ctx: StudyContext, adapter) -> SteerableManifold:
    """The shipped ring; fitted again where it is missing."""
    name = rings.FACTORS[FACTOR][0]
    folder = assets_dir() / "manifolds" / name
    if not (folder / "manifold.json").is_file():
        made = rings.fit(
            adapter, the_reader(), FACTOR, seed=ctx.seed, progress=lambda p, words: ctx.progress(0.3 * p, words)
        )
        folder = save_manifold(made, atlas_home() / "manifolds" / name)
    return read_manifold(folder)


def unlabelled(ctx: StudyContext, adapter) -> list[Finding]:
    """What blocks that were trained without labels hold of the azimuth, on held-out scenes."""
    plan = blocks.PLANS["sdxl"]
    claims = {
        "unlabelled-best-block-r2": ("single", "One block, found without labels, holds the light's azimuth."),
        "unlabelled-union-r2": ("union", "A union of co-active unlabelled blocks holds the light's azimuth."),
        "unlabelled-all-r2": ("all", "All blocks together hold the light's azimuth."),
    }
    folder: Path = assets_dir() / "featurizers" / plan.name
    if not folder.is_dir():
        why = f"the featurizer {plan.name} is not among the assets: manifold-atlas train tabletop-blocks sdxl"
        return [ctx.absent(measure_, claim, why) for measure_, (_, claim) in claims.items()]
    ctx.progress(0.92, "what unlabelled blocks hold")
    featurizer = Grassmannian.from_pretrained(folder)
    images, factors = activations.scenes("test", 1200 if ctx.scale == "small" else 2000, seed=ctx.seed)
    x, _, rows_each = activations.read(adapter, plan.site, images, factors, seed=ctx.seed + 1)
    table = statistics.read_codes(featurizer, x[::rows_each])
    held = blocks.factor_table(table, factors, seed=ctx.seed)[FACTOR]
    order = np.random.default_rng(ctx.seed).permutation(len(images))
    shuffled = blocks.factor_table(table, {k: np.asarray(v)[order] for k, v in factors.items()}, seed=ctx.seed)[FACTOR]
    return [
        ctx.finding(
            name, claim, held[key], n=len(images) // 2, evidence="correlational", model="tabletop-sdxl", unit="R²",
            controls={"azimuth shuffled": shuffled[key], "all blocks": held["all"]},
            data="held-out rendered scenes, chosen on one half, reported on the other",
            caveat=f"Read summed over positions and with first moments; the union is blocks {held['union_blocks']}.",
        )
        for name, (key, claim) in claims.items()
    ]  # fmt: skip


@study("light-ring")
def run(ctx: StudyContext) -> list[Finding]:
    """Steer the ring of light directions and read back; and what unlabelled blocks hold of it."""
    adapter = load("tabletop-sdxl")
    made = ring(ctx, adapter)
    prompts = [f"a red {shape} on a table" for shape in SHAPES]
    return report(ctx, measure(ctx, adapter, made, prompts), "The light") + unlabelled(ctx, adapter)
