"""Rings inside blocks: found, and given a coordinate, without any label.

    rows x  →  codes z_g where block g fires  →  ring or not (topology)  →  angle in the turning plane = t
            →  mean code in equal bins of t  →  periodic cubic spline: the ring

Labels enter only afterwards, in ``name_ring``: to say what the ring follows, how well on pictures it was not named
on, and where its named places are. The ring becomes a steerable manifold whose frame is the block's own frame:
with orthonormal D_g a code is z = gamma · s · (x - mean) D_g', so coordinates x D_g' of raw activations map to codes
by one shift and one factor (Fel et al. 2606.25234, eq. 4; clamping inside a block, sec. 6).

Not covered: rings spread over several blocks; frames that are not orthonormal (Vanilla) cannot be steered this way.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from backend.core.errors import Invalid, Refused
from backend.featurizers.browse import BlockShape
from backend.featurizers.featurizer import Featurizer
from backend.featurizers.grassmannian import Grassmannian
from backend.manifolds.curve import Ring
from backend.manifolds.display import Display
from backend.manifolds.site_entry import SiteEntry
from backend.manifolds.steerable import SteerableManifold
from backend.manifolds.topology import decide
from backend.wire.capabilities import ManifoldInfo, Tick


class Evidence(Protocol):
    """What a ring rests on: a hole in the density (``topology``) or directions that samples share (``turning``)."""

    kind: str
    plane: np.ndarray
    centre: np.ndarray
    antipodal: float

    @property
    def confidence(self) -> float: ...

    @property
    def reason(self) -> str: ...

    def coordinate(self, code: np.ndarray) -> np.ndarray: ...

    def measured(self) -> dict[str, float | None]: ...


@dataclass(frozen=True)
class BlockRing:
    """A ring through the codes of one block."""

    block: int
    ring: Ring
    evidence: Evidence
    n: int
    """Codes it was fitted on."""
    spread: float
    """Root-mean-square distance of the codes to the ring over the ring's radius."""

    @classmethod
    def through(cls, cloud: Tensor, evidence: Evidence, *, block: int, n_knots: int = 24) -> BlockRing:
        """The ring through codes ``(n, b)``, float64, of a block."""
        ring = ring_through(cloud, evidence, n_knots=n_knots)
        radius = (ring.knots.double() - cloud.mean(0)).square().sum(1).mean().sqrt()
        distance = ring.project(cloud[:4000])[1].double()
        return cls(block, ring, evidence, len(cloud), float(distance.square().mean().sqrt() / radius))

    def coordinate(self, code: Tensor | np.ndarray) -> np.ndarray:
        """Coordinate ``(n,)`` in [0, 1) of codes ``(n, b)``."""
        return self.evidence.coordinate(np.asarray(code))

    @property
    def shape(self) -> BlockShape:
        """What the browser says of the block."""
        return _shape(self.evidence, coordinate=self.coordinate)


@torch.no_grad()
def firings(featurizer: Featurizer, x: Tensor, *, chunk: int = 8192) -> Tensor:
    """The active blocks of normalised rows ``x`` (N, d), ``(N, k)``; -1 where a slot is empty."""
    found = []
    for part in x.split(chunk):
        picked = featurizer.select(part)
        found.append(torch.where(picked.code.square().sum(-1) > 0, picked.block, -1))
    # Thresholded featurizers select a varying number.
    widest = max(part.shape[1] for part in found)
    return torch.cat([torch.nn.functional.pad(part, (0, widest - part.shape[1]), value=-1) for part in found])


@torch.no_grad()
def block_codes(featurizer: Featurizer, block: int, x: Tensor, *,
                active: Tensor | None = None) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Code of a block before selection ``(N, b)`` and where it fires ``(N,)``, on normalised rows ``x`` (N, d).

    ``active`` from ``firings`` saves the selection where many blocks are looked at.
    """
    active = firings(featurizer, x) if active is None else active
    return featurizer.pre_code(x, block), (active == block).any(1)


def shape_of_block(code: np.ndarray, rows: np.ndarray, *, seed: int = 0) -> BlockShape:
    """Shape of a block's cloud for the browser: codes where it fires ``(m, b)``, and on all rows ``(N, b)``."""
    topology = decide(code, rows=rows, seed=seed)
    return _shape(topology, coordinate=topology.coordinate if topology.kind == "ring" else None)


def _shape(evidence: Evidence, *, coordinate: Callable[[np.ndarray], np.ndarray] | None) -> BlockShape:
    return BlockShape(evidence.kind, antipodal=evidence.antipodal, coordinate=coordinate, reason=evidence.reason,
                      confidence=evidence.confidence if coordinate else None)  # fmt: skip


