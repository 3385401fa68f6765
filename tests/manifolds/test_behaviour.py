"""Behaviour manifolds: the square-root geometry, its identities, and a planted ring of distributions."""

import math

import pytest
import torch

from backend.core.errors import Invalid
from backend.manifolds.behaviour import (
    BehaviourManifold,
    bhattacharyya,
    coherence,
    exp_map,
    hellinger,
    log_map,
    root,
    with_other,
)


def wrapped(n=7, sigma=0.7, other=0.01):
    k = torch.arange(n).double()
    gap = (k[None] - k[:, None] + n / 2) % n - n / 2
    p = torch.exp(-(gap**2) / (2 * sigma**2))
    return with_other(p / p.sum(-1, keepdim=True) * (1 - other))


def some(n=50, w=8, seed=0):
    return torch.randn(n, w, generator=torch.Generator().manual_seed(seed)).mul(2).softmax(-1)


def test_bhattacharyya_is_minus_log_one_minus_hellinger_squared():
    p, q = some(seed=1), some(seed=2)
    assert torch.allclose(bhattacharyya(p, q), -torch.log(1 - hellinger(p, q) ** 2), atol=1e-9)
    assert bhattacharyya(p, p).abs().max() < 1e-9
    a, b = torch.eye(3)[0], torch.eye(3)[1]
    assert abs(hellinger(a, b).item() - 1) < 1e-3


def test_log_and_exp_are_inverse_and_the_curve_stays_on_the_sphere():
    r = root(some())
    base = r.mean(0) / r.mean(0).norm()
    assert torch.allclose(exp_map(base, log_map(base, r)), r, atol=1e-9)
    assert torch.allclose((log_map(base, r) @ base), torch.zeros(50, dtype=torch.float64), atol=1e-9)
    assert torch.allclose(log_map(base, base), torch.zeros_like(base), atol=1e-12)
    manifold = BehaviourManifold(wrapped())
    t = torch.rand(200, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(manifold.root_point(t).norm(dim=-1), torch.ones(200, dtype=torch.float64), atol=1e-9)
    assert torch.allclose(manifold.point(t).sum(-1), torch.ones(200, dtype=torch.float64), atol=1e-9)


@pytest.mark.parametrize("kind", ["ring", "line"])
def test_it_passes_through_its_class_means(kind):
    p = wrapped()
    manifold = BehaviourManifold(p, kind=kind)
    assert torch.allclose(manifold.point(manifold.knots_t), p.double(), atol=1e-5)
    assert manifold.distance(p).max() < 1e-5


def test_between_two_classes_lies_the_distribution_between_them():
    # At t half-way the truth is a wrapped normal centred between two days.
    manifold = BehaviourManifold(wrapped(other=1e-3))
    k = torch.arange(7).double()
    gap = (k - 2.5 + 3.5) % 7 - 3.5
    truth = torch.exp(-(gap**2) / (2 * 0.49))
    truth = with_other(truth / truth.sum() * 0.999)
    assert hellinger(manifold.point(2.5 / 7), truth) < 0.05


def test_dense_sampling_and_gauss_newton_agree_to_a_percent():
    manifold = BehaviourManifold(wrapped())
    a, b = wrapped()[0], wrapped()[3]
    s = torch.linspace(0, 1, 50)[:, None]
    path = (1 - s) * a + s * b
    dense, newton = manifold.energy(path).total, manifold.distance_by_newton(path).sum()
    assert dense > 0.5
    assert abs(dense - newton) / dense < 0.01


def test_energy_of_the_manifolds_own_path_is_nothing_and_of_teleporting_is_not():
    manifold = BehaviourManifold(wrapped())
    own = manifold.point(torch.linspace(0, 3 / 7, 50))
    assert manifold.energy(own).total < 1e-3
    s = torch.linspace(0, 1, 50)[:, None]
    mixed = (1 - s) * wrapped()[0] + s * wrapped()[3]
    assert manifold.energy(mixed).mean > 100 * manifold.energy(own).mean
    assert torch.isclose(manifold.energy(mixed).total, 50 * manifold.energy(mixed).mean)


def test_fit_takes_means_by_ground_truth_and_finds_the_ring():
    g = torch.Generator().manual_seed(0)
    labels = torch.arange(7).repeat(7)
    noisy = wrapped(other=0.02)[labels] * torch.exp(0.1 * torch.randn(49, 8, generator=g))
    noisy = noisy / noisy.sum(-1, keepdim=True)
    manifold = BehaviourManifold.fit(noisy, labels)
    assert torch.allclose(manifold.distributions[2], noisy[labels == 2].double().mean(0))
    assert torch.allclose(manifold.knots_t, torch.arange(7).double() / 7, atol=0.02)


def test_lengths_are_symmetric_and_add_up():
    manifold = BehaviourManifold(wrapped())
    whole = manifold.length(0.0, 0.4)
    assert torch.isclose(whole, manifold.length(0.4, 0.0), rtol=1e-6)
    assert torch.isclose(whole, manifold.length(0.0, 0.15) + manifold.length(0.15, 0.4), rtol=1e-3)
    assert whole >= hellinger(manifold.point(0.0), manifold.point(0.4))


def test_coherence_is_mass_on_the_concept():
    p = torch.tensor([[0.5, 0.4, 0.1], [0.2, 0.2, 0.6]])
    mean, worst = coherence(p)
    assert math.isclose(mean, 0.65, rel_tol=1e-6) and math.isclose(worst, 0.4, rel_tol=1e-6)


def test_rows_that_are_no_distributions_are_refused():
    with pytest.raises(Invalid):
        BehaviourManifold(torch.ones(7, 8))
