"""The study of cards: planted truth for its readers, what it says of an untrained model, and of none."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from backend.core.errors import Invalid
from backend.core.settings import assets_dir
from backend.studies import base
from backend.studies.cards import language, pictures, vision
from backend.worlds import tabletop
from backend.worlds.calendar import TASKS
from backend.worlds.calendar_tokens import build_tokenizer

IDS = {
    "calendar-accuracy", "calendar-calibration", "inception-curve-units", "reader-shape-accuracy",
    "reader-azimuth-error-deg", "vae-psnr-db", "dino-azimuth-r2", "dino-shape-accuracy", "sdxl-shape-accuracy",
    "sdxl-hue-error-deg", "lcm-shape-accuracy",
}  # fmt: skip


def test_without_models_every_id_is_reported_with_a_reason(home, tmp_path, monkeypatch):
    monkeypatch.setenv("ATLAS_ASSETS", str(tmp_path))
    notes, seen = [], []
    result = base.run_study("cards", notes=notes, progress=lambda f, m: seen.append(f))
    assert {f.id for f in result.findings} == {f"cards/{name}" for name in IDS}
    assert all(f.value is None and f.caveat for f in result.findings) and len(notes) == len(IDS)
    assert not list(home.rglob("*.json"))


def test_an_untrained_language_model_falls_short(tmp_path, monkeypatch):
    monkeypatch.setenv("ATLAS_ASSETS", str(tmp_path))
    tokenizer = build_tokenizer()
    torch.manual_seed(0)
    config = LlamaConfig(vocab_size=len(tokenizer), hidden_size=16, intermediate_size=16, num_hidden_layers=1,
                         num_attention_heads=2, num_key_value_heads=2, max_position_embeddings=128)  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(tmp_path / "models" / "calendar-llama")
    tokenizer.save_pretrained(tmp_path / "models" / "calendar-llama")
    ctx = base.StudyContext("cards", "small", 0, lambda f, m: None, torch.Generator().manual_seed(0))
    accuracy, calibration = language.calendar(ctx, ctx.progress)
    assert accuracy.status == calibration.status == "falls short"
    assert accuracy.value < 0.3 and calibration.value > 0.5
    assert accuracy.low <= accuracy.value <= accuracy.high and accuracy.n in {len(t.prompts()) for t in TASKS.values()}
    # Certain of the true class: right every time, and still off by the mass that belongs to its neighbours.
    assert 0.2 < calibration.controls["always certain of the true class"] < 0.6


def test_ridge_reads_what_is_there_and_not_what_is_not():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(400, 30, generator=generator)
    y = x[:, :2] @ torch.tensor([[1.0, 0.5], [0.0, 2.0]])
    (guess,) = vision.read_off(x[:300], y[:300], x[300:])
    assert torch.allclose(guess, y[300:], atol=0.05)
    (noise,) = vision.read_off(x[:300], torch.randn(300, 1, generator=generator), x[300:])
    assert float(noise.abs().mean()) < 0.6


def test_scenes_are_the_same_wherever_they_come_from(home):
    said = []
    images, factors = vision.scenes(6, 1, "train", said.append)
    assert len(images) == 6 and said == ["rendering 6 scenes, once"]
    tabletop.render_dataset(tabletop.dataset_folder("train"), 8, 1)
    again, again_factors = vision.scenes(6, 1, "train", said.append)
    assert len(said) == 1 and np.array_equal(images, again)
    assert all(np.array_equal(factors[k], again_factors[k]) for k in factors)


def test_a_recipes_gate_becomes_the_aim():
    class Recipe:
        GATE = {"psnr_db": 30}

    assert pictures._aim(Recipe, "psnr_db", ">=") == ">= 30" and pictures._aim(Recipe, "other", ">=") == ""
    assert pictures._aim(object, "psnr_db", ">=") == ""


def test_a_test_split_of_another_world_is_refused(home, monkeypatch):
    monkeypatch.setattr(pictures.tabletop_reader, "N_TEST", 2)
    pictures.ensure_test(lambda m: None)
    monkeypatch.setattr(pictures.tabletop_reader, "N_TEST", 3)
    with pytest.raises(Invalid, match="holds"):
        pictures.ensure_test(lambda m: None)


@pytest.mark.slow
@pytest.mark.skipif(not (assets_dir() / "models" / "calendar-llama").exists(), reason="calendar-llama is not there")
def test_the_shipped_language_model_passes_its_gate():
    ctx = base.StudyContext("cards", "small", 0, lambda f, m: None, torch.Generator().manual_seed(0))
    assert [f.status for f in language.calendar(ctx, ctx.progress)] == ["holds", "holds"]
