"""mdl: which block dimension describes a model's activations in the fewest bits, and against which baseline?

    bits a token = selection + code + residual + dictionary       (backend/featurizers/description.py)

Grassmannian featurizers with b = 1 .. 8 on tokens of two embedded models, compared twice: at the same (G, k), as the
paper does, where larger blocks have more atoms and more active numbers; and at the same number of atoms G b and of
active scalars k b. Headline: 20 % distortion, smooth rate, spectrum of the contributions; var_ref is the mean variance
per dimension of the model's held-out rows and N the rows trained on. The same with the clipped rate, in code space,
without the dictionary and at the other distortions stands in the controls, and every number with its four terms in
``ATLAS_HOME/studies/mdl/table-SCALE-SEED.json``. Control: Gaussian rows of the same covariance, which have no blocks to
find. Fel et al. 2606.25234, sec. 3.3, App. C; the caveats are those of its digest.

``small``: 40,000 rows, 500 steps of 1,024, 2 models, 3 seeds, 18 configurations (about 10 minutes on two idle cores).
Not covered: vanilla and group-lasso featurizers, DINOv3; G up to 32,768.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

import numpy as np

from backend.core.settings import atlas_home
from backend.core.stats import mean_interval
from backend.featurizers.description import SHARES, CodeMoments
from backend.studies.base import StudyContext, study
from backend.studies.block_sweep import Config, Sweep, Swept, swept_findings
from backend.wire.findings import Finding

NAME = "mdl"
CLAIMS = {
    "cheapest-b-same-gk": "At the same (G, k), the block dimension that describes a token in the fewest bits.",
    "bits-saved-same-gk": "At the same (G, k), bits a token that the cheapest b > 1 saves over b = 1.",
    "cheapest-b-matched": "At equal atoms and active scalars, the block dimension with the fewest bits a token.",
    "bits-saved-matched": "At equal atoms and active scalars, bits a token that the cheapest b > 1 saves over b = 1.",
}
PUBLISHED = "minimum at b of 2 – 4, about 3 for Grassmannian blocks (DINOv3 ViT-B, same (G, k))"
READINGS: dict[str, dict] = {
    "headline": {},
    "clipped rate": {"rate": "clipped"},
    "code space": {"space": "code"},
    "second moments around zero": {"centred": False},
    **{f"distortion {share:.0%}": {"share": share} for share in SHARES[:-1]},
}


def var_ref(runs: Sequence[Swept], model: str) -> float:
    """One reference variance for all configurations of a model: the mean over its seeds of the rows' own."""
    return float(np.mean([next(iter(run.real.values())).variance for run in runs if run.model == model]))


def bits_of(moments: CodeMoments, sweep: Sweep, reference: float, reading: str) -> float:
    """Total bits a token in one of ``READINGS``, or ``without dictionary``."""
    if reading == "without dictionary":
        whole = moments.bits(n_train=sweep.n_train, var_ref=reference)
        return whole.total - whole.dictionary
    return moments.bits(n_train=sweep.n_train, var_ref=reference, **READINGS[reading]).total


def cheapest(family: Sequence[Config], bits: dict[Config, float]) -> tuple[int, float]:
    """The b of fewest bits, and how many bits the cheapest b > 1 saves over b = 1."""
    best = min(family, key=bits.__getitem__)
    blocks = min(bits[c] for c in family if c.d_block > 1)
    single = min(bits[c] for c in family if c.d_block == 1)
    return best.d_block, single - blocks


