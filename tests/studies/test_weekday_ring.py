"""The study on a tiny random Llama: its split, its controls, and that its findings say what was measured."""

import math

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

import backend.studies.weekday_ring as ring
from backend.manifolds.behaviour import with_other
from backend.models.language import TextAdapter
from backend.steering.intervention import Intervention
from backend.steering.patching import choose_layer, flip_rates
from backend.steering.text import TextSteerer
from backend.studies.base import StudyContext
from backend.studies.weekday_ring.paths import ARMS, distance_on_ring, pairs_of, reached, shuffled_copy, split, visited
from backend.worlds.calendar import TASKS
from backend.worlds.calendar_tokens import build_tokenizer

TASK = TASKS["weekdays"]
LABELS = torch.tensor([prompt.answer_class for prompt in TASK.prompts()])


def context(scale="small"):
    return StudyContext("weekday-ring", scale, 0, lambda share, text: None, torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def adapter():
    torch.manual_seed(0)
    tokenizer = build_tokenizer()
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=48, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=4, max_position_embeddings=96, initializer_range=0.2,
        pad_token_id=0, bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    return TextAdapter(LlamaForCausalLM(config).eval().requires_grad_(False), tokenizer, name="tiny")


@pytest.fixture(scope="module")
def measured(adapter):
    return ring.measure(adapter, TASK, context(), n_waypoints=4, n_base=2)


def test_steered_prompts_are_never_fitted_on():
    parts = split(LABELS, n_base=16, generator=torch.Generator().manual_seed(3))
    base, fit, choose, rest = (set(part.tolist()) for part in (parts.base, parts.fit, parts.choose, parts.rest))
    assert len(base) == 16 and base | fit == set(range(49)) and not base & fit
    assert choose < fit and len(choose) == 24 and choose | rest == set(range(49)) and not choose & rest
    for part, least in ((parts.base, 2), (parts.fit, 4), (parts.choose, 3), (parts.rest, 3)):
        assert torch.bincount(LABELS[part], minlength=7).min() >= least


def test_shuffled_rings_keep_no_neighbours(measured):
    generator = torch.Generator().manual_seed(0)
    for _ in range(5):
        wrong, t = shuffled_copy(measured.manifold, generator=generator)
        rank = torch.argsort(torch.argsort(t))
        gap = (rank.roll(-1) - rank).abs()
        assert not bool(((gap == 1) | (gap == 6)).any())
        entry = measured.manifold.entry()
        assert torch.allclose(wrong.curve().point(t[4]), entry.knots[0, 4, 0], atol=1e-4)


def test_pairs_and_their_distance():
    pairs = pairs_of(7)
    assert len(pairs) == 21
    gap = distance_on_ring(pairs, 7)
    assert [int((gap == k).sum()) for k in (1, 2, 3)] == [7, 7, 7]


def test_visited_sees_the_classes_in_between():
    pairs = [(0, 3), (0, 1), (6, 1)]
    way = torch.zeros(3, 1, 4, 8)
    for pair, classes in enumerate([(0, 1, 2, 3), (0, 0, 1, 1), (6, 6, 1, 1)]):
        for k, c in enumerate(classes):
            way[pair, 0, k, c] = 1.0
    found = visited(way, pairs, 7)
    assert found[0] == 1.0 and math.isnan(found[1]) and found[2] == 0.0
    assert reached(way, pairs).tolist() == [1.0, 1.0, 1.0] and reached(way, [(0, 2), (0, 1), (6, 1)])[0] == 0.0


def test_paths_have_every_arm_and_meet_at_their_ends(measured):
    assert set(measured.paths) == set(ARMS)
    for p in measured.paths.values():
        assert p.shape == (21, 2, 4, 8)
        assert torch.allclose(p.sum(-1), torch.ones(21, 2, 4), atol=1e-4)
    ring_path, chord = measured.paths["manifold"], measured.paths["chord_subspace"]
    assert torch.allclose(ring_path[:, :, [0, -1]], chord[:, :, [0, -1]], atol=2e-3)
    # The wrong ring passes through the same centroids at its ends.
    assert torch.allclose(ring_path[:, :, [0, -1]], measured.paths["shuffled"][:, :, [0, -1]], atol=2e-3)
    assert not torch.allclose(ring_path, measured.paths["random"], atol=1e-2)


def test_findings_are_complete_and_consistent(measured):
    found = {finding.id.split("/")[1]: finding for finding in ring.findings(context(), measured, n_draws=3)}
    wanted = {
        "accuracy", "layer-flip-rate", "natural-order", "isometry-r", "energy-manifold", "energy-chord",
        "energy-chord-subspace", "energy-random", "energy-shuffled", "energy-ratio", "energy-ratio-subspace",
        "energy-ratio-neighbours", "energy-ratio-distant", "energy-manifold-neighbours", "coherence-manifold",
        "passes-through", "behaviour-truth", "reaches-target",
    }  # fmt: skip
    assert set(found) == wanted
    energy, chord = found["energy-manifold"], found["energy-chord"]
    behaviour = measured.manifold.behaviour
    assert energy.value == pytest.approx(behaviour.energy(measured.paths["manifold"]).total.mean().item(), rel=1e-5)
    assert energy.controls["per waypoint"] == pytest.approx(energy.value / 4, rel=1e-5)
    weighted = (7 * energy.controls["neighbours"] + 14 * energy.controls["distant pairs"]) / 21
    assert weighted == pytest.approx(energy.value, rel=1e-5)
    assert found["energy-ratio"].value == pytest.approx(chord.value / energy.value, rel=1e-5)
    for finding in found.values():
        assert finding.controls, finding.id
        assert finding.low is None or finding.low <= finding.high
        assert finding.command == "manifold-atlas study weekday-ring --scale small --seed 0"


def test_a_random_model_has_no_natural_ring_of_answers(measured):
    found = {finding.id.split("/")[1]: finding for finding in ring.findings(context(), measured, n_draws=2)}
    assert found["accuracy"].value < 0.5
    assert found["behaviour-truth"].value > 0.3 and found["behaviour-truth"].status == "falls short"


def test_ratio_interval_of_a_constant_ratio_is_exact():
    below = torch.rand(21, generator=torch.Generator().manual_seed(0)) + 0.1
    value, low, high, n = ring.ratio_interval(3 * below, below)
    assert value == pytest.approx(3) and low == pytest.approx(3) and high == pytest.approx(3) and n == 21


def test_the_layer_is_the_one_with_most_flips_near_the_papers_depth():
    assert choose_layer(torch.tensor([0.1, 0.9, 0.3, 0.2])) == 1
    assert choose_layer(torch.tensor([0.1, 0.99, 1.0, 1.0, 1.0, 1.0])) == 4
    assert choose_layer(torch.tensor([0.1, 0.2, 0.9, 1.0])) == 2


def test_patching_the_last_layer_is_reading_the_centroid_out(adapter):
    # Behind the last block nothing mixes tokens any more: every prompt gives the centroid's own distribution.
    site = "tiny/1#resid_post"
    steerer = TextSteerer(adapter, labels=TASK.classes, sites=[site])
    texts = [prompt.text for prompt in TASK.prompts()]
    x = steerer.residuals(texts, sites=[site])[site]
    middle = torch.stack([x[LABELS == c].mean(0) for c in range(7)])
    with torch.no_grad():
        read = steerer.classes(adapter.model.lm_head(adapter.model.model.norm(middle)))
    rows = [[Intervention.clamp(site, torch.eye(48), c)] for c in middle]
    for text in texts[:3]:
        assert torch.allclose(steerer.sweep(text, rows), read, atol=1e-4)
    says = read[:, :-1].argmax(-1) == torch.arange(7)
    test = (texts[:1], LABELS[:1])
    rate = flip_rates(steerer, [site], fit=(texts, LABELS), test=test)
    others = torch.arange(7) != LABELS[0]
    assert rate.item() == pytest.approx(says[others].float().mean().item())


def test_other_bin_of_the_truth_is_empty():
    assert with_other(TASK.distributions())[:, -1].abs().max() < 1e-6
