"""A steerable manifold on disk: a folder with ``manifold.json`` and ``manifold.safetensors``.

At a site s, activations x (T, d) have coordinates z = ((x F) − mean) · scale, F the orthonormal frame (d, k); the curve
lives in z. What steering needs is the target in raw coordinates x F,

    τ(t) = γ(t) / scale + mean            (T or 1, k)

Tensors, for each site s: ``s.frame (d, k)``; ``s.knots_t (n,)``; ``s.knots (n, T|1, k)`` or, with a curve for each bin
of sampler time, ``(B, n, T|1, k)``; ``s.mean (T|1, k)`` or ``(B, T|1, k)``; ``s.scale ()`` or ``(B,)``. Where a chord
is to be drawn in the full space, ``s.full (n, T|1, K)`` or ``(B, n, T|1, K)``: raw centroids, in the columns of
``s.full_frame (d, K)`` or, without it, in the activation's own axes (K = d).

Not covered: sheets and tori.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import torch
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from backend.core.errors import AtlasError, Corrupt, Invalid, NotFound
from backend.core.settings import assets_dir, atlas_home
from backend.manifolds.behaviour import BehaviourManifold
from backend.manifolds.curve import KINDS, Curve
from backend.manifolds.fit import pca
from backend.wire.capabilities import ManifoldInfo
from backend.wire.text import ManifoldCurves

FORMAT = 1


@dataclass(eq=False)
class SiteEntry:
    """What a manifold knows at one site; shapes in the module docstring. float32 on the CPU."""

    frame: torch.Tensor
    knots_t: torch.Tensor
    knots: torch.Tensor
    mean: torch.Tensor | None = None
    """``None``: zero."""
    scale: torch.Tensor | float = 1.0
    bins: list[float] | None = None
    """Upper edges of the bins of sampler time, rising, in [0, 1]; 1 is pure noise. ``None``: one curve for all."""
    full: torch.Tensor | None = None
    full_frame: torch.Tensor | None = None
    floor: float = 0.0
    """Steer only tokens whose stored coordinates are at least this long: where the block is active. 0: all tokens."""

    def __post_init__(self) -> None:
        n_bins = 1 if self.bins is None else len(self.bins)
        if self.knots.ndim == 2:
            self.knots = self.knots[:, None]
        if self.knots.ndim == 3:
            self.knots = self.knots[None]
        if self.full is not None and self.full.ndim == 2:
            self.full = self.full[:, None]
        if self.full is not None and self.full.ndim == 3:
            self.full = self.full[None]
        mean = torch.zeros(1, self.knots.shape[-1]) if self.mean is None else self.mean
        self.mean = mean.reshape(-1, *mean.shape[-2:]) if mean.ndim > 1 else mean[None, None]
        self.scale = torch.as_tensor(self.scale, dtype=torch.float32).reshape(-1)
        d, k = self.frame.shape
        gram = self.frame.double().T @ self.frame.double()
        full_d = None if self.full is None else (d if self.full_frame is None else self.full_frame.shape[1])
        problems = [
            text
            for wrong, text in (
                (self.knots.shape[-1] != k, f"knots have {self.knots.shape[-1]} coordinates, the frame {k}"),
                (self.knots.shape[0] != n_bins, f"knots have {self.knots.shape[0]} time bins, not {n_bins}"),
                (self.knots.shape[1] != len(self.knots_t), "knots and their coordinates differ in number"),
                (not torch.allclose(gram, torch.eye(k, dtype=gram.dtype), atol=1e-3), "the frame is not orthonormal"),
                (self.mean.shape[0] not in (1, n_bins) or self.mean.shape[-1] != k, "the mean does not fit"),
                (len(self.scale) not in (1, n_bins), "the scale does not fit"),
                (full_d is not None and self.full.shape[-1] != full_d, "the full-space centroids do not fit"),
                (self.bins is not None and sorted(self.bins) != list(self.bins), "the time bins do not rise"),
            )
            if wrong
        ]
        if problems:
            raise Invalid(
                "A manifold's entry for a site was to be made.",
                f"Its parts do not fit: {'; '.join(problems)}.",
                "See the shapes at the top of backend/manifolds/store.py.",
            )

    @property
    def n_tokens(self) -> int:
        """Tokens that have a target of their own; 1: the same for all."""
        return self.knots.shape[2]

    def bin(self, time: float | None) -> int:
        """Index of the bin that holds sampler time ``time``; Invalid where the entry has bins and no time is given."""
        if self.bins is None:
            return 0
        if time is None:
            raise Invalid(
                "A target was asked for without a sampler time.",
                f"This manifold has a curve of its own for each of {len(self.bins)} bins of time.",
                "Give time in [0, 1], 1 is pure noise.",
            )
        return next((i for i, edge in enumerate(self.bins) if time <= edge + 1e-9), len(self.bins) - 1)


@dataclass(eq=False)
class Display:
    """Axes for drawing coordinates of the first site: ``axes (k, 3)``, ``origin (k,)``, variance shares, a cloud."""

    axes: torch.Tensor
    origin: torch.Tensor
    variance: list[float] = field(default_factory=list)
    points: torch.Tensor = field(default_factory=lambda: torch.zeros(0, 3))
    """(N, 3) activations that it was fitted on."""
    point_t: torch.Tensor = field(default_factory=lambda: torch.zeros(0))

    def __call__(self, z: torch.Tensor) -> torch.Tensor:
        """Coordinates ``z (..., k)`` to ``(..., 3)``."""
        return (z.to(self.axes.dtype) - self.origin) @ self.axes


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
        self._display = display
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
        if self._display is not None:
            return self._display
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
            return _triples(display(point.reshape(len(at), entry.n_tokens, -1).mean(1)))

        keep = torch.linspace(0, max(0, len(display.points) - 1), min(n_points, len(display.points))).round().long()
        drawn = ManifoldCurves(
            name=self.name,
            labels=self.labels,
            label_t=self.label_t.tolist(),
            activation_curve=draw(t),
            activation_centroids=draw(self.label_t) if self.labels else [],
            activation_points=_triples(display.points[keep]),
            activation_point_t=[round(float(v), 5) for v in display.point_t[keep]],
            activation_variance=[float(v) for v in display.variance],
        )
        if self.behaviour is not None:
            grid = self.behaviour.grid(n, closed=True)
            drawn.behaviour_curve = _triples(self.behaviour.xyz(self.behaviour.point(grid)))
            drawn.behaviour_centroids = _triples(self.behaviour.xyz(self.behaviour.distributions))
        return drawn

    # ------------------------------------------------------------------------------------------------ on disk

    def save(self, folder: Path | str) -> Path:
        """Write the folder (created where needed); returns it."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        tensors: dict[str, torch.Tensor] = {}
        for site, entry in self.sites.items():
            for part in ("frame", "knots_t", "knots", "mean", "scale", "full", "full_frame"):
                value = getattr(entry, part)
                if value is not None:
                    tensors[f"{site}.{part}"] = value
        if self.behaviour is not None:
            tensors["behaviour.knots_t"] = self.behaviour.knots_t
            tensors["behaviour.distributions"] = self.behaviour.distributions
        if self._display is not None:
            for part in ("axes", "origin", "points", "point_t"):
                tensors[f"display.{part}"] = getattr(self._display, part)
        about = {
            "format": FORMAT,
            **self.info.model_dump(),
            "entries": {site: {"bins": entry.bins, "floor": entry.floor} for site, entry in self.sites.items()},
            "display_variance": self._display.variance if self._display is not None else [],
            "measured": self.measured,
            # What the catalogue shows of it.
            "facts": {k: v for k, v in self.measured.items() if isinstance(v, (str, int, float))},
            "gates": self.measured.get("gates", []),
        }
        tensors = {key: value.detach().cpu().contiguous().clone() for key, value in tensors.items()}
        save_file(tensors, folder / "manifold.safetensors.new")
        (folder / "manifold.json.new").write_text(json.dumps(about, indent=1, ensure_ascii=False) + "\n")
        for name in ("manifold.safetensors", "manifold.json"):
            os.replace(folder / f"{name}.new", folder / name)
        return folder

    @classmethod
    def load(cls, folder: Path | str) -> SteerableManifold:
        """Read a folder; NotFound where it is absent, Corrupt where it does not hold what it says."""
        folder = Path(folder)
        if not (folder / "manifold.json").is_file():
            raise NotFound(
                f"A manifold was asked for at {folder.name}.", "There is no manifold.json in that folder.",
                "Choose a manifold that the capabilities list.",
            )  # fmt: skip
        try:
            about = json.loads((folder / "manifold.json").read_text())
            tensors = load_file(folder / "manifold.safetensors")
            sites = {}
            for site, extra in about["entries"].items():
                parts = {
                    part: tensors[f"{site}.{part}"]
                    for part in ("frame", "knots_t", "knots", "mean", "scale", "full", "full_frame")
                    if f"{site}.{part}" in tensors
                }
                sites[site] = SiteEntry(**parts, bins=extra.get("bins"), floor=extra.get("floor", 0.0))
            behaviour = display = None
            info = ManifoldInfo.model_validate({k: v for k, v in about.items() if k in ManifoldInfo.model_fields})
            if "behaviour.distributions" in tensors:
                behaviour = BehaviourManifold(
                    tensors["behaviour.distributions"], tensors["behaviour.knots_t"], kind=info.kind
                )
            if "display.axes" in tensors:
                parts = {part: tensors[f"display.{part}"] for part in ("axes", "origin", "points", "point_t")}
                display = Display(**parts, variance=about.get("display_variance", []))
            return cls(info, sites, behaviour=behaviour, display=display, measured=about.get("measured"))
        except (KeyError, TypeError, ValueError, OSError, SafetensorError, ValidationError, AtlasError) as error:
            raise Corrupt(
                f"The manifold in {folder.name} was to be read.",
                f"Its files do not hold what a manifold holds: {type(error).__name__}: {str(error)[:200]}.",
                "Make it again with its recipe or study, or remove the folder.",
            ) from error


