"""Intervention points: identity when idle, rows independent, refusal instead of silence, no hooks, one graph."""

import pytest
import torch
from torch import nn

from backend.activations.carrier import Carrier
from backend.activations.point import InterventionPoint
from backend.activations.point_set import install
from backend.activations.rows import RowBuffers
from backend.activations.site import Site
from backend.core.errors import Invalid, Refused
from backend.models.adapter import Adapter
from backend.models.language import TextAdapter
from backend.models.random_weights import tiny_llama
from backend.steering.intervention import Intervention, exact_edit

IDS = torch.arange(15).reshape(3, 5)


def frame(d: int, k: int, seed: int = 0) -> torch.Tensor:
    return torch.linalg.qr(torch.randn(d, k, generator=torch.Generator().manual_seed(seed)))[0]


class Conv(nn.Module):
    """A picture model with the ways in which modules return: a tensor, a tuple, keywords."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(4, 6, 3, padding=1)
        self.block = Pair()

    def forward(self, x):
        return self.block(hidden_states=self.first(x), scale=0.5)[0]


class Pair(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(6, 6, 1)

    def forward(self, hidden_states, scale=1.0):
        return hidden_states + scale * self.conv(hidden_states), "beside"


@pytest.fixture
def llama() -> TextAdapter:
    return TextAdapter(tiny_llama(), name="tiny")


@pytest.fixture
def conv() -> Adapter:
    torch.manual_seed(0)
    return Adapter.from_module(Conv(), sites=["first", "block"], name="conv")


def logits(adapter):
    with torch.no_grad():
        return adapter.model(IDS).logits


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_idle_and_gate_zero_are_the_model_bit_for_bit(dtype):
    adapter = TextAdapter(tiny_llama().to(dtype), name="tiny")
    plain = logits(adapter)
    points = install(adapter, adapter.site_names())
    assert torch.equal(plain, logits(adapter))
    rows = [sum(Intervention.clamp(s, frame(32, 2), torch.ones(2), gate=0.0) for s in points.points)] * 3
    with points.apply(rows):
        assert all(p.active for p in points.points.values())
        assert torch.equal(plain, logits(adapter))
    assert torch.equal(plain, logits(adapter))


def test_the_codes_become_the_target_and_the_rest_stays(llama):
    points = install(llama, ["1#resid_post"])
    f, target = frame(32, 3), torch.tensor([1.0, -2.0, 0.5])
    with points.reading(["1"]) as before:
        logits(llama)
    with points.apply([Intervention.clamp("tiny/1", f, target)] * 3), points.reading(["1"]) as after:
        logits(llama)
    x, y = before["tiny/1#resid_post"][0], after["tiny/1#resid_post"][0]
    assert torch.allclose(y @ f, target.expand(3, 5, 3), atol=1e-5)
    assert torch.allclose(x - (x @ f) @ f.T, y - (y @ f) @ f.T, atol=1e-5)


def test_a_batch_is_its_rows_alone_and_bare_rows_are_the_model(llama):
    plain = logits(llama)
    points = install(llama, ["1", "2#update", "0#attn_out"])
    rows = [
        Intervention.clamp("tiny/1", frame(32, 2), torch.ones(2)),
        None,
        Intervention.add("tiny/2#update", frame(32, 4, 1), torch.ones(4))
        + Intervention.ablate("tiny/0#attn_out", frame(32, 1, 2)) + Intervention.cap("tiny/1", frame(32, 3, 3), hi=0.0),
    ]  # fmt: skip
    with points.apply(rows):
        together = logits(llama)
    assert torch.equal(together[1], plain[1])
    assert not torch.allclose(together[0], plain[0], atol=1e-3)
    assert not torch.allclose(together[2], plain[2], atol=1e-3)
    for r in (0, 2):
        with points.apply([rows[r]]), torch.no_grad():
            alone = llama.model(IDS[r : r + 1]).logits[0]
        assert torch.allclose(alone, together[r], atol=1e-6)


@pytest.mark.parametrize("part", ["resid_pre", "update", "resid_post", "attn_out", "mlp_out"])
def test_the_fast_path_agrees_with_encode_edit_decode(llama, part):
    points = install(llama, [f"1#{part}"])
    site = f"tiny/1#{part}"
    per_token = torch.randn(5, 2, generator=torch.Generator().manual_seed(4))
    q = frame(32, 5, 2)
    rows = [
        Intervention.clamp(site, q[:, :2], per_token, gate=0.7) + Intervention.add(site, q[:, 2:], torch.ones(3)),
        Intervention.cap(site, frame(32, 3), lo=0.2, hi=0.3, mask=torch.tensor([0, 1, 0.5, 1, 0])),
        Intervention.move(site, q[:, :2], torch.zeros(2), torch.ones(2), gate=-1.5),
    ]
    plain = logits(llama)
    with points.apply(rows):
        fast = logits(llama)
    with exact_edit(points, rows):
        exact = logits(llama)
    assert (fast - exact).abs().max() < 1e-5
    assert (fast - plain).abs().amax(dim=(1, 2)).min() > 1e-3


def test_hidden_states_that_the_library_records_are_the_steered_ones(llama):
    points = install(llama, ["1"])
    f = frame(32, 2)
    with points.apply([Intervention.clamp("tiny/1", f, torch.ones(2))] * 3), torch.no_grad():
        recorded = llama.model(IDS, output_hidden_states=True).hidden_states[2]
    assert torch.allclose(recorded @ f, torch.ones(3, 5, 2), atol=1e-5)


def test_one_token_at_a_time_with_a_cache(llama):
    """Masks of one token serve decoding: steering only the last of six tokens, with a cache or without."""
    points = install(llama, ["1"])
    f = frame(32, 2)
    whole = torch.cat([IDS, IDS[:, :1]], dim=1)
    last = Intervention.clamp("tiny/1", f, torch.ones(2), mask=torch.tensor([0, 0, 0, 0, 0, 1.0]))
    with points.apply([last] * 3), torch.no_grad():
        expected = llama.model(whole).logits[:, -1]
    with torch.no_grad():
        cache = llama.model(IDS, use_cache=True).past_key_values
    step = Intervention.clamp("tiny/1", f, torch.ones(2), mask=torch.ones(1))
    with points.apply([step] * 3), torch.no_grad():
        got = llama.model(IDS[:, :1], past_key_values=cache).logits[:, -1]
    assert torch.allclose(got, expected, atol=1e-5)


def test_pictures_are_tokens_row_by_row_and_the_rest_of_a_tuple_stays(conv):
    points = install(conv, ["block#update", "first"])
    x = torch.randn(2, 4, 3, 5)
    f = frame(6, 1)
    plain = conv.module(x)
    # Only the pixel in row 1, column 2 of the 3 x 5 picture.
    mask = torch.zeros(3, 5)
    mask[1, 2] = 1
    with points.apply([Intervention.clamp("conv/block#update", f, torch.tensor([3.0]), mask=mask), None]):
        steered = conv.module(x)
        assert conv.module.block(conv.module.first(x))[1] == "beside"
    changed = (steered - plain).abs().amax(1) > 1e-6
    assert changed.nonzero().tolist() == [[0, 1, 2]]
    update = steered[0, :, 1, 2] - conv.module.first(x)[0, :, 1, 2]
    assert torch.allclose(update @ f, torch.tensor([3.0]), atol=1e-5)


def test_targets_token_by_token_reach_their_own_pixel(conv):
    points = install(conv, ["first"])
    x, f = torch.randn(1, 4, 3, 5), frame(6, 2)
    target = torch.randn(15, 2)
    with points.apply([Intervention.clamp("conv/first#residual", f, target)]):
        out = conv.module.first(x)
    assert torch.allclose(torch.einsum("chw,ck->hwk", out[0], f).reshape(15, 2), target, atol=1e-5)


def test_rows_tokens_and_widths_must_fit(llama, conv):
    points = install(llama, ["1"])
    with pytest.raises(Refused, match="rows"), points.apply([Intervention.ablate("tiny/1", frame(32, 2))]):
        logits(llama)
    with pytest.raises(Refused, match="width"), points.apply([Intervention.ablate("tiny/1", frame(16, 2))] * 3):
        logits(llama)
    four = Intervention.clamp("tiny/1", frame(32, 2), torch.zeros(4, 2))
    with pytest.raises(Refused, match="tokens"), points.apply([four] * 3):
        logits(llama)
    with pytest.raises(Invalid):
        points["1"].set(RowBuffers(*[torch.zeros(2, 3, 4)] * 6))
    conv_points = install(conv, ["first#update"])
    widened = Intervention.ablate("conv/first#update", frame(6, 1))
    with pytest.raises(Refused, match="#residual"), conv_points.apply([widened]):
        conv.module(torch.randn(1, 4, 3, 3))


def test_no_hook_is_involved_and_the_checkpoint_keeps_its_keys(llama):
    keys, names = list(llama.model.state_dict()), [n for n, _ in llama.model.named_parameters()]
    layer = llama.model.model.layers[1]
    points = install(llama, llama.site_names())
    points.set([Intervention.ablate(s, frame(32, 1)) for s in list(points.points)[:3]])
    assert all(not m._forward_hooks and not m._forward_pre_hooks for m in llama.model.modules())
    assert llama.model.model.layers[1] is layer and isinstance(layer, Carrier)
    assert list(llama.model.state_dict()) == keys
    assert [n for n, _ in llama.model.named_parameters()] == names
    llama.model.load_state_dict(tiny_llama(seed=3).state_dict(), strict=True)
    points.uninstall()
    assert not any(isinstance(m, Carrier) for m in llama.model.modules())
    assert type(layer).__mro__[1] is not Carrier


def test_a_sequential_model_and_a_later_cast():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Sequential(nn.Linear(4, 4)))
    adapter = Adapter.from_module(model, sites=["2", "0"], name="mlp")
    points = install(adapter, ["2#residual", "0"])
    x, f = torch.randn(2, 4), frame(4, 1)
    with points.apply([Intervention.clamp("mlp/2", f, torch.ones(1))] * 2):
        assert torch.allclose(model(x) @ f, torch.ones(2, 1), atol=1e-6)
        model.to(torch.bfloat16)
        assert points["2"].frame.dtype == torch.float32
        assert torch.allclose((model(x.bfloat16()).float() @ f), torch.ones(2, 1), atol=2e-2)


def test_autocast_does_not_round_the_codes(llama):
    """bf16 autocast around the model must not turn the intervention's own arithmetic into bf16."""
    points = install(llama, ["1"])
    f = frame(32, 2)
    x, target = torch.randn(3, 5, 32) * 100, torch.full((2,), 1.234567)
    points.set([Intervention.clamp("tiny/1", f, target)] * 3)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = points["1"](x)
    assert torch.allclose(out @ f, target.expand(3, 5, 2), atol=1e-3)


