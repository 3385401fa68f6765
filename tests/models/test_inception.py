"""The small inception network: shapes, names and the library's own loading."""

import json

import pytest
import torch
from transformers import AutoModel

from backend.core.errors import Invalid
from backend.models.inception import CurveInception, CurveInceptionConfig

SMALL = {"stem_widths": [4, 6], "mixed_widths": {k: [2, 2, 3, 2, 2, 2] for k in ("mixed3a", "mixed3b", "mixed4a")}}


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
