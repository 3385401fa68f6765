"""The autoencoder's start and its whitening: properties that do not need training."""

from __future__ import annotations

import torch
from diffusers import AutoencoderTiny
from torch.nn import functional

from backend.recipes.tabletop_vae import config, psnr, start_as_blur, to_model, whiten


def _vae() -> AutoencoderTiny:
    torch.manual_seed(0)
    vae = AutoencoderTiny(**config()).eval()
    start_as_blur(vae)
    return vae


@torch.no_grad()
def test_it_starts_as_a_blur_that_keeps_colours():
    colour = torch.tensor([0.7, -0.4, 0.1]).view(1, 3, 1, 1).expand(1, 3, 128, 128)
    vae = _vae()
    found = vae.decode(vae.encode(colour).latents).sample[..., 48:80, 48:80]
    # The decoder bends large values a little (tanh at a third of its argument), so not exactly.
    assert (found - colour[..., 48:80, 48:80]).abs().max() < 0.06
    torch.manual_seed(0)
    plain = AutoencoderTiny(**config()).eval()
    other = plain.decode(plain.encode(colour).latents).sample[..., 48:80, 48:80]
    assert (other - colour[..., 48:80, 48:80]).abs().max() > 0.3


@torch.no_grad()
def test_whitening_gives_unit_latents_and_leaves_the_linear_part_alone():
    generator = torch.Generator().manual_seed(1)
    x = functional.interpolate(torch.rand(16, 3, 8, 8, generator=generator) * 2 - 1, size=64, mode="bilinear")
    vae = _vae()
    first = vae.decoder.layers[0]
    before = first(vae.encode(x).latents)
    whiten([vae], x)
    z = vae.encode(x).latents
    after = first(z)
    assert z.mean((0, 2, 3)).abs().max() < 1e-3
    assert (z.std((0, 2, 3)) - 1).abs().max() < 1e-2
    inner = (slice(None), slice(None), slice(1, -1), slice(1, -1))
    assert torch.allclose(before[inner], after[inner], atol=1e-4)


def test_psnr_and_bytes():
    x = torch.zeros(2, 3, 8, 8)
    assert torch.allclose(psnr(x, x + 0.2), torch.tensor(20.0), atol=1e-3)
    assert to_model(torch.tensor([[[[0, 255, 128]]]], dtype=torch.uint8)).flatten()[:2].tolist() == [-1.0, 1.0]