def test_a_target_can_be_optimised_through_the_model(llama):
    points = install(llama, ["1"])
    target = torch.zeros(2, requires_grad=True)
    with points.apply([Intervention.clamp("tiny/1", frame(32, 2), target)] * 3):
        llama.model(IDS).logits[:, -1, 0].sum().backward()
    assert target.grad.abs().min() > 0


@pytest.mark.slow
def test_a_compiled_model_is_steered_by_twenty_interventions_with_one_graph(llama):
    from torch._dynamo.testing import CompileCounterWithBackend

    points = install(llama, ["1"])
    torch._dynamo.reset()
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(llama.model, backend=counter, dynamic=False)
    rows = [
        [Intervention.clamp("tiny/1", frame(32, 2, i), torch.full((2,), i / 5), gate=i / 20)] * 3 for i in range(20)
    ]
    with torch.no_grad():
        plain = compiled(IDS, use_cache=False).logits
        idle_graphs, outputs = counter.frame_count, []
        for each in rows:
            with points.apply(each):
                outputs.append(compiled(IDS, use_cache=False).logits)
        again = compiled(IDS, use_cache=False).logits
        for each, out in zip(rows, outputs, strict=True):
            with points.apply(each):
                assert torch.allclose(out, llama.model(IDS).logits, atol=1e-5)
    assert torch.equal(plain, again)
    # Idle and active are two versions; twenty different interventions share the active one.
    assert counter.frame_count == 2 * idle_graphs
    assert all((out - plain).abs().max() > 1e-4 for out in outputs[1:])


