"""Is a ring that a block-sparse featurizer finds without labels a control of the object's hue?

A Grassmannian featurizer is trained on the UNet's updates; rings are looked for in its blocks without any label, and
the one that follows hue on scenes it was not named on is kept (``backend.recipes.tabletop_blocks``). It is clamped at
the positions where its block is active, on prompts that name no colour, and the hue of every picture is read back
(``backend.studies.ring_judgement``). Labels only said which way round the ring runs.
"""

from __future__ import annotations

from backend.core.settings import assets_dir
from backend.manifolds.store import read_manifold
from backend.models.registry import load
from backend.studies.base import StudyContext, study
from backend.studies.ring_judgement import SHAPES, measure, report
from backend.wire.findings import Finding

NAME = "hue-ring"


@study(NAME)
def run(ctx: StudyContext) -> list[Finding]:
    """Steer the unlabelled ring of hues where its block is active, and read back."""
    folder = assets_dir() / "manifolds" / NAME
    if not (folder / "manifold.json").is_file():
        why = "no ring that follows hue is among the assets: manifold-atlas train tabletop-blocks sdxl"
        return [ctx.absent("median-error-deg", "The hue lands where it is sent.", why)]
    made = read_manifold(folder)
    prompts = [f"a {shape} on a table" for shape in SHAPES]
    found = measure(ctx, load("tabletop-sdxl"), made, prompts)
    return report(ctx, found, "The hue")
