"""Steering language on a tiny random Llama: exactness of sweeps, batches and caches; arms, frames and paths."""

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from backend.core.errors import Invalid, NotFound
from backend.manifolds.concept import concept_manifold
from backend.models.language import TextAdapter
from backend.steering.arms import interventions_for, path_interventions
from backend.steering.intervention import Intervention, exact_edit
from backend.steering.text import TextSteerer, spellings
from backend.wire.text import PathRequest, TextCanvasRequest, TextSteer
from backend.worlds.calendar import TASKS
from backend.worlds.calendar_tokens import build_tokenizer

SITE = "tiny/1#resid_post"
TASK = TASKS["weekdays"]
TOKENIZER = build_tokenizer()


@pytest.fixture(scope="module")
def steerer():
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(TOKENIZER), hidden_size=48, intermediate_size=96, num_hidden_layers=3, num_attention_heads=4,
        num_key_value_heads=4, max_position_embeddings=96, initializer_range=0.2,
        pad_token_id=0, bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    model = LlamaForCausalLM(config).eval().requires_grad_(False)
    adapter = TextAdapter(model, TOKENIZER, name="tiny")
    prompts = TASK.prompts()
    plain = TextSteerer(adapter, labels=TASK.classes, sites=[SITE])
    texts = [prompt.text for prompt in prompts]
    labels = torch.tensor([prompt.answer_class for prompt in prompts])
    manifold = concept_manifold(
        plain.residuals(texts, sites=[SITE])[SITE], plain.distribution(texts), labels=labels, classes=TASK.classes,
        kind="ring", site=SITE, name="tiny-days", coordinates=torch.arange(7).double() / 7,
    )  # fmt: skip
    return TextSteerer(adapter, manifold)


PROMPTS = [prompt.text for prompt in TASK.prompts()[:3]] + ["The day one days after Monday is"]


def test_class_probabilities_are_sums_over_the_full_vocabulary(steerer):
    logits = steerer.logits(PROMPTS[:1])
    p = logits.softmax(-1)[0]
    found = steerer.classes(logits)[0]
    monday = [TOKENIZER.convert_tokens_to_ids(t) for t in ("ĠMonday", "Monday", "Ġmonday", "monday")]
    known = [i for i in monday if i is not None and TOKENIZER.convert_ids_to_tokens(i) is not None and i != 0]
    assert set(spellings(TOKENIZER, "Monday")) <= set(known)
    assert found[0].item() == pytest.approx(p[spellings(TOKENIZER, "Monday")].sum().item(), rel=1e-5)
    assert found.sum().item() == pytest.approx(1.0, abs=1e-5) and len(found) == 8


def test_a_class_without_a_single_token_is_refused(steerer):
    with pytest.raises(Invalid, match="Blursday"):
        TextSteerer(steerer.adapter, labels=["Monday", "Blursday"])


def test_no_intervention_is_the_plain_model_bit_for_bit(steerer):
    ids = torch.tensor([steerer.encode(PROMPTS[0])])
    with torch.no_grad():
        plain = steerer.model.lm_head(steerer.model.model(ids).last_hidden_state[:, -1])
    assert torch.equal(steerer.logits(PROMPTS[:1]), plain)
    nothing = interventions_for(steerer.manifold, "manifold", 0.2, strength=0.0)
    assert torch.equal(steerer.logits(PROMPTS[:1], [nothing]), plain)


def rows_of(manifold):
    return [
        [],
        interventions_for(manifold, "manifold", 0.3),
        path_interventions(manifold, "chord", 0.1, 0.6, 0.5),
        path_interventions(manifold, "chord_subspace", 0.1, 0.6, 0.5, strength=0.7),
        interventions_for(manifold, "random", 0.3, t_from=0.1, seed=5),
    ]


def test_rows_of_one_batch_equal_each_alone(steerer):
    rows = rows_of(steerer.manifold)
    prompts = [PROMPTS[i % len(PROMPTS)] for i in range(len(rows))]
    together = steerer.logits(prompts, rows)
    for i, (prompt, row) in enumerate(zip(prompts, rows, strict=True)):
        assert torch.allclose(together[i], steerer.logits([prompt], [row])[0], atol=2e-5, rtol=0), i
    assert (together[0] - together[1]).abs().max() > 0.1


