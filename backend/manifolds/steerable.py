"""A steerable manifold: a named curve with its frames at one or more sites of a model.

It turns a coordinate t into targets at each site (``site_entry`` has the equation), into chords between two places, and
into curves to draw; and it finds the coordinate of an activation. On disk it is a folder (``store``).

Not covered: sheets and tori.
"""

from __future__ import annotations

from functools import cached_property

import torch

from backend.core.errors import Invalid, NotFound
from backend.manifolds.behaviour import BehaviourManifold
from backend.manifolds.curve import KINDS, Curve
from backend.manifolds.display import Display, triples
from backend.manifolds.fit import pca
from backend.manifolds.site_entry import SiteEntry
from backend.wire.capabilities import ManifoldInfo
from backend.wire.text import ManifoldCurves


class SteerableManifold:
    """A named curve with its frames at one or more sites of a model, and its behaviour manifold where it has one."""

    def __init__(
        self,
        info: ManifoldInfo,
        sites: dict[str, SiteEntry],
        *,
        behaviour: BehaviourManifold | None = None,
        display: Display | None = None,
        measured: dict | None = None,
    ) -> None:
        if info.kind not in KINDS or not sites:
            raise Invalid(
                f"The manifold {info.name} was to be made, a {info.kind} at {len(sites)} sites.",
                f"Kinds are {', '.join(KINDS)}, and it needs a site at least.",
                "Fit a ring or a line at one site or more.",
            )
        self.info, self.sites, self.behaviour = info, dict(sites), behaviour
        self.measured = measured or {}
        self.given_display = display
        self._curves: dict[tuple[str, int, bool], Curve] = {}

    # ------------------------------------------------------------------------------------------------ geometry

    @property
    def name(self) -> str:
        return self.info.name

    @property
    def kind(self) -> str:
        return self.info.kind

    @property
    def labels(self) -> list[str]:
        return [tick.label for tick in self.info.ticks]

    @property
    def label_t(self) -> torch.Tensor:
        return torch.tensor([tick.t for tick in self.info.ticks], dtype=torch.float64)

    def entry(self, site: str | None = None) -> SiteEntry:
        """The entry of ``site`` (the first one unless told); raises NotFound and lists the sites there are."""
        site = next(iter(self.sites)) if site is None else str(site)
        if site not in self.sites:
            raise NotFound(
                f"The manifold {self.name} was asked for at {site}.",
                f"It is known at {', '.join(self.sites)}.",
                "Choose one of these sites.",
            )
        return self.sites[site]

    def curve(self, site: str | None = None, *, time: float | None = None, full: bool = False) -> Curve:
        """The curve at a site in stored coordinates (T·k wide); ``full``: through full-space centroids (T·K wide)."""
        entry = self.entry(site)
        key = (str(site), entry.bin(time), full)
        if key not in self._curves:
            knots = entry.full if full else entry.knots
            if knots is None:
                raise NotFound(
                    f"Full-space centroids of {self.name} were asked for at {site or next(iter(self.sites))}.",
                    "It holds none there.",
                    "Use the chord inside the subspace.",
                )
            knots = knots[min(key[1], len(knots) - 1)]
            self._curves[key] = KINDS[self.kind](entry.knots_t, knots.reshape(len(knots), -1).float())
        return self._curves[key]

    def targets(self, site: str | None, t: torch.Tensor | float, *, time: float | None = None) -> torch.Tensor:
        """Raw coordinates x F that a site's activations have at ``t (...,)``: ``(..., T|1, k)``."""
        return self._raw(site, self.curve(site, time=time).point(t), time)

    def _raw(self, site: str | None, stored: torch.Tensor, time: float | None) -> torch.Tensor:
        entry = self.entry(site)
        index = entry.bin(time)
        stored = stored.reshape(*stored.shape[:-1], entry.n_tokens, entry.frame.shape[1])
        scale, mean = entry.scale[min(index, len(entry.scale) - 1)], entry.mean[min(index, len(entry.mean) - 1)]
        return stored / scale + mean

    def stored(self, site: str | None, raw: torch.Tensor, *, time: float | None = None) -> torch.Tensor:
        """Raw coordinates x F ``(..., T|1, k)`` to those that the curve lives in, ((x F) − mean) · scale."""
        entry = self.entry(site)
        index = entry.bin(time)
        return (raw - entry.mean[min(index, len(entry.mean) - 1)]) * entry.scale[min(index, len(entry.scale) - 1)]

    def full_targets(self, site: str | None, t: torch.Tensor | float, *, time: float | None = None) -> torch.Tensor:
        """The same in the full space, ``(..., T|1, K)``; NotFound where no full-space centroids were stored."""
        point = self.curve(site, time=time, full=True).point(t)
        return point.reshape(*point.shape[:-1], -1, self.entry(site).full.shape[-1])

    def chord(
        self,
        site: str | None,
        t_from: float,
        t_to: float,
        s: torch.Tensor | float,
        *,
        time: float | None = None,
        full: bool = False,
    ) -> torch.Tensor:
        """Point at share ``s (...,)`` of the segment between two coordinates' points, ``(..., T|1, k or K)``."""
        at = self.full_targets if full else self.targets
        start, end = at(site, t_from, time=time), at(site, t_to, time=time)
        s = torch.as_tensor(s, dtype=start.dtype)[..., None, None]
        return (1 - s) * start + s * end

    def project(self, raw: torch.Tensor, *, site: str | None = None, time: float | None = None):
        """Nearest coordinate ``(...,)`` and distance of raw coordinates ``(..., T|1, k)``, in the stored scale."""
        z = self.stored(site, raw, time=time)
        return self.curve(site, time=time).project(z.flatten(-2))

    # ------------------------------------------------------------------------------------------------- drawing

    @cached_property
    def display(self) -> Display:
        """Axes for drawing: stored ones, else the first three PCs of the first site's knots (mean over tokens)."""
        if self.given_display is not None:
            return self.given_display
        knots = self.entry().knots[0].mean(1)
        space = pca(knots, 3)
        axes = torch.zeros(knots.shape[1], 3)
        axes[:, : space.frame.shape[1]] = space.frame
        variance = (space.variance / max(space.total, 1e-12)).tolist()
        return Display(axes, space.mean, variance + [0.0] * (3 - len(variance)))

    def xyz(self, raw: torch.Tensor) -> torch.Tensor:
        """Raw coordinates of the first site ``(..., T|1, k)`` to the drawing's ``(..., 3)``, mean over tokens."""
        time = self._some_time()
        return self.display(self.stored(None, raw, time=time).mean(-2))

    def _some_time(self) -> float | None:
        bins = self.entry().bins
        return None if bins is None else bins[0]

    def curves(self, *, n: int = 240, n_points: int = 600) -> ManifoldCurves:
        """Both manifolds as 3-D curves of ``n`` points (a ring is closed), with at most ``n_points`` of the cloud."""
        time = self._some_time()
        t = torch.linspace(0, 1, n, dtype=torch.float64)
        entry, display = self.entry(), self.display

        def draw(at: torch.Tensor) -> list[tuple[float, float, float]]:
            point = self.curve(time=time).point(at)
            return triples(display(point.reshape(len(at), entry.n_tokens, -1).mean(1)))

        keep = torch.linspace(0, max(0, len(display.points) - 1), min(n_points, len(display.points))).round().long()
        drawn = ManifoldCurves(
            name=self.name,
            labels=self.labels,
            label_t=self.label_t.tolist(),
            activation_curve=draw(t),
            activation_centroids=draw(self.label_t) if self.labels else [],
            activation_points=triples(display.points[keep]),
            activation_point_t=[round(float(v), 5) for v in display.point_t[keep]],
            activation_variance=[float(v) for v in display.variance],
        )
        if self.behaviour is not None:
            grid = self.behaviour.grid(n, closed=True)
            drawn.behaviour_curve = triples(self.behaviour.xyz(self.behaviour.point(grid)))
            drawn.behaviour_centroids = triples(self.behaviour.xyz(self.behaviour.distributions))
        return drawn
