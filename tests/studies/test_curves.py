"""The study of curves: planted harmonics, read-outs and rings are found; its controls fail where they should."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from backend.core.errors import Corrupt
from backend.core.settings import realdata_dir
from backend.featurizers.grassmannian import Grassmannian
from backend.studies import base, curves
from backend.studies.curves import ablation, blocks, harmonics, measuring, networks, readout
from backend.studies.curves.squeezenet import SqueezeNet
from backend.worlds import curves_render

THETA = torch.arange(120, dtype=torch.float64) * 2 * math.pi / 120


def winding(*orders: int) -> torch.Tensor:
    """(120, 2 · n): a closed curve that winds each number of times in a plane of its own."""
    return torch.cat([torch.stack([(w * THETA).cos(), (w * THETA).sin()], 1) for w in orders], 1)


def planted_featurizer() -> Grassmannian:
    """Width 8, four blocks of two axes each, gain 1, no centring; two active."""
    made = Grassmannian(8, 4, d_block=2, k=2)
    with torch.no_grad():
        made.frame.copy_(torch.eye(8).view(4, 2, 8))
    return made.eval()


def test_shares_of_planted_harmonics():
    m = winding(1, 3) * torch.tensor([2.0, 2.0, 1.0, 1.0])
    assert torch.allclose(harmonics.shares(m), torch.tensor([0.8, 0.0, 0.2, 0.0]).double(), atol=1e-6)


def test_the_nulls():
    x = winding(1, 2)[None].float()
    found = harmonics.harmonics(x, x, torch.eye(4), n_draws=40)
    assert torch.allclose(found.only, torch.tensor([[1.0, 0, 0, 0]]).double(), atol=1e-6)
    # The second harmonic is half of the curve; white noise of its energy puts one part in 60 there.
    assert found.block[0, 1] == pytest.approx(0.5, abs=1e-6) and found.high[0, 1] < 0.05
    assert found.noise[0, 0] == pytest.approx(0.5, abs=0.06)
    # A gate alone makes harmonics of a bare circle.
    gated = winding(1)[None] * (THETA < math.pi).double()[None, :, None]
    assert harmonics.shares(gated)[0, 1] > 0.05


def test_read_out_finds_what_is_planted_and_nothing_in_noise():
    z = winding(1, 2)
    y = torch.relu(z @ torch.tensor([[1.0, -0.5], [0.2, 0.8], [0.5, 0.3], [0.0, -0.4]]).double() - 0.5)
    fold = readout.folds(120)
    assert fold.bincount().tolist() == [30] * 4 and (fold[:5] == 0).all() and fold[5] == 1
    good = readout.read_out(z, y, fold, z, y, fold)
    assert (good > 0.95).all()
    assert (readout.read_out(z, y, fold, z, y, fold, relu=False) < good).all()
    noise = torch.randn(120, 4, generator=torch.Generator().manual_seed(0))
    assert (readout.read_out(noise, y, fold, noise, y, fold) < 0.3).all()


def test_the_even_block_is_found_without_labels():
    draw = torch.Generator().manual_seed(0)
    angle = 2 * math.pi * torch.rand(600, generator=draw)
    x = 0.05 * torch.randn(600, 8, generator=draw)
    x[:, 2:4] += torch.stack([angle.cos(), angle.sin()], 1)
    # Block 3 is louder, but on a wedge; block 0 is on for all and says the same of all.
    x[:, 6] += 3 * (angle < 0.6)
    x[:, 0] += 0.9
    featurizer = planted_featurizer()
    chosen = blocks.choose(featurizer, x)
    assert chosen.block == 1 and chosen.ring and chosen.share >= 0.9
    assert chosen.union[0] == 1
    z = blocks.codes(featurizer, x)
    assert ((z != 0).any(2).sum(1) == 2).all()


def test_the_union_fills_what_is_missing():
    draw = torch.Generator().manual_seed(0)
    half = torch.arange(400) % 2
    x = 0.01 * torch.randn(400, 8, generator=draw)
    for side in (0, 1):
        x[half == side, 2 * side : 2 * side + 2] += torch.randn(int((half == side).sum()), 2, generator=draw)
    featurizer = planted_featurizer()
    featurizer.k = 1
    chosen = blocks.choose(featurizer, x)
    assert sorted(chosen.union) == [0, 1] and chosen.share == pytest.approx(0.5, abs=0.05)


def detectors(n: int = 32, *, n_extra: int = 8) -> networks.Network:
    """A network whose units are templates of curves at ``n`` orientations, and some of noise."""
    turn = torch.arange(n) * 2 * math.pi / n
    kernel = curves_render.render_curves(turn, radius=12.0, width=5.0)[:, 0].flatten(1) - 0.5
    noise = torch.randn(n_extra, kernel.shape[1], generator=torch.Generator().manual_seed(0))
    kernel = torch.nn.functional.normalize(torch.cat([kernel - kernel.mean(0), noise]), dim=1)

    def upto(pixels):
        return torch.relu(((pixels.flatten(1) - 0.5) @ kernel.T).abs() - 0.8)[..., None, None]

    return networks.Network("toy", "", "first", "second", upto, lambda maps: torch.relu(maps - 0.1))


PLAN = replace(measuring.PLANS["small"], n_stimuli=300, n_probe=200, step_deg=15.0, n_blocks=8, k=2, d_block=4,
               steps=60, batch=128, n_seeds=1, n_random=1)  # fmt: skip


def test_the_study_on_planted_detectors(home, monkeypatch):
    monkeypatch.setattr(curves, "present", lambda: ([detectors()], {"squeezenet-": "not here"}))
    monkeypatch.setitem(measuring.PLANS, "small", PLAN)
    notes = []
    result = base.run_study("curves", notes=notes)
    by_id = {f.id.removeprefix("curves/"): f for f in result.findings}
    assert {*curves.CLAIMS, "union-coverage", *(f"harmonic-{w}-share" for w in range(1, 5))} <= set(by_id)
    assert {f"squeezenet-{name}" for name in curves.CLAIMS} <= set(by_id) and any("not here" in n for n in notes)
    for finding in result.findings:
        if finding.value is not None:
            assert finding.low <= finding.value <= finding.high and finding.controls and finding.n >= 1
    block = by_id["readout-r2-block"]
    assert block.value > block.controls["angles shuffled"]
    shares = [by_id[f"harmonic-{w}-share"] for w in range(1, 5)]
    assert sum(s.value for s in shares) <= 1 + 1e-6
    assert [round(s.controls["null: orientation only"], 6) for s in shares] == [1, 0, 0, 0]
    assert by_id["ablation-effect"].value > 0


def test_taking_everything_out_leaves_the_centre():
    bench = networks.Bench.of(detectors(), n_stimuli=60, n_probe=40, step_deg=15.0, seed=0)
    assert len(bench.units) >= 4 and len(bench.rows) == 60
    featurizer = Grassmannian(40, 10, d_block=4, k=10)
    with torch.no_grad():
        featurizer.frame.copy_(torch.eye(40).view(10, 4, 40))
    featurizer.fit_centring(bench.rows[:, None])
    taken = ablation.Ablation(bench)
    picked = taken.pick(featurizer)
    every = taken.contribution(featurizer, picked, range(10))
    left = taken.maps - every
    assert torch.allclose(left, featurizer.centre[0][:, None, None].expand_as(left), atol=1e-4)
    # Nothing is left of the tuning but its mean's distance to the centre.
    assert (taken.effect(every) > 0.9).all() and taken.effect(torch.zeros_like(every)).abs().max() == 0
    measured = taken.measure(featurizer, [0], list(range(10)), n_draws=3, rng=np.random.default_rng(0))
    assert set(measured) == {"block", "random", "directions"}


def squeezenet_tensors() -> dict[str, torch.Tensor]:
    """Tensors of the right shapes, a sixteenth as wide."""
    draw, tensors, width = torch.Generator().manual_seed(0), {}, 4

    def put(name: str, *shape: int) -> None:
        tensors[f"features.{name}.weight"] = torch.randn(shape, generator=draw)
        tensors[f"features.{name}.bias"] = torch.zeros(shape[0])

    put("0", width, 3, 3, 3)
    for i in (3, 4, 6, 7, 9, 10, 11, 12):
        put(f"{i}.squeeze", 2, width, 1, 1)
        put(f"{i}.expand1x1", 3, 2, 1, 1)
        put(f"{i}.expand3x3", 3, 2, 3, 3)
        width = 6
    return tensors


def test_squeezenet_is_cut_without_loss_and_refuses_what_is_not_whole():
    tensors = squeezenet_tensors()
    model = SqueezeNet(tensors)
    pixels = torch.rand(2, 1, 64, 64, generator=torch.Generator().manual_seed(1))
    part = model.features(pixels, 7)
    assert part.shape == (2, 6, 7, 7)
    assert torch.equal(model.between(part, 8, 9), model.features(pixels, 9))
    assert torch.allclose(model.features(pixels.expand(-1, 3, -1, -1), 7), part)
    assert not torch.allclose(model.untrained(torch.Generator().manual_seed(0)).features(pixels, 7), part)
    del tensors["features.9.expand3x3.bias"]
    with pytest.raises(Corrupt, match="features.9.expand3x3.bias"):
        SqueezeNet(tensors)


@pytest.mark.skipif(
    realdata_dir() is None or not (realdata_dir() / "squeezenet1_1").is_dir(), reason="no real weights here"
)
def test_the_real_network_prefers_curves_that_are_turned_its_way():
    network = networks.squeezenet(SqueezeNet.from_folder(realdata_dir() / "squeezenet1_1"))
    sweep = networks.turned(network, {"radius": (11.0,), "width": (2.5,), "contrast": (0.4,)}, 15.0)
    assert sweep.x.shape == (1, 24, 256) and sweep.following.shape[:2] == (1, 24)
    tuned = sweep.x[0].std(0) > 0.5 * sweep.x[0].mean(0).clamp_min(1e-6)
    assert int(tuned.sum()) > 50