def table(runs: Sequence[Swept], sweep: Sweep) -> list[dict]:
    """One row for every model, seed, configuration, control and rate: all terms, with N and var_ref."""
    rows = []
    for run in runs:
        reference = var_ref(runs, run.model)
        for control, found in (("", run.real), ("gaussian", run.null)):
            for config, moments in found.items():
                for rate in ("smooth", "clipped"):
                    for space in ("contribution", "code"):
                        for share in SHARES:
                            b = moments.bits(n_train=sweep.n_train, var_ref=reference, share=share, rate=rate,
                                             space=space)  # fmt: skip
                            rows.append({
                                "model": run.model, "seed": run.seed, "control": control, "variant": config.variant,
                                "n_blocks": config.n_blocks, "k": config.k, "d_block": config.d_block, "rate": rate,
                                "space": space, "share": share, "var_ref": reference, "n_train": sweep.n_train,
                                "selection": b.selection, "code": b.code, "residual": b.residual,
                                "dictionary": b.dictionary, "total": b.total, "r2": moments.r2,
                                "dead": moments.dead,
                            })  # fmt: skip
    return rows


@study(NAME)
def run(ctx: StudyContext) -> list[Finding]:
    """Bits a token by block dimension, at the same (G, k) and at equal atoms and active scalars."""
    return swept_findings(ctx, CLAIMS, lambda sweep, runs: findings(ctx, sweep, runs))


def findings(ctx: StudyContext, sweep: Sweep, runs: Sequence[Swept]) -> list[Finding]:
    """What was measured, as findings; the whole table is written beside the sweep."""
    path = atlas_home() / "studies" / NAME / f"table-{ctx.scale}-{ctx.seed}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(table(runs, sweep)))
    models = list(dict.fromkeys(run.model for run in runs))
    references = {model: var_ref(runs, model) for model in models}
    told = {
        "model": ", ".join(models),
        "data": f"{sweep.n_held} held-out tokens of {sweep.n_train} (N), var_ref "
                + ", ".join(f"{v:.3g}" for v in references.values()),
    }  # fmt: skip
    families = {
        "same-gk": list(sweep.same_gk().values()),
        "matched": [sweep.same_budget()],
    }
    found = []
    for family_name, groups in families.items():

        def judged(reading: str, groups=groups, which: str = "real") -> tuple[np.ndarray, np.ndarray]:
            pairs = []
            for run in runs:
                moments = getattr(run, which)
                for family in groups:
                    if moments:
                        bits = {c: bits_of(moments[c], sweep, references[run.model], reading) for c in family}
                        pairs.append(cheapest(family, bits))
            b, saved = zip(*pairs)
            return np.array(b, float), np.array(saved)

        b, saved = judged("headline")
        null_b, null_saved = judged("headline", which="null")
        other = {name: judged(name) for name in [*READINGS, "without dictionary"] if name != "headline"}
        levels = {}
        for model in models:
            for family in groups:
                for config in family:
                    each = [bits_of(r.real[config], sweep, references[model], "headline")
                            for r in runs if r.model == model]  # fmt: skip
                    label = "" if family_name == "matched" else f" G={config.n_blocks} k={config.k}"
                    levels[f"{model}{label} b={config.d_block}, bits"] = float(np.mean(each))
        kwargs = {**told, "evidence": "observational",
                  "published": PUBLISHED if family_name == "same-gk" else None}  # fmt: skip
        first, second = f"cheapest-b-{family_name}", f"bits-saved-{family_name}"
        caveat = "Minima are shallow: bits of every b stand in the controls, all four terms in the study's table."
        found.append(ctx.finding(
            first, CLAIMS[first], mean_interval(b, seed=ctx.seed), aim=">= 2", caveat=caveat,
            controls={"Gaussian rows of the same covariance": float(null_b.mean()),
                      **{name: float(v.mean()) for name, (v, _) in other.items()}, **levels}, **kwargs,
        ))  # fmt: skip
        found.append(ctx.finding(
            second, CLAIMS[second], mean_interval(saved, seed=ctx.seed), aim="> 0", unit="bits",
            controls={"Gaussian rows of the same covariance": float(null_saved.mean()),
                      **{name: float(v.mean()) for name, (_, v) in other.items()}}, **kwargs,
        ))  # fmt: skip
    return found
