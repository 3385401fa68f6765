"""The zoo's ground truth is exact: contributions add up to x, shapes obey their equations, counts are as stated."""

from __future__ import annotations

import pytest
import torch

from backend.core.errors import Invalid
from backend.worlds.zoo import CURVED, INTRINSIC, KINDS, SPAN, Zoo, shape


@pytest.fixture(scope="module")
def zoo():
    return Zoo(32, 48, n_active=3, seed=1, n_calibration=4000)


@pytest.fixture(scope="module")
def sample(zoo):
    return zoo.draw(6000, generator=torch.Generator().manual_seed(5), chunk=2500)


def test_half_are_segments_and_the_rest_cycle():
    kinds = Zoo(128, 128, n_calibration=64).kinds
    assert kinds[:64] == ("segment",) * 64 and kinds[64:71] == CURVED and kinds[71:78] == CURVED
    assert {kind: kinds.count(kind) for kind in ("circle", "helix")} == {"circle": 10, "helix": 9}
    assert set(SPAN) == set(INTRINSIC) == set(KINDS)


def test_contributions_add_up_to_x(zoo, sample):
    total = torch.zeros_like(sample.x)
    for factor in range(zoo.n_factors):
        rows, t = sample.of(factor)
        total[rows] += zoo.contribution(factor, t)
    assert torch.allclose(total, sample.x, atol=1e-5)


def test_factors_are_drawn_without_replacement_and_uniformly(zoo, sample):
    mask = sample.mask(zoo.n_factors)
    assert (mask.sum(1) == 3).all()
    rate = mask.float().mean(0)
    # Six standard errors of a share of 3/32 over 6000 rows.
    assert (rate - 3 / 32).abs().max() < 6 * (3 / 32 / 6000) ** 0.5
    assert sample.t.min() >= 0 and sample.t.max() < 1


def test_scale_is_one(zoo, sample):
    assert abs(float(sample.x.square().sum(1).mean()) - 1) < 0.03
    for factor in (0, 16, 20, 30):
        m = zoo.contribution(factor, sample.of(factor)[1])
        assert abs(float(m.square().sum(1).mean()) * 3 - 1) < 0.15 and m.mean(0).norm() < 0.08


def test_frames_are_orthonormal_and_hold_the_contribution(zoo, sample):
    for factor, kind in enumerate(zoo.kinds):
        frame = zoo.frame(factor)
        assert frame.shape == (SPAN[kind], 48)
        assert torch.allclose(frame @ frame.T, torch.eye(SPAN[kind]), atol=1e-5)
        m = zoo.contribution(factor, sample.of(factor)[1])
        assert torch.allclose(m @ frame.T @ frame, m, atol=1e-5)
        spectrum = torch.linalg.svdvals(m - m.mean(0))
        assert int((spectrum > 1e-3 * spectrum[0]).sum()) == SPAN[kind]


def test_shapes_obey_their_equations():
    t = torch.rand(500, 2, generator=torch.Generator().manual_seed(0))
    circle, sphere, torus, disk = (shape(kind, t) for kind in ("circle", "sphere", "torus", "disk"))
    assert torch.allclose(circle.norm(dim=1), torch.ones(500), atol=1e-5)
    assert torch.allclose(sphere.norm(dim=1), torch.ones(500), atol=1e-5)
    tube = (torus[:, :2].norm(dim=1) - 1).square() + torus[:, 2].square()
    assert torch.allclose(tube, torch.full((500,), 0.16), atol=1e-5)
    assert torch.allclose(disk.norm(dim=1).square(), t[:, 0], atol=1e-5)
    # After one round the Moebius band meets itself with its sides exchanged.
    ends = shape("moebius", torch.tensor([[0.0, 0.2], [1.0, 0.8]]))
    assert torch.allclose(ends[0], ends[1], atol=1e-5)
    swiss = shape("swiss", t)
    assert swiss[:, [0, 2]].norm(dim=1).min() >= 1.5 * torch.pi and swiss[:, 1].abs().max() <= 10.5
    assert torch.allclose(shape("helix", t)[:, 2], torch.pi * t[:, 0], atol=1e-5)


def test_a_disk_is_evenly_filled_and_a_sphere_evenly_covered():
    t = torch.rand(40_000, 2, generator=torch.Generator().manual_seed(2))
    disk, sphere = shape("disk", t), shape("sphere", t)
    assert float((disk.norm(dim=1) < 0.5).float().mean()) == pytest.approx(0.25, abs=0.01)
    assert float((sphere[:, 0] > 0.5).float().mean()) == pytest.approx(0.25, abs=0.01)


def test_the_seed_decides_everything():
    def rows(seed):
        zoo = Zoo(16, 20, n_active=2, seed=seed, n_calibration=100)
        return zoo.draw(50, generator=torch.Generator().manual_seed(3)).x

    assert torch.equal(rows(0), rows(0)) and not torch.allclose(rows(0), rows(1))


def test_what_cannot_be_drawn_is_refused():
    with pytest.raises(Invalid, match="5 active"):
        Zoo(4, 8, n_active=5)
    with pytest.raises(Invalid, match="cube"):
        shape("cube", torch.rand(2, 2))
