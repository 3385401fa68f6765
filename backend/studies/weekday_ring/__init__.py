"""weekday-ring: does walking along the ring of weekdays keep the answers natural, and does the straight chord not?

    energy E = Σ over K = 50 waypoints of the Bhattacharyya distance to the behaviour manifold, mean over 16 prompts

for 21 pairs of days and five arms: the ring, the chord in the full space (the paper's baseline), the chord in the
ring's own subspace (the matched control), a random path of equal displacement, and a ring through wrongly ordered
centroids. "Manifold Steering Reveals the Shared Geometry of Neural Network Representation and Behavior" (arXiv
2605.05115). Different from the paper: the layer is chosen by patching on half of the prompts, and M_h and M_y are
fitted on prompts that are never steered. At ``paper`` scale the model is Llama-3.1-8B.

Not covered: months, letters and ages; the pullback of M_y to activations.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from backend.core.stats import Interval, mean_interval, proportion_interval
from backend.manifolds.behaviour import BehaviourManifold, coherence, hellinger, with_other
from backend.manifolds.concept import concept_manifold
from backend.manifolds.fit import natural_order
from backend.manifolds.isometry import isometry
from backend.manifolds.steerable import SteerableManifold
from backend.models import registry
from backend.steering.patching import choose_layer, flip_rates
from backend.steering.text import TextSteerer
from backend.studies.base import StudyContext, study
from backend.studies.weekday_ring.paths import (
    ARMS,
    Split,
    distance_on_ring,
    pairs_of,
    reached,
    shuffled_copy,
    split,
    visited,
    walk,
)
from backend.wire.findings import Finding
from backend.worlds.calendar import TASKS
from backend.worlds.calendar_task import Task

NAME = "weekday-ring"
MODEL = {"small": "calendar-llama", "paper": "meta-llama/Llama-3.1-8B"}
N_WAYPOINTS = 50
N_BASE = 16
N_DRAWS = 100
NOT_STEERING = (
    "Low energy is not steering: a path that leaves the prompt's own answer in place has little. See reaches-target."
)
PAPER = "Llama-3.1-8B, layer 28, 21 pairs"


@dataclass
class Measured:
    """Everything that the findings are read from."""

    model: str
    task: Task
    labels: torch.Tensor
    plain: torch.Tensor
    """(N, W + 1) unsteered distributions of all prompts."""
    rates: torch.Tensor
    layer: int
    held_rate: float
    parts: Split
    manifold: SteerableManifold
    x: torch.Tensor
    """(N, d) activations at the chosen layer."""
    paths: dict[str, torch.Tensor]
    """(pairs, prompts, K, W + 1) of each arm."""
    wrong_t: torch.Tensor
    wrong: SteerableManifold


def measure(
    adapter, task: Task, ctx: StudyContext, *, n_waypoints: int = N_WAYPOINTS, n_base: int = N_BASE
) -> Measured:
    """Choose the layer, fit both manifolds on prompts that are not steered, walk all arms."""
    prompts = task.prompts()
    texts = [prompt.text for prompt in prompts]
    labels = torch.tensor([prompt.answer_class for prompt in prompts])
    sites = [f"{adapter.name}/{i}#resid_post" for i in range(adapter.n_layers)]
    plain = TextSteerer(adapter, labels=task.classes, sites=sites)
    p = plain.distribution(texts)
    parts = split(labels, n_base=n_base, generator=ctx.generator)

    def some(rows: torch.Tensor) -> tuple[list[str], torch.Tensor]:
        return [texts[i] for i in rows.tolist()], labels[rows]

    ctx.progress(0.02, "which layer carries the answer")
    rates = flip_rates(plain, sites, fit=some(parts.choose), test=some(parts.choose))
    layer = choose_layer(rates)
    held = flip_rates(plain, [sites[layer]], fit=some(parts.choose), test=some(parts.rest))
    x = plain.residuals(texts, sites=[sites[layer]])[sites[layer]]
    manifold = fit(x[parts.fit], p[parts.fit], labels[parts.fit], task, sites[layer])
    wrong, wrong_t = shuffled_copy(manifold, generator=ctx.generator)
    steerer = TextSteerer(adapter, manifold)
    paths = walk(
        steerer, some(parts.base)[0], wrong=(wrong, wrong_t), n_waypoints=n_waypoints, seed=ctx.seed,
        progress=lambda share: ctx.progress(0.1 + 0.75 * share, "walking between the days"),
    )  # fmt: skip
    return Measured(adapter.name, task, labels, p, rates, layer, held.item(), parts, manifold, x, paths, wrong_t, wrong)


def fit(x: torch.Tensor, p: torch.Tensor, labels: torch.Tensor, task: Task, site: str) -> SteerableManifold:
    """M_h and M_y of the weekdays."""
    return concept_manifold(x, p, labels=labels, classes=task.classes, kind="ring", site=site, name="weekdays")


def ratio_interval(above: torch.Tensor, below: torch.Tensor, *, seed: int = 0) -> Interval:
    """Ratio of two means over the same pairs, with a bootstrap over pairs."""
    a, b = above.double().numpy(), below.double().numpy()
    rows = np.random.default_rng(seed).integers(len(a), size=(2000, len(a)))
    low, high = np.quantile(a[rows].mean(1) / b[rows].mean(1), [0.025, 0.975])
    return Interval(float(a.mean() / b.mean()), float(low), float(high), len(a))


def isometry_interval(m: Measured, *, seed: int, n_draws: int = N_DRAWS) -> tuple[Interval, float]:
    """Pearson r along the ring with a bootstrap over prompts (within each class), and r of the chord."""
    site = next(iter(m.manifold.sites))
    whole = isometry(m.manifold.curve(), m.manifold.behaviour, t_h=m.manifold.label_t)
    rows, labels = m.parts.fit, m.labels[m.parts.fit]
    generator, drawn = torch.Generator().manual_seed(seed), []
    for _ in range(n_draws):
        again = torch.cat([
            inside[torch.randint(len(inside), (len(inside),), generator=generator)]
            for inside in (rows[labels == c] for c in range(m.task.n_classes))
        ])  # fmt: skip
        # The angles stay those of the fit: a redrawn class may not turn the order round.
        copy = concept_manifold(m.x[again], m.plain[again], labels=m.labels[again], classes=m.task.classes, kind="ring",
                                site=site, name="weekdays", coordinates=m.manifold.label_t)  # fmt: skip
        behaviour = BehaviourManifold(copy.behaviour.distributions, m.manifold.behaviour.knots_t)
        drawn.append(isometry(copy.curve(), behaviour, t_h=copy.label_t).r_geodesic)
    low, high = np.quantile(drawn, [0.025, 0.975])
    return Interval(whole.r_geodesic, float(low), float(high), len(rows)), whole.r_chord


@study(NAME)
def run(ctx: StudyContext) -> list[Finding]:
    """Ring against chords on weekday questions: energy, coherence, isometry, order, with their controls."""
    ctx.progress(0.0, "loading the model")
    adapter = registry.load(MODEL[ctx.scale])
    measured = measure(adapter, TASKS["weekdays"], ctx)
    ctx.progress(0.88, "isometry")
    return findings(ctx, measured)


def findings(ctx: StudyContext, m: Measured, *, n_draws: int = N_DRAWS) -> list[Finding]:
    """What was measured, as findings."""
    n, pairs = m.task.n_classes, pairs_of(m.task.n_classes)
    gap = distance_on_ring(pairs, n)
    near, far = gap == 1, gap > 1
    behaviour = m.manifold.behaviour
    k = next(iter(m.paths.values())).shape[2]
    # Sum over waypoints, mean over prompts: one number for each pair.
    energy = {arm: behaviour.energy(p).total.mean(1) for arm, p in m.paths.items()}
    inside = {arm: coherence(p) for arm, p in m.paths.items()}
    everything = BehaviourManifold.fit(m.plain, m.labels, kind="ring")
    of_all = {arm: everything.energy(m.paths[arm]).total.mean().item() for arm in ("manifold", "chord")}
    told = {"model": m.model, "data": "49 weekday questions, published wording"}
    steered = {**told, "evidence": "interventional"}
    right = int((m.plain[:, :-1].argmax(-1) == m.labels).sum())
    site = f"layer {m.layer}"
    n_base = m.paths["manifold"].shape[1]

    def each(arm: str) -> dict[str, float]:
        return {
            "per waypoint": energy[arm].mean().item() / k,
            "neighbours": energy[arm][near].mean().item(),
            "distant pairs": energy[arm][far].mean().item(),
            "worst coherence": inside[arm].worst.mean().item(),
        }

    found = [
        ctx.finding("accuracy", "The model answers weekday questions rightly before any steering.",
                    proportion_interval(right, len(m.labels)), published="0.918 (45/49)",
                    controls={"chance": 1 / n}, **told),
        ctx.finding("layer-flip-rate", f"At {site} a class centroid patched at the last token makes its class the "
                    "answer, on other prompts than chose the layer.",
                    m.held_rate, n=len(m.parts.rest) * (n - 1), aim=">= 0.9",
                    controls={f"layer {i}, choosing half": v for i, v in enumerate(m.rates.tolist())}, **steered),
    ]  # fmt: skip
    r, r_chord = isometry_interval(m, seed=ctx.seed, n_draws=n_draws)
    wrong_r = _shuffled_isometry(m, ctx.generator)
    order = natural_order(m.manifold.label_t, cyclic=True)
    found += [
        ctx.finding("natural-order", "Going round the ring of centroids by angle visits the days in their own order.",
                    order, aim=">= 1", n=n,
                    controls={"expected of a random order": 2 / (n - 1),
                              "on the behaviour manifold": natural_order(behaviour.knots_t, cyclic=True),
                              "variance of the centroids on three axes": m.manifold.measured["centroid_variance_3"]},
                    **told),
        ctx.finding("isometry-r", "Distances along the activation ring go with those along the behaviour ring.",
                    r, aim=">= 0.95", published=f".99 geodesic, .89 chord ({PAPER})",
                    controls={"chord": r_chord, "shuffled classes": wrong_r, "all prompts": _isometry_of_all(m)},
                    evidence="correlational", **told),
    ]  # fmt: skip
    claims = {
        "manifold": ("energy-manifold", "Energy of the way along the ring.", f".34 ± .03, sum of 50 ({PAPER})"),
        "chord": ("energy-chord", "Energy of the chord that replaces the whole residual.", f".93 ± .11 ({PAPER})"),
        "chord_subspace": ("energy-chord-subspace", "Energy of the chord inside the ring's own subspace.", None),
        "random": ("energy-random", "Energy of a random path with the ring path's displacement.", None),
        "shuffled": ("energy-shuffled", "Energy of a ring through wrongly ordered centroids.", None),
    }
    for arm, (measure_name, claim, published) in claims.items():
        extra = {"M_y of all prompts": of_all[arm]} if arm in of_all else {}
        found.append(ctx.finding(
            measure_name, f"{claim[:-1]}, {site}: sum of {k} waypoints, mean of {n_base} prompts.",
            mean_interval(energy[arm], seed=ctx.seed), published=published, controls={**each(arm), **extra},
            caveat=NOT_STEERING if arm == "random" else "", unit="nats", **steered,
        ))  # fmt: skip
    ratios = (
        ("energy-ratio", "chord", slice(None), "The chord costs more energy than the ring.", ">= 2.8"),
        ("energy-ratio-subspace", "chord_subspace", slice(None),
         "The chord in the same subspace costs more energy than the ring (matched control).", ">= 2.8"),
        ("energy-ratio-neighbours", "chord", near, "The chord costs more than the ring between neighbours.", ">= 1"),
        ("energy-ratio-distant", "chord", far, "The chord costs more than the ring between distant days.", ">= 2.8"),
    )  # fmt: skip
    for measure_name, arm, which, claim, aim in ratios:
        value = ratio_interval(energy[arm][which], energy["manifold"][which], seed=ctx.seed)
        published = {"energy-ratio": "2.8 over tasks, 2.66 on weekdays",
                     "energy-ratio-neighbours": "0.69 (.240 / .347, the authors' replication)"}  # fmt: skip
        found.append(ctx.finding(
            measure_name, claim, value, aim=aim, published=published.get(measure_name),
            controls={f"{other} over ring": (energy[other][which].mean() / energy["manifold"][which].mean()).item()
                      for other in ARMS if other not in (arm, "manifold")},
            contradicts=[f"{NAME}/energy-ratio"] if value.value < 1 and which is near else [],
            **steered,
        ))  # fmt: skip
    found.append(ctx.finding(
        "energy-manifold-neighbours", "Energy of the way along the ring between neighbouring days.",
        mean_interval(energy["manifold"][near], seed=ctx.seed), published=f".347 ({PAPER}, authors' replication)",
        controls={arm: energy[arm][near].mean().item() for arm in ARMS if arm != "manifold"}, unit="nats", **steered,
    ))  # fmt: skip
    found.append(ctx.finding(
        "coherence-manifold", "Along the ring, probability stays on the weekdays.",
        mean_interval(inside["manifold"].mean.mean(1), seed=ctx.seed), aim=">= 0.9",
        controls={**{arm: inside[arm].mean.mean().item() for arm in ARMS if arm != "manifold"},
                  **{f"worst waypoint, {arm}": inside[arm].worst.mean().item() for arm in ARMS}},
        **steered,
    ))  # fmt: skip
    ends = {arm: reached(p, pairs) for arm, p in m.paths.items()}
    found.append(ctx.finding(
        "reaches-target", "At the end of the ring's way the target day is the likeliest answer.",
        mean_interval(ends["manifold"], seed=ctx.seed), aim=">= 0.9",
        controls={arm: ends[arm].mean().item() for arm in ARMS if arm != "manifold"}, **steered,
    ))  # fmt: skip
    between = {arm: visited(p, pairs, n)[far] for arm, p in m.paths.items()}
    found.append(ctx.finding(
        "passes-through", "On the way along the ring every day in between becomes the likeliest answer.",
        mean_interval(between["manifold"], seed=ctx.seed), aim=">= 0.9",
        controls={arm: between[arm].mean().item() for arm in ARMS if arm != "manifold"},
        caveat="" if between["chord"].mean() < 0.9 else "So does the chord: in this model it does not jump over days.",
        **steered,
    ))  # fmt: skip
    if ctx.scale == "small":
        truth = with_other(m.task.distributions())
        away = hellinger(behaviour.distributions, truth)
        found.append(ctx.finding(
            "behaviour-truth", "Hellinger distance of the mean answers of each day to the world's known distribution.",
            mean_interval(away, seed=ctx.seed), aim="<= 0.1",
            controls={"to the next day's": hellinger(behaviour.distributions, truth.roll(1, 0)).mean().item()}, **told,
        ))  # fmt: skip
    return found


def _isometry_of_all(m: Measured) -> float:
    whole = fit(m.x, m.plain, m.labels, m.task, next(iter(m.manifold.sites)))
    return isometry(whole.curve(), whole.behaviour, t_h=whole.label_t).r_geodesic


def _shuffled_isometry(m: Measured, generator: torch.Generator, *, n: int = 10) -> float:
    found = []
    for _ in range(n):
        wrong, t = shuffled_copy(m.manifold, generator=generator)
        found.append(isometry(wrong.curve(), m.manifold.behaviour, t_h=t).r_geodesic)
    return float(np.mean(found))
