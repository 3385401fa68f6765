"""How a ring of ``tabletop-sdxl`` is fitted from scenes of known factor, and which sites are chosen to steer it.

Rendered scenes are encoded, noised to each sampler time and shown to the UNet; at a site the activations x (N, T, d)
are regressed on the factor's harmonics, position by position:

    x_p(θ) = m_p + Σ_{h=1,2} ( a_ph cos hθ + b_ph sin hθ )

so the ring is a closed curve in (positions × channels): a light direction is a *picture* of where the shadow falls, not
one vector that is the same at every position. The frame F (d, k) is the leading principal axes of the curve over all
positions and times; targets are τ_p(θ) = m_p F + gain · (x_p(θ) − m_p) F. Sites and gain are chosen by causal effect:
the read-back error when the ring is clamped there, on prompts and seeds that no study uses.

Not covered: rings found without labels (``tabletop_blocks``).
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from backend.activations.point_set import install
from backend.activations.site import Site
from backend.core.device import autocast
from backend.core.settings import assets_dir
from backend.manifolds.site_entry import SiteEntry
from backend.manifolds.steerable import SteerableManifold
from backend.manifolds.store import save_manifold
from backend.models.diffusion import ImageAdapter
from backend.models.reader import FactorReader
from backend.models.registry import load
from backend.recipes.tabletop_activations import scenes
from backend.recipes.tabletop_sdxl import captions, circular_gap
from backend.recipes.tabletop_vae import encode, to_model
from backend.steering.batch import render_many
from backend.steering.image import ImageSteerer
from backend.steering.plan import Together
from backend.wire.canvas import ImageRequest, Steer
from backend.wire.capabilities import ManifoldInfo, Tick

TIMES = (259, 499, 759, 999)
"""Training timesteps of the four few-step samples: one curve for each."""
EDGES = (0.33, 0.63, 0.88, 1.0)
"""Upper edges of the bins of sampler time that those curves serve."""
N_KNOTS = 24
RANK = 6
GAINS = (1.0, 1.5, 2.0, 3.0, 4.0)
VALIDATION = ("a sphere", "a cone on a table", "a photo of a cube", "one cylinder on a plain table")
FACTORS = {
    "light_azimuth": (
        "light-azimuth",
        "Light direction",
        "Where the light comes from, all the way round. No prompt names it.",
    ),
    "hue": ("hue-labelled", "Hue (fitted from labels)", "The hue of the object, all the way round the colour circle."),
    "yaw": (
        "yaw-labelled",
        "Yaw (fitted from labels)",
        "How the object is turned on the table; the pale band shows it.",
    ),
}


@torch.inference_mode()
def activations(
    adapter: ImageAdapter, images: np.ndarray, factors: dict[str, np.ndarray], sites: Sequence[str], *,
    times: Sequence[int] = TIMES, few_step: bool = True, seed: int = 0, batch: int = 64,
    progress: Callable[[float], None] | None = None,
) -> dict[str, list[Tensor]]:  # fmt: skip
    """Activations ``(N, T, d)`` of noised scenes at each site, one entry a time; captions as in training."""
    unet = adapter.unet_lcm if few_step and adapter.unet_lcm is not None else adapter.unet
    model = f"{adapter.name}-lcm" if unet is adapter.unet_lcm else adapter.name
    points = install(adapter, sites)
    named = {site: str(Site.parse(site, model=adapter.name).on(model)) for site in sites}
    texts = [row[0] for row in captions(factors, n=1, seed=seed + 5)]
    alphas = adapter.scheduler.alphas_cumprod
    found: dict[str, list[list[Tensor]]] = {site: [[] for _ in times] for site in sites}
    chunks = range(0, len(images), batch)
    for step, start in enumerate(chunks):
        rows = slice(start, start + batch)
        with autocast(adapter.device):
            z = encode(adapter.vae, to_model(torch.from_numpy(images[rows])).to(adapter.device))
            embeds, pooled = adapter.encode_prompt(texts[rows])
            for i, t in enumerate(times):
                generator = torch.Generator().manual_seed(seed * 1_000_003 + start * 31 + t)
                noise = torch.randn(z.shape, generator=generator).to(z)
                noisy = alphas[t].sqrt() * z + (1 - alphas[t]).sqrt() * noise
                with points.reading(list(named.values())) as seen:
                    unet(
                        noisy, torch.tensor(t, device=z.device), embeds,
                        added_cond_kwargs={"text_embeds": pooled, "time_ids": adapter.time_ids(len(z))},
                    )  # fmt: skip
                for site, name in named.items():
                    found[site][i].append(seen[name][0].float().cpu())
        if progress:
            progress((step + 1) / len(chunks))
    return {site: [torch.cat(parts) for parts in per_time] for site, per_time in found.items()}


def harmonics(angle: Tensor, order: int = 2) -> Tensor:
    """``(N, 2·order)``: cos and sin of each multiple of ``angle``."""
    return torch.cat([f(h * angle)[:, None] for h in range(1, order + 1) for f in (torch.cos, torch.sin)], 1)


def ring_entry(per_time: Sequence[Tensor], angle: Tensor, *, rank: int = RANK) -> tuple[SiteEntry, list[float]]:
    """The ring at one site and, for each time, the share of the activations' variance that it explains."""
    at = torch.arange(N_KNOTS) / N_KNOTS
    design, grid = harmonics(angle.float()), harmonics(2 * math.pi * at)
    centre = design.mean(0)
    curves, means, shares = [], [], []
    for x in per_time:
        mean = x.mean(0)
        flat = (x - mean).flatten(1)
        weights = torch.linalg.lstsq(design - centre, flat).solution
        shares.append((((design - centre) @ weights).square().sum() / flat.square().sum()).item())
        curves.append(((grid - centre) @ weights).view(N_KNOTS, *x.shape[1:]))
        means.append(mean)
    stacked = torch.cat([(c / c.norm()).flatten(0, 1) for c in curves])
    frame = torch.linalg.svd(stacked.T @ stacked).U[:, :rank].contiguous()
    entry = SiteEntry(
        frame=frame, knots_t=at, knots=torch.stack([c @ frame for c in curves]),
        mean=torch.stack([m @ frame for m in means]), scale=torch.ones(len(per_time)), bins=list(EDGES),
    )  # fmt: skip
    return entry, shares


