"""The study of sinks: planted sinks are found, absent models are reported, the negative control stays low."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers import DINOv3ViTConfig, DINOv3ViTModel, LlamaConfig, LlamaForCausalLM

from backend.core.settings import realdata_dir
from backend.models.registry import load
from backend.studies import base
from backend.studies.first_sinks import language, vision
from backend.worlds.calendar_tokens import build_tokenizer


def quiet(*_):
    return None


def save_llama(folder, *, sink: float) -> None:
    """A one-layer Llama; with ``sink`` > 0 every query of head 0 looks at the BOS token."""
    torch.manual_seed(0)
    tokenizer = build_tokenizer()
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=2, max_position_embeddings=128, bos_token_id=1,
    )  # fmt: skip
    model = LlamaForCausalLM(config).eval()
    with torch.no_grad():
        embed, attention = model.model.embed_tokens.weight, model.model.layers[0].self_attn
        embed[:] = torch.randn(embed.shape, generator=torch.Generator().manual_seed(1))
        # Feature 0 marks BOS, feature 1 every token; the slowest rotary pair carries the match, so it hardly turns.
        embed[:, 0], embed[:, 1], embed[1, 0] = 0.0, 3.0, 30.0
        slow = 7
        attention.q_proj.weight[:16], attention.k_proj.weight[:16] = 0.0, 0.0
        attention.q_proj.weight[slow, 1] = sink
        attention.k_proj.weight[slow, 0] = sink
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


@pytest.mark.parametrize("sink, low, high", [(8.0, 0.95, 1.0), (0.0, 0.0, 0.08)])
def test_a_planted_first_token_sink_is_found(tmp_path, sink, low, high):
    save_llama(tmp_path / "toy", sink=sink)
    adapter = load(str(tmp_path / "toy"))
    ids = language.story_ids(adapter.tokenizer, 8, 40, torch.Generator().manual_seed(0))
    assert ids.shape == (8, 40) and (ids[:, 0] == 1).all()
    mass = language.first_token_mass(adapter, ids, tell=quiet)
    assert mass.shape == (8, 1, 2) and low <= mass[:, 0, 0].mean() <= high
    fresh = language.first_token_mass(language.fresh_copy(adapter, 0), ids, tell=quiet)
    assert fresh.mean() == pytest.approx(language.uniform_mass(40), abs=0.03)


def test_the_strongest_head_is_chosen_on_one_half_and_measured_on_the_other():
    mass = np.zeros((8, 2, 2))
    mass[:4, 1, 0], mass[4:, 0, 1] = 0.9, 0.8
    (layer, head), held_out = language.strongest(mass)
    assert (layer, head) == (1, 0) and held_out.max() == 0.0


def planted(n=100, *, ratio=0.1, rank=1.0, heads=((0, 1),)) -> vision.Events:
    event = np.zeros((n, 2, 3), bool)
    for layer, head in heads:
        event[:80, layer, head] = True
    full = np.ones((n, 2, 3))
    return vision.Events(event, ratio * full, rank * full, full, event, np.stack([event] * 3))


@pytest.mark.parametrize("ratio, rank, kind", [(0.1, 9.0, "nop"), (0.9, 1.2, "broadcast"), (0.9, 2.0, "other")])
def test_heads_are_classified_by_their_events(ratio, rank, kind):
    found = planted(ratio=ratio, rank=rank, heads=((0, 1), (1, 2)))
    assert vision.classes(found) == {"sink": 2, "nop": 0, "broadcast": 0, "other": 0, kind: 2}
    low, high = vision._bootstrap(found, 0, n_draws=20)["sink"]
    assert low == high == 2.0


def test_too_few_events_are_not_classified():
    few = planted().event & (np.arange(100) < 49)[:, None, None]
    assert vision.classes(planted()._replace(event=few))["sink"] == 0


def test_the_study_runs_on_small_models_and_stores_its_findings(home, tmp_path, monkeypatch):
    models = tmp_path / "assets" / "models"
    save_llama(models / "calendar-llama", sink=8.0)
    torch.manual_seed(0)
    DINOv3ViTModel(
        DINOv3ViTConfig(image_size=64, patch_size=16, hidden_size=24, intermediate_size=24, num_hidden_layers=2,
                        num_attention_heads=2, num_register_tokens=1)
    ).save_pretrained(models / "tabletop-dino")  # fmt: skip
    monkeypatch.setenv("ATLAS_ASSETS", str(tmp_path / "assets"))
    monkeypatch.setenv("ATLAS_REALDATA", str(tmp_path / "none"))
    monkeypatch.setattr(vision, "MIN_EVENTS", 2)
    monkeypatch.setattr(vision, "pixels", lambda adapter, n, generator: torch.randn(10, 3, 64, 64, generator=generator))
    seen, notes = [], []
    result = base.run_study("first-sinks", progress=lambda f, m: seen.append(f), notes=notes)
    found = {f.id.split("/")[1]: f for f in result.findings}
    mass = found["llama-first-token-mass"]
    assert mass.status == "holds" and mass.value > 0.9 and mass.low <= mass.value <= mass.high
    assert mass.controls["untrained copy, its strongest head"] < 0.3
    assert 0.4 < found["llama-sink-share"].value < 0.6
    zero = found["llama-zero-sink-effect"]
    assert zero.evidence == "interventional" and zero.controls["its value in another text"] < 1e-5 < zero.value
    assert found["dino-sink-heads"].status == "null" and "untrained copy" in found["dino-sink-heads"].controls
    assert found["stories260k-first-token-mass"].value is None and "stories260k" in notes[0]
    assert seen == sorted(seen) and seen[-1] == 1.0


def test_models_that_are_not_there_are_reported(home, tmp_path, monkeypatch):
    monkeypatch.setenv("ATLAS_ASSETS", str(tmp_path))
    monkeypatch.setenv("ATLAS_REALDATA", str(tmp_path / "none"))
    notes = []
    result = base.run_study("first-sinks", notes=notes)
    assert {f.value for f in result.findings} == {None} and len(notes) == len(result.findings) == 7
    assert any("manifold-atlas train tabletop-dino" in note for note in notes)


@pytest.mark.slow
@pytest.mark.skipif(realdata_dir() is None, reason="no real weights beside the project")
def test_a_real_model_without_a_sink_stays_low(home):
    ctx = base.StudyContext("first-sinks", "small", 0, quiet, torch.Generator().manual_seed(0))
    (finding,) = language.stories(ctx, quiet)
    assert finding.status == "holds" and finding.value <= 0.03 and finding.n >= 10
