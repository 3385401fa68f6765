"""The study of superposition: a perfect dictionary scores 1, a wrong one does not, and a killed run goes on."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from backend.featurizers.grassmannian import Grassmannian
from backend.featurizers.pursuit import BlockPursuit
from backend.studies import base, superposition
from backend.studies.superposition import arms, matching, shapes
from backend.studies.superposition.arms import ARMS, PLANS, Arm, ReluAtoms, build, trained
from backend.studies.superposition.matching import Bench, code_of, presence_correlation, r_squared
from backend.worlds.zoo import KINDS, Zoo

TINY = replace(PLANS["small"], n_factors=16, d=40, n_active=2, n_train=2000, n_held=2400, n_blocks=20, d_block=4,
               steps=30, batch=128, tune=8, warmup=5, n_seeds=1)  # fmt: skip


@pytest.fixture(scope="module")
def bench():
    zoo = Zoo(16, 40, n_active=2, seed=3, n_calibration=2000)
    return Bench(zoo, zoo.draw(4000, generator=torch.Generator().manual_seed(1)))


def perfect(zoo: Zoo) -> Grassmannian:
    """Blocks of three: every factor's subspace, filled up with directions outside of it."""
    featurizer = Grassmannian(zoo.d, zoo.n_factors, d_block=3, k=zoo.n_active,
                              generator=torch.Generator().manual_seed(0))  # fmt: skip
    with torch.no_grad():
        for i in range(zoo.n_factors):
            own = zoo.frame(i)
            featurizer.frame[i, : len(own)] = own
        featurizer.project()
        featurizer.log_gain.zero_()
    return featurizer.eval()


def test_the_true_dictionary_read_by_pursuit_is_nearly_the_oracle(bench):
    linear = perfect(bench.zoo)
    found, picked = bench.match(BlockPursuit.of(linear))
    assert [b for b in found.blocks] == [[i] for i in range(16)]
    oracle, of = bench.oracle()
    assert oracle.min() > 0.9999
    assert np.median(found.r2) > 0.97 and found.r2.mean() > bench.match(linear)[0].r2.mean()
    assert found.shuffled.mean() < 0.3 and found.random.mean() < 0.3
    m, t = bench.contribution(linear, picked, [9], 9)
    assert len(m) == len(t) > 300
    truth, _ = of(9)
    assert truth.shape[1] == 40


def test_atoms_may_use_as_many_as_the_factor_has_dimensions(bench):
    zoo = bench.zoo
    atoms = Grassmannian(zoo.d, 48, d_block=1, k=6, generator=torch.Generator().manual_seed(0))
    found, _ = bench.match(atoms.eval())
    widths = {kind: len(own) for kind, own in zip(zoo.kinds, found.blocks)}
    assert widths["segment"] == 1 and widths["circle"] == 2 and widths["sphere"] == 3


def test_presence_correlation_is_the_correlation(bench):
    picked = matching.read(perfect(bench.zoo), bench.sample.x)
    score = presence_correlation(picked, bench.mask, 16)
    norm = torch.stack([code_of(picked, g, torch.arange(len(bench.mask))).norm(dim=1) for g in range(16)], 1)
    both = np.corrcoef(bench.mask[:, 4].float().numpy(), norm[:, 11].numpy())[0, 1]
    assert score[4, 11].item() == pytest.approx(both, abs=1e-4)


def test_r_squared_limits():
    m = torch.randn(200, 5, generator=torch.Generator().manual_seed(0))
    assert r_squared(m, m) == 1 and r_squared(m, m.mean(0).expand_as(m)) == pytest.approx(0, abs=1e-6)
    assert r_squared(m, -m) < -2
    affine = matching.affine(m, 3 * m + 1)
    assert torch.allclose(affine(m).float(), 3 * m + 1, atol=1e-3)


def test_relu_atoms_are_never_negative_and_learn():
    featurizer = build(ARMS["relu_atoms"], TINY, 0)
    assert isinstance(featurizer, ReluAtoms) and featurizer.d_block == 1 and featurizer.k == 8
    assert featurizer.n_blocks == 80
    x = torch.randn(64, 40, generator=torch.Generator().manual_seed(0))
    featurizer.initialise(x)
    picked = featurizer.eval().select(x)
    assert picked.code.min() >= 0 and picked.code.max() > 0
    dense = torch.nn.functional.linear(x, featurizer.encoder, featurizer.bias)
    best = dense.topk(8, 1).values.clamp_min(0).sum(1)
    assert torch.allclose(picked.code.sum((1, 2)), best, atol=1e-3)
    loss, _ = featurizer.train().loss(x)
    loss.backward()
    assert featurizer.encoder.grad.abs().max() > 0


