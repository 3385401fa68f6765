"""Heads, sinks and effects: exact against the model, planted sinks, identities, refusals."""

from __future__ import annotations

import base64
import io

import pytest
import torch
from PIL import Image
from transformers import DINOv3ViTConfig, DINOv3ViTModel, LlamaConfig, LlamaForCausalLM

from backend.activations import heads as board_of
from backend.activations.attention import LayerHeads, adding, attention_modules, heads_of, run
from backend.activations.effects import NAMES, causal_label, effects
from backend.activations.sink import diagnose, label, seen_by, spectrum
from backend.core.errors import NotFound, Refused
from backend.models.adapter import Adapter
from backend.models.language import TextAdapter
from backend.models.vision import VisionAdapter
from backend.wire.sinks import HeadRequest, SinkRequest
from backend.worlds.calendar_tokens import build_tokenizer

TOKENIZER = build_tokenizer()


def llama(kv: int = 2, *, bias: bool = False) -> TextAdapter:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(TOKENIZER), hidden_size=32, intermediate_size=48, num_hidden_layers=3, num_attention_heads=4,
        num_key_value_heads=kv, attention_bias=bias, max_position_embeddings=128,
    )  # fmt: skip
    return TextAdapter(_shaken(LlamaForCausalLM(config)), TOKENIZER, name="toy-llama")


def dino() -> VisionAdapter:
    torch.manual_seed(0)
    config = DINOv3ViTConfig(
        image_size=64, patch_size=16, hidden_size=48, intermediate_size=64, num_hidden_layers=3, num_attention_heads=3,
        num_register_tokens=2, layerscale_value=0.5,
    )  # fmt: skip
    return VisionAdapter(_shaken(DINOv3ViTModel(config)), name="toy-dino")


