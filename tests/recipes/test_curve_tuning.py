"""Curve units are found where they are planted, and the shipped tuning curves are the model's own."""

import pytest
import torch

from backend.core.settings import assets_dir
from backend.models.inception import CurveInception
from backend.recipes import curve_tuning

SHIPPED = assets_dir() / "models" / "curve-inception"
shipped = pytest.mark.skipif(not (SHIPPED / "model.safetensors").exists(), reason="the weights are not there")


def planted(width_deg: float, n: int = 72) -> torch.Tensor:
    """Responses of one unit that peaks at 90 degrees with the given full width at half-maximum."""
    theta = torch.arange(n) * 360 / n
    return torch.exp(-4 * 0.693147 * ((theta - 90) / width_deg) ** 2)[:, None]


def test_curve_units_are_found_where_they_are_planted_and_nowhere_else():
    narrow, broad = planted(60), planted(150)
    zero, texture = torch.zeros(72, 1), torch.zeros(50, 1)
    found = lambda *args: bool(curve_tuning.curve_units(*args)["counts"][0])  # noqa: E731
    assert found(narrow, narrow, zero, texture)
    assert not found(broad, broad, zero, texture), "too broad"
    assert not found(narrow, narrow, 1.1 * narrow, texture), "a line detector"
    assert not found(narrow, narrow, zero, texture + 2), "a texture detector"
    assert not found(narrow, narrow.roll(20, 0), zero, texture), "another orientation on held-out stimuli"
    assert float(curve_tuning.width_of_tuning(narrow)[0]) == pytest.approx(60 / 360, abs=0.03)


@shipped
def test_shipped_tuning_is_one_turn_of_every_unit():
    from safetensors.torch import load_file

    tuning = load_file(SHIPPED / "tuning.safetensors")
    model = CurveInception.from_pretrained(SHIPPED)
    assert tuning["theta"].shape == (720,)
    for layer in curve_tuning.TUNED_LAYERS:
        assert tuning[layer].shape == (720, getattr(model, layer).d_out)
    # The stored curves are the model's own: measure a few orientations of one layer again.
    again = curve_tuning.tuning(model, step_deg=90)["mixed3b"]
    assert torch.allclose(again, tuning["mixed3b"][::180], atol=1e-3)
