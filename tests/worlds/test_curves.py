"""The curves world: samples are seeded and tell the truth, and a sweep is one turn."""

import math

import pytest
import torch

from backend.core.errors import Invalid
from backend.worlds import curves
from backend.worlds.curves_render import render_curves


def test_samples_are_seeded_and_tell_the_truth():
    draw = lambda seed: curves.sample(200, torch.Generator().manual_seed(seed))  # noqa: E731
    one, same, other = draw(3), draw(3), draw(4)
    assert torch.equal(one.pixels, same.pixels) and not torch.equal(one.pixels, other.pixels)
    assert one.pixels.shape == (200, 1, 64, 64) and 0 <= one.pixels.min() and one.pixels.max() <= 1
    curve, line, texture, shape = (one.kind == k for k in range(4))
    assert min(int(m.sum()) for m in (curve, line, texture, shape)) > 5
    assert one.orientation[curve].max() > math.pi and one.orientation[line].max() < math.pi
    assert one.radius[line].isinf().all() and one.radius[shape].isnan().all()
    low, high = curves.RADIUS_RANGE
    assert ((one.radius[curve] >= low) & (one.radius[curve] <= high)).all()
    assert (one.texture[texture] >= 0).all() and (one.texture[~texture] == -1).all()
    assert (one.shape[shape] >= 0).all() and (one.shape[~shape] == -1).all()
    assert len(one[curve]) == int(curve.sum())


def test_a_sample_without_noise_is_its_own_rendering():
    one = curves.sample(20, torch.Generator().manual_seed(0), kind="curve", noise=0.0)
    again = render_curves(
        one.orientation, radius=one.radius, width=one.width, contrast=one.contrast, position=one.position,
        background=0.5,
    )  # fmt: skip
    # Length and background are not part of the truth, so compare where both have full ink.
    drawn = (again - 0.5).abs() > 0.99 * one.contrast.abs()[:, None, None, None]
    background = one.pixels[:, :, 0, 0][:, :, None, None]
    short = ((one.pixels - background) / one.contrast[:, None, None, None])[drawn]
    assert (short > 0.99).float().mean() > 0.8


def test_rgb_repeats_the_grey():
    grey = curves.sample(4, torch.Generator().manual_seed(1)).pixels
    rgb = curves.sample(4, torch.Generator().manual_seed(1), rgb=True).pixels
    assert rgb.shape == (4, 3, 64, 64) and torch.equal(rgb[:, :1], grey) and torch.equal(rgb[:, 2:], grey)


def test_a_sweep_is_one_turn():
    theta, pixels = curves.orientation_sweep(15)
    assert theta.shape == (24,) and pixels.shape == (24, 1, 64, 64)
    assert float(theta[-1]) == pytest.approx(math.radians(345), abs=1e-5)
    assert len(curves.sweep_angles(0.5)) == 720
    with pytest.raises(Invalid):
        curves.sweep_angles(7)


def test_what_cannot_be_drawn_is_refused():
    with pytest.raises(Invalid):
        curves.sample(2, torch.Generator(), kind="spiral")


def test_contact_sheet_shows_every_row():
    sheet = curves.contact_sheet()
    assert sheet.size == (12 * 66, 7 * 66)