def _shaken(model):
    """Larger random weights and biases, so that patterns are far from uniform and no term is zero by chance."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.15 * torch.randn_like(parameter))
    return model.eval()


def inputs_of(adapter, n: int = 2) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    if adapter.kind == "text":
        return torch.randint(3, len(TOKENIZER), (n, 20), generator=generator)
    return torch.randn(n, 3, 64, 64, generator=generator)


ADAPTERS = {"grouped": llama, "one head a key": lambda: llama(4), "biased": lambda: llama(bias=True), "dino": dino}


@pytest.mark.parametrize("name", ADAPTERS)
def test_patterns_and_updates_are_the_models_own(name):
    adapter = ADAPTERS[name]()
    inputs = inputs_of(adapter)
    adapter.model.set_attn_implementation("eager")
    added, patterns = {}, {}

    def keep(layer):
        def hook(_module, _args, out):
            added[layer], patterns[layer] = out

        return hook

    hooks = [m.register_forward_hook(keep(i)) for i, m in enumerate(attention_modules(adapter))]
    layers, out = heads_of(adapter, inputs)
    for hook in hooks:
        hook.remove()
    assert len(layers) == 3 and torch.equal(out, run(adapter, inputs).float())
    for heads in layers:
        module = attention_modules(adapter)[heads.layer]
        assert torch.allclose(heads.attention, patterns[heads.layer], atol=1e-5)
        bias = 0 if module.o_proj.bias is None else module.o_proj.bias
        total = heads.updates.sum(1) + bias * heads.scale
        assert torch.allclose(total, added[heads.layer] * heads.scale, atol=1e-5)
        assert heads.gap < 1e-5


def test_the_layer_scale_is_in_the_update():
    adapter = dino()
    scales = [heads.scale for heads in heads_of(adapter, inputs_of(adapter))[0]]
    wanted = [adapter.model.model.layer[i].layer_scale1.lambda1 for i in range(3)]
    assert all(torch.equal(a, b) for a, b in zip(scales, wanted, strict=True)) and not torch.equal(scales[0], scales[1])


def test_an_attention_that_is_not_known_is_refused():
    adapter = llama()
    module = attention_modules(adapter)[1]
    handle = module.register_forward_hook(lambda _m, _i, out: (1.01 * out[0], *out[1:]))
    with pytest.raises(Refused, match="layer 1 differs"):
        heads_of(adapter, inputs_of(adapter))
    handle.remove()
    heads_of(adapter, inputs_of(adapter))


def test_a_model_without_heads_is_refused():
    adapter = Adapter.from_module(torch.nn.Sequential(torch.nn.Linear(4, 4)), sites=["0"])
    with pytest.raises(Refused, match="self-attention"):
        board_of.board(adapter, SinkRequest(model="custom"))


# ---------------------------------------------------------------------------------------------------- diagnosis


def planted(n: int = 24, d_head: int = 4, *, sink: int = 3, mass: float = 0.95, value: float = 0.0, causal=False):
    """One head that puts ``mass`` on ``sink``, whose value has norm ``value`` while all others have norm 1."""
    generator = torch.Generator().manual_seed(0)
    attention = torch.full((n, n), (1 - mass) / (n - 1))
    attention[:, sink] = mass
    if causal:
        attention = attention.tril()
        attention = attention / attention.sum(-1, keepdim=True)
    values = torch.nn.functional.normalize(torch.randn(n, d_head, generator=generator), dim=-1)
    values[sink] *= value
    weight = torch.linalg.qr(torch.randn(16, d_head, generator=generator)).Q
    return LayerHeads(0, attention[None, None], values[None, None], weight[None], torch.ones(16), causal, 0.0)


@pytest.mark.parametrize(
    "value, mass, wanted", [(0.0, 0.95, "nop"), (1.0, 0.95, "broadcast"), (0.35, 0.95, "other"), (1.0, 0.45, "no sink")]
)
def test_planted_sinks_are_named(value, mass, wanted):
    found = diagnose(planted(value=value, mass=mass))
    assert int(found.sink) == 3 and float(found.strength) == pytest.approx(mass, abs=1e-6)
    assert float(found.value_ratio) == pytest.approx(value, abs=1e-5)
    assert float(found.value_ratio_raw) == pytest.approx(value, abs=1e-5)
    assert label(float(found.event), float(found.value_ratio), float(found.stable_rank)) == wanted


def test_the_output_ratio_counts_what_w_o_throws_away():
    heads = planted(value=1.0)
    weight = heads.weight.clone()
    direction = heads.values[0, 0, 3]
    weight[0] -= weight[0] @ direction[:, None] @ direction[None]
    found = diagnose(LayerHeads(0, heads.attention, heads.values, weight, heads.scale, False, 0.0))
    assert float(found.value_ratio) < 1e-5 and float(found.value_ratio_raw) == pytest.approx(1.0, abs=1e-5)


def test_the_rank_is_that_of_the_full_update():
    adapter = dino()
    for heads in heads_of(adapter, inputs_of(adapter))[0]:
        wanted = torch.linalg.svdvals(heads.updates.double()) ** 2
        found = spectrum(heads)
        assert torch.allclose(found, wanted[..., : found.shape[-1]], rtol=1e-4, atol=1e-9)
        rank = wanted.sum(-1) / wanted[..., 0]
        assert torch.allclose(diagnose(heads).stable_rank.double(), rank, rtol=1e-4)


def test_a_perfect_sink_has_rank_one_and_uniform_attention_is_none():
    assert float(diagnose(planted(value=1.0, mass=1.0)).stable_rank) == pytest.approx(1.0, abs=1e-5)
    found = diagnose(planted(mass=1 / 24, value=1.0))
    assert float(found.strength) == pytest.approx(1 / 24) and float(found.event) == 0.0


def test_early_keys_of_a_causal_text_do_not_win_for_being_early():
    n = 64
    uniform = torch.ones(n, n).tril()
    uniform = uniform / uniform.sum(-1, keepdim=True)
    heads = planted(n, causal=True)
    heads = LayerHeads(0, uniform[None, None], heads.values, heads.weight, heads.scale, True, 0.0)
    found = diagnose(heads)
    # Averaged over the queries that see them, all keys up to first_query tie at the mean of 1/(i+1), i >= 8.
    floor = float((1 / torch.arange(9, n + 1).float()).mean())
    assert float(found.strength) == pytest.approx(floor, abs=1e-6) and float(found.strength) < 0.05
    counted = seen_by(n, True)
    assert not counted[:8].any() and counted[8, :9].all() and not counted[8, 9:].any()


@pytest.mark.parametrize("n", [10, 15, 40])
def test_the_last_keys_cannot_be_a_sink(n):
    heads = planted(n, sink=1, mass=0.6, causal=True)
    attention = heads.attention.clone()
    # The last queries look at themselves alone: seen by few, the last keys have the largest mean.
    attention[..., n - 2 :, :] = 0.0
    attention[..., n - 2, n - 2] = attention[..., n - 1, n - 1] = 1.0
    found = diagnose(LayerHeads(0, attention, heads.values, heads.weight, heads.scale, True, 0.0))
    assert int(found.sink) == 1 and float(found.stable_rank) >= 1.0


def test_a_text_of_two_tokens_has_a_diagnosis():
    found = diagnose(planted(2, sink=0, causal=True))
    assert int(found.sink) in (0, 1) and bool(torch.isfinite(found.stable_rank))


# ------------------------------------------------------------------------------------------------------ effects


@pytest.mark.parametrize("name", ["grouped", "dino"])
def test_exchanging_a_value_changes_the_update_by_its_column(name):
    """The identity of the paper's code, against the model itself with the value exchanged in its own v_proj."""
    adapter = ADAPTERS[name]()
    inputs = inputs_of(adapter, 1)
    (heads,), before = heads_of(adapter, inputs, layers=[1])
    module = attention_modules(adapter)[1]
    d_head, place = module.head_dim, 2
    new = torch.randn(d_head)
    group = heads.attention.shape[1] // (module.v_proj.out_features // d_head)

    def exchange(_m, _i, out):
        out = out.clone()
        out[:, place, :d_head] = new
        return out

    hook = module.v_proj.register_forward_hook(exchange)
    wanted = run(adapter, inputs)
    hook.remove()
    delta = sum(
        heads.attention[0, h, :, place, None] * ((new - heads.values[0, h, place]) @ heads.weight[h].T)
        for h in range(group)
    )
    with adding(module, delta[None]):
        found = run(adapter, inputs)
    assert torch.allclose(found, wanted, atol=2e-5) and not torch.allclose(found, before, atol=1e-3)
    assert torch.equal(run(adapter, inputs).float(), before)


