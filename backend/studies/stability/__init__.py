"""stability: does another seed find the same blocks, do larger dictionaries split them, and what do b, G and k change?

Grassmannian featurizers on the rows that the studies of description length read (block_sweep.py): one setting with
three seeds, and six neighbours of it (half and double G and k, b one less and one more). Blocks of two dictionaries are
matched one to one by the angles between their subspaces. Controls: a random dictionary matched in the same way, the
same training on Gaussian rows of the same covariance (structure that covariance alone explains), and b = 1 atoms of
equal budget. Fel et al. 2606.25234 do not report stability.

``small``: two models, 40,000 rows, 500 steps of 1,024 (about 5 minutes on two idle cores). Not covered: matching by
what blocks do downstream; vanilla and group-lasso blocks.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import combinations

import numpy as np
import torch
from torch import Tensor

from backend.core.stats import mean_interval
from backend.featurizers.featurizer import Featurizer, Selection
from backend.studies.base import StudyContext, study
from backend.studies.block_sweep import SWEEPS, Config, Sweep, activations, gaussian_like, present, trained
from backend.studies.stability.matching import carriers, living, match, random_frames
from backend.wire.findings import Finding

NAME = "stability"
BASE = Config(96, 6, 3)
NEIGHBOURS = {
    "half G": Config(48, 6, 3), "double G": Config(192, 6, 3), "half k": Config(96, 3, 3),
    "double k": Config(96, 12, 3), "b = 2": Config(96, 6, 2), "b = 4": Config(96, 6, 4),
}  # fmt: skip
ATOMS = Config(BASE.n_blocks * BASE.d_block, BASE.k * BASE.d_block, 1)
CLAIMS = {
    "overlap-across-seeds": "A block has the same subspace as its partner of another seed (mean squared cosine).",
    "largest-angle-deg": "Largest principal angle between a block and its partner of another seed.",
    "overlap-across-settings": "A block keeps its subspace when G, k or b are changed.",
    "carriers-double-g": "In a dictionary of twice as many blocks, this many blocks carry what one carried.",
}


@dataclass
class Seen:
    """What was measured on one model, an array a measure: one entry a matched pair or block."""

    overlap: list[np.ndarray] = field(default_factory=list)
    angle: list[np.ndarray] = field(default_factory=list)
    random: list[np.ndarray] = field(default_factory=list)
    gaussian: list[np.ndarray] = field(default_factory=list)
    atoms: list[np.ndarray] = field(default_factory=list)
    random_atoms: list[np.ndarray] = field(default_factory=list)
    settings: dict[str, np.ndarray] = field(default_factory=dict)
    r2: dict[str, float] = field(default_factory=dict)
    carriers: np.ndarray = field(default_factory=lambda: np.zeros(0))
    carriers_seed: np.ndarray = field(default_factory=lambda: np.zeros(0))
    carriers_half: np.ndarray = field(default_factory=lambda: np.zeros(0))


@torch.no_grad()
def _read(featurizer: Featurizer, held: Tensor) -> tuple[Selection, float]:
    # Selection on held-out rows, and R² there.
    x = featurizer.normalise(held)
    picked = featurizer.select(x)
    error = (x - featurizer.decode_selection(picked)).square().sum()
    return picked, float(1 - error / (x - x.mean(0)).square().sum())


def measure(sweep: Sweep, model: str, seeds: list[int], *, tell: Callable[[str], None]) -> Seen:
    """Train everything on one model's rows (those of the first seed) and compare."""
    train, held = activations(sweep, model, seeds[0])
    seen = Seen()

    def made(label: str, config: Config, seed: int, rows: Tensor = train) -> tuple[Featurizer, Selection]:
        tell(f"{model}, {label}, seed {seed}")
        featurizer = trained(config, rows, sweep, seed)
        picked, r2 = _read(featurizer, held)
        seen.r2.setdefault(label, r2)
        return featurizer, picked

    same = [made("base", BASE, seed) for seed in seeds]
    alive = [living(*one) for one in same]
    fake = gaussian_like(train, len(train), torch.Generator().manual_seed(seeds[0]))
    null = [living(*made("Gaussian rows", BASE, seed, fake)) for seed in seeds[:2]]
    single = [living(*made("atoms", ATOMS, seed)) for seed in seeds[:2]]
    for i, j in combinations(range(len(seeds)), 2):
        found = match(alive[i], alive[j])
        seen.overlap.append(found.overlap)
        seen.angle.append(np.degrees(found.largest))
        seen.random.append(match(alive[i], random_frames(alive[j], seed=seeds[j])).overlap)
    seen.gaussian.append(match(*null).overlap)
    seen.atoms.append(match(*single).overlap)
    seen.random_atoms.append(match(single[0], random_frames(single[1], seed=seeds[1])).overlap)
    for label, config in NEIGHBOURS.items():
        featurizer, picked = made(label, config, seeds[0])
        seen.settings[label] = match(alive[0], living(featurizer, picked)).overlap
        if label == "double G":
            seen.carriers = carriers(same[0][0], featurizer, same[0][1], picked)
        if label == "half G":
            seen.carriers_half = carriers(same[0][0], featurizer, same[0][1], picked)
    seen.carriers_seed = carriers(same[0][0], same[1][0], same[0][1], same[1][1])
    return seen


