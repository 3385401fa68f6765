"""The recipe of the block featurizers, end to end on random tiny models: what it reads, writes and refuses to claim."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from backend.featurizers import statistics
from backend.featurizers.browse import BlockBrowser, Layout, list_featurizers
from backend.featurizers.featurizer import Featurizer
from backend.featurizers.grassmannian import Grassmannian
from backend.featurizers.trainer import Training
from backend.manifolds.block_ring import block_codes, block_manifold, fit_block_ring
from backend.models.diffusion import ImageAdapter
from backend.models.random_weights import tiny_sdxl
from backend.models.vision import VisionAdapter
from backend.recipes import tabletop_blocks as recipe
from backend.recipes.tabletop_dino import to_pixels
from backend.worlds import tabletop


@pytest.fixture(scope="module")
def pictures():
    factors = tabletop.sample_factors(24, torch.Generator().manual_seed(0))
    done = tabletop.render(factors, size=128)
    return done.images.numpy(), {k: v.numpy() for k, v in done.factors.items()}


@pytest.fixture(scope="module")
def sdxl():
    return ImageAdapter(tiny_sdxl(), name="tabletop-sdxl")


def test_the_unet_is_read_on_noised_latents(sdxl, pictures):
    texts = recipe.wordings(pictures[1], seed=0)
    x = recipe.harvest_image(sdxl, "tabletop-sdxl/up.1.0#update", pictures[0][:6], texts[:6], batch=3)
    assert x.shape == (6 * len(recipe.TIMES), 64, 64)
    again = recipe.harvest_image(sdxl, "tabletop-sdxl/up.1.0#update", pictures[0][:3], texts[:3], batch=3)
    # Rows of one scene stand together, one for each time; noise depends on seed, time and batch alone.
    assert torch.allclose(x[: 3 * len(recipe.TIMES)], again, atol=1e-5)
    assert not torch.allclose(x[0], x[1], atol=1e-3)


def test_the_transformer_gives_patches_only(pictures):
    from transformers import DINOv3ViTConfig, DINOv3ViTModel

    config = DINOv3ViTConfig(image_size=128, patch_size=16, hidden_size=32, intermediate_size=64, num_hidden_layers=2,
                             num_attention_heads=2, num_register_tokens=4, pos_embed_rescale=None)  # fmt: skip
    model = DINOv3ViTModel(config).eval()
    adapter = VisionAdapter(model, name="tabletop-dino")
    x = recipe.harvest_vision(adapter, "tabletop-dino/1#resid_post", pictures[0][:4], batch=3)
    assert x.shape == (4, 64, 32)
    with torch.no_grad():
        hidden = model(to_pixels(pictures[0][:4]), output_hidden_states=True).hidden_states[-1]
    assert torch.allclose(x, hidden[:, 5:], atol=1e-4)


def test_made_end_to_end(sdxl, pictures, home, tmp_path, monkeypatch):
    monkeypatch.setattr(statistics, "block_map", lambda overlap, seed=0: np.zeros((len(overlap), 2)))
    monkeypatch.setenv("ATLAS_ASSETS", str(tmp_path))
    plan = replace(recipe.PLANS["sdxl"], n_blocks=12, k=3, training=Training(steps=21, batch=128))
    out = tmp_path / "featurizers" / plan.name
    card = recipe.make(plan, sdxl, out=out, manifolds=tmp_path / "manifolds", train=pictures, held=pictures,
                       layout=Layout(n_pool=20, n_cloud=40, min_fired=20), say=lambda text: None)  # fmt: skip
    featurizer = Featurizer.from_pretrained(out)
    assert featurizer.frame_error() < 1e-5 and featurizer.centre.shape == (64, 64)
    assert card["quality"]["r2"] > 0 and set(card["factors"]) == set(tabletop.CYCLIC)
    assert not any(ring["follows"] for ring in card["rings"]), "24 scenes of a random model name no ring"
    blocks = BlockBrowser(out).blocks()
    assert blocks.blocks and blocks.factors == [*tabletop.FACTORS, *tabletop.DERIVED]
    detail, body = BlockBrowser(out).detail(blocks.blocks[0].index)
    assert detail.examples and len(body) > 0
    infos, skipped = list_featurizers()
    assert [i.name for i in infos] == [plan.name] and infos[0].site == plan.site and not skipped
    # A second call finds the training done and gives the same featurizer.
    recipe.make(plan, sdxl, out=tmp_path / "again", manifolds=tmp_path / "manifolds", train=pictures, held=pictures,
                layout=Layout(n_pool=20, n_cloud=40, min_fired=20), say=lambda text: None)  # fmt: skip
    assert torch.allclose(Featurizer.from_pretrained(tmp_path / "again").frame, featurizer.frame, atol=1e-6)


def test_names_are_judged_on_other_scenes():
    """A ring whose coordinate is the hue is named hue; with shuffled hues nothing is claimed."""
    generator = torch.Generator().manual_seed(0)
    hue = 2 * torch.pi * torch.rand(600, generator=generator)
    model = Grassmannian(24, 4, d_block=3, k=1, generator=generator)
    x = 0.1 * torch.randn(600, 4, 24, generator=generator)
    x[:, 1] += 2 * torch.stack([hue.cos(), hue.sin(), 0 * hue], 1) @ model.frame[0].detach()
    model.fit_centring(x)
    model.initialise(model.normalise(x).flatten(0, 1))
    ring = fit_block_ring(model, 0, model.normalise(x).flatten(0, 1))
    factors = {"hue": hue.numpy(), "row": np.arange(600)}
    for other in ("yaw", "light_azimuth"):
        factors[other] = (2 * torch.pi * torch.rand(600, generator=generator)).numpy()
    (named,) = recipe.name_rings(model, [ring], x, factors)
    assert named.factor == "hue" and named.follows and np.degrees(named.name.median_error) < 12
    info = recipe.ring_info(recipe.PLANS["sdxl"], named, "hue-ring")
    assert info.ticks[0].label == "red" and info.ticks[4].label == "green" and info.ticks[4].t == pytest.approx(1 / 3)
    # Once turned to the factor, the ring's coordinate of a scene is its hue.
    code, fired = block_codes(model, 0, model.normalise(x).flatten(0, 1))
    manifold = block_manifold(model, ring, info=info, cloud=code[fired])
    recipe.turn_to_angle(manifold, named.name)
    raw = x @ manifold.entry().frame
    t = manifold.curve().project(manifold.stored(None, raw)[:, 1])[0]
    gap = np.angle(np.exp(1j * (2 * np.pi * t.numpy() - hue.numpy())))
    assert np.degrees(np.median(np.abs(gap))) < 12
    factors["hue"] = np.random.default_rng(0).permutation(factors["hue"])
    (named,) = recipe.name_rings(model, [ring], x, factors)
    assert not named.follows
