"""Planted clouds: a ring is recognised, gated Gaussians are not, mirror images are flagged."""

from __future__ import annotations

import numpy as np
import pytest

from backend.manifolds import topology
from backend.manifolds.topology import antipodal, circle_centre, loops, ridge


def decide(cloud, *, rows=None):
    """Nineteen null clouds: the smallest number with which p can reach 0.05."""
    return topology.decide(cloud, rows=rows, n_null=19)


def ring(n=1500, *, noise=0.12, centre=(0.0, 0.0, 0.0), seed=0):
    rng = np.random.default_rng(seed)
    a = 2 * np.pi * rng.random(n)
    z = np.stack([np.cos(a), np.sin(a), 0 * a], 1) + noise * rng.standard_normal((n, 3)) + np.asarray(centre)
    return z, a


def absent(n, seed=9):
    """Codes of rows that do not hold the block's factor."""
    return 0.25 * np.random.default_rng(seed).standard_normal((n, 3))


def long(rows, radius):
    return rows[np.linalg.norm(rows, axis=1) > radius]


def test_a_ring_is_a_ring_and_its_coordinate_is_its_angle():
    z, a = ring()
    rows = np.concatenate([z, absent(6000)])
    found = decide(long(rows, 0.6), rows=rows)
    assert found.kind == "ring" and found.confidence > 0.3 and found.p_value <= 0.05, found
    assert found.ridge > 0.3 and found.ridge_p <= 0.05
    gap = np.exp(1j * (2 * np.pi * found.coordinate(z) - a))
    back = np.exp(1j * (2 * np.pi * found.coordinate(z) + a))
    assert max(abs(gap.mean()), abs(back.mean())) > 0.98
    assert found.coordinate(z).min() >= 0 and found.coordinate(z).max() < 1


def test_a_gaussian_of_the_same_spectrum_is_not():
    z, _ = ring()
    spectrum = np.sqrt(np.linalg.eigvalsh(np.cov(z.T)))
    assert decide(np.random.default_rng(1).standard_normal((1500, 3)) * spectrum).kind == "none"


@pytest.mark.parametrize("gate", [0.9, 1.4])
def test_a_gated_gaussian_would_look_like_a_ring_without_the_rows_that_did_not_fire(gate):
    """Why the ridge is asked for: a gate cuts a hole into anything."""
    rng = np.random.default_rng(1)
    rows = np.concatenate([rng.standard_normal((8000, 3)) * np.sqrt([0.5, 0.5, 0.015]), absent(6000)])
    cloud = long(rows, gate)[:1500]
    assert decide(cloud).kind == "ring"
    found = decide(cloud, rows=rows)
    assert found.kind == "none" and "gate" in found.reason, found


def test_a_ring_away_from_the_rows_that_do_not_hold_it():
    z, a = ring(centre=(0.9, 0.3, 1.0))
    rows = np.concatenate([z, absent(6000)])
    found = decide(long(rows, 0.7), rows=rows)
    assert found.kind == "ring", found
    turn = 2 * np.pi * found.coordinate(z)
    assert max(abs(np.exp(1j * (turn - a)).mean()), abs(np.exp(1j * (turn + a)).mean())) > 0.9


def test_a_ring_beside_a_wider_axis_is_found():
    z, a = ring(seed=3)
    z = z + np.random.default_rng(4).uniform(-1.3, 1.3, len(z))[:, None] * np.array([0, 0, 1.0])
    found = decide(z)
    assert found.kind == "ring"
    turn = 2 * np.pi * found.coordinate(z)
    assert max(abs(np.exp(1j * (turn - a)).mean()), abs(np.exp(1j * (turn + a)).mean())) > 0.95


def test_line_point_and_few():
    rng = np.random.default_rng(0)
    line = np.outer(rng.uniform(-1, 1, 800), [1, 0.2, 0]) + 0.05 * rng.standard_normal((800, 3))
    assert decide(line).kind == "line"
    assert decide(np.array([3.0, 1, 0]) + 0.2 * rng.standard_normal((800, 3))).kind == "point"
    assert decide(line[:40]).kind == "none"
    assert decide(rng.standard_normal((500, 1))).kind == "line"


def test_three_clusters_and_two_loops_are_not_a_ring():
    rng = np.random.default_rng(0)
    corners = np.array([[1, 0, 0], [-0.5, 0.87, 0], [-0.5, -0.87, 0]])
    assert decide(corners[rng.integers(3, size=900)] + 0.1 * rng.standard_normal((900, 3))).kind == "none"
    eight = [ring(700, noise=0.05, centre=(x, 0, 0))[0] for x in (1.1, -1.1)]
    assert decide(np.concatenate(eight)).kind == "none"


def test_antipodal_symmetry_is_measured():
    rng = np.random.default_rng(0)
    centred, _ = ring(1200)
    assert antipodal(centred, rng=rng) > 0.9 and decide(centred).antipodal > 0.9
    moved, _ = ring(1200, centre=(1.2, 0, 0))
    assert antipodal(moved, rng=rng) < 0.6 and decide(moved).antipodal < 0.9
    blob = np.array([2.0, 0, 0]) + 0.3 * rng.standard_normal((1200, 3))
    assert antipodal(blob, rng=rng) < 0.2
    assert antipodal(np.concatenate([blob, -blob]), rng=rng) > 0.9


def test_a_ridge_is_a_density_that_rises_again():
    rng = np.random.default_rng(0)
    a = 2 * np.pi * rng.random(1200)
    circle = np.stack([np.cos(a), np.sin(a)], 1) + 0.15 * rng.standard_normal((1200, 2))
    blob = 0.2 * rng.standard_normal((8000, 2))
    strength, p, valley = ridge(np.concatenate([circle, blob]), 1.5, rng=rng)
    assert strength > 0.5 and p <= 0.05 and 0.4 < valley < 0.9
    wide = rng.standard_normal((1200, 2)) * 0.7
    strength, p, _ = ridge(np.concatenate([wide, blob]), 1.5, rng=rng)
    assert strength < 0.15 and p > 0.05
    # Half a circle goes up and down again on one side only.
    half = circle[circle[:, 0] > 0]
    assert ridge(np.concatenate([half, blob]), 1.5, rng=rng)[0] < 0.15


def test_loops_of_a_thin_circle_reach_the_inscribed_triangle():
    z, _ = ring(600, noise=0.0)
    first, second = loops(z, rng=np.random.default_rng(0))
    assert 1.4 < first < 3**0.5 and second < 0.1


def test_circle_centre():
    a = np.random.default_rng(0).vonmises(0.0, 1.0, 900)
    flat = np.stack([3 + 2 * np.cos(a), -1 + 2 * np.sin(a)], 1)
    assert np.allclose(circle_centre(flat), [3, -1], atol=0.35)