@study(NAME)
def run(ctx: StudyContext) -> list[Finding]:
    """Matched blocks across seeds and settings, and how larger dictionaries split them."""
    sweep, models = SWEEPS[ctx.scale], present()
    if not models:
        reason = "neither calendar-llama nor curve-inception is on disk; train one of them first"
        return [ctx.absent(measure_name, claim, reason) for measure_name, claim in CLAIMS.items()]
    seeds = [sweep.n_seeds * ctx.seed + i for i in range(sweep.n_seeds)]
    n_each, done = len(seeds) + 4 + len(NEIGHBOURS), 0

    def tell(what: str) -> None:
        nonlocal done
        ctx.progress(0.98 * done / (n_each * len(models)), what)
        done += 1

    return findings(ctx, seeds, {model: measure(sweep, model, seeds, tell=tell) for model in models})


def findings(ctx: StudyContext, seeds: list[int], seen: dict[str, Seen]) -> list[Finding]:
    """What was measured, as findings; pairs of all models count alike."""
    told = {
        "model": ", ".join(seen), "evidence": "observational",
        "data": f"{BASE.n_blocks} blocks of {BASE.d_block}, {BASE.k} active; {len(seeds)} seeds; matched one to one",
    }  # fmt: skip
    every = list(seen.values())

    def joined(name: str) -> np.ndarray:
        return np.concatenate([part for one in every for part in getattr(one, name)])

    def mean(values: np.ndarray) -> float:
        return float(values.mean())

    found = [
        ctx.finding(
            "overlap-across-seeds", CLAIMS["overlap-across-seeds"], mean_interval(joined("overlap"), seed=ctx.seed),
            controls={
                "a random dictionary, matched alike": mean(joined("random")),
                "Gaussian rows of the same covariance": mean(joined("gaussian")),
                "b = 1 atoms of equal budget": mean(joined("atoms")),
                "random atoms, matched alike": mean(joined("random_atoms")),
                "share of pairs above .9": mean(joined("overlap") > 0.9),
                **{f"{model} alone": mean(np.concatenate(one.overlap)) for model, one in seen.items()},
            }, **told,
        ),
        ctx.finding(
            "largest-angle-deg", CLAIMS["largest-angle-deg"], mean_interval(joined("angle"), seed=ctx.seed), unit="°",
            controls={"median": float(np.median(joined("angle")))}, **told,
        ),
    ]  # fmt: skip
    settings = {label: np.concatenate([one.settings[label] for one in every]) for label in NEIGHBOURS}
    found.append(ctx.finding(
        "overlap-across-settings", CLAIMS["overlap-across-settings"],
        mean_interval(np.concatenate(list(settings.values())), seed=ctx.seed),
        controls={**{label: mean(values) for label, values in settings.items()},
                  "another seed, same setting": mean(joined("overlap")),
                  "a random dictionary, matched alike": mean(joined("random")),
                  **{f"R², {label}": float(np.mean([one.r2[label] for one in every])) for label in every[0].r2}},
        caveat="Where the dictionaries differ in size, only as many blocks are matched as the smaller one has. Those "
               "of one seed start from the same first frames, so part of the overlap is the start's.", **told,
    ))  # fmt: skip
    found.append(ctx.finding(
        "carriers-double-g", CLAIMS["carriers-double-g"],
        mean_interval(np.concatenate([one.carriers for one in every]), seed=ctx.seed), unit="blocks",
        controls={"another seed, same size": mean(np.concatenate([one.carriers_seed for one in every])),
                  "half as many blocks": mean(np.concatenate([one.carriers_half for one in every]))}, **told,
    ))  # fmt: skip
    return [finding.model_copy(update={"seeds": seeds}) for finding in found]
