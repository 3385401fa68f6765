"""Is a ring that a block-sparse featurizer finds without labels a control of the object's hue?

A Grassmannian featurizer is trained on the UNet's updates; rings are looked for in its blocks without any label, and
the one that follows hue on scenes it was not named on is kept (``backend.recipes.tabletop_blocks``). It is clamped at
the positions where its block is active, on prompts that name no colour, and the hue of every picture is read back
(``backend.studies.ring_judgement``). Labels only said which way round the ring runs.

The shuffled control visits the ring's own places in a random order.
"""

from __future__ import annotations

import torch

from backend.core.settings import assets_dir
from backend.manifolds.site_entry import SiteEntry
from backend.manifolds.steerable import SteerableManifold
from backend.manifolds.store import read_manifold
from backend.models.registry import load
from backend.studies.base import StudyContext, study
from backend.studies.ring_judgement import SHAPES, measure, report
from backend.wire.findings import Finding

NAME = "hue-ring"


def shuffled(made: SteerableManifold, *, seed: int) -> SteerableManifold:
    """The same places of the ring, visited in a random order."""
    generator = torch.Generator().manual_seed(seed)
    entries = {}
    for site, entry in made.sites.items():
        order = torch.randperm(len(entry.knots_t), generator=generator)
        entries[site] = SiteEntry(**{**vars(entry), "knots": entry.knots[:, order]})
    return SteerableManifold(made.info.model_copy(update={"name": f"{NAME}-shuffled"}), entries)


@study("hue-ring")
def run(ctx: StudyContext) -> list[Finding]:
    """Steer the unlabelled ring of hues where its block is active, and read back."""
    folder = assets_dir() / "manifolds" / NAME
    if not (folder / "manifold.json").is_file():
        why = "no ring that follows hue is among the assets: manifold-atlas train tabletop-blocks sdxl"
        return [ctx.absent("median-error-deg", "The hue lands where it is sent.", why)]
    made = read_manifold(folder)
    prompts = [f"a {shape} on a table" for shape in SHAPES]
    found = measure(ctx, load("tabletop-sdxl"), made, shuffled(made, seed=ctx.seed + 1), prompts)
    return report(ctx, found, "The hue")