def with_gain(entry: SiteEntry, gain: float) -> SiteEntry:
    """The same ring, ``gain`` times as far from its centre (the stored scale divides it)."""
    return SiteEntry(**{**vars(entry), "scale": entry.scale / gain})


def info(factor: str, sites: Sequence[str], **extra) -> ManifoldInfo:
    name, title, description = FACTORS[factor]
    ticks = [Tick(t=i / 8, label=f"{i * 45}°") for i in range(8)]
    return ManifoldInfo(
        name=name, title=title, model="tabletop-sdxl", kind="ring", sites=list(sites), unit="°", ticks=ticks,
        factor=factor,
        description=description, prompts=["a red cube on a table", "a blue sphere"], **extra,
    )  # fmt: skip


def steerer_for(adapter: ImageAdapter, table: dict[str, SteerableManifold], reader: FactorReader) -> ImageSteerer:
    """A steerer over manifolds in memory, with full batches."""
    from backend.steering.stages import NoCache

    class Kept(NoCache):
        """Unsteered runs and embeddings are shared by every arm of a study."""

        def __init__(self) -> None:
            self.values: dict = {}

        def get(self, key):
            return self.values.get(key)

        def put(self, key, value, n_bytes: int) -> None:
            if key[0] in ("off", "text"):
                self.values[key] = value

    return ImageSteerer(adapter, reader, manifolds=table.__getitem__, cache=Kept(), batching=Together(), max_batch=32)


def errors(steerer: ImageSteerer, name: str, *, prompts: Sequence[str], seeds: Sequence[int], targets: Sequence[float],
           strength: float = 1.0, steps: int = 4, arms: Sequence[str] = ("manifold",),
           progress: Callable[[float], None] | None = None) -> dict[str, Tensor]:  # fmt: skip
    """Read-back error in degrees of each arm over prompts × seeds × targets, ``(n,)``; ``moved/FACTOR`` beside it."""
    requests = [
        ImageRequest(
            prompt=p, seed=s, steps=steps, arms=list(arms), steer=[Steer(manifold=name, t=t, strength=strength)]
        )
        for p in prompts for s in seeds for t in targets
    ]  # fmt: skip
    found: dict[str, list[float]] = {}
    for request, done in zip(requests, render_many(steerer, requests, progress=progress), strict=True):
        for picture in done.pictures:
            back = picture.read_back
            gap = circular_gap(torch.tensor(back.landed * 2 * math.pi), torch.tensor(request.steer[0].t * 2 * math.pi))
            found.setdefault(picture.arm, []).append(math.degrees(float(gap)))
            for factor, share in back.moved.items():
                found.setdefault(f"{picture.arm}:moved/{factor}", []).append(share)
    return {k: torch.tensor(v) for k, v in found.items()}


