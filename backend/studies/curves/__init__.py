"""curves: is there a block that is active at all orientations of a curve, and do curve units read from it?

    curves, lines, textures, shapes  →  a layer's activations  →  Grassmannian blocks of 16  →  one block, no label used
    read-out   tuning of each curve unit ≈ ReLU(w · block's code + c), on held-out angles
    ablation   the block taken out of the layer, curve units of the next layer watched

On ``curve-inception`` (mixed3b), and on a real ImageNet network, SqueezeNet 1.1 (features.7), where ``ATLAS_REALDATA``
holds it. Controls: random directions, as many atoms of a b = 1 featurizer with equal atoms and active scalars, other
blocks, shuffled angles, an untrained copy; for harmonics the two nulls. Where no block is active at all orientations,
the coverage says so, and a union that begins with the most even block is read too, against controls of its width.
Fel et al. 2606.25234, sec. 4, Fig. 11, App. E; curve units after Cammarata et al. 2020.

``small``: 1,200 stimuli, 3 seeds, 16 blocks, a few minutes. Not covered: natural images, other layers, the original
InceptionV1.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from backend.core.stats import Interval, mean_interval, median_interval
from backend.studies.base import StudyContext, study
from backend.studies.curves.blocks import EVERYWHERE
from backend.studies.curves.harmonics import N_HARMONICS, Harmonics
from backend.studies.curves.measuring import PLANS, Measured, Plan, Seed, measure
from backend.studies.curves.networks import present
from backend.wire.findings import Finding

NAME = "curves"
PREFIXES = ("", "squeezenet-")
CLAIMS = {
    "block-coverage": "Without labels a block is found that is active at all orientations of a curve.",
    "readout-r2-block": "Curve units' tuning is read from the block's coordinates on held-out angles.",
    "readout-r2-random": "Curve units' tuning is read from as many random directions.",
    "readout-r2-sae": "Curve units' tuning is read from as many atoms of the b = 1 featurizer.",
    "ablation-effect": "Taking the block out moves the tuning of the next layer's curve units.",
}
PUBLISHED = (0.589, 0.183, 0.120, 0.072)
"""Shares of w = 1 to 4 in the paper's block (InceptionV1, table 1)."""
PUBLISHED_NULL = "null with noise 65.6 / 0.04 / 0.04 / 0.04 %, raw response 43.6 / 25.9 / 16.8 / 7.4 %"


def per_unit(seeds: list[Seed], arm: str, field: str = "readout") -> np.ndarray | None:
    """An arm's numbers of every unit (U,), averaged over the seeds that have it; ``None`` where none has."""
    each = [getattr(s, field)[arm] for s in seeds if arm in getattr(s, field)]
    return np.mean(each, 0) if each else None


def control(seeds: list[Seed], names: dict[str, str], field: str = "readout") -> dict[str, float]:
    """Label → mean over units of an arm, for those arms that were measured."""
    values = {label: per_unit(seeds, arm, field) for label, arm in names.items()}
    return {label: float(v.mean()) for label, v in values.items() if v is not None}


@study(NAME)
def run(ctx: StudyContext) -> list[Finding]:
    """A block for curves at every orientation: found without labels, read by curve units, taken out."""
    plan = PLANS[ctx.scale]
    seeds = [plan.n_seeds * ctx.seed + i for i in range(plan.n_seeds)]
    networks, missing = present()
    found = []
    for i, network in enumerate(networks):

        def tell(share: float, words: str, i: int = i, name: str = network.name) -> None:
            ctx.progress(0.98 * (i + share) / len(networks), f"{name}, {words}")

        measured = measure(network, plan, seeds, tell=tell)
        if measured is None:
            missing[network.prefix] = f"{network.name} has no curve unit at {network.site}"
        else:
            found += findings(ctx, plan, measured)
    found = [finding.model_copy(update={"seeds": seeds}) for finding in found]
    for prefix in PREFIXES:
        if prefix in missing:
            found += [ctx.absent(prefix + name, claim, missing[prefix]) for name, claim in CLAIMS.items()]
    return found


