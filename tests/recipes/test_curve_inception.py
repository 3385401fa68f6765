"""The recipe of curve-inception: the stated loss reaches every weight, and the shipped weights keep their card."""

import json

import pytest
import torch

from backend.core.settings import assets_dir
from backend.models.inception import CurveInception, CurveInceptionConfig
from backend.recipes import curve_inception as recipe
from backend.recipes import curve_inception_quality as quality
from backend.worlds import curves

SMALL = {"stem_widths": [4, 6], "mixed_widths": {k: [2, 2, 3, 2, 2, 2] for k in ("mixed3a", "mixed3b", "mixed4a")}}
SHIPPED = assets_dir() / "models" / recipe.NAME
shipped = pytest.mark.skipif(not (SHIPPED / "model.safetensors").exists(), reason="the weights are not there")


def test_three_steps_change_the_weights():
    torch.manual_seed(0)
    model = CurveInception(CurveInceptionConfig(num_labels=45, **SMALL))
    total, parts = recipe.loss(model, curves.sample(16, torch.Generator().manual_seed(0)), torch.device("cpu"))
    total.backward()
    assert set(parts) == {"class", "aux", "radius", "accuracy"} and total > parts["class"]
    assert all(p.grad is not None for p in model.parameters())


@shipped
def test_shipped_card_keeps_its_promise():
    card = json.loads((SHIPPED / "card.json").read_text())
    model = CurveInception.from_pretrained(SHIPPED)
    score = quality.accuracy(model, n=400, seed=5)
    assert score["kind_accuracy"] > 0.9 and score["curve_error_deg_median"] < 10
    assert card["quality"]["curve_units"]["mixed3b"] >= quality.GATE_UNITS
    assert card["quality"]["controls"]["untrained_curve_units"]["mixed3b"] < card["quality"]["curve_units"]["mixed3b"]


@shipped
@pytest.mark.slow
def test_shipped_model_passes_its_gate():
    assert quality.evaluate(SHIPPED)["passed"]