def _triples(xyz: torch.Tensor) -> list[tuple[float, float, float]]:
    return [tuple(round(float(v), 5) for v in row) for row in xyz]


def manifold_folders() -> dict[str, Path]:
    """Name to folder of every manifold on disk; one that a user made hides a shipped one of the same name."""
    found: dict[str, Path] = {}
    for root in (assets_dir() / "manifolds", atlas_home() / "manifolds"):
        if root.is_dir():
            found |= {path.parent.name: path.parent for path in sorted(root.glob("*/manifold.json"))}
    return found


def list_manifolds() -> tuple[list[ManifoldInfo], list[str]]:
    """What can be looked at, and the folders that could not be read, each with its reason."""
    infos, skipped = [], []
    for name, folder in manifold_folders().items():
        try:
            infos.append(SteerableManifold.load(folder).info)
        except AtlasError as error:
            skipped.append(f"{name}: {error.true}")
    return infos, skipped


def load_manifold(name: str) -> SteerableManifold:
    """The manifold of this name; raises NotFound with the names there are."""
    folders = manifold_folders()
    if name not in folders:
        raise NotFound(
            f"The manifold {name!r} was asked for.", f"There are {', '.join(folders) or 'none'}.",
            "Choose one of these, or fit one with its recipe.",
        )  # fmt: skip
    return SteerableManifold.load(folders[name])