def test_an_intervention_may_act_only_where_its_block_is_active():
    """The change is kept at tokens whose own code is long enough, and exactly nothing happens at the others."""
    from types import SimpleNamespace

    generator = torch.Generator().manual_seed(4)
    frame = torch.linalg.qr(torch.randn(8, 2, generator=generator)).Q
    other = torch.linalg.qr(torch.randn(8, 2, generator=generator)).Q
    x = 0.01 * torch.randn(1, 5, 8, generator=generator)
    x[0, [1, 3]] += 2.0 * frame[:, 0]
    where = SimpleNamespace(frame=frame, centre=torch.zeros(1, 2), floor=1.0)
    target = torch.tensor([[0.0, 3.0]])

    def item(f, w):
        return SimpleNamespace(site="m/0#residual", frame=f, lo=target, hi=target, shift=None, gate=1.0, mask=None,
                               window=(0.0, 1.0), cfg="both", where=w)  # fmt: skip

    point = InterventionPoint(Site.parse("m/0#residual"))
    point.set(RowBuffers.stack([[item(frame, where)]]))
    y = point(x)
    assert torch.equal(y[0, [0, 2, 4]], x[0, [0, 2, 4]])
    assert torch.allclose(y[0, [1, 3]] @ frame, target.expand(2, 2), atol=1e-5)
    # Another frame at the same tokens: the control acts where the block is active, not where it is itself long.
    point.set(RowBuffers.stack([[item(other, where)]]))
    y = point(x)
    assert torch.equal(y[0, [0, 2, 4]], x[0, [0, 2, 4]])
    assert torch.allclose(y[0, [1, 3]] @ other, target.expand(2, 2), atol=1e-5)
    # Beside an intervention without the condition, each keeps its own.
    point.set(RowBuffers.stack([[item(frame, where), item(other, None)]]))
    y = point(x)
    assert not torch.equal(y[0, 0], x[0, 0])