@pytest.mark.parametrize("name", ["grouped", "dino"])
def test_effects_of_the_same_input_as_donor_are_nothing(name):
    adapter = ADAPTERS[name]()
    inputs = inputs_of(adapter, 1)
    (heads,), out = heads_of(adapter, inputs, layers=[1])
    generator = torch.Generator().manual_seed(0)
    found = effects(adapter, inputs, heads, 1, [heads, heads], out=out, generator=generator)
    assert set(found) == set(NAMES)
    assert found["donor"] < 1e-6 and found["mean"] < 1e-6
    assert found["zero"] > 1e-3 and found["remove"] > 1e-3 and found["ordinary"] > 1e-3
    first = effects(adapter, inputs, heads, 1, [heads], out=out, generator=generator, place=0)
    assert first["zero"] > 0 and first["donor"] < 1e-6
    assert "donor" not in effects(adapter, inputs, heads, 1, [], out=out, generator=generator)


def test_an_idle_head_has_no_effect():
    adapter = dino()
    with torch.no_grad():
        attention_modules(adapter)[1].o_proj.weight[:, :16] = 0
    inputs = inputs_of(adapter, 1)
    (heads,), out = heads_of(adapter, inputs, layers=[1])
    found = effects(adapter, inputs, heads, 0, [heads], out=out, generator=torch.Generator().manual_seed(0))
    assert max(found.values()) == 0.0
    assert causal_label(found, floor=0.01) == "weak"


def test_causal_labels():
    base = {"zero": 0.0, "mean": 0.0, "donor": 0.0, "ordinary": 0.3, "remove": 0.2, "control": 0.0}
    assert causal_label(base, floor=0.01) == "nop"
    assert causal_label({**base, "zero": 0.3}, floor=0.01) == "bias"
    assert causal_label({**base, "zero": 0.3, "donor": 0.2}, floor=0.01) == "broadcast"


# -------------------------------------------------------------------------------------------------------- board


def test_the_board_of_a_text():
    adapter = llama()
    board = board_of.board(adapter, SinkRequest(model="toy-llama", text="Anna brings bread to the shop on Monday."))
    assert (board.layers, board.heads, len(board.board)) == (3, 4, 12)
    assert board.n == len(board.tokens) and board.uniform == pytest.approx(1 / board.n)
    assert board.tokens[0] == "<bos>" and board.picture is None and board.grid == 0
    assert [(s.layer, s.head) for s in board.board] == [(i, j) for i in range(3) for j in range(4)]
    assert all(s.token == board.tokens[s.sink] and s.constant == (s.sink == 0) for s in board.board)
    assert {s.token_type for s in board.board} <= {"bos", "word", "delimiter"}


def test_the_board_of_a_picture():
    adapter = dino()
    board = board_of.board(adapter, SinkRequest(model="toy-dino", example=2))
    assert board.tokens[:4] == ["CLS", "register 1", "register 2", "patch 0,0"] and board.tokens[-1] == "patch 3,3"
    assert (board.grid, board.special, board.n) == (4, 3, 19)
    own = Image.open(io.BytesIO(base64.b64decode(board.picture.partition(",")[2])))
    again = board_of.board(adapter, SinkRequest(model="toy-dino", image=board.picture))
    assert again.board == board.board and own.size == (128, 128)
    other = board_of.board(adapter, SinkRequest(model="toy-dino", example=3))
    assert other.board != board.board


@pytest.mark.parametrize("name", ["grouped", "dino"])
def test_one_head_in_detail(name):
    adapter = ADAPTERS[name]()
    board = board_of.board(adapter, SinkRequest(model=adapter.name))
    detail = board_of.head(adapter, HeadRequest(model=adapter.name, layer=2, head=1, query=5))
    assert detail.summary == board.board[2 * board.heads + 1]
    n = board.n
    assert len(detail.inflow) == len(detail.query_row) == len(detail.value_norms) == len(detail.pattern) == n
    assert sum(detail.query_row) == pytest.approx(1, abs=1e-5) and sum(detail.spectrum) == pytest.approx(1, abs=1e-6)
    assert detail.spectrum == sorted(detail.spectrum, reverse=True)
    assert set(detail.effects) == set(NAMES)
    again = board_of.head(adapter, HeadRequest(model=adapter.name, layer=2, head=1, query=5))
    assert again.effects == detail.effects


def test_a_long_pattern_is_pooled():
    pooled = board_of._pooled(torch.ones(200, 200) / 200)
    assert pooled.shape == (96, 96) and torch.allclose(pooled, torch.full((96, 96), 1 / 200))


@pytest.mark.parametrize("change", [{"layer": 3}, {"head": 3}, {"query": 99}])
def test_heads_that_are_not_there_are_refused(change):
    with pytest.raises(NotFound):
        board_of.head(dino(), HeadRequest(model="d", **{"layer": 0, "head": 0, **change}))
