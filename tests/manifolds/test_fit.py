"""Fitting recovers planted rings and lines; the angle is the authors' normalised one."""

import math

import pytest
import torch

from backend.core.errors import Invalid
from backend.manifolds.fit import (
    bin_knots,
    centroids,
    fit_line,
    fit_ring,
    harmonic_knots,
    natural_order,
    nearest_neighbours,
    pca,
    ring_coordinates,
)


def planted(n=700, d=12, noise=0.05, seed=0):
    g = torch.Generator().manual_seed(seed)
    angle = 2 * math.pi * torch.rand(n, generator=g)
    frame = torch.linalg.qr(torch.randn(d, 3, generator=g)).Q
    ring = torch.stack([3 * angle.cos(), 2 * angle.sin(), 0.3 * (2 * angle).cos()], 1)
    return angle, ring @ frame.T + 5 + noise * torch.randn(n, d, generator=g), frame


def test_pca_keeps_all_variance_where_it_may_and_is_capped():
    x = torch.randn(20, 50, generator=torch.Generator().manual_seed(0))
    space = pca(x, 64)
    assert space.frame.shape == (50, 19)
    assert torch.allclose(space.frame.T @ space.frame, torch.eye(19), atol=1e-5)
    assert torch.allclose(space.decode(space.encode(x)), x, atol=1e-4)
    assert abs(float(space.variance.sum()) - space.total) < 1e-3
    assert (space.frame - pca(x, 64).frame).abs().max() == 0


def test_centroids_are_means_and_empty_classes_are_refused():
    x = torch.tensor([[1.0], [3.0], [10.0]])
    assert torch.equal(centroids(x, torch.tensor([0, 0, 1])), torch.tensor([[2.0], [10.0]]))
    with pytest.raises(Invalid, match="no rows"):
        centroids(x, torch.tensor([0, 0, 2]))


@pytest.mark.parametrize("mirrored", [1.0, -1.0])
def test_ring_coordinates_of_an_ellipse_are_its_angles(mirrored):
    t = torch.arange(7) / 7
    ellipse = torch.stack([9 * (2 * math.pi * t + 1).cos(), mirrored * (2 * math.pi * t + 1).sin()], 1) + 4
    assert torch.allclose(ring_coordinates(ellipse), t.double(), atol=1e-6)


def test_natural_order_counts_neighbours():
    t = torch.arange(7) / 7
    assert natural_order(t, cyclic=True) == 1.0
    assert natural_order((-t) % 1.0, cyclic=True) == 1.0
    # The frequency-3 circle of a look-up table: no natural neighbours at all.
    assert natural_order((3 * t) % 1.0, cyclic=True) == 0.0
    swapped = t[torch.tensor([1, 0, 2, 3, 4, 5, 6])]
    assert natural_order(swapped, cyclic=True) == pytest.approx(5 / 7)
    assert natural_order(t, cyclic=False) == 1.0


def test_nearest_neighbours_see_order_in_distances_alone():
    t = torch.arange(9) / 9
    circle = torch.stack([(2 * math.pi * t).cos(), (2 * math.pi * t).sin()], 1)
    assert nearest_neighbours(circle, cyclic=True) == 1.0
    assert nearest_neighbours(circle[torch.tensor([0, 2, 4, 6, 8, 1, 3, 5, 7])], cyclic=True) < 0.5
    assert nearest_neighbours(torch.arange(5.0)[:, None], cyclic=False) == 1.0


def test_fit_ring_by_angle_returns_the_angle():
    angle, x, _ = planted()
    for how in ({}, {"n_harmonics": 3}):
        ring = fit_ring(x, angle=angle, n_knots=16, **how)
        found, distance = ring.project(x)
        wrong = ((found - angle / (2 * math.pi) + 0.5) % 1 - 0.5).abs()
        assert wrong.median() < 0.01, how
        assert distance.median() < 0.35


def test_harmonics_recover_what_they_can_express_exactly():
    angle, _, frame = planted(noise=0.0)
    x = torch.stack([3 * angle.cos(), 2 * angle.sin(), 0.3 * (2 * angle).cos()], 1) @ frame.T
    t, knots = harmonic_knots(x.reshape(700, 3, 4), angle, n_knots=10, n_harmonics=2)
    at = 2 * math.pi * t
    truth = torch.stack([3 * at.cos(), 2 * at.sin(), 0.3 * (2 * at).cos()], 1).float() @ frame.T
    assert knots.shape == (10, 3, 4)
    assert torch.allclose(knots.reshape(10, 12), truth, atol=1e-4)


def test_bins_take_several_tokens():
    angle, x, _ = planted(noise=0.0)
    t, knots = bin_knots(x.reshape(700, 4, 3), angle, n_knots=12)
    assert knots.shape == (12, 4, 3) and bool((t.diff() > 0).all())


def test_fit_line_by_value_and_by_labels():
    g = torch.Generator().manual_seed(3)
    value = 10 + 90 * torch.rand(500, generator=g)
    s = (value - 10) / 90
    x = torch.stack([s, s**2, torch.zeros_like(s)], 1)
    line = fit_line(x, value=value, n_knots=12)
    found, _ = line.project(x)
    inside = (s > 0.06) & (s < 0.94)
    assert (found - s)[inside].abs().max() < 0.02
    by_rank = fit_line(x, (s * 5).long())
    assert torch.allclose(by_rank.knots_t, torch.linspace(0, 1, 5).double())


def test_exactly_one_of_labels_and_factor():
    with pytest.raises(Invalid):
        fit_ring(torch.zeros(4, 2))
    with pytest.raises(Invalid):
        fit_line(torch.zeros(4, 2), torch.zeros(4), value=torch.zeros(4))
