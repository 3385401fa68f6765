"""How calendar-llama is measured, on planted truth; and the shipped weights against their own card."""

import json
import math

import pytest
import torch
from transformers import AutoTokenizer, LlamaForCausalLM

from backend.core.settings import assets_dir
from backend.recipes import calendar_llama_quality as quality
from backend.recipes.calendar_llama import NAME, config
from backend.worlds.calendar import TASKS
from backend.worlds.calendar_tokens import build_tokenizer

FOLDER = assets_dir() / "models" / NAME
shipped = pytest.mark.skipif(not (FOLDER / "card.json").exists(), reason="calendar-llama is not trained here")


def circle(n: int, frequency: int, seed: int = 0) -> torch.Tensor:
    """n points of a ring of this frequency in 16 dimensions, with a little noise."""
    generator = torch.Generator().manual_seed(seed)
    angle = 2 * math.pi * frequency * torch.arange(n) / n
    frame = torch.linalg.qr(torch.randn(16, 2, generator=generator)).Q
    ring = torch.stack([3 * angle.cos(), 2 * angle.sin()], -1) @ frame.T
    return ring + 0.02 * torch.randn(n, 16, generator=generator) + 5.0


def test_planted_rings_are_told_apart() -> None:
    assert quality.natural_order(quality.ring_angles(circle(7, 1)))
    assert quality.natural_order(-quality.ring_angles(circle(12, 1)))
    # The look-up table's circle visits every third day.
    assert not quality.natural_order(quality.ring_angles(circle(7, 3)))
    assert not quality.natural_order(quality.ring_angles(circle(12, 5)))
    assert not quality.natural_order(quality.ring_angles(circle(12, 1)[torch.randperm(12)]))


def test_centroids_average_by_true_class() -> None:
    classes = torch.tensor([0, 1, 1, 0])
    points = torch.tensor([[0.0], [2.0], [4.0], [6.0]])
    assert quality.centroids(points, classes, 2).flatten().tolist() == [3.0, 3.0]


def test_class_share_runs_from_nothing_to_all() -> None:
    classes, middles = torch.tensor([0, 0, 1, 1]), torch.tensor([[0.0], [2.0]])
    points = middles[classes] + torch.tensor([[1.0], [-1.0], [1.0], [-1.0]])
    assert quality.class_share(middles[classes], middles, classes) == pytest.approx(1.0)
    assert quality.class_share(points, middles, classes) == pytest.approx(0.5)
    assert quality.class_share(points, torch.ones(2, 1), classes) == 0.0


def test_held_out_pairs_are_a_seeded_tenth() -> None:
    kept = quality.held_out(0)
    assert {name: len(pairs) for name, pairs in kept.items()} == {"weekdays": 5, "months": 9, "letters": 5, "ages": 91}
    assert kept == quality.held_out(0) != quality.held_out(1)


def tiny(vocab_size: int) -> LlamaForCausalLM:
    torch.manual_seed(0)
    small = config(vocab_size)
    small.hidden_size, small.intermediate_size, small.num_hidden_layers, small.num_attention_heads = 32, 64, 2, 2
    small.num_key_value_heads, small.head_dim = 2, 16
    return LlamaForCausalLM(small)


def test_answers_do_not_depend_on_padding() -> None:
    tokenizer, task = build_tokenizer(), TASKS["weekdays"]
    model = tiny(len(tokenizer)).eval()
    longer = "Q: What day is one days after Monday and so on?\nA:"
    prompts = task.prompts()[:2]
    together, residuals = quality.answers(model, tokenizer, [*prompts, prompts[0]._replace(text=longer)], task)
    alone, single = quality.answers(model, tokenizer, prompts[:1], task)
    assert together.shape == (3, 8) and residuals.shape == (2, 3, 32)
    assert torch.allclose(together[0], alone[0], atol=1e-5) and torch.allclose(residuals[:, 0], single[:, 0], atol=1e-4)
    assert torch.allclose(together.sum(-1), torch.ones(3), atol=1e-5)


def test_untrained_copies_are_judged_as_the_model_is() -> None:
    tokenizer = build_tokenizer()
    found = quality.untrained_rings(tiny(len(tokenizer)).config, tokenizer, layer=1, n_copies=1)
    assert set(found) == {"weekdays", "months"}
    assert all(v["n"] == 1 and v["natural"] in (0, 1) and 0 < v["class_share"] < 1 for v in found.values())


def test_gate_names_the_condition_that_fails() -> None:
    good = {"accuracy": 1.0, "calibration": 0.01}
    days, months = {"natural_ring": [False, True, True]}, {"natural_ring": [True, True, False]}
    values = {"weekdays": good | days, "months": good | months}
    assert quality.gate(values) == {"accuracy": True, "calibration": True, "ring": True, "layer": 1, "passes": True}
    values["ages"] = good | {"accuracy": 0.97}
    assert not quality.gate(values)["accuracy"] and not quality.gate(values)["passes"]
    values["months"]["natural_ring"] = [True, False, False]
    assert quality.gate(values)["layer"] is None


@shipped
def test_shipped_model_keeps_its_gate_on_weekdays() -> None:
    card = json.loads((FOLDER / "card.json").read_text())
    assert card["passed"]
    assert all(file.stat().st_size < 16e6 for file in FOLDER.iterdir())
    model, tokenizer = LlamaForCausalLM.from_pretrained(FOLDER).eval(), AutoTokenizer.from_pretrained(FOLDER)
    task = TASKS["weekdays"]
    prompts = task.prompts()
    truth = torch.tensor([prompt.answer_class for prompt in prompts])
    p, residuals = quality.answers(model, tokenizer, prompts, task)
    accuracy = (p[:, :-1].argmax(-1) == truth).float().mean()
    assert accuracy == pytest.approx(card["tasks"]["weekdays"]["accuracy"], abs=1e-6)
    gap = 0.5 * ((p[:, :-1] - task.distributions()[truth]).abs().sum(-1) + p[:, -1])
    assert gap.mean() <= quality.GATE_CALIBRATION
    points = quality.centroids(residuals[int(card["site"].split("/")[1].split("#")[0])], truth, 7)
    assert quality.natural_order(quality.ring_angles(points))


@shipped
@pytest.mark.slow
def test_shipped_model_keeps_its_whole_card() -> None:
    card, found = json.loads((FOLDER / "card.json").read_text()), quality.evaluate(FOLDER)
    assert found["gate"] == card["gate"]
    for name, values in found["tasks"].items():
        assert values["accuracy"] == pytest.approx(card["tasks"][name]["accuracy"], abs=2e-3)
        assert values["calibration"] == pytest.approx(card["tasks"][name]["calibration"], abs=5e-3)
