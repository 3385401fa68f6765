"""Activations of the tabletop models on rendered scenes: a transformer's patches, or a UNet's updates under noise.

    tabletop-dino   patch tokens of one layer                                                 (64 × 192 a picture)
    tabletop-sdxl   the update at an 8 × 8 site of the UNet, on its own forward passes over
                    noised latents of rendered scenes, at two sampler times                   (64 × 64 a picture)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from backend.activations.harvest import harvest
from backend.activations.site import Site
from backend.core.device import autocast
from backend.models.adapter import Adapter
from backend.recipes import loop
from backend.recipes.tabletop_vae import encode, to_model
from backend.worlds import tabletop
from backend.worlds.tabletop_captions import caption

TIMES = (259, 499)
"""Training timesteps of the two least noisy few-step samples, where shape and colour are decided."""

Images, Factors = np.ndarray, dict[str, np.ndarray]


def scenes(split: str, n: int, *, seed: int = 0) -> tuple[Images, Factors]:
    """``n`` scenes of a rendered split, drawn without replacement and kept in order."""
    images, factors = tabletop.rendered(split)
    rows = np.sort(np.random.default_rng(seed).permutation(len(images))[:n])
    return np.asarray(images[rows]), {k: np.asarray(v)[rows] for k, v in factors.items()}


def wordings(factors: Factors, *, seed: int) -> list[str]:
    """One caption of every scene."""
    values = {k: torch.from_numpy(np.asarray(v)) for k, v in factors.items()}
    generator = torch.Generator().manual_seed(seed)
    return [caption(values, i, generator) for i in range(len(values["shape"]))]


def harvest_vision(adapter: Adapter, site: str, images: Images, *, batch: int = 100) -> Tensor:
    """Patch tokens ``(n, T, d)`` at a layer of a vision transformer, class token and registers left out."""
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])

    def forward(rows: np.ndarray) -> None:
        x = (torch.from_numpy(rows).float() / 255 - mean) / std
        adapter.model(x.permute(0, 3, 1, 2).to(adapter.device, adapter.dtype))

    batches = (images[i : i + batch] for i in range(0, len(images), batch))
    skip = adapter.n_prefix
    found = harvest(adapter, [site], batches, forward, select=lambda x: x[:, skip:])
    return torch.cat([part.x[str(Site.parse(site, model=adapter.name))].float() for part in found])


def harvest_image(adapter: Adapter, site: str, images: Images, texts: Sequence[str], *, times: Sequence[int] = TIMES,
                  seed: int = 0, batch: int = 64) -> Tensor:  # fmt: skip
    """Activations ``(n · times, T, d)`` of the UNet on noised latents of pictures with their captions.

    The rows of one scene stand together, one for each time. The few-step UNet is read where there is one, since it is
    what a drag steers.
    """
    unet, model = adapter.unet, adapter.name
    if getattr(adapter, "unet_lcm", None) is not None:
        unet, model = adapter.unet_lcm, f"{adapter.name}-lcm"
    named = str(replace(Site.parse(site, model=adapter.name), model=model))
    alphas = adapter.scheduler.alphas_cumprod

    def forward(start: int) -> None:
        rows = slice(start, start + batch)
        with autocast(adapter.device):
            z = encode(adapter.vae, to_model(torch.from_numpy(images[rows])).to(adapter.device, adapter.vae.dtype))
            embeds, pooled = adapter.encode_prompt(list(texts[rows]))
            for t in times:
                noise = torch.randn(z.shape, generator=loop.rng(seed, start * 1000 + t)).to(z)
                noisy = alphas[t].sqrt() * z + (1 - alphas[t]).sqrt() * noise
                unet(noisy.to(unet.dtype), torch.tensor(t, device=z.device), embeds,
                     added_cond_kwargs={"text_embeds": pooled, "time_ids": adapter.time_ids(len(z))})  # fmt: skip

    parts = []
    for got in harvest(adapter, [named], range(0, len(images), batch), forward):
        x = got.x[named].float()
        # (calls, n, T, d) to (n, calls, T, d)
        parts.append(x.view(len(times), -1, *x.shape[1:]).transpose(0, 1).flatten(0, 1))
    return torch.cat(parts)


def read(adapter: Adapter, site: str, images: Images, factors: Factors, *, seed: int,
         times: Sequence[int] = TIMES) -> tuple[Tensor, list[str], int]:  # fmt: skip
    """Activations, captions and rows a scene: one for each of ``times`` of a picture model, else one."""
    texts = wordings(factors, seed=seed + 5)
    if adapter.kind == "image":
        return harvest_image(adapter, site, images, texts, times=times, seed=seed), texts, len(times)
    return harvest_vision(adapter, site, images), texts, 1
