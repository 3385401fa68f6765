"""Featurizers whose number of active blocks varies: JumpReLU, Group Lasso and BatchTopK."""

from __future__ import annotations

import math

import pytest
import torch

from backend.core.errors import Invalid
from backend.featurizers import jump_relu, threshold
from backend.featurizers.batch_top import BatchTop, smallest_of_top
from backend.featurizers.group_lasso import GroupLasso
from backend.featurizers.jump_relu import JumpReLU
from backend.featurizers.trainer import Training, fit, measure


def gen(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def planes(n: int, seed: int, *, d: int = 48, n_factors: int = 12, most: int = 4):
    """Rows with 0 to ``most`` planted planes, each with a point near a circle; scaled to E‖x‖² = d."""
    frames = torch.linalg.qr(torch.randn(n_factors, d, 2, generator=gen(99)))[0].mT
    g = gen(seed)
    on = torch.rand(n, n_factors, generator=g) < (torch.arange(n) % (most + 1))[:, None] / n_factors
    angle = 2 * torch.pi * torch.rand(n, n_factors, generator=g)
    x = torch.einsum("nf,nfb,fbd->nd", on.float(), torch.stack([angle.cos(), angle.sin()], -1), frames)
    x = x + 0.02 * torch.randn(n, d, generator=g)
    return x * math.sqrt(d) / float(x.square().sum(1).mean().sqrt()), on.sum(1)


@pytest.fixture(scope="module")
def trained():
    """A JumpReLU featurizer that has seen the planes for long enough."""
    model = JumpReLU(48, 24, d_block=2, k=2, generator=gen(3))
    fit(model, planes(8192, 0)[0], training=Training(steps=600, batch=256, lr=5e-3, warmup=20))
    return model


def test_dual_ascent_brings_the_active_blocks_to_k(trained):
    x, _ = planes(2048, 1)
    quality = measure(trained, x)
    assert abs(quality.active - 2) < 0.15 and quality.r2 > 0.9, quality
    model = GroupLasso(48, 24, d_block=2, k=2, generator=gen(3))
    fit(model, planes(8192, 0)[0], training=Training(steps=300, batch=256, lr=5e-3, warmup=20))
    quality = measure(model, x)
    assert abs(quality.active - 2) < 0.3 and quality.r2 > 0.4, quality


def test_a_threshold_abstains_and_top_k_cannot(trained):
    x, on = planes(2000, 1)
    active = (trained.encode(x).norm(dim=-1) > 0).sum(1).float()
    assert float(active[on == 0].mean()) < 0.5 < 2.5 < float(active[on >= 4].mean())


def test_dual_ascent_moves_by_the_relative_gap():
    model = GroupLasso(16, 10, d_block=2, k=4, penalty=0.05)
    x = torch.randn(64, 16, generator=gen(1))
    model.initialise(x)
    with torch.no_grad():
        model.log_threshold.fill_(-20)
    model.loss(x)
    # All ten are active: (10 - 4) / 4 is clipped to 1.
    assert float(model.log_penalty) == pytest.approx(math.log(0.05) + threshold.RATE, abs=1e-6)
    with torch.no_grad():
        model.log_threshold.fill_(20)
    model.loss(x)
    assert float(model.log_penalty) == pytest.approx(math.log(0.05), abs=1e-6), "none active: one step down"
    model.eval().loss(x)
    assert float(model.log_penalty) == pytest.approx(math.log(0.05), abs=1e-6), "evaluation changes nothing"


def test_jump_relu_keeps_full_signed_codes():
    model = JumpReLU(16, 10, d_block=3, k=3, generator=gen()).eval()
    x = torch.randn(60, 16, generator=gen(1))
    model.initialise(x)
    a, z = model.pre_codes(x), model.encode(x)
    on = a.norm(dim=-1) > model.log_threshold.exp()
    assert torch.allclose(z, a * on[..., None], atol=1e-5) and (z < 0).any() and not on.all()


def test_jump_relu_starts_at_the_quantile():
    model = JumpReLU(16, 40, d_block=2, k=4, generator=gen())
    x = torch.randn(500, 16, generator=gen(1))
    model.initialise(x)
    assert float((model.encode(x).norm(dim=-1) > 0).sum(1).float().mean()) == pytest.approx(4, abs=0.05)
    assert float(model.spread) == pytest.approx(float(model.pre_codes(x).norm(dim=-1).std()), rel=1e-3)


def test_straight_through_gradient_of_the_thresholds():
    model = JumpReLU(16, 10, d_block=2, k=3, generator=gen())
    x = torch.randn(80, 16, generator=gen(1))
    model.initialise(x)
    width = jump_relu.WINDOW * float(model.spread)
    loss, _ = model.loss(x)
    got = torch.autograd.grad(loss, model.log_threshold)[0]
    # By hand: every pair inside the window, whether it is on or off.
    a = model.pre_codes(x).detach()
    norm, theta = a.norm(dim=-1), model.log_threshold.exp().detach()
    pull = 2 * (model(x).detach() - x) / x.numel()
    gate = torch.einsum("nd,ngb,gbd->ng", pull, a, model.frames().detach()) + model.penalty / len(x)
    inside = (norm - theta).abs() < width / 2
    assert inside.any() and (inside & (norm < theta)).any()
    expected = (-gate * inside / width).sum(0) * theta
    assert torch.allclose(got, expected, atol=1e-4 * float(expected.abs().max()))


def test_the_window_follows_the_norms():
    x = torch.randn(256, 16, generator=gen(1))
    model = JumpReLU(16, 10, d_block=2, k=3, generator=gen())
    model.initialise(x)
    before = float(model.spread)
    with torch.no_grad():
        model.encoder.mul_(3)
    model.loss(x)
    step = (1 - jump_relu.KEEP) * (float(model.pre_codes(x).norm(dim=-1).std()) - before)
    assert float(model.spread) == pytest.approx(before + step, rel=1e-4)


def test_group_lasso_is_the_proximal_operator():
    model = GroupLasso(16, 10, d_block=3, k=3, generator=gen())
    x = torch.randn(60, 16, generator=gen(1))
    model.initialise(x)
    a, z, theta = model.pre_codes(x), model.encode(x), model.log_threshold.exp()
    # Conditions of the minimum of 1/2‖z - a‖² + theta ‖z‖.
    norm = z.norm(dim=-1)
    on = norm > 0
    slope = (z - a)[on] + (theta.expand_as(norm)[on] / norm[on])[:, None] * z[on]
    assert slope.abs().max() < 1e-4 and (a.norm(dim=-1)[~on] <= theta.expand_as(norm)[~on] + 1e-5).all()


def test_batch_top_shares_the_budget_in_training():
    x, on = planes(600, 0)
    model = BatchTop(48, 24, d_block=2, k=2, generator=gen(3))
    model.initialise(x)
    z = model.encode(x)
    norm = model.pre_codes(x).norm(dim=-1)
    active = z.norm(dim=-1) > 0
    assert int(active.sum()) == 2 * 600 and float(norm[active].min()) >= float(norm[~active].max())
    assert active.sum(1).float().var() > 0.3, "hard rows take more"


def test_batch_top_learns_its_threshold():
    x, on = planes(8192, 0)
    model = BatchTop(48, 24, d_block=2, k=2, generator=gen(3))
    fit(model, x, training=Training(steps=400, batch=256, lr=5e-3, warmup=20))
    quality = measure(model, x[:2048])
    assert abs(quality.active - 2) < 0.2 and quality.r2 > 0.8, quality
    # At inference a row's code does not depend on the rows beside it.
    assert torch.allclose(model.encode(x[:50])[:3], model.encode(x[:3]), atol=1e-5)


def test_smallest_of_top_is_exact_even_if_one_row_holds_all():
    norm = torch.rand(50, 40, generator=gen())
    for n in (1, 50, 173):
        assert float(smallest_of_top(norm, n)) == float(norm.flatten().topk(n).values[-1])
    norm[0] += 10
    assert float(smallest_of_top(norm, 50)) == float(norm.flatten().topk(50).values[-1])


def test_a_penalty_must_be_positive():
    with pytest.raises(Invalid):
        JumpReLU(16, 10, d_block=2, k=3, penalty=0)