def fit_block_ring(featurizer: Featurizer, block: int, x: Tensor, *, n_knots: int = 24, seed: int = 0,
                   active: Tensor | None = None) -> BlockRing:  # fmt: skip
    """Decide whether a block's codes on normalised rows ``x`` (N, d) form a ring, and fit it; no label is used.

    The ring is fitted whatever the decision, so that it can be looked at: ask ``evidence.kind``. Raises ``Refused``
    where the block fires on fewer than 60 rows.
    """
    code, fired = block_codes(featurizer, block, x, active=active)
    n = int(fired.sum())
    if n < 60:
        raise Refused(f"A ring was to be fitted in block {block}.", f"It fires on {n} of {len(x)} rows.",
                      "Give more rows, or a block that fires more.")  # fmt: skip
    cloud = code[fired].double()
    topology = decide(cloud.numpy(), rows=code.numpy(), seed=seed)
    return BlockRing.through(cloud, topology, block=block, n_knots=n_knots)


def ring_through(cloud: Tensor, evidence: Evidence, *, n_knots: int = 24) -> Ring:
    """Periodic spline through the mean of codes ``(n, b)`` in equal bins of the angle; empty bins are bridged."""
    t = torch.as_tensor(evidence.coordinate(cloud.numpy()))
    index = (t * n_knots).long().clamp_max(n_knots - 1)
    count = torch.bincount(index, minlength=n_knots)
    keep = count >= max(3, len(t) // (20 * n_knots))
    if int(keep.sum()) < 4:
        # Everything lies in a few directions: four knots of a quarter turn each, from whatever there is.
        keep = count >= 1
    if int(keep.sum()) < 3:
        raise Invalid("A ring was to be fitted to a cloud of codes.", "They lie in fewer than three directions.",
                      "Choose a block whose cloud goes round.")  # fmt: skip
    knots = torch.zeros(n_knots, cloud.shape[1], dtype=torch.float64).index_add_(0, index, cloud)
    place = torch.zeros(n_knots, dtype=torch.float64).index_add_(0, index, t)
    return Ring((place / count.clamp_min(1))[keep], (knots / count.clamp_min(1)[:, None])[keep].float())


def find_rings(featurizer: Featurizer, x: Tensor, *, blocks: Sequence[int] | None = None, min_fired: int = 300,
               seed: int = 0) -> list[BlockRing]:  # fmt: skip
    """All blocks whose codes form a ring on normalised rows ``x`` (N, d), the surest first.

    ``blocks`` limits the search; blocks that fire on fewer than ``min_fired`` rows are passed over.
    """
    active = firings(featurizer, x)
    count = torch.bincount(active.flatten() + 1, minlength=featurizer.n_blocks + 1)[1:]
    found = []
    for block in range(featurizer.n_blocks) if blocks is None else blocks:
        if int(count[block]) >= min_fired:
            ring = fit_block_ring(featurizer, block, x, seed=seed, active=active)
            if ring.evidence.kind == "ring":
                found.append(ring)
    return sorted(found, key=lambda r: -r.evidence.confidence)


@dataclass(frozen=True)
class RingName:
    """What a ring follows, once labels are looked at: t = offset + sign · angle / 2π + a few harmonics of the angle."""

    sign: int
    offset: float
    warp: np.ndarray
    """Weights of sin and cos of the first harmonics, in turns."""
    median_error: float
    """Median error in radians of the angle read from t, on rows that were not used for naming."""
    correlation: float
    """Circular correlation |E exp(i(2πt − sign·angle))| after naming's offset, on those rows; 0 says unrelated."""
    n: int

    def t_of(self, angle: np.ndarray | float) -> np.ndarray:
        """Coordinate in [0, 1) of an angle in radians."""
        a = np.asarray(angle, np.float64)
        return (self.offset + self.sign * a / (2 * np.pi) + _harmonics(a, len(self.warp) // 2) @ self.warp) % 1.0

    def angle_of(self, t: np.ndarray | float, *, n: int = 720) -> np.ndarray:
        """Angle in radians whose coordinate is nearest to t."""
        grid = 2 * np.pi * np.arange(n) / n
        gap = (np.asarray(t, np.float64)[..., None] - self.t_of(grid) + 0.5) % 1.0 - 0.5
        return grid[np.abs(gap).argmin(-1)]

    def ticks(self, labels: Sequence[str]) -> list[Tick]:
        """Named places for labels spread evenly over the angle, the first at angle 0."""
        t = self.t_of(2 * np.pi * np.arange(len(labels)) / len(labels))
        return [Tick(t=float(v), label=label) for v, label in zip(t, labels, strict=True)]


def _harmonics(angle: np.ndarray, n: int) -> np.ndarray:
    h = np.arange(1, n + 1) * np.asarray(angle, np.float64)[..., None]
    return np.concatenate([np.sin(h), np.cos(h)], -1)


def name_ring(t: np.ndarray, angle: np.ndarray, *, groups: np.ndarray | None = None, n_harmonics: int = 2,
              seed: int = 0) -> RingName:  # fmt: skip
    """Relate a ring's coordinate ``t`` (N,) to a known angle (N,): fitted on half the rows, judged on the rest.

    ``groups`` (N,) keeps rows of one picture on one side of the split.
    """
    t, angle = np.asarray(t, np.float64), np.asarray(angle, np.float64)
    groups = np.arange(len(t)) if groups is None else np.asarray(groups)
    kinds = np.unique(groups)
    first = np.isin(groups, np.random.default_rng(seed).permutation(kinds)[: len(kinds) // 2])
    turn = 2 * np.pi * t

    def agreement(sign: int) -> complex:
        return complex(np.exp(1j * (turn - sign * angle))[first].mean())

    sign = max((1, -1), key=lambda s: abs(agreement(s)))
    offset = float(np.angle(agreement(sign)) / (2 * np.pi))
    gap = (t - offset - sign * angle / (2 * np.pi) + 0.5) % 1.0 - 0.5
    near = first & (np.abs(gap) < 0.25)
    warp = np.zeros(2 * n_harmonics)
    if near.sum() > 20 * n_harmonics:
        basis = np.column_stack([_harmonics(angle[near], n_harmonics), np.ones(near.sum())])
        # A small ridge keeps the map from folding over where few rows lie.
        solved = np.linalg.solve(basis.T @ basis + 1e-2 * near.sum() * np.eye(basis.shape[1]), basis.T @ gap[near])
        warp, offset = solved[:-1], offset + float(solved[-1])
    bare = RingName(sign, offset, warp, 0.0, 0.0, int((~first).sum()))
    error = np.abs((bare.angle_of(t[~first]) - angle[~first] + np.pi) % (2 * np.pi) - np.pi)
    agreed = abs(np.exp(1j * (turn - sign * angle))[~first].mean())
    return RingName(sign, offset, warp, float(np.median(error)), float(agreed), bare.n)


def block_manifold(featurizer: Featurizer, found: BlockRing, *, info: ManifoldInfo,
                   cloud: Tensor | None = None) -> SteerableManifold:  # fmt: skip
    """The ring as a steerable manifold at ``info.sites[0]``: frame D_g', coordinates are codes.

    ``cloud`` (n, b) codes are stored for drawing. Raises ``Refused`` for a featurizer without orthonormal frames.
    """
    if not isinstance(featurizer, Grassmannian):
        raise Refused(f"Block {found.block} of a {featurizer.variant} featurizer was to be steered.",
                      "Its frame is not orthonormal, so a code does not say where in the activations it is.",
                      "Use a Grassmannian featurizer.")  # fmt: skip
    frame = featurizer.frame.detach()[found.block].T.contiguous()
    entry = SiteEntry(frame=frame, knots_t=found.ring.knots_t.float(), knots=found.ring.knots.float(),
                      mean=featurizer.centre @ frame, scale=featurizer.scale * featurizer.gain())  # fmt: skip
    display = None
    if cloud is not None:
        display = ring_display(found, cloud)
        # A code shorter than four fifths of those that fire says that the block is silent there.
        entry.floor = float(cloud.float().norm(dim=1).quantile(0.2))
    measured = {"block": found.block, "n": found.n, **found.evidence.measured(), "spread": found.spread}
    return SteerableManifold(info, {info.sites[0]: entry}, display=display, measured=measured)


def ring_display(found: BlockRing, cloud: Tensor, *, n: int = 600) -> Display:
    """Drawing axes: the turning plane, then what is left; with up to ``n`` codes of the cloud."""
    plane = torch.as_tensor(found.evidence.plane).float()
    # (b, 3), orthonormal
    axes = torch.zeros(plane.shape[1], 3)
    axes[:, :2] = plane.T
    if plane.shape[1] > 2:
        rest = cloud.float() - cloud.float().mean(0)
        rest = rest - rest @ plane.T @ plane
        axes[:, 2] = torch.linalg.svd(rest, full_matrices=False)[2][0]
    origin = torch.as_tensor(found.evidence.centre).float()
    some = cloud.float()[torch.linspace(0, len(cloud) - 1, min(n, len(cloud))).long()]
    centred = cloud.float() - cloud.float().mean(0)
    share = (centred @ axes).square().mean(0) / centred.square().sum(1).mean()
    return Display(axes, origin, share.tolist(), (some - origin) @ axes,
                   torch.as_tensor(found.coordinate(some.numpy())).float())  # fmt: skip


def active_mask(featurizer: Featurizer, block: int, x: Tensor) -> Tensor:
    """Where a block is active on raw activations ``x`` (R, T, d): 1 or 0, ``(R, T)``, the mask of an intervention."""
    rows, positions = x.shape[:2]
    flat = featurizer.normalise(x.float()).flatten(0, 1)
    return block_codes(featurizer, block, flat)[1].float().view(rows, positions)