def test_a_trained_arm_is_kept_and_loaded(home):
    calls = []

    def rows():
        calls.append(1)
        zoo = TINY.zoo(0)
        return TINY.sample(zoo, 0, held=False).x

    for name in ("vanilla", "best", "group_lasso", "relu_atoms"):
        first = trained(ARMS[name], TINY, 0, rows=rows, progress=lambda share: None)
        n = len(calls)
        again = trained(ARMS[name], TINY, 0, rows=rows, progress=lambda share: None)
        assert len(calls) == n
        x = torch.randn(20, 40, generator=torch.Generator().manual_seed(0))
        assert torch.allclose(first(first.normalise(x)), again(again.normalise(x)), atol=1e-5)
    # The pursuit arm kept the dictionary it started from as an arm of its own.
    assert arms.folder_of(ARMS["grassmannian"], TINY, 0).is_dir()
    assert not list((home / "training" / "superposition").rglob("state.safetensors"))


def test_a_killed_arm_goes_on(home):
    arm, seen = ARMS["vanilla"], []

    def rows():
        return TINY.sample(TINY.zoo(0), 0, held=False).x

    class Killed(Exception):
        pass

    def stop(share):
        seen.append(share)
        if len(seen) == 1:
            raise Killed

    with pytest.raises(Killed):
        trained(arm, TINY, 0, rows=rows, progress=stop)
    assert not arms.folder_of(arm, TINY, 0).exists()
    assert trained(arm, TINY, 0, rows=rows, progress=lambda share: None).info["seconds"] >= 0


def test_an_arm_takes_the_dictionary_of_another():
    base_arm, other = build(ARMS["grassmannian"], TINY, 0), build(ARMS["best"], TINY, 1)
    base_arm.fit_centring(torch.randn(50, 40) + 2)
    assert not torch.allclose(base_arm.frame, other.frame)
    arms.take_over(other, base_arm)
    assert torch.equal(base_arm.frame, other.frame) and torch.equal(base_arm.centre, other.centre)
    lasso, vanilla = build(ARMS["group_lasso"], TINY, 0), build(ARMS["vanilla"], TINY, 1)
    arms.take_over(lasso, vanilla)
    assert torch.equal(lasso.encoder, vanilla.encoder) and torch.equal(lasso.decoder, vanilla.decoder)


def test_other_numbers_have_other_folders():
    assert TINY.digest != replace(TINY, steps=31).digest
    one, other = Arm("a", "vanilla", lr=1e-3), Arm("a", "vanilla", lr=2e-3)
    assert arms.folder_of(one, TINY, 0) != arms.folder_of(other, TINY, 0)


def test_what_is_right_covers_every_kind_and_another_block_is_wrong():
    assert set(shapes.RIGHT) == set(KINDS)
    kinds = TINY.zoo(0).kinds
    for i in range(len(kinds)):
        j = shapes._other(kinds, i)
        assert not set(shapes.RIGHT[kinds[i]]) & set(shapes.RIGHT[kinds[j]])


def test_circular_correlation():
    t = np.random.default_rng(0).random(500)
    assert shapes.circular_correlation(t, t) == pytest.approx(1)
    assert shapes.circular_correlation((0.3 - t) % 1, t) == pytest.approx(1)
    assert shapes.circular_correlation(np.random.default_rng(1).random(500), t) < 0.15


def test_the_study_reports_every_finding_with_controls(home, monkeypatch):
    monkeypatch.setitem(PLANS, "small", TINY)
    # Shapes have tests of their own; here only the circles and a few lines are looked at.
    monkeypatch.setattr(shapes, "look", lambda code, t, kind, **kwargs: {
        "kind": "line", "correlation": 0.5 if kind == "circle" else None, "shuffled": 0.1})  # fmt: skip
    seen = []
    result = base.run_study("superposition", progress=lambda f, m: seen.append(f))
    found = {f.id.split("/")[1]: f for f in result.findings}
    assert set(found) == {"r2-vanilla", "r2-grassmannian", "r2-group-lasso", "r2-best", "r2-topk-sae", "r2-oracle",
                          "topology-accuracy", "ring-correlation"}  # fmt: skip
    assert found["r2-oracle"].status == "holds" and found["r2-oracle"].value > 0.999
    for finding in found.values():
        assert finding.controls and finding.low <= finding.value <= finding.high and finding.seeds == [0], finding.id
    assert "ReLU" in found["r2-topk-sae"].controls and "shuffled presence" in found["r2-best"].controls
    # Eight segments of sixteen factors, and the helix, are lines.
    assert found["topology-accuracy"].value == pytest.approx(9 / 16)
    assert found["ring-correlation"].value == 0.5 and seen == sorted(seen) and seen[-1] == 1.0
    assert list((home / "studies" / "superposition").rglob("shapes-best-0-v*.json"))
    assert superposition.NAME == "superposition"
