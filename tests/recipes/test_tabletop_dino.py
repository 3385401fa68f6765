"""The self-supervised recipe: views are disjoint, dropping patches is exact, probes find what is planted."""

import json
import math

import numpy as np
import pytest
import torch
from transformers import DINOv3ViTConfig, DINOv3ViTModel

from backend.core.settings import assets_dir
from backend.recipes import tabletop_dino as recipe

SHIPPED = assets_dir() / "models" / recipe.NAME


def small_config() -> DINOv3ViTConfig:
    return DINOv3ViTConfig(
        image_size=128, patch_size=16, hidden_size=32, intermediate_size=64, num_hidden_layers=2,
        num_attention_heads=2, num_register_tokens=4, pos_embed_rescale=None,
    )  # fmt: skip


@pytest.fixture
def model() -> DINOv3ViTModel:
    torch.manual_seed(0)
    model = DINOv3ViTModel(small_config()).eval()
    # Larger than initial values, so that attention and positions matter.
    with torch.no_grad():
        for p in model.parameters():
            if p.ndim > 1:
                p.mul_(6)
    return model


def images(n: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (n, 128, 128, 3), dtype=np.uint8)


def test_the_shipped_configuration():
    with torch.device("meta"):
        model = DINOv3ViTModel(recipe.config())
    assert 2.5e6 < sum(p.numel() for p in model.parameters()) < 3e6
    assert (model.config.image_size // model.config.patch_size) ** 2 == 64


def test_pixels_are_what_the_library_normalises():
    x = recipe.to_pixels(np.full((1, 128, 128, 3), 255, np.uint8))
    assert x[0, :, 0, 0].tolist() == pytest.approx([(1 - m) / s for m, s in zip(recipe.MEAN, recipe.STD, strict=True)])


def test_all_patches_in_order_is_the_whole_model(model):
    pixels = recipe.to_pixels(images(2))
    every = torch.arange(64).expand(2, -1)
    with torch.no_grad():
        tokens = recipe.encode_visible(model, pixels, recipe.patches_of(pixels), every)
        assert torch.allclose(tokens, model(pixels).last_hidden_state, atol=1e-4)


def test_dropped_patches_do_not_matter_and_positions_travel(model):
    pixels = recipe.to_pixels(images(2))
    patches = recipe.patches_of(pixels)
    index = torch.tensor([[3, 40, 17], [9, 0, 63]])
    with torch.no_grad():
        tokens = recipe.encode_visible(model, pixels, patches, index)
        other = patches.clone()
        other[0, 5] += 1
        assert torch.equal(recipe.encode_visible(model, pixels, other, index), tokens)
        # The order of the visible patches is no information ...
        turned = recipe.encode_visible(model, pixels, patches, index.flip(1))
        assert torch.allclose(turned[:, 5:].flip(1), tokens[:, 5:], atol=1e-4)
        # ... but where each one was is.
        content = recipe.pick(patches, index)
        patches[:, :3] = content
        moved = recipe.encode_visible(model, pixels, patches, torch.arange(3).expand(2, -1))
    assert (moved - tokens).abs().max() > 1e-3


def test_two_views_are_disjoint_seeded_and_prefer_content():
    patches = torch.zeros(200, 64, 12)
    patches[:, 20:30] = 3.0
    draw = lambda: recipe.two_views(patches, 10, torch.Generator().manual_seed(0))  # noqa: E731
    a, b = draw()
    assert torch.equal(a, draw()[0])
    both = torch.cat([a, b], dim=1).sort(dim=1).values
    assert (both.diff(dim=1) > 0).all() and both.shape == (200, 20)
    share = ((both >= 20) & (both < 30)).float().mean()
    assert share > 1.5 * 10 / 64
    assert set(both.flatten().tolist()) == set(range(64))


def test_sigreg_prefers_a_standard_gaussian():
    draw = torch.Generator().manual_seed(0)
    p = torch.randn(256, 16, generator=draw)
    score = lambda x: float(recipe.sigreg(x, torch.Generator().manual_seed(1)))  # noqa: E731
    assert score(p) < 1.0
    assert score(torch.zeros_like(p)) > 20 * score(p)
    assert score(3 * p) > 5 * score(p)
    flat = p.clone()
    flat[:, 8:] = 0
    assert score(flat) > 2 * score(p)


def test_loss_falls_when_one_picture_is_learned(monkeypatch):
    torch.manual_seed(0)
    model, pretext = DINOv3ViTModel(small_config()), recipe.Pretext(d=32)
    optimizer = torch.optim.Adam([*model.parameters(), *pretext.parameters()], lr=3e-3)
    ramp = np.linspace(0, 255, 128)[None, :, None, None] * np.ones((2, 1, 128, 3))
    pixels = recipe.to_pixels(ramp.astype(np.uint8))
    pretext.mean += float(pixels.mean())
    values = []
    for i in range(15):
        total, parts = recipe.loss(model, pretext, pixels, torch.Generator().manual_seed(i), n_view=12)
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        values.append(float(parts["pixel"]))
    assert values[-1] < 0.6 * values[0]


def test_training_is_resumable_and_saved(tmp_path, monkeypatch):
    monkeypatch.setenv("ATLAS_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(recipe, "config", small_config)
    folder = recipe.train(tmp_path / "out", steps=2, batch=4, images=images(8), device=torch.device("cpu"))
    model = DINOv3ViTModel.from_pretrained(folder)
    again = recipe.train(tmp_path / "again", steps=2, batch=4, images=images(8), device=torch.device("cpu"))
    # The second call finds the finished checkpoint and trains no further.
    other = DINOv3ViTModel.from_pretrained(again)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), other.parameters(), strict=True))
    assert json.loads((folder / "preprocessor_config.json").read_text())["size"] == {"height": 128, "width": 128}
    assert recipe.patch_tokens(model, images(3)).shape == (3, 64, 32)