def findings(ctx: StudyContext, plan: Plan, measured: Measured) -> list[Finding]:
    """What was measured on one network, as findings."""
    network, seeds = measured.network, measured.seeds
    told = {
        "model": network.name,
        "data": f"{network.site}; {plan.n_stimuli} stimuli, {plan.n_blocks} blocks of {plan.d_block}, {plan.k} active; "
                f"{measured.n_units} curve units, {measured.n_next_units} in {network.next_site}",
    }  # fmt: skip
    add = _adder(ctx, network.prefix, told)
    return [*_coverage(add, plan, measured), *_harmonics(add, ctx, seeds), *_readouts(add, ctx, measured),
            *_ablations(add, ctx, seeds)]  # fmt: skip


def _adder(ctx: StudyContext, prefix: str, told: dict) -> Callable[..., Finding]:
    def add(measure_name: str, claim: str, value: Interval | float | None, **fields) -> Finding:
        return ctx.finding(prefix + measure_name, claim, value, **{**told, **fields})

    return add


def _coverage(add: Callable[..., Finding], plan: Plan, measured: Measured) -> list[Finding]:
    seeds = measured.seeds
    mean = lambda values: float(np.mean(list(values)))  # noqa: E731
    by_seed = mean_interval([s.coverage.mean() for s in seeds])
    union = mean_interval([s.union_coverage.mean() for s in seeds])
    least = min(float(s.coverage.min()) for s in seeds)
    controls = {
        "random living block": mean(s.random_coverage for s in seeds),
        "atom active on most of the circle": mean(s.atom_coverage for s in seeds),
        "curve unit, above half of its maximum": measured.half_width,
        "least covered orientation": least,
        "share of orientations never covered": mean((s.coverage == 0).mean() for s in seeds),
        "evenness without labels": mean(s.chosen.evenness for s in seeds),
        "share of the curves' variance": mean(s.chosen.variance for s in seeds),
        "seeds in which the block's cloud is a ring": float(sum(s.chosen.ring for s in seeds)),
        "R² of the featurizer": mean(s.r2 for s in seeds), "R² of the atoms": mean(s.r2_atoms for s in seeds),
    }  # fmt: skip
    if measured.untrained:
        controls["untrained copy"] = float(measured.untrained.coverage.mean())
    caveat = "The number of blocks was chosen among seven settings by the unlabelled share on curve-inception, seed 0."
    if by_seed.value < EVERYWHERE:
        caveat += " No single block is active at all orientations; the union is reported beside it."
    return [
        add("block-coverage", CLAIMS["block-coverage"], by_seed, aim=f">= {EVERYWHERE}", controls=controls,
            published="1.0 (InceptionV1, b = 16)", caveat=caveat, question="Is one block active at all orientations?"),
        add("union-coverage", "A union of blocks, chosen without labels, is active at all orientations of a curve.",
            union, aim=f">= {EVERYWHERE}",
            controls={"blocks in the union": mean(len(s.chosen.union) for s in seeds),
                      "least covered orientation": min(float(s.union_coverage.min()) for s in seeds),
                      "one block": by_seed.value}),
    ]  # fmt: skip


def _harmonics(add: Callable[..., Finding], ctx: StudyContext, seeds: list[Seed]) -> list[Finding]:
    def of(field: str, w: int, which: str = "harmonics") -> np.ndarray:
        each: list[Harmonics] = [getattr(s, which) for s in seeds]
        return torch.stack([getattr(h, field)[:, w] for h in each]).flatten().numpy()

    found = []
    for w in range(N_HARMONICS):
        controls = {
            "null: orientation only": float(of("only", w).mean()),
            "null: orientation and noise": float(of("noise", w).mean()),
            "null: orientation and noise, 97.5 %": float(of("high", w).mean()),
            "response of the layer": float(of("raw", w).mean()),
            "block before selection": float(of("before", w).mean()),
            "union": float(of("block", w, "union_harmonics").mean()),
            "union before selection": float(of("before", w, "union_harmonics").mean()),
        }
        # The first harmonic is in both nulls; what there is to show is the others.
        aim = f"> {controls['null: orientation and noise, 97.5 %']:.4f}" if w else ""
        found.append(add(
            f"harmonic-{w + 1}-share", f"Harmonic {w + 1} has this share of the block's variance over orientation.",
            mean_interval(of("block", w), seed=ctx.seed), aim=aim, controls=controls,
            published=f"{PUBLISHED[w]:.3f} ({PUBLISHED_NULL})" if w == 0 else f"{PUBLISHED[w]:.3f}",
            caveat="Settings of the stimulus and seeds are resampled together. A block that is silent on part of the "
                   "circle has harmonics from its gate; see the block before selection.",
        ))  # fmt: skip
    return found


