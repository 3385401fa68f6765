"""lighting: do blocks that were found without labels follow the light on shapes that they have never seen?

A Grassmannian featurizer of ``tabletop-dino``'s patches is trained on scenes of four shapes, without labels. A block is
chosen for a factor and its reading fitted on other scenes of the same shapes; correlation and R² are of scenes of the
two shapes left out. Three seeds leave out other shapes, so that each is unseen once. Controls: light exchanged between
scenes (the whole search repeated), random frames that fire as often (their mean, and the best of as many), b = 1 atoms
at equal dimension, all dimensions. Azimuth may be spread over blocks: unions of at most four co-active blocks, chosen
with labels, or made without them (neighbourhoods and communities of co-activation). Fel et al. 2606.25234, App. on
lighting, give pictures and no coefficients.

Layer and size were chosen among two layers and six sizes, by looking at seed 0's scenes: few wide blocks hold whole
factors, many narrow ones shatter them (the arm ``many``). ``--seed 1`` is the same on seeds that nothing was chosen on.

``small``: 8,000 scenes, 1,000 steps of 2,048 (about 6 minutes on two idle cores). Not covered: a network that has not
seen the shapes either (the transformer saw all of them, without labels); photographs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from backend.core.errors import NotFound
from backend.core.stats import Interval, correlation_interval, mean_interval, r2_interval
from backend.models.registry import load
from backend.recipes.tabletop_activations import harvest_vision, scenes
from backend.studies.base import StudyContext, study
from backend.studies.lighting.reading import AZIMUTH, Guessed, Plan, Seed, Training, measure_seed
from backend.wire.findings import Finding
from backend.worlds import tabletop

NAME, MODEL, SITE = "lighting", "tabletop-dino", "tabletop-dino/3#resid_post"
PLANS = {
    "small": Plan(),
    "paper": replace(Plan(), n_blocks=32, k=6, many=(4096, 3, 16), n_scenes=20_000, n_seeds=5, n_random=32,
                     training=Training(steps=20_000, batch=8192, lr=1e-3)),
}  # fmt: skip
CORRELATED = {
    "luminance": ("luminance-correlation", "One unlabelled block follows the scene's luminance on unseen shapes.",
                  ">= 0.9"),
    "shadow_area": ("shadow-correlation", "One unlabelled block follows the area of the shadow on unseen shapes.",
                    ">= 0.8"),
    "light_elevation": ("elevation-correlation", "One unlabelled block follows the light's elevation on unseen shapes.",
                        ""),
}  # fmt: skip
HELD = {
    "azimuth-r2-block": ("block", "One block holds the light's azimuth on unseen shapes (R² of sine and cosine).", ""),
    "azimuth-r2-union": ("union", "At most four co-active blocks together hold the light's azimuth on unseen shapes.",
                         "at least .9 of what all dimensions hold"),
    "azimuth-r2-atoms": ("atoms of a union", "b = 1 atoms, as many as the union has dimensions, hold the azimuth.", ""),
    "azimuth-r2-all": ("all", "All dimensions of the activation hold the light's azimuth on unseen shapes.", ""),
}  # fmt: skip


@study(NAME)
def run(ctx: StudyContext) -> list[Finding]:
    """Blocks found without labels against the light, on shapes that neither they nor their reading have seen."""
    plan = PLANS[ctx.scale]
    try:
        adapter = load(MODEL)
        data, factors = scenes("train", plan.n_scenes)
        data_test, factors_test = scenes("test", plan.n_test)
    except NotFound as missing:
        claims = {**{v[0]: v[1] for v in CORRELATED.values()}, **{k: v[1] for k, v in HELD.items()}}
        return [ctx.absent(measure, claim, str(missing)) for measure, claim in claims.items()]
    ctx.progress(0.01, f"{len(data) + len(data_test)} scenes through {MODEL}")
    x, x_test = harvest_vision(adapter, SITE, data), harvest_vision(adapter, SITE, data_test)
    seeds = [plan.n_seeds * ctx.seed + i for i in range(plan.n_seeds)]
    measured = []
    for i, seed in enumerate(seeds):

        def tell(share: float, what: str, i: int = i) -> None:
            ctx.progress(0.1 + 0.88 * (i + share) / len(seeds), what)

        measured.append(measure_seed(x, factors, x_test, factors_test, plan, seed=seed, tell=tell,
                                     n_shapes=len(tabletop.SHAPES)))  # fmt: skip
    return findings(ctx, plan, seeds, measured)


def _arm(measured: Sequence[Seed], factor: str, arm: str) -> list[Guessed]:
    return [one.read[factor][arm] for one in measured]


def correlation(measured: Sequence[Seed], factor: str, arm: str, *, seed: int) -> Interval:
    """Mean over seeds of the correlation; scenes of all seeds are resampled together."""
    truth, guess = zip(*(g.standard for g in _arm(measured, factor, arm)), strict=True)
    return correlation_interval(np.concatenate(truth), np.concatenate(guess), seed=seed)


def joined(measured: Sequence[Seed], factor: str, arm: str) -> Guessed:
    """One reading over the scenes of all seeds."""
    each = _arm(measured, factor, arm)
    return Guessed(np.concatenate([g.truth for g in each]), np.concatenate([g.guess for g in each]))


def findings(ctx: StudyContext, plan: Plan, seeds: list[int], measured: Sequence[Seed]) -> list[Finding]:
    """What was measured, as findings."""
    out = "; ".join(", ".join(tabletop.SHAPES[s] for s in one.unseen) for one in measured)
    told = {
        "model": MODEL, "evidence": "observational",
        "data": f"scenes of unseen shapes ({out}); {plan.n_blocks} blocks of {plan.d_block}, {plan.k} active",
        "caveat": "The transformer itself saw all shapes, without labels; blocks and their reading did not.",
    }  # fmt: skip
    found = []

    def mean(factor: str, arm: str) -> float:
        return float(np.mean([g.correlation for g in _arm(measured, factor, arm)]))

    for factor, (measure, claim, aim) in CORRELATED.items():
        controls = {label: mean(factor, arm) for label, arm in (
            ("norm of one block alone", "norm alone"), ("light exchanged between scenes", "shuffled light"),
            ("best of as many random frames", "best of random frames"), (f"{plan.d_block} atoms, b = 1", "atoms"),
            (f"one of {plan.many[0]} blocks of {plan.many[1]}", "of many"),
            ("all dimensions", "all"))}  # fmt: skip
        for label in ("random", "any block"):
            controls["mean " + {"random": "random frame", "any block": "block"}[label]] = float(
                np.mean([one.spread[f"{label} {factor}"] for one in measured])
            )
        found.append(ctx.finding(measure, claim, correlation(measured, factor, "block", seed=ctx.seed), aim=aim,
                                 unit="correlation", controls=controls, published="shown, without a coefficient",
                                 **told))  # fmt: skip
    random = [one.spread["random luminance"] for one in measured]
    found.append(ctx.finding(
        "random-block-correlation", "A random frame that fires as often as a block does not follow luminance.",
        mean_interval(np.array(random), seed=ctx.seed), unit="correlation", aim="<= 0.2",
        controls={"random frame, shadow area": float(np.mean([one.spread["random shadow_area"] for one in measured])),
                  "best of as many random frames, luminance": mean("luminance", "best of random frames"),
                  "light exchanged between scenes": mean("luminance", "shuffled light")}, **told,
    ))  # fmt: skip
    whole = joined(measured, AZIMUTH, "all").r2
    for measure, (arm, claim, aim) in HELD.items():
        one = joined(measured, AZIMUTH, arm)
        value = r2_interval(one.truth, one.guess, seed=ctx.seed)
        controls = {label: joined(measured, AZIMUTH, other).r2 for label, other in CONTROLS[arm]}
        if arm in ("block", "union"):
            label = "one block" if arm == "block" else "a union as large"
            other = "of many" if arm == "block" else "union of many"
            controls[f"{label} of {plan.many[0]} blocks of {plan.many[1]}"] = joined(measured, AZIMUTH, other).r2
        status = None
        if arm == "union":
            status = "holds" if value.value >= 0.9 * whole else "falls short"
            sizes = [len(one.blocks["community"]) for one in measured]
            controls |= {"share of all dimensions": value.value / whole,
                         "blocks of the best community, mean": float(np.mean(sizes))}  # fmt: skip
        found.append(ctx.finding(measure, claim, value, aim=aim, status=status, unit="R²", controls=controls, **told))
    told_r2 = (f"{label} {', '.join(f'{one.r2[label]:.3f}' for one in measured)}" for label in plan.sizes)
    ctx.notes.append("R² of the featurizers on unseen shapes, a seed each: " + "; ".join(told_r2))
    return [finding.model_copy(update={"seeds": seeds}) for finding in found]


CONTROLS = {
    "block": [("light exchanged between scenes", "shuffled light"), ("best of as many random frames",
              "best of random frames"), ("atoms of equal dimension", "atoms"), ("all dimensions", "all")],
    "union": [("best single block", "block"), ("neighbourhood made without labels", "neighbourhood"),
              ("community made without labels", "community"),
              ("random frames chosen alike", "random frames of a union"),
              ("atoms of equal dimension", "atoms of a union"), ("all blocks", "all blocks"),
              ("all dimensions", "all")],
    "atoms of a union": [("blocks of equal dimension", "union"), ("random frames chosen alike",
                         "random frames of a union")],
    "all": [("all blocks", "all blocks"), ("light exchanged between scenes, best block", "shuffled light")],
}  # fmt: skip
"""What stands beside each arm."""