def test_a_sweep_equals_whole_forwards(steerer):
    rows = rows_of(steerer.manifold)
    swept = steerer.sweep_logits(PROMPTS[1], rows)
    whole = steerer.logits([PROMPTS[1]] * len(rows), rows)
    assert torch.allclose(swept, whole, atol=2e-5, rtol=0)
    assert swept.shape == (5, len(TOKENIZER))


def test_the_fast_path_equals_the_exact_path(steerer):
    row = interventions_for(steerer.manifold, "manifold", 0.3)
    ids = torch.tensor([steerer.encode(PROMPTS[0])])
    mask = torch.zeros(ids.shape[1])
    mask[-1] = 1
    masked = [Intervention(row[0].site, row[0].frame, lo=row[0].lo, hi=row[0].hi, mask=mask)]
    with torch.no_grad(), exact_edit(steerer.points, [masked]):
        exact = steerer.model(ids).logits[:, -1]
    assert torch.allclose(steerer.logits(PROMPTS[:1], [row]), exact, atol=2e-5)


def test_patching_a_centroid_sets_the_residual(steerer):
    manifold = steerer.manifold
    at = float(manifold.label_t[2])
    row = path_interventions(manifold, "chord", at, at, 0.0)
    with steerer.points.reading([SITE]) as seen:
        steerer.logits(PROMPTS[:1], [row])
    assert torch.allclose(seen[SITE][0][0, -1], manifold.entry().full[0, 2, 0], atol=1e-4)
    # Only the last token: the others are those of the plain model.
    with steerer.points.reading([SITE]) as plain:
        steerer.logits(PROMPTS[:1])
    assert torch.equal(seen[SITE][0][0, :-1], plain[SITE][0][0, :-1])


def text_of(pieces):
    return "".join(piece.text for piece in pieces)


def test_a_continuation_equals_recomputing_every_step(steerer):
    prompt, ids = PROMPTS[0], steerer.encode(PROMPTS[0])
    pieces = list(steerer.complete(prompt, 8))
    for piece in pieces:
        with torch.no_grad():
            logits = steerer.model(torch.tensor([ids])).logits[0, -1]
        assert piece.token == int(logits.argmax())
        assert piece.logprob == pytest.approx(float(logits.log_softmax(-1)[piece.token]), abs=1e-4)
        ids = ids + [piece.token]
    assert pieces[-1].finish in ("length", "stop") and all(piece.finish is None for piece in pieces[:-1])
    assert text_of(pieces) == TOKENIZER.decode([p.token for p in pieces], skip_special_tokens=True)


@pytest.mark.parametrize("positions", ["last", "all"])
def test_a_steered_continuation_equals_recomputing_every_step(steerer, positions):
    row = interventions_for(steerer.manifold, "manifold", 0.5)
    n_prompt = len(steerer.encode(PROMPTS[0]))
    ids = steerer.encode(PROMPTS[0])
    for piece in steerer.complete(PROMPTS[0], 6, steering=row, positions=positions):
        mask = torch.zeros(len(ids))
        mask[n_prompt - 1 : n_prompt if positions == "last" else None] = 1
        masked = [Intervention(each.site, each.frame, lo=each.lo, hi=each.hi, mask=mask) for each in row]
        with torch.no_grad(), steerer.points.apply([masked]):
            logits = steerer.model(torch.tensor([ids])).logits[0, -1]
        assert piece.logprob == pytest.approx(float(logits.log_softmax(-1)[piece.token]), abs=1e-4)
        ids = ids + [piece.token]


