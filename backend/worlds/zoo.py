"""A zoo of toy manifolds in superposition: sums of a few points, each on its own small manifold, all of them known.

    x = s · Σ over i in S of m_i,    m_i = V_i' (γ_kind(t_i) − mean_i) / rms_i,    |S| active of M,    s = 1 / √|S|

M factors in d dimensions: half of them segments, the other half curved, cycling over seven kinds (circle, disk, sphere,
torus, Moebius band, Swiss roll, helix). Mean and root-mean-square radius of every factor come from its own 50,000
calibration draws, so that each has E‖m‖² = 1 and no mean; V_i is an orthonormal frame from the QR factorisation of a
Gaussian. S is drawn uniformly without replacement, there is no noise, and E‖x‖² = 1. After the toy of Fel et al.
2606.25234 (sec. 3.1, App. H), M = d = 128 and |S| = 4 there.

Every factor has two coordinates in [0, 1), both drawn uniformly (the second means nothing on curves):

    segment   x = 2u − 1                                            circle    angle 2πu
    disk      radius √u, angle 2πv                                  sphere    height 2u − 1, azimuth 2πv
    torus     R = 1, r = 0.4, angles 2πu (long way), 2πv            moebius   R = 1, angle 2πu, across v − ½
    swiss     (t cos t, h, t sin t), t = 1.5π + 3πu, h = 21 (v − ½) helix     (cos t, sin t, t / 4), t = 4πu

The paper gives kinds, spans and t ≤ 4.5π; the other sizes are ours: R, r, the Moebius width and the helix as in an
independent port, the Swiss roll as high as scikit-learn's (with h in ±1 it would be a ribbon, whose third axis holds
0.3 % of the variance). Not covered: noise, factors that hang together, factors of unequal frequency or size.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from backend.core.errors import Invalid

CURVED = ("circle", "disk", "sphere", "torus", "moebius", "swiss", "helix")
KINDS = ("segment", *CURVED)
SPAN = {"segment": 1, "circle": 2, "disk": 2, "sphere": 3, "torus": 3, "moebius": 3, "swiss": 3, "helix": 3}
"""Dimension of the linear span of each kind."""
INTRINSIC = {"segment": 1, "circle": 1, "disk": 2, "sphere": 2, "torus": 2, "moebius": 2, "swiss": 2, "helix": 1}
CYCLIC = {"circle": (0,), "disk": (1,), "sphere": (1,), "torus": (0, 1), "moebius": (0,)}
"""Which of the two coordinates go round; on a Moebius band v turns into 1 − v after one round of u."""
N_CALIBRATION = 50_000
WIDEST = max(SPAN.values())


def shape(kind: str, t: Tensor) -> Tensor:
    """Points ``(..., 3)`` of a kind at coordinates ``t (..., 2)``, neither centred nor scaled; unused axes are 0."""
    u, v = t[..., 0], t[..., 1]
    a, b = 2 * math.pi * u, 2 * math.pi * v
    zero = torch.zeros_like(u)
    if kind == "segment":
        axes = (2 * u - 1, zero, zero)
    elif kind == "circle":
        axes = (a.cos(), a.sin(), zero)
    elif kind == "disk":
        axes = (u.sqrt() * b.cos(), u.sqrt() * b.sin(), zero)
    elif kind == "sphere":
        height = 2 * u - 1
        ring = (1 - height.square()).clamp_min(0).sqrt()
        axes = (ring * b.cos(), ring * b.sin(), height)
    elif kind == "torus":
        ring = 1 + 0.4 * b.cos()
        axes = (ring * a.cos(), ring * a.sin(), 0.4 * b.sin())
    elif kind == "moebius":
        across = v - 0.5
        ring = 1 + across * (a / 2).cos()
        axes = (ring * a.cos(), ring * a.sin(), across * (a / 2).sin())
    elif kind == "swiss":
        turn = 1.5 * math.pi + 3 * math.pi * u
        axes = (turn * turn.cos(), 21 * (v - 0.5), turn * turn.sin())
    elif kind == "helix":
        turn = 4 * math.pi * u
        axes = (turn.cos(), turn.sin(), turn / 4)
    else:
        raise Invalid(f"A factor of kind {kind!r} was asked for.", f"There are {', '.join(KINDS)}.", "Choose one.")
    return torch.stack(axes, -1)


@dataclass(frozen=True)
class ZooSample:
    """Rows of the zoo with their exact ground truth."""

    x: Tensor
    """(N, d)."""
    active: Tensor
    """(N, |S|) the factors of each row, no factor twice."""
    t: Tensor
    """(N, |S|, 2) their coordinates in [0, 1)."""

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, rows: slice | Tensor) -> ZooSample:
        return ZooSample(self.x[rows], self.active[rows], self.t[rows])

    def mask(self, n_factors: int) -> Tensor:
        """Presence ``(N, M)``, boolean."""
        return torch.zeros(len(self), n_factors, dtype=torch.bool).scatter(1, self.active, True)

    def of(self, factor: int) -> tuple[Tensor, Tensor]:
        """Rows ``(n,)`` in which a factor is on, and its coordinates there ``(n, 2)``."""
        rows, slot = (self.active == factor).nonzero(as_tuple=True)
        return rows, self.t[rows, slot]


class Zoo:
    """M factors with their frames; everything follows from ``seed``.

    Parameters
    ----------
    n_factors, d : M and the width of x.
    n_active : |S|.

    Raises ``Invalid`` where no row can be drawn. Fel et al. 2606.25234, sec. 3.1.
    """

    def __init__(self, n_factors: int = 128, d: int = 128, *, n_active: int = 4, seed: int = 0,
                 n_calibration: int = N_CALIBRATION) -> None:  # fmt: skip
        if not 1 <= n_active <= n_factors or d < WIDEST:
            raise Invalid(f"A zoo of {n_factors} factors in {d} dimensions, {n_active} active, was asked for.",
                          f"At most all factors are active, and each needs up to {WIDEST} dimensions.",
                          "Change these numbers.")  # fmt: skip
        self.n_factors, self.d, self.n_active, self.seed = n_factors, d, n_active, seed
        n_flat = n_factors // 2
        self.kinds = tuple("segment" if i < n_flat else CURVED[(i - n_flat) % len(CURVED)] for i in range(n_factors))
        self.scale = n_active**-0.5
        generator = torch.Generator().manual_seed(seed)
        means, radii, frames = [], [], torch.zeros(n_factors, WIDEST, d)
        for i, kind in enumerate(self.kinds):
            points = shape(kind, torch.rand(n_calibration, 2, generator=generator, dtype=torch.float64))
            means.append(points.mean(0))
            radii.append((points - means[-1]).square().sum(1).mean().sqrt())
            span = SPAN[kind]
            frames[i, :span] = torch.linalg.qr(torch.randn(d, span, generator=generator))[0].T
        # (M, 3), (M,), (M, 3, d); rows of a frame beyond the span are zero
        self.means, self.radii, self.frames = torch.stack(means).float(), torch.stack(radii).float(), frames
        self._kind_of = torch.tensor([KINDS.index(kind) for kind in self.kinds])

    def frame(self, factor: int) -> Tensor:
        """Orthonormal rows ``(span, d)`` of a factor's subspace."""
        return self.frames[factor, : SPAN[self.kinds[factor]]]

    def local(self, factor: Tensor, t: Tensor) -> Tensor:
        """Points ``(..., 3)`` of ``factor (...,)`` at ``t (..., 2)`` in the axes of its frame, centred, scaled by s."""
        out = torch.zeros(*factor.shape, WIDEST)
        kind_of = self._kind_of[factor]
        for index, kind in enumerate(KINDS):
            at = kind_of == index
            if bool(at.any()):
                out[at] = shape(kind, t[at])
        out = (out - self.means[factor]) * (self.scale / self.radii[factor])[..., None]
        # The mean of an unused axis is 0, so unused axes stay 0.
        return out

    def contribution(self, factor: int, t: Tensor) -> Tensor:
        """Contributions s·m ``(n, d)`` of one factor at ``t (n, 2)``: what it adds to x."""
        index = torch.full((len(t),), factor)
        return self.local(index, t) @ self.frames[factor]

    def draw(self, n: int, *, generator: torch.Generator, chunk: int = 32_768) -> ZooSample:
        """``n`` rows; the same generator state gives the same rows."""
        parts = list(self._parts(n, generator, chunk))
        return ZooSample(*(torch.cat(field) for field in zip(*parts)))

    def _parts(self, n: int, generator: torch.Generator, chunk: int) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        for start in range(0, n, chunk):
            size = min(chunk, n - start)
            active = torch.rand(size, self.n_factors, generator=generator).topk(self.n_active, 1).indices
            t = torch.rand(size, self.n_active, 2, generator=generator)
            local = self.local(active, t)
            # (size, M·3) with the active factors' coordinates in place, times all frames at once
            wide = torch.zeros(size, self.n_factors, WIDEST)
            wide.scatter_(1, active[..., None].expand_as(local), local)
            yield wide.flatten(1) @ self.frames.flatten(0, 1), active, t
