"""Names for rings that were found without labels: which factor each follows, on scenes that it was not named on.

Rings are looked for in a featurizer's blocks without any label (``backend.manifolds.block_ring``). Only then the
factors of half of the held-out scenes name them, and those of the other half say how well the name fits. A ring that
follows a cyclic factor becomes a steerable manifold whose coordinate is turned to that factor.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from backend.featurizers.grassmannian import Grassmannian
from backend.manifolds.block_ring import BlockRing, RingName, block_codes, block_manifold, name_ring
from backend.manifolds.steerable import SteerableManifold
from backend.manifolds.store import save_manifold
from backend.recipes.tabletop_activations import Factors
from backend.wire.capabilities import ManifoldInfo, Tick
from backend.worlds import tabletop
from backend.worlds.tabletop_captions import HUE_NAMES

FOLLOWS = 0.5
"""Circular correlation, on scenes not used for naming, from which a ring is said to follow a factor."""
RING_NAMES = {"hue": "hue-ring", "light_azimuth": "light-ring-unlabelled", "yaw": "yaw-ring"}


@dataclass(frozen=True)
class Named:
    """A ring found without labels, and what the labels say of it afterwards."""

    ring: BlockRing
    factor: str
    name: RingName

    @property
    def follows(self) -> bool:
        return self.name.correlation >= FOLLOWS


@torch.no_grad()
def name_rings(featurizer: Grassmannian, rings: Sequence[BlockRing], x: Tensor, factors: Factors, *,
               seed: int = 0) -> list[Named]:  # fmt: skip
    """Which cyclic factor each ring follows best, read where its block is strongest in each row of ``x`` (n, T, d)."""
    out = []
    normal = featurizer.normalise(x)
    for ring in rings:
        code, fired = block_codes(featurizer, ring.block, normal.flatten(0, 1))
        strength = torch.where(fired, code.norm(dim=1), 0.0).view(x.shape[:2])
        rows = (strength.amax(1) > 0).nonzero()[:, 0]
        best = strength.argmax(1)[rows]
        t = ring.coordinate(code.view(*x.shape[:2], -1)[rows, best])
        keep = rows.numpy()
        if len(keep) < 50:
            continue
        names = {f: name_ring(t, factors[f][keep], groups=factors["row"][keep], seed=seed) for f in tabletop.CYCLIC}
        factor = max(names, key=lambda f: names[f].correlation)
        out.append(Named(ring, factor, names[factor]))
    return sorted(out, key=lambda n: -n.name.correlation)


def ring_info(named: Named, name: str, *, model: str, site: str, featurizer: str) -> ManifoldInfo:
    """How a named ring presents itself."""
    words = HUE_NAMES if named.factor == "hue" else [f"{i * 45}°" for i in range(8)]
    ticks = [Tick(t=i / len(words), label=word) for i, word in enumerate(words)]
    title = {"hue": "Hue", "light_azimuth": "Light direction", "yaw": "Yaw"}[named.factor]
    return ManifoldInfo(
        name=name, title=f"{title} (found without labels)", model=model, kind="ring", sites=[site],
        ticks=ticks, unit="°", factor=named.factor, origin="blocks", featurizer=featurizer, blocks=[named.ring.block],
        prompts=["a cube on a table", "a sphere", "a photo of a cone"],
        description=f"A ring in block {named.ring.block}, found without labels; it acts where the block is active.",
    )  # fmt: skip


def save_rings(featurizer: Grassmannian, named: Sequence[Named], rows: Tensor, *, model: str, site: str, name: str,
               folder: Path, fit: Callable[[Named], SteerableManifold] | None = None) -> dict[int, str]:  # fmt: skip
    """Save the surest ring of each factor that it follows as a manifold; returns block → manifold.

    ``name`` is the featurizer's, ``model`` and ``site`` where it reads. ``fit`` fits the ring's coordinate at the
    sites that move it; without it the ring is clamped inside its own block.
    """
    saved: dict[int, str] = {}
    for factor, ring in RING_NAMES.items():
        following = [one for one in named if one.factor == factor and one.follows]
        # Which of two blocks that follow a factor moves it is not for correlation to say.
        made = [(one, _fitted(featurizer, one, rows, ring, fit, model=model, site=site, name=name))
                for one in following[: 1 if fit is None else 2]]  # fmt: skip
        if made:
            one, manifold = min(made, key=lambda m: m[1].measured.get("validation_error_deg", 0.0))
            save_manifold(manifold, folder / ring)
            saved[one.ring.block] = ring
    return saved


def _fitted(featurizer, one: Named, rows: Tensor, ring: str, fit, *, model: str, site: str, name: str):
    info = ring_info(one, ring, model=model, site=site, featurizer=name)
    if fit is None:
        code, fired = block_codes(featurizer, one.ring.block, rows)
        manifold = block_manifold(featurizer, one.ring, info=info, cloud=code[fired])
        turn_to_angle(manifold, one.name)
    else:
        manifold = fit(one)
        manifold.info = info.model_copy(update={"sites": manifold.info.sites})
    manifold.measured |= {"correlation": one.name.correlation, "median_error_rad": one.name.median_error,
                          "n_named": one.name.n}  # fmt: skip
    return manifold


def turn_to_angle(manifold: SteerableManifold, name: RingName) -> None:
    """Measure the ring's coordinate in turns of the factor it was named after: the same places, other numbers.

    So a target in degrees and what the reader reads are the same coordinate. Knots that fall together are merged.
    """
    for entry in manifold.sites.values():
        at = torch.as_tensor(name.angle_of(entry.knots_t.double().numpy()) / (2 * np.pi)) % 1.0
        order = at.argsort()
        at, knots = at[order], entry.knots[:, order]
        keep = torch.cat([at[1:] - at[:-1] > 2e-3, torch.tensor([True])])
        entry.knots_t, entry.knots = at[keep].float(), knots[:, keep]
    shown = manifold.display
    if len(shown.point_t):
        shown.point_t = torch.as_tensor(name.angle_of(shown.point_t.double().numpy()) / (2 * np.pi)).float() % 1.0