def _readouts(add: Callable[..., Finding], ctx: StudyContext, measured: Measured) -> list[Finding]:
    seeds, found = measured.seeds, []
    arms = {"block": "block", "random": "random directions", "sae": "b = 1 atoms"}
    more = {
        "block": {"random block": "random block", "angles shuffled": "angles shuffled",
                  "no ReLU": "block, no ReLU", "block before selection": "block before selection",
                  "as many principal axes": "principal axes"},
        "random": {},
        "sae": {"before selection": "atoms before selection"},
    }  # fmt: skip
    for arm, label in arms.items():
        r2 = per_unit(seeds, arm)
        controls = {f"{other}": float(per_unit(seeds, a).mean()) for a, other in arms.items() if a != arm}
        controls |= {"median over units": float(np.median(r2)), **control(seeds, more[arm])}
        if measured.untrained:
            controls["untrained copy, all units"] = float(measured.untrained.readout[arm].mean())
        found.append(add(f"readout-r2-{arm}", CLAIMS[f"readout-r2-{arm}"], mean_interval(r2, seed=ctx.seed),
                         controls=controls, unit="R²", evidence="correlational"))  # fmt: skip
        single = per_unit(seeds, f"{arm}, single")
        found.append(add(
            f"readout-r2-{arm}-single", f"A curve unit's answer to a single curve is read from the {label}.",
            mean_interval(single, seed=ctx.seed), unit="R²", evidence="correlational",
            controls={other: float(per_unit(seeds, f"{a}, single").mean()) for a, other in arms.items() if a != arm}
            | {"median over units": float(np.median(single))}
            | control(seeds, {k: f"{v}, single" for k, v in more[arm].items()}),
        ))  # fmt: skip
    for width in ("block", "union"):
        if per_unit(seeds, width) is None:
            continue
        random, sae = ("random", "sae") if width == "block" else ("union random", "union sae")
        having = [s for s in seeds if width in s.readout]
        for other, label in ((random, "random directions"), (sae, "b = 1 atoms")):
            gap = per_unit(having, width) - per_unit(having, other)
            single = per_unit(having, f"{width}, single") - per_unit(having, f"{other}, single")
            found.append(add(
                f"readout-gain-{width}-over-{'random' if 'random' in other else 'sae'}",
                f"Curve units' tuning is read better from the {width} than from as many {label} (R², unit by unit).",
                mean_interval(gap, seed=ctx.seed), aim="> 0", unit="R²", evidence="correlational",
                controls={width: float(per_unit(having, width).mean()), label: float(per_unit(having, other).mean()),
                          "median over units": float(np.median(gap)),
                          "on single stimuli": float(single.mean()),
                          "share of units": float((gap > 0).mean())},
            ))  # fmt: skip
    return found


def _ablations(add: Callable[..., Finding], ctx: StudyContext, seeds: list[Seed]) -> list[Finding]:
    found = []
    for width, prefix in (("block", ""), ("union", "union ")):
        having = [s for s in seeds if f"{prefix}block" in s.ablation]
        if not having:
            continue
        own = per_unit(having, f"{prefix}block", "ablation")
        random = per_unit(having, f"{prefix}random", "ablation")
        along = per_unit(having, f"{prefix}directions", "ablation")
        controls = {"random living block" if width == "block" else "as many random blocks": float(random.mean()),
                    "same codes along random directions": float(along.mean()),
                    "median over units": float(np.median(own)),
                    "random, median over units": float(np.median(random)),
                    "intact": 0.0}  # fmt: skip
        name = "ablation-effect" if width == "block" else "ablation-effect-union"
        found.append(add(
            name, CLAIMS["ablation-effect"].replace("block", width), mean_interval(own, seed=ctx.seed),
            controls=controls, evidence="interventional", unit="of the tuning's variance",
        ))  # fmt: skip
        found.append(add(
            f"{name}-over-random", f"Taking the {width} out moves curve units more than taking random blocks out.",
            median_interval(own - random, seed=ctx.seed), aim="> 0", evidence="interventional",
            unit="of the tuning's variance",
            controls={"mean over units": float((own - random).mean()), "share of units": float((own > random).mean()),
                      "over random directions": float(np.median(own - along))},
            caveat="Blocks differ in energy; the random directions take away the same energy.",
        ))  # fmt: skip
    return found
