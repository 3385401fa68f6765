"""Curves interpolate, wrap, project and measure; limits that are known in closed form."""

import math

import numpy as np
import pytest
import torch

from backend.core.errors import Invalid
from backend.manifolds.curve import Line, Ring
from backend.manifolds.manifold import Manifold, arc, between, mean_coordinate


def wrong_by(a, b):
    return ((a - b + 0.5) % 1 - 0.5).abs().max().item()


def circle(n=12, d=5, radius=2.0):
    t = torch.arange(n, dtype=torch.float64) / n
    frame = torch.linalg.qr(torch.randn(d, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)).Q
    plane = radius * torch.stack([(2 * math.pi * t).cos(), (2 * math.pi * t).sin()], 1)
    return t, plane @ frame.T


def random_knots(kind, n=9, d=6, seed=0):
    g = torch.Generator().manual_seed(seed)
    t = (torch.rand(n, generator=g).cumsum(0) + 0.3 * torch.arange(n)) / 12
    t = t.double() / (t.max() + 0.05) if kind is Ring else (t - t.min()).double() / (t.max() - t.min())
    return t, torch.randn(n, d, generator=g)


@pytest.mark.parametrize("kind", [Ring, Line])
def test_passes_through_its_knots_exactly(kind):
    t, knots = random_knots(kind)
    curve = kind(t, knots)
    assert isinstance(curve, Manifold)
    assert torch.allclose(curve.point(t), knots, atol=1e-6, rtol=0)
    order = torch.randperm(len(t), generator=torch.Generator().manual_seed(3))
    assert torch.equal(kind(t[order], knots[order]).point(0.37), curve.point(0.37))


def test_a_ring_closes_with_its_first_two_derivatives():
    t, knots = random_knots(Ring)
    ring = Ring(t, knots.double())
    low, high = t[0].item() + 1e-9, t[0].item() - 1e-9
    assert torch.allclose(ring.point(low), ring.point(high), atol=1e-6)
    assert torch.allclose(ring.tangent(low), ring.tangent(high), atol=1e-4)
    assert torch.allclose(ring.point(1.3), ring.point(0.3))


def test_the_periodic_cubic_solves_the_published_system():
    t, knots = random_knots(Ring, d=1)
    ring = Ring(t, knots.double())
    m = ring._derivative(t, 2)[:, 0]
    h = torch.diff(torch.cat([t, t[:1] + 1]))
    slope = torch.diff(torch.cat([knots.double(), knots[:1].double()])[:, 0]) / h
    left = h.roll(1) * m.roll(1) + 2 * (h.roll(1) + h) * m + h * m.roll(-1)
    assert torch.allclose(left, 6 * (slope - slope.roll(1)), atol=1e-6)


def test_two_knots_make_a_line_the_chord():
    line = Line(torch.tensor([0.0, 1.0]), torch.tensor([[0.0, 0.0], [3.0, 4.0]]))
    assert torch.allclose(line.point(0.25), torch.tensor([0.75, 1.0]))
    assert torch.allclose(line.length(0.0, 1.0), torch.tensor(5.0, dtype=torch.float64))
    assert torch.allclose(line.point(2.0), torch.tensor([3.0, 4.0]))
    t, distance = line.project(torch.tensor([[3.0, 4.0], [4.0, -3.0], [1.5, 2.0]]))
    assert torch.allclose(t, torch.tensor([1.0, 0.0, 0.5], dtype=torch.float64), atol=1e-6)
    assert torch.allclose(distance, torch.tensor([0.0, 5.0, 0.0]), atol=1e-4)


def test_a_circle_has_its_circumference_and_its_distances():
    t, knots = circle(n=24)
    ring = Ring(t, knots)
    assert abs(ring.length(0.0, 0.49999).item() - 2 * math.pi) < 0.01
    assert abs(ring.length(0.9, 0.1).item() - 0.2 * 4 * math.pi) < 0.005
    z = knots * 1.5
    found, distance = ring.project(z)
    assert wrong_by(found, t) < 1e-5
    assert torch.allclose(distance, torch.full((24,), 1.0, dtype=torch.float64), atol=1e-4)


@pytest.mark.parametrize("kind", [Ring, Line])
def test_projection_finds_the_coordinate_and_beats_dense_sampling(kind):
    curve = kind(*random_knots(kind, n=7, d=4))
    t = torch.rand(300, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    _, distance = curve.project(curve.point(t))
    assert distance.max() < 1e-5
    z = curve.point(t) + 0.3 * torch.randn(300, 4, generator=torch.Generator().manual_seed(5))
    found, distance = curve.project(z)
    dense = torch.cdist(z.double(), curve.point(curve.grid(20000)).double()).min(-1).values
    assert (distance.double() <= dense + 1e-5).all()
    assert torch.allclose(distance.double(), dense, atol=1e-4)
    assert found.shape == (300,) and curve.project(z.reshape(3, 100, 4))[0].shape == (3, 100)


def test_tangent_is_the_derivative():
    curve = Ring(*random_knots(Ring))
    numeric = (curve._derivative(0.41 + 1e-6, 0) - curve._derivative(0.41 - 1e-6, 0)) / 2e-6
    assert torch.allclose(curve.tangent(0.41).double(), numeric, rtol=1e-3, atol=1e-3)


def test_bad_knots_are_refused():
    with pytest.raises(Invalid):
        Ring(torch.tensor([0.0, 0.5]), torch.zeros(2, 3))
    with pytest.raises(Invalid):
        Ring(torch.tensor([0.0, 0.5, 0.5]), torch.zeros(3, 3))
    with pytest.raises(Invalid):
        Ring(torch.tensor([0.0, 0.5, 1.0]), torch.zeros(3, 3))
    with pytest.raises(Invalid):
        Line(torch.tensor([0.0, 0.5, 1.0]), torch.zeros(2, 3))


def test_ways_round_the_circle():
    assert math.isclose(arc(0.9, 0.1, kind="ring"), 0.2)
    assert math.isclose(arc(0.9, 0.1, kind="line"), -0.8)
    assert math.isclose(between(0.9, 0.1, 0.75, kind="ring"), 0.05)
    t = torch.tensor([0.95, 0.05])
    assert wrong_by(mean_coordinate(torch.tensor([0.5, 0.5]), t, kind="ring"), torch.tensor(0.0)) < 1e-6
    assert np.isclose(mean_coordinate(torch.tensor([0.5, 0.5]), t, kind="line").item(), 0.5)