def test_ridge_in_dual_form_is_ridge():
    draw = torch.Generator().manual_seed(0)
    x, y, x_test = (torch.randn(*s, generator=draw) for s in ((40, 7), (40, 2), (5, 7)))
    (guess,) = recipe.ridge(x, y, x_test, [1e-2])
    centred = (x - x.mean(0)).double()
    penalty = 1e-2 * float((centred @ centred.T).diagonal().mean())
    w = torch.linalg.solve(centred.T @ centred + penalty * torch.eye(7), centred.T @ (y - y.mean(0)).double())
    assert torch.allclose(guess.double(), (x_test - x.mean(0)).double() @ w + y.mean(0), atol=1e-4)


def test_probe_reads_planted_factors_and_nothing_else():
    draw = np.random.default_rng(0)
    n, m = 600, 200
    factors = {
        "shape": draw.integers(0, 6, n + m),
        "light_azimuth": draw.uniform(0, 2 * math.pi, n + m),
        "size": draw.uniform(0.7, 1.1, n + m),
    }
    code = torch.tensor(
        np.stack([np.sin(factors["light_azimuth"]), np.cos(factors["light_azimuth"])], 1), dtype=torch.float32
    )
    one_hot = torch.nn.functional.one_hot(torch.tensor(factors["shape"]), 6).float()
    x = torch.cat([code, one_hot], 1) @ torch.randn(8, 30, generator=torch.Generator().manual_seed(0))
    part = lambda s: {k: v[s] for k, v in factors.items()}  # noqa: E731
    scores = recipe.probe(x[:n], part(slice(n)), x[n:], part(slice(n, None)))
    assert scores["light_azimuth_r2"] > 0.99 and scores["shape_accuracy"] > 0.99
    assert scores["size_r2"] < 0.1


@pytest.mark.skipif(not (SHIPPED / "card.json").exists(), reason="the weights are not there")
def test_shipped_weights_load_and_beat_their_controls():
    card = json.loads((SHIPPED / "card.json").read_text())
    model = DINOv3ViTModel.from_pretrained(SHIPPED)
    assert sum(p.numel() for p in model.parameters()) == card["n_parameters"]
    assert model.config.num_register_tokens == 4
    for control in card["controls"].values():
        for key in ("light_azimuth_r2", "shape_accuracy"):
            assert card["quality"][key] > control[key] + 0.05


def test_the_rate_restarts_once_and_ends_low():
    assert recipe.rate(recipe.RESTART - 1, 4000) < 0.05 * recipe.PEAK
    assert recipe.rate(recipe.RESTART + 100, 4000) == pytest.approx(recipe.PEAK, rel=1e-3)
    assert recipe.rate(3999, 4000) < 0.05 * recipe.PEAK
    assert recipe.rate(49, 50) == pytest.approx(0.5 * recipe.PEAK), "a short run only warms up"
