"""The small inception network: shapes, the library's own loading, and what the shipped weights can do."""

import json

import pytest
import torch
from transformers import AutoModel

from backend.core.errors import Invalid
from backend.core.settings import assets_dir
from backend.models.inception import CurveInception, CurveInceptionConfig
from backend.recipes import curve_inception as recipe
from backend.worlds import curves

SMALL = {"stem_widths": [4, 6], "mixed_widths": {k: [2, 2, 3, 2, 2, 2] for k in ("mixed3a", "mixed3b", "mixed4a")}}
SHIPPED = assets_dir() / "models" / recipe.NAME
shipped = pytest.mark.skipif(not (SHIPPED / "model.safetensors").exists(), reason="the weights are not there")


def small() -> CurveInception:
    torch.manual_seed(0)
    return CurveInception(CurveInceptionConfig(num_labels=5, **SMALL)).eval()


def test_shapes_and_names():
    model = small()
    out = model(torch.rand(2, 1, 64, 64), output_hidden_states=True)
    assert out.logits.shape == out.aux_logits.shape == (2, 5) and out.radius_logits.shape == (2, 6)
    assert [tuple(h.shape) for h in out.hidden_states] == [(2, 9, 16, 16), (2, 9, 16, 16), (2, 9, 8, 8)]
    maps = model.features(torch.rand(2, 1, 64, 64), until="mixed3b")
    assert list(maps) == ["mixed3a", "mixed3b"]


def test_a_module_output_is_what_the_next_one_reads():
    model = small()
    x = torch.rand(2, 1, 64, 64)
    seen = []
    model.mixed3b.register_forward_hook(lambda m, args, out: seen.append(out))
    maps = model.features(x)
    assert torch.equal(seen[0], maps["mixed3b"])
    assert torch.equal(model.mixed4a(model.pool(maps["mixed3b"])), maps["mixed4a"])


def test_channel_order_is_one_three_five_pool():
    model = small()
    x = model.stem(torch.rand(1, 1, 64, 64))
    whole = model.mixed3a(x)
    assert torch.equal(whole[:, :2], model.mixed3a.branch1(x))
    assert torch.equal(whole[:, 2:5], model.mixed3a.branch3(x))
    assert torch.equal(whole[:, 7:], model.mixed3a.branch_pool(x))


def test_grey_and_rgb_agree_and_other_channels_are_refused():
    model = small()
    grey = torch.rand(2, 1, 64, 64)
    assert torch.allclose(model(grey).logits, model(grey.expand(-1, 3, -1, -1)).logits, atol=1e-5)
    with pytest.raises(Invalid):
        model(torch.rand(2, 4, 64, 64))


def test_saved_and_loaded_by_the_library(tmp_path):
    model = small()
    # Statistics that are not at their initial values must travel too.
    model.train()(torch.rand(4, 1, 64, 64))
    model.eval().save_pretrained(tmp_path)
    x = torch.rand(2, 1, 64, 64)
    for cls in (CurveInception, AutoModel):
        again = cls.from_pretrained(tmp_path)
        assert type(again) is CurveInception and torch.allclose(again.eval()(x).logits, model(x).logits, atol=1e-6)
    assert json.loads((tmp_path / "config.json").read_text())["model_type"] == "curve-inception"


def test_the_shipped_configuration_has_half_a_million_parameters():
    with torch.device("meta"):
        model = CurveInception(recipe.config())
    assert 5e5 < sum(p.numel() for p in model.parameters()) < 1e6
    assert model.config.num_labels == len(recipe.LABELS) == 45


def test_labels_are_centred_on_their_names():
    sample = curves.sample(300, torch.Generator().manual_seed(0))
    target, radius = recipe.labels(sample)
    for i in range(300):
        kind, name = int(sample.kind[i]), recipe.LABELS[int(target[i])]
        if kind < 2:
            assert name.startswith(curves.KINDS[kind])
            turn = (360, 180)[kind]
            gap = abs((float(sample.orientation[i].rad2deg()) - float(name.split()[1]) + turn / 2) % turn - turn / 2)
            assert gap <= 7.6
        else:
            assert name == (curves.TEXTURES[sample.texture[i]] if kind == 2 else curves.SHAPES[sample.shape[i]])
    assert (radius[sample.kind != 0] == -100).all() and set(radius[sample.kind == 0].tolist()) == set(range(6))


def planted(width_deg: float, n: int = 72) -> torch.Tensor:
    """Responses of one unit that peaks at 90 degrees with the given full width at half-maximum."""
    theta = torch.arange(n) * 360 / n
    return torch.exp(-4 * 0.693147 * ((theta - 90) / width_deg) ** 2)[:, None]


def test_curve_units_are_found_where_they_are_planted_and_nowhere_else():
    narrow, broad = planted(60), planted(150)
    zero, texture = torch.zeros(72, 1), torch.zeros(50, 1)
    found = lambda *args: bool(recipe.curve_units(*args)["counts"][0])  # noqa: E731
    assert found(narrow, narrow, zero, texture)
    assert not found(broad, broad, zero, texture), "too broad"
    assert not found(narrow, narrow, 1.1 * narrow, texture), "a line detector"
    assert not found(narrow, narrow, zero, texture + 2), "a texture detector"
    assert not found(narrow, narrow.roll(20, 0), zero, texture), "another orientation on held-out stimuli"
    assert float(recipe.width_of_tuning(narrow)[0]) == pytest.approx(60 / 360, abs=0.03)


def test_three_steps_change_the_weights(tmp_path, monkeypatch):
    monkeypatch.setenv("ATLAS_HOME", str(tmp_path))
    monkeypatch.setattr(recipe, "config", lambda: CurveInceptionConfig(num_labels=45, **SMALL))
    torch.manual_seed(0)
    model = CurveInception(recipe.config())
    total, parts = recipe.loss(model, curves.sample(16, torch.Generator().manual_seed(0)), torch.device("cpu"))
    total.backward()
    assert set(parts) == {"class", "aux", "radius", "accuracy"} and total > parts["class"]
    assert all(p.grad is not None for p in model.parameters())


@shipped
def test_shipped_tuning_is_one_turn_of_every_unit():
    from safetensors.torch import load_file

    tuning = load_file(SHIPPED / "tuning.safetensors")
    model = CurveInception.from_pretrained(SHIPPED)
    assert tuning["theta"].shape == (720,)
    for layer in recipe.TUNED_LAYERS:
        assert tuning[layer].shape == (720, getattr(model, layer).d_out)
    # The stored curves are the model's own: measure a few orientations of one layer again.
    again = recipe.tuning(model, step_deg=90)["mixed3b"]
    assert torch.allclose(again, tuning["mixed3b"][::180], atol=1e-3)


@shipped
def test_shipped_card_keeps_its_promise():
    card = json.loads((SHIPPED / "card.json").read_text())
    model = CurveInception.from_pretrained(SHIPPED)
    score = recipe.accuracy(model, n=400, seed=5)
    assert score["kind_accuracy"] > 0.9 and score["curve_error_deg_median"] < 10
    assert card["quality"]["curve_units"]["mixed3b"] >= recipe.GATE_UNITS
    assert card["quality"]["controls"]["untrained_curve_units"]["mixed3b"] < card["quality"]["curve_units"]["mixed3b"]


@shipped
@pytest.mark.slow
def test_shipped_model_passes_its_gate():
    assert recipe.evaluate(SHIPPED)["passed"]
