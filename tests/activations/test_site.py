"""One canonical form for all spellings of a place; unknown parts are refused."""

import pytest

from backend.activations.site import Site
from backend.core.errors import Invalid


@pytest.mark.parametrize("text, canonical", [
    ("m/down.2.1#update", "m/down.2.1#update"),
    ("m/down.2.1", "m/down.2.1#update"),
    ("m/unet.down_blocks.2.attentions.1", "m/down.2.1#update"),
    ("m/down_blocks.2.attentions.1#residual", "m/down.2.1#residual"),
    ("m/down.2.1#resid_post", "m/down.2.1#residual"),
    ("m/unet.mid_block.attentions.0", "m/mid.0#update"),
    ("m/up_blocks.0.resnets.2", "m/up.0.2.res#residual"),
    ("m/mid_block.resnets.1#update", "m/mid.1.res#update"),
    ("m/5", "m/5#resid_post"),
    ("m/5#residual", "m/5#resid_post"),
    ("m/blocks.5.hook_resid_post", "m/5#resid_post"),
    ("m/blocks.5.hook_resid_pre", "m/5#resid_pre"),
    ("m/blocks.5.hook_attn_out", "m/5#attn_out"),
    ("m/blocks.5.hook_mlp_out", "m/5#mlp_out"),
    ("m/model.layers.5", "m/5#resid_post"),
    ("m/model.layers.5.self_attn", "m/5#attn_out"),
    ("m/model.layers.5.mlp", "m/5#mlp_out"),
    ("m/transformer.h.11#resid_pre", "m/11#resid_pre"),
    ("m/model.layer.3.attention", "m/3#attn_out"),
    ("m/mixed3b", "m/mixed3b#residual"),
    ("stabilityai/sdxl-turbo/down.2.1", "stabilityai/sdxl-turbo/down.2.1#update"),
])  # fmt: skip
def test_every_spelling_has_one_form(text, canonical):
    site = Site.parse(text)
    assert str(site) == canonical
    assert Site.parse(str(site)) == site


def test_the_model_may_come_from_outside_and_the_text_wins():
    assert Site.parse("5#mlp_out", model="llama") == Site("llama", "5", "mlp_out")
    assert Site.parse("other/5", model="llama").model == "other"


@pytest.mark.parametrize("text", [
    "m/5#resid_mid", "m/5#", "m/blocks.5.attn.hook_z", "m/blocks.5.hook_resid_mid", "m/down.2.1#attn_out",
    "m/mixed3b#mlp_out", "m/model.layers.5.mlp#attn_out", "m/#update", "m/", "5#resid_post", "m/a..b", "",
])  # fmt: skip
def test_what_is_no_site_is_refused_with_a_way_out(text):
    with pytest.raises(Invalid) as error:
        Site.parse(text)
    assert error.value.asked and error.value.true and error.value.todo


def test_different_places_stay_different():
    spellings = ["m/down.2.1#update", "m/down.2.1#residual", "m/down.2.1.res", "m/up.2.1", "m/5", "m/5#mlp_out", "n/5"]
    assert len({Site.parse(s) for s in spellings}) == len(spellings)