def test_two_interleaved_continuations_do_not_touch_each_other(steerer):
    row = interventions_for(steerer.manifold, "manifold", 0.5)
    alone = [p.token for p in steerer.complete(PROMPTS[0], 6)]
    steered = [p.token for p in steerer.complete(PROMPTS[0], 6, steering=row)]
    a, b = steerer.complete(PROMPTS[0], 6), steerer.complete(PROMPTS[0], 6, steering=row)
    woven = [(next(a), next(b)) for _ in range(min(len(alone), len(steered)))]
    assert [x.token for x, _ in woven] == alone[: len(woven)]
    assert [y.token for _, y in woven] == steered[: len(woven)]
    assert alone != steered


def test_sampling_repeats_with_its_seed_and_stops_are_cut_off(steerer):
    first = text_of(steerer.complete(PROMPTS[0], 12, temperature=1.0, seed=3))
    assert first == text_of(steerer.complete(PROMPTS[0], 12, temperature=1.0, seed=3))
    assert first != text_of(steerer.complete(PROMPTS[0], 12, temperature=1.0, seed=4))
    stop = first[3:6]
    pieces = list(steerer.complete(PROMPTS[0], 12, temperature=1.0, seed=3, stop=[stop]))
    assert text_of(pieces) == first[: first.index(stop)] and pieces[-1].finish == "stop"
    top = next(steerer.complete(PROMPTS[0], 1, n_top=3)).top
    assert len(top) == 3 and top[0][1] >= top[1][1]


def test_a_frame_holds_every_arm(steerer):
    request = TextCanvasRequest(seq=4, model="tiny", prompt=PROMPTS[0], manifold="tiny-days", t=0.4,
                                arms=["off", "manifold", "chord", "chord_subspace", "random"])  # fmt: skip
    frame = steerer.frame(request)
    assert frame.seq == 4 and [arm.arm for arm in frame.arms] == request.arms
    off, manifold = frame.arms[0], frame.arms[1]
    assert frame.t_from == pytest.approx(off.landed, abs=1e-6)
    p = steerer.distribution(PROMPTS[0])
    assert torch.allclose(torch.tensor([*off.classes, off.other]), p, atol=1e-5)
    for arm in frame.arms:
        assert sum(arm.classes) + arm.other == pytest.approx(1.0, abs=1e-4)
        assert arm.coherence == pytest.approx(1 - arm.other, abs=1e-5) and arm.energy >= 0
    drawn = steerer.manifold.xyz(steerer.manifold.targets(SITE, 0.4))
    assert torch.allclose(torch.tensor(manifold.activation_xyz), drawn, atol=1e-3)
    with pytest.raises(NotFound):
        steerer.frame(request.model_copy(update={"manifold": "other"}))


def test_a_path_holds_every_waypoint(steerer):
    request = PathRequest(model="tiny", prompt=PROMPTS[0], manifold="tiny-days", t_from=0.0, t=3 / 7, points=9)
    path = steerer.path(request)
    assert path.fraction[0] == 0 and path.fraction[-1] == 1 and len(path.fraction) == 9
    assert [arm.arm for arm in path.arms] == ["manifold", "chord", "chord_subspace"]
    curve, _, chord = path.arms
    assert len(curve.classes) == 9 and len(curve.classes[0]) == 7
    for end in (0, -1):
        assert torch.allclose(torch.tensor(curve.classes[end]), torch.tensor(chord.classes[end]), atol=1e-3)
    middle = interventions_for(steerer.manifold, "manifold", 3 / 14)
    assert torch.allclose(torch.tensor(curve.classes[4]), steerer.distribution(PROMPTS[0], middle)[:-1], atol=1e-4)


def test_steering_of_a_request_becomes_interventions(steerer):
    steer = TextSteer(manifold="tiny-days", t=0.4, arm="chord")
    assert steerer.steering(steer, PROMPTS[0])[0].frame.shape == (48, 48)
    assert steerer.steering(steer.model_copy(update={"arm": "off"}), PROMPTS[0]) == []
    written = text_of(steerer.complete(PROMPTS[0], 4, steering=steer.model_copy(update={"positions": "all"})))
    assert isinstance(written, str)


def test_prompts_that_cannot_be_read_are_refused(steerer):
    with pytest.raises(Invalid, match="Shorten"):
        steerer.distribution("Monday " * 200)