def fit(
    adapter: ImageAdapter, reader: FactorReader, factor: str, *, n: int = 1200, seed: int = 0,
    progress: Callable[[float, str], None] = lambda share, words: None,
) -> SteerableManifold:  # fmt: skip
    """The ring of ``factor`` at the sites that move it."""
    # The base UNet's names; its few-step twin has the same sites and is what is read and steered.
    candidates = [s for s in adapter.site_names() if s.endswith("#update") and s.startswith(f"{adapter.name}/")]
    images, factors = scenes("train", n, seed=seed)
    progress(0.02, "reading activations")
    seen = activations(
        adapter,
        images,
        factors,
        candidates,
        seed=seed,
        progress=lambda p: progress(0.02 + 0.3 * p, "reading activations"),
    )
    angle = torch.from_numpy(factors[factor]).float()
    entries, shares = {}, {}
    for site, per_time in seen.items():
        entries[site], shares[site] = ring_entry(per_time, angle)
    del seen
    chosen, gain, table = choose(
        adapter,
        reader,
        factor,
        entries,
        seed=seed,
        progress=lambda p: progress(0.35 + 0.65 * p, "choosing sites by causal effect"),
    )
    measured = {
        "n_scenes": n, "seed": seed, "gain": gain, "variance_share": {s: shares[s] for s in chosen}, "selection": table,
        "validation_error_deg": min(row["error_deg"] for row in table), "n_sites": len(chosen),
    }  # fmt: skip
    return SteerableManifold(info(factor, chosen), {s: with_gain(entries[s], gain) for s in chosen}, measured=measured)


def choose(adapter, reader, factor: str, entries: dict[str, SiteEntry], *, seed: int, progress=lambda share: None,
           amplify: Callable[[SiteEntry, float], SiteEntry] = with_gain):  # fmt: skip
    """Sites and gain of least median read-back error on validation prompts; returns them with the whole table.

    First every site alone at the middle gain, then growing sets of the best sites at every gain.
    """
    seeds, targets = (90_001 + seed, 90_002 + seed, 90_003 + seed), [i / 6 for i in range(6)]
    table: list[dict] = []

    def trial(sites: Sequence[str], gain: float) -> float:
        manifold = SteerableManifold(info(factor, sites), {s: amplify(entries[s], gain) for s in sites})
        steerer = shared[0] = shared[0] or steerer_for(adapter, {}, reader)
        steerer.manifolds = {manifold.name: manifold}.__getitem__
        gap = errors(steerer, manifold.name, prompts=VALIDATION, seeds=seeds, targets=targets)["manifold"]
        table.append(
            {"sites": list(sites), "gain": gain, "error_deg": gap.median().item(), "mean_deg": gap.mean().item()}
        )
        return table[-1]["mean_deg"]

    shared: list = [None]
    alone = {}
    for i, site in enumerate(entries):
        alone[site] = trial([site], 2.0)
        progress(0.5 * (i + 1) / len(entries))
    ranked = sorted(alone, key=alone.get)
    sets = [ranked[:n] for n in dict.fromkeys((1, 3, 5, 8, len(ranked))) if n <= len(ranked)]
    trials = [(s, g) for s in sets for g in GAINS]
    for i, (sites, gain) in enumerate(trials):
        trial(sites, gain)
        progress(0.5 + 0.5 * (i + 1) / len(trials))
    best = min(table, key=lambda row: row["error_deg"] + row["mean_deg"])
    order = [s for s in entries if s in best["sites"]]
    return order, best["gain"], table


def train(out: Path | None = None, *, factor: str = "light_azimuth", seed: int = 0, n: int = 1200,
          progress: Callable[[float, str], None] = lambda share, words: None) -> Path:  # fmt: skip
    """Fit one factor's ring and save it; returns its folder."""
    adapter = load("tabletop-sdxl")
    reader = FactorReader.from_pretrained(assets_dir() / "models" / "tabletop-reader").eval()
    made = fit(adapter, reader, factor, n=n, seed=seed, progress=progress)
    return save_manifold(made, out or assets_dir() / "manifolds" / made.name)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--factor", choices=list(FACTORS), default="light_azimuth")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--n", type=int, default=1200)
    args = parser.parse_args()
    folder = train(
        args.out, factor=args.factor, seed=args.seed, n=args.n, progress=lambda p, w: print(f"{p:.2f} {w}", flush=True)
    )
    print(json.dumps(json.loads((folder / "manifold.json").read_text())["measured"]["selection"], indent=0))
