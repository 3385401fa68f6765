"""Description length and ranks on planted activations: families, cache, control, and what the findings say."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from backend.featurizers.description import CodeMoments, log2_choose
from backend.featurizers.grassmannian import Grassmannian
from backend.studies import base, block_sweep, mdl, ranks
from backend.studies.block_sweep import SWEEPS, Config, gaussian_like, moments, swept

SWEEP = replace(SWEEPS["small"], widths=(1, 2, 4), same=((8, 2),), matched=(16, 4), wide=Config(8, 2, 6),
                n_train=1200, n_held=800, steps=60, batch=96, lr=1e-2, n_seeds=1)  # fmt: skip


def planted(adapter, n: int, generator: torch.Generator, site: str) -> torch.Tensor:
    """Two of eight orthogonal planes active in 24 dimensions, on a ring in each."""
    axes = torch.linalg.qr(torch.randn(24, 16, generator=torch.Generator().manual_seed(0)))[0].T
    active = torch.rand(n, 8, generator=generator).topk(2, 1).indices
    angle = 6.2832 * torch.rand(n, 2, generator=generator)
    code = torch.stack([angle.cos(), angle.sin()], -1)
    x = torch.einsum("nkb,nkbd->nd", code, axes.view(8, 2, 24)[active])
    return x + 0.02 * torch.randn(n, 24, generator=generator)


@pytest.fixture
def one_model(home, monkeypatch):
    monkeypatch.setattr(block_sweep, "SOURCES", {"toy": ("toy/0#resid_post", planted)})
    monkeypatch.setattr(block_sweep.registry, "available", lambda: ["toy"])
    monkeypatch.setattr(block_sweep.registry, "load", lambda name: type("Toy", (), {"name": name})())
    monkeypatch.setitem(SWEEPS, "small", SWEEP)
    return home


@pytest.mark.parametrize("scale", ["small", "paper"])
def test_families(scale):
    sweep = SWEEPS[scale]
    for (g, k), family in sweep.same_gk().items():
        assert [c.d_block for c in family] == list(sweep.widths) and {(c.n_blocks, c.k) for c in family} == {(g, k)}
    budget = sweep.same_budget()
    assert {(c.n_blocks * c.d_block, c.k * c.d_block) for c in budget} == {sweep.matched}
    assert budget[0].d_block == 1 and len(budget) >= 4
    every = sweep.everything()
    assert len(every) == len(set(every)) and set(budget) < set(every)


def test_gaussian_rows_have_the_covariance():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(4000, 5, generator=generator) @ torch.randn(5, 5, generator=generator) + 3
    y = gaussian_like(x, 20_000, generator)
    assert torch.allclose(torch.cov(y.T), torch.cov(x.T), rtol=0.1, atol=0.15)
    assert torch.allclose(y.mean(0), x.mean(0), atol=0.15)


def test_a_sweep_is_kept_and_goes_on(one_model, monkeypatch):
    seen = []
    first = swept(SWEEP, [0], progress=lambda share, what: seen.append(share))[0]
    assert seen == sorted(seen) and set(first.real) == set(SWEEP.everything()) == set(first.null)
    # One file lost is one training, not all.
    lost = next(one_model.rglob("real-grassmannian-G8-k2-b2.safetensors"))
    lost.unlink()
    trained = []
    monkeypatch.setattr(block_sweep, "fit", lambda f, x, training: trained.append(f.d_block))
    again = swept(SWEEP, [0], progress=lambda share, what: None)[0]
    assert trained == [2]
    config = Config(8, 2, 4)
    for key in ("count", "second", "residual", "gram"):
        assert np.array_equal(getattr(first.real[config], key), getattr(again.real[config], key))
    assert first.real[config].n == again.real[config].n == 800


def test_moments_describe_the_planted_planes(one_model):
    kept = moments(SWEEP, "toy", Config(8, 2, 2), 0, rows=lambda: block_sweep.activations(SWEEP, "toy", 0))
    assert kept.r2 > 0.5 and kept.histogram[2] == 800
    bits = kept.bits(n_train=1200, var_ref=1.0)
    assert bits.selection == pytest.approx(float(log2_choose(8, 2)))


def test_both_studies_report_everything(one_model):
    found = {f.id: f for f in base.run_study("mdl").findings + base.run_study("ranks").findings}
    assert set(found) == {f"mdl/{name}" for name in mdl.CLAIMS} | {f"ranks/{name}" for name in ranks.CLAIMS}
    for finding in found.values():
        assert finding.value is not None and finding.low <= finding.value <= finding.high, finding.id
        assert "Gaussian rows of the same covariance" in finding.controls and finding.seeds == [0]
    assert {"clipped rate", "code space", "without dictionary"} <= set(found["mdl/cheapest-b-matched"].controls)
    assert 1 <= found["ranks/stable-rank-squared"].value <= found["ranks/stable-rank"].value <= 6
    rows = json.loads((one_model / "studies" / "mdl" / "table-small-0.json").read_text())
    assert all(np.isclose(r["selection"] + r["code"] + r["residual"] + r["dictionary"], r["total"]) for r in rows)
    headline = {r["d_block"]: r["total"] for r in rows if not r["control"] and (r["n_blocks"], r["k"]) == (8, 2)
                and (r["rate"], r["space"], r["share"]) == ("smooth", "contribution", 0.2)
                and r["d_block"] < 6}  # fmt: skip
    assert found["mdl/cheapest-b-same-gk"].value == min(headline, key=headline.get)
    saved = headline[1] - min(headline[2], headline[4])
    assert found["mdl/bits-saved-same-gk"].value == pytest.approx(saved)
    assert {r["d_block"] for r in rows} == {1, 2, 4, 6} and {r["control"] for r in rows} == {"", "gaussian"}


def test_without_models_every_id_is_reported(home, monkeypatch):
    monkeypatch.setattr(block_sweep.registry, "available", lambda: [])
    for name, claims in (("mdl", mdl.CLAIMS), ("ranks", ranks.CLAIMS)):
        result = base.run_study(name)
        assert {f.id for f in result.findings} == {f"{name}/{m}" for m in claims}
        assert all(f.value is None and "train" in f.caveat for f in result.findings)


def test_true_planes_cost_fewer_bits_than_single_directions():
    x = planted(None, 1500, torch.Generator().manual_seed(1), "")
    axes = torch.linalg.qr(torch.randn(24, 16, generator=torch.Generator().manual_seed(0)))[0].T

    def bits(frames: torch.Tensor) -> float:
        featurizer = Grassmannian(24, len(frames), d_block=frames.shape[1], k=2)
        with torch.no_grad():
            featurizer.frame.copy_(frames)
        found = CodeMoments.of(featurizer, x)
        return found.bits(n_train=100_000, var_ref=found.variance, share=0.05).total

    # Half of every plane: the other half of each ring stays in the residual.
    assert bits(axes.view(8, 2, 24)) < bits(axes[::2][:, None])
