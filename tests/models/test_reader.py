"""The factor reader: round trips, geometry of its outputs, the Fréchet distance, and the shipped weights."""

from __future__ import annotations

import json
import math

import pytest
import torch

from backend.core.errors import Invalid
from backend.core.settings import assets_dir
from backend.models.reader import ANGLES, SCALARS, FactorReader, angle_error, frechet_distance, load_reader
from backend.recipes import tabletop_reader as recipe
from backend.worlds.tabletop import render, sample_factors

SHIPPED = assets_dir() / "models" / "tabletop-reader"


@pytest.fixture(scope="module")
def pictures():
    factors = sample_factors(96, torch.Generator().manual_seed(77))
    return render(factors).images.permute(0, 3, 1, 2).float() / 255, factors


def test_saved_and_loaded_readers_agree(tmp_path):
    torch.manual_seed(0)
    reader = recipe.new_reader().eval()
    reader.save_pretrained(tmp_path)
    again = load_reader(tmp_path)
    images = torch.rand(2, 3, 128, 128)
    for a, b in zip(reader(images), again(images), strict=True):
        assert torch.equal(a, b)
    assert again.config.low == reader.config.low and isinstance(again, FactorReader)


def test_reader_is_small_and_fast():
    reader = recipe.new_reader()
    assert sum(p.numel() for p in reader.parameters()) < 2_000_000
    assert recipe.flop(reader) < 300e6


def test_read_inverts_target():
    """Where the network's raw outputs are the targets, ``read`` returns the factors."""
    reader, factors = recipe.new_reader(), sample_factors(50, torch.Generator().manual_seed(0))
    want = reader.target(factors)
    logits = torch.nn.functional.one_hot(want.shape, len(reader.config.shapes)).float() * 9
    perfect = type(want)(logits, want.angles, want.scalars)
    reader.forward = lambda images: perfect
    read = reader.read(torch.zeros(50, 3, 128, 128), batch=50)
    assert torch.equal(read["shape"], factors["shape"])
    for name in ANGLES:
        assert angle_error(read[name], factors[name]).max() < 1e-3
        assert torch.allclose(read[f"{name}_confidence"], torch.ones(50), atol=1e-5)
    for name in SCALARS:
        assert torch.allclose(read[name], factors[name], atol=1e-5)


def test_features_take_other_sizes_and_refuse_other_layouts():
    reader = recipe.new_reader().eval()
    assert reader.features(torch.rand(2, 3, 96, 96)).shape == (2, reader.config.d_features)
    with pytest.raises(Invalid):
        reader.features(torch.rand(2, 128, 128, 3))
    with pytest.raises(Invalid):
        reader.features(torch.zeros(2, 3, 128, 128, dtype=torch.uint8))


def test_angle_error_goes_the_short_way():
    a, b = torch.tensor([0.1, 3.0, 0.0]), torch.tensor([2 * math.pi - 0.1, -3.0, math.pi])
    assert torch.allclose(angle_error(a, b), torch.tensor([0.2, 2 * math.pi - 6, math.pi]), atol=1e-5)


def test_frechet_distance_of_gaussians_is_the_closed_form():
    g = torch.Generator().manual_seed(0)
    a = torch.randn(4000, 3, generator=g).double()
    assert frechet_distance(a, a) < 1e-9
    assert frechet_distance(a, a + torch.tensor([3.0, 0, 4.0])) == pytest.approx(25, rel=1e-6)
    # Diagonal scaling by s: sum over axes of (s - 1)^2 var.
    scaled = (a - a.mean(0)) * torch.tensor([1.0, 2.0, 3.0]) + a.mean(0)
    basis = torch.linalg.qr(torch.randn(3, 3, generator=g).double()).Q
    white = (a - a.mean(0)) @ torch.linalg.inv(torch.linalg.cholesky(torch.cov(a.T))).T
    stretched = white * torch.tensor([1.0, 2.0, 3.0])
    assert frechet_distance(white @ basis, stretched @ basis) == pytest.approx(0 + 1 + 4, rel=1e-6)
    assert frechet_distance(a, scaled) == pytest.approx(frechet_distance(scaled, a), rel=1e-6)
    with pytest.raises(Invalid):
        frechet_distance(a, a[:, :2])


def test_block_quantisation_keeps_flat_pictures_and_coarsens_others():
    flat, noisy = torch.full((1, 3, 16, 16), 0.5), torch.rand(1, 3, 16, 16)
    assert torch.allclose(recipe.quantise_blocks(flat, 0.01), flat, atol=0.01)
    assert torch.allclose(recipe.quantise_blocks(noisy, 1e-6), noisy, atol=1e-4)
    fine, coarse = ((recipe.quantise_blocks(noisy, s) - noisy).abs().mean() for s in (0.01, 0.1))
    assert coarse > 2 * fine > 0


def test_mirrored_factors_describe_the_mirrored_picture():
    factors = sample_factors(6, torch.Generator().manual_seed(4))
    flipped = recipe.mirror(factors, torch.ones(6, dtype=torch.bool))
    a, b = render(factors, size=64).images.float(), render(flipped, size=64).images.float()
    assert (a.flip(2) - b).abs().mean() < 0.7 < (a - b).abs().mean()
    twice = recipe.mirror(flipped, torch.ones(6, dtype=torch.bool))
    assert angle_error(twice["yaw"], factors["yaw"]).max() < 1e-5


def test_one_batch_can_be_learned():
    torch.manual_seed(0)
    reader = recipe.new_reader().train()
    factors = sample_factors(8, torch.Generator().manual_seed(1))
    images = render(factors).images.permute(0, 3, 1, 2).float() / 255
    optimizer = torch.optim.AdamW(reader.parameters(), lr=2e-3)
    losses = []
    for _ in range(12):
        total, parts = recipe.loss_of(reader, images, factors)
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        losses.append(parts["loss"])
    assert losses[-1] < 0.3 * losses[0]


@pytest.mark.skipif(not (SHIPPED / "model.safetensors").exists(), reason="the reader is not trained yet")
def test_shipped_reader_passes_its_gate_on_new_renders(pictures):
    images, truth = pictures
    read = load_reader(SHIPPED).read(images)
    assert (read["shape"] == truth["shape"]).float().mean() >= 0.96
    error = torch.rad2deg(angle_error(read["light_azimuth"], truth["light_azimuth"]))
    assert error.median() <= 5.0
    shuffled = torch.rad2deg(angle_error(read["light_azimuth"], truth["light_azimuth"].roll(1)))
    assert shuffled.median() > 45
    card = json.loads((SHIPPED / "card.json").read_text())
    assert card["passed"] and card["quality"]["n"] >= 1000
