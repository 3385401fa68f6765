"""The points of a model: guidance halves and windows, refusals that leave nothing behind, nesting, installing twice."""

import pytest
import torch

from backend.activations.point_set import install
from backend.activations.rows import guidance_layout
from backend.core.errors import Refused
from backend.models.language import TextAdapter
from backend.models.random_weights import tiny_llama
from backend.steering.intervention import Intervention

IDS = torch.arange(15).reshape(3, 5)


def frame(d: int, k: int, seed: int = 0) -> torch.Tensor:
    return torch.linalg.qr(torch.randn(d, k, generator=torch.Generator().manual_seed(seed)))[0]


@pytest.fixture
def llama() -> TextAdapter:
    return TextAdapter(tiny_llama(), name="tiny")


def logits(adapter):
    with torch.no_grad():
        return adapter.model(IDS).logits


def test_guidance_halves(llama):
    points = install(llama, ["1"])
    f = frame(32, 2)
    both, cond, uncond = (Intervention.clamp("tiny/1", f, torch.full((2,), float(i)), cfg=c)
                          for i, c in enumerate(["both", "cond", "uncond"], start=1))  # fmt: skip
    rows = [both, cond, uncond]
    with points.apply(rows, layout=guidance_layout(3)), points.reading(["1"]) as seen, torch.no_grad():
        llama.model(IDS.repeat(2, 1))
    z = (seen["tiny/1#resid_post"][0] @ f).mean(dim=(1, 2))
    plain = z[[1, 5]]
    assert torch.allclose(z[[0, 2, 3, 4]], torch.tensor([1.0, 3.0, 1.0, 2.0]), atol=1e-5)
    assert (plain.abs() < 0.5).all()
    # A batch without guidance has no unconditional half: saying nothing would return unsteered output.
    with pytest.raises(Refused, match="half"), points.apply([uncond] * 3):
        pass


def test_windows_follow_each_rows_progress(llama):
    points = install(llama, ["1"])
    early = Intervention.clamp("tiny/1", frame(32, 2), torch.ones(2), window=(0.25, 0.5))
    plain = logits(llama)
    with points.apply([early] * 3, progress=[0.0, 0.25, 0.5]):
        out = logits(llama)
    moved = (out - plain).abs().amax(dim=(1, 2)) > 1e-4
    assert moved.tolist() == [False, True, False]
    with pytest.raises(Refused, match="window"), points.apply([early] * 3):
        pass


def test_a_site_without_a_point_is_refused_and_nothing_is_left_behind(llama):
    points = install(llama, ["1", "2#mlp_out"])
    plain = logits(llama)
    good = Intervention.clamp("tiny/1", frame(32, 2), torch.ones(2))
    with pytest.raises(Refused) as error, points.apply([good + good.on("tiny"), None,
                                                        Intervention.ablate("tiny/0", frame(32, 2))]):  # fmt: skip
        pytest.fail("unsteered output under a steered label")
    assert "tiny/0#resid_post" in error.value.asked
    assert "tiny/1#resid_post" in error.value.todo and "tiny/2#mlp_out" in error.value.todo
    assert torch.equal(plain, logits(llama))
    with pytest.raises(Refused, match="0#resid_post"):
        points["0"]
    with pytest.raises(Refused, match="tiny/2#resid_post"):
        install(llama, ["7"])


def test_a_window_that_is_shut_does_not_hide_a_missing_point(llama):
    points = install(llama, ["1"])
    with pytest.raises(Refused), points.apply(
        [Intervention.ablate("tiny/0", frame(32, 2), window=(0.5, 1.0))] * 3, progress=0.0
    ):
        pass


def test_a_saved_model_loads_without_points(llama, tmp_path):
    from transformers import LlamaForCausalLM

    plain = logits(llama)
    install(llama, llama.site_names())
    llama.model.save_pretrained(tmp_path)
    again, info = LlamaForCausalLM.from_pretrained(tmp_path, output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"]
    assert torch.equal(again(IDS).logits, plain)


def test_installing_twice_keeps_the_point_and_what_it_does(llama):
    points = install(llama, ["1"])
    with points.apply([Intervention.ablate("tiny/1", frame(32, 2))] * 3):
        steered = logits(llama)
        again = install(llama, ["blocks.1.hook_resid_post", "model.layers.0"])
        assert again is points and len(points.points) == 2
        assert torch.equal(steered, logits(llama))


def test_nested_steering_ends_where_it_began(llama):
    points = install(llama, ["1"])
    first, second = (Intervention.clamp("tiny/1", frame(32, 2), torch.full((2,), v)) for v in (1.0, 2.0))
    plain = logits(llama)
    with points.apply([first] * 3):
        outer = logits(llama)
        with pytest.raises(RuntimeError), points.apply([second] * 3):
            assert not torch.equal(outer, logits(llama))
            raise RuntimeError
        assert torch.equal(outer, logits(llama))
    assert torch.equal(plain, logits(llama))


def test_shapes_can_be_reserved(llama):
    points = install(llama, ["1"])
    points.reserve(k=8, n_tokens=5)
    one = Intervention.clamp("tiny/1", frame(32, 2), torch.ones(2))
    points.set([one] * 3)
    storage = points["1"].frame.data_ptr()
    assert points["1"].frame.shape == (3, 32, 8) and points["1"].lo.shape == (3, 5, 8)
    points.set([one + Intervention.ablate("tiny/1", frame(32, 3, 7))] * 3)
    assert points["1"].frame.data_ptr() == storage
