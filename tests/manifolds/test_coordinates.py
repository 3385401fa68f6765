"""Coordinates found without labels are the planted ones, up to direction, offset and an even stretch."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from backend.core.errors import Refused
from backend.manifolds.coordinates import coordinates, explained
from backend.manifolds.shape import recognise
from backend.worlds.zoo import shape as zoo_shape


def cloud(kind, n=1200, *, noise=0.05, seed=0):
    rng = np.random.default_rng(seed)
    t = torch.rand(n, 2, generator=torch.Generator().manual_seed(seed))
    p = zoo_shape(kind, t).double().numpy()
    p = p - p.mean(0)
    p /= np.sqrt((p**2).sum(1).mean())
    return p + noise / np.sqrt(3) * rng.standard_normal(p.shape), t.numpy().astype(float)


def turns_with(t, truth):
    return max(abs(np.exp(2j * np.pi * (t - sign * truth)).mean()) for sign in (1, -1))


def rank_correlation(a, b):
    ra, rb = np.argsort(np.argsort(a)), np.argsort(np.argsort(b))
    return abs(np.corrcoef(ra, rb)[0, 1])


def test_a_ring_gives_its_angle_and_projects_new_codes():
    codes, t = cloud("circle")
    found = coordinates(codes, recognise(codes))
    assert found.kind == "ring" and found.t.shape == (1200, 1) and found.cyclic == (True,)
    assert turns_with(found.t[:, 0], t[:, 0]) > 0.98 and found.quality > 0.95
    new, truth = cloud("circle", 300, seed=7)
    joined = np.concatenate([found.t[:, 0], found.project(new)[:, 0]])
    assert turns_with(joined, np.concatenate([t[:, 0], truth[:, 0]])) > 0.98
    assert found.t.min() >= 0 and found.t.max() < 1
    shuffled = np.random.default_rng(0).permutation(t[:, 0])
    assert turns_with(found.t[:, 0], shuffled) < 0.15


def test_an_ellipse_away_from_the_origin_is_a_ring_too():
    rng = np.random.default_rng(0)
    a = 2 * np.pi * rng.random(900)
    codes = np.stack([3 + 2 * np.cos(a), 1 + np.sin(a)], 1) + 0.05 * rng.standard_normal((900, 2))
    assert turns_with(coordinates(codes, "ring").t[:, 0], a / (2 * np.pi)) > 0.93


def test_a_band_goes_round_like_its_core():
    codes, t = cloud("moebius")
    found = coordinates(codes, "band")
    assert turns_with(found.t[:, 0], t[:, 0]) > 0.95


@pytest.mark.parametrize("kind", ["helix", "segment"])
def test_lines_are_walked_from_end_to_end(kind):
    codes, t = cloud(kind)
    found = coordinates(codes, "line")
    assert rank_correlation(found.t[:, 0], t[:, 0]) > 0.99 and found.quality > 0.95
    assert found.t.min() < 0.03 and found.t.max() > 0.97


def test_a_roll_unrolls():
    codes, t = cloud("swiss", noise=0.02)
    found = coordinates(codes, "sheet")
    assert found.t.shape == (1200, 2) and found.quality > 0.9
    along = max((rank_correlation(found.t[:, j], t[:, 0]), j) for j in range(2))
    assert along[0] > 0.95 and rank_correlation(found.t[:, 1 - along[1]], t[:, 1]) > 0.85


def test_a_disk_keeps_its_neighbours():
    codes, _ = cloud("disk")
    assert coordinates(codes, "sheet").quality > 0.9


def test_a_torus_has_two_angles():
    codes, t = cloud("torus", noise=0.02)
    found = coordinates(codes, "torus")
    assert found.cyclic == (True, True)
    long_way = max(turns_with(found.t[:, j], t[:, 0]) for j in range(2))
    assert long_way > 0.9


def test_a_sphere_has_height_and_azimuth():
    codes, _ = cloud("sphere")
    found = coordinates(codes, "sphere")
    assert found.t.shape == (1200, 2) and found.quality > 0.9


def test_quality_of_unrelated_coordinates_is_low():
    codes, t = cloud("circle")
    noise = np.random.default_rng(0).random((1200, 1))
    assert explained(codes, noise, cyclic=(True,)) < 0.1 < 0.95 < explained(codes, t[:, :1], cyclic=(True,))


def test_what_has_no_coordinate_is_refused():
    codes, _ = cloud("segment")
    for kind in ("none", "point", "klein bottle"):
        with pytest.raises(Refused, match=kind):
            coordinates(codes, kind)
    with pytest.raises(Refused, match="loops"):
        coordinates(codes, "ring")
    with pytest.raises(Refused, match="40 codes"):
        coordinates(codes[:40], "line")
