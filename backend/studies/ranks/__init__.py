"""ranks: how many dimensions do blocks use, when they are given more than they need?

    stable rank = Σ l / max l   (main text)   or   Σ l² / max l²   (appendix)

with l the spectrum of a block's contributions where it fires, over blocks that fire on 20 held-out rows or more.
Grassmannian featurizers of two embedded models with b = 1 .. 8 and one with b = 16; the paper finds that the mean
saturates between 2 and 4 and that utilisation (effective rank / b) falls. Both readings, centred and raw moments,
participation ratio and effective rank are reported.

Control: Gaussian rows of the same covariance, whose blocks use what they are given. Fel et al. 2606.25234, sec. 3.4.

The featurizers are those of the study of description length. Not covered: vanilla and group-lasso featurizers.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from backend.core.stats import mean_interval
from backend.featurizers.description import CodeMoments
from backend.studies.base import StudyContext, study
from backend.studies.block_sweep import Config, Sweep, Swept, swept_findings
from backend.wire.findings import Finding

NAME = "ranks"
CLAIMS = {
    "stable-rank": "Mean stable rank of the blocks where b = 16, read as Σ l / max l.",
    "stable-rank-squared": "Mean stable rank of the blocks where b = 16, read as Σ l² / max l².",
    "utilisation": "Mean effective rank of the blocks over b, where b = 16.",
}
PUBLISHED = {
    "stable-rank": "2 – 4, about 3, at every b up to 16 (DINOv3 ViT-B; reading not stated)",
    "stable-rank-squared": "2 – 4, about 3, at every b up to 16 (DINOv3 ViT-B; reading not stated)",
    "utilisation": "0.60 – 0.66 at b = 16 (vanilla, Grassmannian)",
}
AIMS = {"stable-rank": "<= 4", "stable-rank-squared": "<= 4", "utilisation": "<= 0.66"}


def block_means(runs: Sequence[Swept], config: Config, measure: str, *, which: str = "real", **reading) -> np.ndarray:
    """A rank measure of every block that fires, joined over models and seeds ``(n,)``."""
    found: list[CodeMoments] = [getattr(run, which)[config] for run in runs if getattr(run, which)]
    return np.concatenate([moments.ranks(**reading)[measure] for moments in found])


@study(NAME)
def run(ctx: StudyContext) -> list[Finding]:
    """Stable rank and utilisation of blocks by block dimension, both readings."""
    return swept_findings(ctx, CLAIMS, lambda sweep, runs: findings(ctx, sweep, runs))


def findings(ctx: StudyContext, sweep: Sweep, runs: Sequence[Swept]) -> list[Finding]:
    """What was measured, as findings."""
    models = list(dict.fromkeys(run.model for run in runs))
    steady = sweep.same_gk()[sweep.same[-1]]
    out = []
    for name in CLAIMS:
        measure = name.replace("-", "_")
        values = block_means(runs, sweep.wide, measure)
        controls = {
            "Gaussian rows of the same covariance": float(block_means(runs, sweep.wide, measure, which="null").mean()),
            "moments around zero": float(block_means(runs, sweep.wide, measure, centred=False).mean()),
            "participation ratio": float(block_means(runs, sweep.wide, "participation_ratio").mean()),
            "effective rank": float(block_means(runs, sweep.wide, "effective_rank").mean()),
        }  # fmt: skip
        for model in models:
            own = [run for run in runs if run.model == model]
            controls[f"{model}, b=16"] = float(block_means(own, sweep.wide, measure).mean())
            for config in steady:
                label = f"{model}, G={config.n_blocks} k={config.k} b={config.d_block}"
                controls[label] = float(block_means(own, config, measure).mean())
        out.append(ctx.finding(
            name, CLAIMS[name], mean_interval(values, seed=ctx.seed), aim=AIMS[name], published=PUBLISHED[name],
            controls=controls, model=", ".join(models),
            data=f"{sweep.n_held} held-out tokens; {sweep.wide.n_blocks} blocks, {sweep.wide.k} active",
            caveat="Blocks of one featurizer are not independent draws; the interval treats them so.",
        ))  # fmt: skip
    return out
