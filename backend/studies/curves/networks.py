"""The networks of the study and what is read from them: one layer to featurize, the next to watch when it is changed.

    pixels (N, 1, 64, 64)  → upto →  map at the site (N, d, h, w)  → onward →  map of the next layer

Read at the middle of the map (mean of the central places, as the tuning curves of ``curve-inception`` are). ``Sweep``
holds responses to curves turned through the circle at two sets of radii, widths and contrasts: one to fit on, one
(moved by up to a pixel, with noise) to judge on. Curve units are those of ``backend.recipes.curve_tuning``: their
definition uses the orientation, the search for blocks does not.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from backend.core.settings import assets_dir, realdata_dir
from backend.models.inception import CurveInception
from backend.recipes.curve_inception_quality import untrained
from backend.recipes.curve_tuning import curve_units
from backend.studies.curves.squeezenet import SqueezeNet
from backend.worlds import curves, curves_render

FIT = {"radius": (8.0, 11.0, 15.0, 20.0), "width": (2.5,), "contrast": (0.4, -0.4)}
JUDGE = {"radius": (9.5, 13.0, 17.5), "width": (3.2,), "contrast": (0.33, -0.33)}


@dataclass(frozen=True)
class Network:
    """A network cut at a site."""

    name: str
    prefix: str
    """What its findings' ids begin with."""
    site: str
    next_site: str
    upto: Callable[[Tensor], Tensor]
    onward: Callable[[Tensor], Tensor]
    bare: Callable[[int], Network] | None = None
    """An untrained copy from a seed."""

    @torch.no_grad()
    def maps(self, pixels: Tensor, *, batch: int = 120) -> Tensor:
        """Activations (N, d, h, w) at the site."""
        return torch.cat([self.upto(part) for part in pixels.split(batch)])

    @torch.no_grad()
    def following(self, maps: Tensor, *, batch: int = 120) -> Tensor:
        """Middle of the next layer (N, d') for activations at the site."""
        return torch.cat([middle(self.onward(part)) for part in maps.split(batch)])


