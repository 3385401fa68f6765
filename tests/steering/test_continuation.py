"""Continuations: each token is that of the whole forward, plain or steered; two at once do not touch each other."""

import pytest
import torch

from backend.steering.arms import interventions_for
from backend.steering.continuation import asked_interventions, complete
from backend.steering.intervention import Intervention
from backend.wire.text import TextSteer
from backend.worlds.calendar import TASKS

PROMPTS = [prompt.text for prompt in TASKS["weekdays"].prompts()[:3]] + ["The day one days after Monday is"]


def text_of(pieces):
    return "".join(piece.text for piece in pieces)


def test_a_continuation_equals_recomputing_every_step(steerer):
    prompt, ids = PROMPTS[0], steerer.encode(PROMPTS[0])
    pieces = list(complete(steerer, prompt, 8))
    for piece in pieces:
        with torch.no_grad():
            logits = steerer.model(torch.tensor([ids])).logits[0, -1]
        assert piece.token == int(logits.argmax())
        assert piece.logprob == pytest.approx(float(logits.log_softmax(-1)[piece.token]), abs=1e-4)
        ids = ids + [piece.token]
    assert pieces[-1].finish in ("length", "stop") and all(piece.finish is None for piece in pieces[:-1])
    assert text_of(pieces) == steerer.tokenizer.decode([p.token for p in pieces], skip_special_tokens=True)


@pytest.mark.parametrize("positions", ["last", "all"])
def test_a_steered_continuation_equals_recomputing_every_step(steerer, positions):
    row = interventions_for(steerer.manifold, "manifold", 0.5)
    n_prompt = len(steerer.encode(PROMPTS[0]))
    ids = steerer.encode(PROMPTS[0])
    for piece in complete(steerer, PROMPTS[0], 6, steering=row, positions=positions):
        mask = torch.zeros(len(ids))
        mask[n_prompt - 1 : n_prompt if positions == "last" else None] = 1
        masked = [Intervention(each.site, each.frame, lo=each.lo, hi=each.hi, mask=mask) for each in row]
        with torch.no_grad(), steerer.points.apply([masked]):
            logits = steerer.model(torch.tensor([ids])).logits[0, -1]
        assert piece.logprob == pytest.approx(float(logits.log_softmax(-1)[piece.token]), abs=1e-4)
        ids = ids + [piece.token]


def test_two_interleaved_continuations_do_not_touch_each_other(steerer):
    row = interventions_for(steerer.manifold, "manifold", 0.5)
    alone = [p.token for p in complete(steerer, PROMPTS[0], 6)]
    steered = [p.token for p in complete(steerer, PROMPTS[0], 6, steering=row)]
    a, b = complete(steerer, PROMPTS[0], 6), complete(steerer, PROMPTS[0], 6, steering=row)
    woven = [(next(a), next(b)) for _ in range(min(len(alone), len(steered)))]
    assert [x.token for x, _ in woven] == alone[: len(woven)]
    assert [y.token for _, y in woven] == steered[: len(woven)]
    assert alone != steered


def test_sampling_repeats_with_its_seed_and_stops_are_cut_off(steerer):
    first = text_of(complete(steerer, PROMPTS[0], 12, temperature=1.0, seed=3))
    assert first == text_of(complete(steerer, PROMPTS[0], 12, temperature=1.0, seed=3))
    assert first != text_of(complete(steerer, PROMPTS[0], 12, temperature=1.0, seed=4))
    stop = first[3:6]
    pieces = list(complete(steerer, PROMPTS[0], 12, temperature=1.0, seed=3, stop=[stop]))
    assert text_of(pieces) == first[: first.index(stop)] and pieces[-1].finish == "stop"
    top = next(complete(steerer, PROMPTS[0], 1, n_top=3)).top
    assert len(top) == 3 and top[0][1] >= top[1][1]


def test_steering_of_a_request_becomes_interventions(steerer):
    steer = TextSteer(manifold="tiny-days", t=0.4, arm="chord")
    assert asked_interventions(steerer, steer, PROMPTS[0])[0].frame.shape == (48, 48)
    assert asked_interventions(steerer, steer.model_copy(update={"arm": "off"}), PROMPTS[0]) == []
    written = text_of(complete(steerer, PROMPTS[0], 4, steering=steer.model_copy(update={"positions": "all"})))
    assert isinstance(written, str)
