"""Steering language on a tiny random Llama: exactness of sweeps, batches and patches."""

import pytest
import torch

from backend.core.errors import Invalid
from backend.steering.arms import interventions_for, path_interventions
from backend.steering.intervention import Intervention, exact_edit
from backend.steering.text import TextSteerer, spellings
from backend.worlds.calendar import TASKS
from backend.worlds.calendar_tokens import build_tokenizer

SITE = "tiny/1#resid_post"
TOKENIZER = build_tokenizer()
PROMPTS = [prompt.text for prompt in TASKS["weekdays"].prompts()[:3]] + ["The day one days after Monday is"]


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


def test_prompts_that_cannot_be_read_are_refused(steerer):
    with pytest.raises(Invalid, match="Shorten"):
        steerer.distribution("Monday " * 200)
