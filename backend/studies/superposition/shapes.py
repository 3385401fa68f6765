"""Which kind of manifold each factor's matched block holds, decided without labels, and where on its circle a row lies.

    contributions of the matched block where the factor is on  →  coordinates in the block's span  →  kind, coordinate

What counts as right was fixed before anything was measured, from the shapes alone (``RIGHT``). A Moebius band is a
thickened loop; bars see the loop, so both "ring" and "band" are right for it, and nothing can tell it from an annulus.
A helix is an open curve, hence a line; a Swiss roll is a sheet. Presence is known here (rows in which the factor is
on), so the gate is not asked for.

The coordinate of a circle is compared with its planted angle by r = |E exp(2πi (t̂ ∓ t))|, the larger of both signs;
a constant offset does not lower it. Controls: the block of another factor (of the next one whose right answers
differ), and shuffled angles. Results are kept beside the featurizers.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from backend.core.errors import AtlasError
from backend.core.settings import atlas_home
from backend.manifolds.coordinates import coordinates
from backend.manifolds.shape import recognise
from backend.studies.superposition.arms import NAME, Plan

RIGHT: dict[str, tuple[str, ...]] = {
    "segment": ("line",), "circle": ("ring",), "disk": ("sheet",), "sphere": ("sphere",), "torus": ("torus",),
    "moebius": ("ring", "band"), "swiss": ("sheet",), "helix": ("line",),
}  # fmt: skip
CLOUDS = ("best", "grassmannian", "oracle")
"""Whose clouds are looked at: two arms, and the true subspaces as a ceiling."""
VERSION = 1
"""Raised when the decision changes, so that kept results are not taken for new ones."""


@dataclass(frozen=True)
class Shapes:
    """Decisions on all factors of one zoo."""

    kind: list[str]
    right: np.ndarray
    """(M,) 1 or 0."""
    shuffled: np.ndarray
    """The same with the decision on another factor's block."""
    correlation: np.ndarray
    """(n circles,) circular correlation of the coordinate with the planted angle."""
    shuffled_correlation: np.ndarray


def circular_correlation(t: np.ndarray, truth: np.ndarray) -> float:
    """|E exp(2πi (t ∓ truth))| of coordinates in turns ``(n,)``, the larger of both signs; 1 where they agree."""
    return float(max(abs(np.exp(2j * np.pi * (t - sign * truth)).mean()) for sign in (1, -1)))


def shapes_of(plan: Plan, name: str, seed: int, *, kinds: Sequence[str], cloud: Callable[[int], tuple[Tensor, Tensor]],
              frame: Callable[[int], Tensor], n_null: int = 19) -> Shapes:  # fmt: skip
    """Decide on every factor's cloud, loaded where it was decided before.

    ``cloud(i)`` gives contributions ``(n, d)`` and true coordinates ``(n, 2)``; ``frame(i)`` rows that span them.
    """
    path = atlas_home() / "studies" / NAME / plan.digest / f"shapes-{name}-{seed}-v{VERSION}.json"
    known = json.loads(path.read_text()) if path.exists() else []
    path.parent.mkdir(parents=True, exist_ok=True)
    for factor in range(len(known), len(kinds)):
        m, t = cloud(factor)
        basis = torch.linalg.qr(frame(factor).double().T)[0]
        code = (m.double() @ basis).numpy()
        known.append(look(code, t.numpy().astype(float), kinds[factor], seed=seed, n_null=n_null))
        # After every factor: a run that was killed goes on with the next.
        part = path.with_suffix(".part")
        part.write_text(json.dumps(known))
        part.replace(path)
    decided = [k["kind"] for k in known]
    rings = [k for k in known if k["correlation"] is not None]
    return Shapes(
        kind=decided, right=np.array([float(d in RIGHT[k]) for d, k in zip(decided, kinds)]),
        shuffled=np.array([float(decided[_other(kinds, i)] in RIGHT[kinds[i]]) for i in range(len(kinds))]),
        correlation=np.array([k["correlation"] for k in rings]),
        shuffled_correlation=np.array([k["shuffled"] for k in rings]),
    )  # fmt: skip


def _other(kinds: Sequence[str], i: int) -> int:
    # The next factor whose right answers differ, so that a segment is not "right" by another segment's line.
    for step in range(1, len(kinds)):
        j = (i + step) % len(kinds)
        if not set(RIGHT[kinds[i]]) & set(RIGHT[kinds[j]]):
            return j
    return i


def look(code: np.ndarray, t: np.ndarray, kind: str, *, seed: int, n_null: int) -> dict:
    """Decide on one cloud ``(n, b)``; on a circle also compare the coordinate with ``t`` (n, 2)."""
    shape = recognise(code, seed=seed, n_null=n_null)
    out = {"kind": shape.kind, "confidence": shape.confidence, "dimension": shape.dimension, "loops": shape.loops,
           "void": shape.void, "antipodal": shape.antipodal, "n": len(code), "correlation": None}  # fmt: skip
    if kind == "circle":
        # A coordinate that cannot be had counts as unrelated: leaving it out would flatter the mean.
        out |= {"correlation": 0.0, "shuffled": 0.0}
        try:
            found = coordinates(code, "ring", seed=seed).t[:, 0]
        except AtlasError as error:
            return out | {"why": str(error)}
        wrong = np.random.default_rng(seed).permutation(t[:, 0])
        out |= {"correlation": circular_correlation(found, t[:, 0]), "shuffled": circular_correlation(found, wrong)}
    return out