def middle(x: Tensor) -> Tensor:
    """Mean of the central places (N, d) of a map (N, d, h, w): four of an even map, one of an odd one."""
    h, w = x.shape[-2:]
    return x[..., (h - 1) // 2 : h // 2 + 1, (w - 1) // 2 : w // 2 + 1].mean(dim=(2, 3)).float()


def inception(model: CurveInception, bare: Callable[[int], Network] | None = None) -> Network:
    """``mixed3b`` of a ``CurveInception``, with ``mixed4a`` behind it."""
    return Network(
        "curve-inception", "", "mixed3b", "mixed4a",
        lambda pixels: model.features(pixels, until="mixed3b")["mixed3b"],
        lambda maps: model.mixed4a(model.pool(maps)), bare,
    )  # fmt: skip


def squeezenet(model: SqueezeNet, *, copies: bool = True) -> Network:
    """``features.7`` of SqueezeNet, with ``features.9`` behind it."""
    return Network(
        "squeezenet1_1", "squeezenet-", "features.7", "features.9", lambda pixels: model.features(pixels, 7),
        lambda maps: model.between(maps, 8, 9),
        (lambda seed: squeezenet(model.untrained(torch.Generator().manual_seed(seed)), copies=False)) if copies
        else None,
    )  # fmt: skip


def present() -> tuple[list[Network], dict[str, str]]:
    """The networks that are here, and why a prefix's network is not."""
    found, absent = [], {}
    folder = assets_dir() / "models" / "curve-inception"
    if (folder / "model.safetensors").is_file():
        model = CurveInception.from_pretrained(folder).eval()
        found.append(inception(model, lambda seed: inception(untrained(seed=1 + seed))))
    else:
        absent[""] = "curve-inception is not among the assets: manifold-atlas train curve-inception"
    real = realdata_dir()
    if real and (real / "squeezenet1_1" / "model.safetensors").is_file():
        found.append(squeezenet(SqueezeNet.from_folder(real / "squeezenet1_1")))
    else:
        absent["squeezenet-"] = "ATLAS_REALDATA holds no squeezenet1_1/model.safetensors"
    return found, absent


@dataclass(frozen=True)
class Sweep:
    """Curves turned through the circle: ``theta`` (M,), pictures and middle responses by setting."""

    theta: Tensor
    pixels: Tensor
    """(S, M, 1, 64, 64)."""
    x: Tensor
    """(S, M, d) at the site."""
    following: Tensor
    """(S, M, d') at the next layer."""


def turned(network: Network, stimuli: dict[str, tuple[float, ...]], step_deg: float, *,
           generator: torch.Generator | None = None, lines: bool = False) -> Sweep:  # fmt: skip
    """Every combination of ``stimuli`` at 360 / step orientations; a ``generator`` moves each and adds noise."""
    theta, pixels = curves.sweep_angles(step_deg), []
    for radius in (None,) if lines else stimuli["radius"]:
        for width in stimuli["width"]:
            for contrast in stimuli["contrast"]:
                more = {} if radius is None else {"radius": radius}
                if generator is not None:
                    more["position"] = 2 * torch.rand(len(theta), 2, generator=generator) - 1
                render = curves_render.render_lines if lines else curves_render.render_curves
                drawn = render(theta, width=width, contrast=contrast, **more)
                if generator is not None:
                    drawn = (drawn + 0.03 * torch.randn(drawn.shape, generator=generator)).clamp(0, 1)
                pixels.append(drawn)
    x, following = zip(*(_both(network, drawn) for drawn in pixels))
    return Sweep(theta, torch.stack(pixels), torch.stack(x), torch.stack(following))


def _both(network: Network, pixels: Tensor) -> tuple[Tensor, Tensor]:
    maps = network.maps(pixels)
    return middle(maps), network.following(maps)


@dataclass(frozen=True)
class Bench:
    """All that is read from a network before any featurizer: sweeps, unlabelled stimuli, and its curve units."""

    network: Network
    rows: Tensor
    """(N, d) activations at places of the map over the mixture of stimuli: what featurizers are trained on."""
    probe: Tensor
    """(n, d) middles of curves at random orientation, radius, width, contrast and position; no label is kept."""
    fit: Sweep
    judge: Sweep
    units: Tensor
    """Curve units of the site."""
    next_units: Tensor
    """Curve units of the next layer."""
    half_width: float
    """Mean share of the circle on which a curve unit is above half of its maximum."""

    @classmethod
    def of(cls, network: Network, *, n_stimuli: int, n_probe: int, step_deg: float, seed: int,
           places: int = 16, all_units: bool = False) -> Bench:  # fmt: skip
        """Read a network; ``all_units`` takes every unit that answers to curves (for an untrained copy)."""
        draw = torch.Generator().manual_seed(90_001 + seed)
        rows = []
        for part in range(0, n_stimuli, 200):
            pixels = curves.sample(min(200, n_stimuli - part), draw).pixels
            x = network.maps(pixels).flatten(2).transpose(1, 2)
            place = torch.rand(x.shape[:2], generator=draw).topk(min(places, x.shape[1]), 1).indices
            rows.append(x.gather(1, place[..., None].expand(-1, -1, x.shape[-1])).flatten(0, 1))
        probe = middle(network.maps(curves.sample(n_probe, draw, kind="curve", jitter=2.0, noise=0.03).pixels))
        fit = turned(network, FIT, step_deg)
        judge = turned(network, JUDGE, step_deg, generator=draw)
        line = turned(network, JUDGE, step_deg, generator=draw, lines=True)
        texture = _both(network, curves.sample(240, draw, kind="texture", noise=0.03).pixels)
        chosen, width = [], 1.0
        for i, layer in enumerate(("x", "following")):
            arc = getattr(judge, layer).mean(0)
            judged = curve_units(getattr(fit, layer).mean(0), arc, getattr(line, layer).mean(0), texture[i])
            answers = (arc.std(0) > 1e-6) & (getattr(fit, layer).mean(0).std(0) > 1e-6)
            counts = answers if all_units else judged["counts"] & answers
            chosen.append(counts.nonzero()[:, 0])
            if i == 0 and len(chosen[0]):
                width = float(judged["width"][chosen[0]].mean())
        return cls(network, torch.cat(rows), probe, fit, judge, chosen[0], chosen[1], width)
