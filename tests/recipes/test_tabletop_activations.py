"""Activations of the tabletop models on scenes: the UNet under noise, the transformer's patches alone."""

from __future__ import annotations

import torch

from backend.models.vision import VisionAdapter
from backend.recipes import tabletop_activations as activations
from backend.recipes.tabletop_dino import to_pixels


def test_the_unet_is_read_on_noised_latents(sdxl, pictures):
    texts = activations.wordings(pictures[1], seed=0)
    x = activations.harvest_image(sdxl, "tabletop-sdxl/up.1.0#update", pictures[0][:6], texts[:6], batch=3)
    assert x.shape == (6 * len(activations.TIMES), 64, 64)
    again = activations.harvest_image(sdxl, "tabletop-sdxl/up.1.0#update", pictures[0][:3], texts[:3], batch=3)
    # Rows of one scene stand together, one for each time; noise depends on seed, time and batch alone.
    assert torch.allclose(x[: 3 * len(activations.TIMES)], again, atol=1e-5)
    assert not torch.allclose(x[0], x[1], atol=1e-3)


def test_the_transformer_gives_patches_only(pictures):
    from transformers import DINOv3ViTConfig, DINOv3ViTModel

    config = DINOv3ViTConfig(image_size=128, patch_size=16, hidden_size=32, intermediate_size=64, num_hidden_layers=2,
                             num_attention_heads=2, num_register_tokens=4, pos_embed_rescale=None)  # fmt: skip
    model = DINOv3ViTModel(config).eval()
    adapter = VisionAdapter(model, name="tabletop-dino")
    x = activations.harvest_vision(adapter, "tabletop-dino/1#resid_post", pictures[0][:4], batch=3)
    assert x.shape == (4, 64, 32)
    with torch.no_grad():
        hidden = model(to_pixels(pictures[0][:4]), output_hidden_states=True).hidden_states[-1]
    assert torch.allclose(x, hidden[:, 5:], atol=1e-4)
