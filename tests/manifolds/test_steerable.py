"""Targets, chords and drawings: raw coordinates undo centring, time bins choose a curve, what is missing is named."""

import pytest
import torch

from backend.core.errors import Invalid, NotFound

SITE = "toy/3#update"


def test_targets_undo_centring_and_scale(make):
    manifold = make(n_tokens=4)
    entry = manifold.entry()
    raw = manifold.targets(SITE, float(entry.knots_t[2]))
    assert raw.shape == (4, 3)
    assert torch.allclose(raw, entry.knots[0, 2] / 0.5 + entry.mean[0], atol=1e-6)
    assert torch.allclose(manifold.stored(SITE, raw), entry.knots[0, 2], atol=1e-6)
    t, distance = manifold.project(manifold.targets(SITE, torch.tensor([0.1, 0.77])))
    assert torch.allclose(t, torch.tensor([0.1, 0.77], dtype=torch.float64), atol=1e-5) and distance.max() < 1e-5


def test_time_bins_choose_their_own_curve(make):
    manifold = make(bins=[0.3, 1.0])
    early, late = manifold.targets(SITE, 0.2, time=0.1), manifold.targets(SITE, 0.2, time=0.9)
    assert not torch.allclose(early, late)
    assert torch.equal(manifold.targets(SITE, 0.2, time=0.3), early)
    with pytest.raises(Invalid, match="time"):
        manifold.targets(SITE, 0.2)


def test_the_chord_is_straight_and_meets_the_curve_at_its_ends(make):
    manifold = make()
    points = manifold.chord(SITE, 0.1, 0.6, torch.tensor([0.0, 0.5, 1.0]))
    assert torch.allclose(points[0], manifold.targets(SITE, 0.1)) and torch.allclose(
        points[2], manifold.targets(SITE, 0.6)
    )
    assert torch.allclose(points[1], (points[0] + points[2]) / 2, atol=1e-6)
    assert manifold.chord(SITE, 0.1, 0.6, 0.5, full=True).shape == (1, 16)


def test_drawing_has_closed_curves_on_which_the_centroids_lie(make):
    drawn = make().curves(n=700)
    curve, centroids = torch.tensor(drawn.activation_curve), torch.tensor(drawn.activation_centroids)
    assert torch.allclose(curve[0], curve[-1], atol=1e-4)
    assert torch.cdist(centroids, curve).min(1).values.max() < 0.05
    assert len(drawn.behaviour_curve) == 700 and len(drawn.behaviour_centroids) == 7
    assert len(drawn.activation_points) == len(drawn.activation_point_t) == 5


def test_unknown_sites_and_missing_centroids_are_named(make):
    with pytest.raises(NotFound, match="toy/3#update"):
        make().targets("toy/9#update", 0.1)
    with pytest.raises(NotFound, match="Full-space"):
        make(full=False).full_targets(SITE, 0.1)
