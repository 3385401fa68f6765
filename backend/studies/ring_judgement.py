"""How a steered ring of the picture model is judged: the same arms, pictures and intervals for every ring.

    targets × seeds × shapes pictures an arm, all from the same noise; a network trained on renders alone reads them
    error = circular distance between what was sent and what was read; chance is 90°

Arms: manifold; straight chord from where the unsteered picture landed towards its antipode, at the same share of the
way; random block, which gets every token's displacement of the manifold arm in a random frame, a new one for each seed;
the ring's own places visited in a random order, several orders; unsteered. A picture's targets share one noise, so
intervals resample (prompt, seed) pairs. Not covered: how a ring was found.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from backend.core.errors import NotFound
from backend.core.settings import assets_dir
from backend.core.stats import Interval, mean_interval
from backend.manifolds.site_entry import SiteEntry
from backend.manifolds.steerable import SteerableManifold
from backend.models.reader import FactorReader
from backend.recipes import tabletop_manifolds as rings
from backend.studies.base import StudyContext
from backend.wire.findings import Finding

SHAPES = ("sphere", "cube", "cylinder", "cone", "torus")
N_TARGETS = 12
N_ORDERS = 5
"""Random orders of the shuffled control: a single one may agree with the true order by chance."""
N_SEEDS = {"small": 20, "paper": 60}


def the_reader() -> FactorReader:
    """The shipped factor reader; NotFound with the command that makes it."""
    folder = assets_dir() / "models" / "tabletop-reader"
    if not folder.is_dir():
        raise NotFound("The factor reader was asked for.", "It is not among the assets.",
                       "Make it with: manifold-atlas train tabletop-reader")  # fmt: skip
    return FactorReader.from_pretrained(folder).eval()


def shuffled(made: SteerableManifold, *, seed: int) -> SteerableManifold:
    """The same places of the ring at every site, visited in one random order."""
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(max(len(entry.knots_t) for entry in made.sites.values()), generator=generator)
    entries = {
        site: SiteEntry(**{**vars(entry), "knots": entry.knots[:, order[order < entry.knots.shape[1]]]})
        for site, entry in made.sites.items()
    }
    return SteerableManifold(made.info.model_copy(update={"name": f"{made.name}-shuffled-{seed}"}), entries)


def measure(ctx: StudyContext, adapter, made: SteerableManifold, prompts: Sequence[str]) -> dict[str, Tensor]:
    """Read-back errors in degrees of every arm, ``{arm: (n,)}``, and ``manifold:moved/FACTOR`` beside them."""
    controls = [shuffled(made, seed=ctx.seed * 100 + i + 1) for i in range(N_ORDERS)]
    steerer = rings.steerer_for(adapter, {m.name: m for m in (made, *controls)}, the_reader())
    first = 1_000 * (ctx.seed + 1)
    seeds = range(first, first + N_SEEDS[ctx.scale])
    targets = [i / N_TARGETS for i in range(N_TARGETS)]
    found = rings.errors(
        steerer, made.name, prompts=prompts, seeds=seeds, targets=targets, arms=("off", "manifold", "chord", "random"),
        progress=lambda p: ctx.progress(0.3 + 0.5 * p, "steering and reading back"),
    )  # fmt: skip
    errors = [
        rings.errors(
            steerer, control.name, prompts=prompts, seeds=seeds[i : len(seeds) // 2 : N_ORDERS], targets=targets,
            progress=lambda p, i=i: ctx.progress(0.8 + 0.1 * (i + p) / N_ORDERS, "the ring in a random order"),
        )["manifold"]
        for i, control in enumerate(controls)
    ]  # fmt: skip
    return found | {"shuffled": torch.cat(errors)}


def clustered(errors: Tensor, n_targets: int = N_TARGETS) -> Interval:
    """Median over all pictures; its 95 % interval resamples (prompt, seed) pairs, whose targets share one noise."""
    whole = errors.view(-1, n_targets)
    drawn = torch.randint(len(whole), (2000, len(whole)), generator=torch.Generator().manual_seed(0))
    medians = whole[drawn].flatten(1).median(1).values
    return Interval(errors.median().item(), medians.quantile(0.025).item(), medians.quantile(0.975).item(), len(errors))


def report(ctx: StudyContext, found: dict[str, Tensor], what: str, *, aim: str = "<= 15") -> list[Finding]:
    """The findings that a ring's arms give; ``what`` is the thing that moves."""
    median = {arm: found[arm].median().item() for arm in ("off", "random", "shuffled", "chord", "manifold")}
    mean = {arm: found[arm].mean().item() for arm in median}
    named = {
        "off": "unsteered", "random": "random block", "shuffled": "its places in random order",
        "chord": "straight chord",
    }  # fmt: skip
    shared = dict(model="tabletop-sdxl", data="12 targets × seeds × 5 shapes, generated in four steps", unit="°")
    chance = {"chance": 90.0}
    findings = [
        ctx.finding(
            "median-error-deg", f"{what} lands where it is sent: median circular error of the read-back.",
            clustered(found["manifold"]), aim=aim, evidence="interventional",
            controls={words: median[arm] for arm, words in named.items()} | chance, **shared,
        ),
        ctx.finding(
            "mean-error-deg", f"{what} lands where it is sent: mean circular error of the read-back.",
            mean_interval(found["manifold"].view(-1, N_TARGETS).mean(1)), evidence="interventional",
            controls={words: mean[arm] for arm, words in named.items()} | chance, **shared,
        ),
        ctx.finding(
            "random-block-error-deg", f"{what}: a random block of equal displacement does not send it anywhere.",
            clustered(found["random"]), controls={"unsteered": median["off"], "its mean": mean["random"]} | chance,
            evidence="interventional", **shared,
        ),
        ctx.finding(
            "shuffled-error-deg", f"{what}: the ring's own places in a random order do not send it where it is sent.",
            clustered(found["shuffled"]), controls={"unsteered": median["off"], "its mean": mean["shuffled"]} | chance,
            evidence="interventional", **shared,
        ),
        ctx.finding(
            "unsteered-error-deg", f"{what}: unsteered pictures lie anywhere with respect to the target.",
            clustered(found["off"]), controls=chance, evidence="observational", **shared,
        ),
        ctx.finding(
            "chord-error-deg", f"{what}: the straight chord, at the same share of the way to the antipode.",
            clustered(found["chord"]), controls={"manifold": median["manifold"]}, evidence="interventional", **shared,
        ),
    ]  # fmt: skip
    moved = {k.split("/")[1]: v.median().item() for k, v in found.items() if k.startswith("manifold:moved/")}
    if moved:
        findings.append(
            ctx.finding(
                "off-target-share", f"{what}: how far the other factors move, mean of their medians.",
                sum(moved.values()) / len(moved), n=len(found["manifold"]), controls=moved, evidence="interventional",
                **(shared | {"unit": "share of the factor's range"}),
            )
        )  # fmt: skip
    return findings
