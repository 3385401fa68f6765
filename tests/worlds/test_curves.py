"""The curves world: what is drawn is what the ground truth says."""

import math

import pytest
import torch

from backend.core.errors import Invalid
from backend.worlds import curves


def test_a_curve_opens_away_from_its_normal():
    # Normal to the right: the arc's middle is at the canvas centre, its ends lie to the left.
    pixels = curves.render_curves(torch.tensor([0.0]), radius=10.0, contrast=0.5, length=30.0)[0, 0] - 0.5
    x, _ = curves.grid()
    assert (pixels * x).sum() / pixels.sum() < -2
    assert pixels[31:33, 31:33].min() > 0.4


def test_turning_by_ninety_degrees_is_rotating_the_picture():
    theta = torch.tensor([0.3])
    for render in (curves.render_curves, curves.render_lines):
        turned = render(theta + math.pi / 2)
        assert torch.allclose(turned, torch.rot90(render(theta), 1, (2, 3)), atol=1e-4)


def test_half_a_turn_changes_a_curve_but_not_a_line():
    theta = torch.tensor([0.7])
    assert torch.allclose(curves.render_lines(theta), curves.render_lines(theta + math.pi), atol=1e-4)
    difference = curves.render_curves(theta, radius=10.0) - curves.render_curves(theta + math.pi, radius=10.0)
    assert difference.abs().max() > 0.4


def test_a_very_large_radius_is_a_line():
    theta = torch.linspace(0, 6, 7)
    flat = curves.render_curves(theta, radius=1e4, length=24.0)
    assert torch.allclose(flat, curves.render_lines(theta, length=24.0), atol=0.02)


def test_ink_is_length_times_width_and_contrast_has_a_sign():
    for contrast in (0.4, -0.4):
        pixels = curves.render_lines(torch.tensor([0.4]), width=3.0, length=26.0, contrast=contrast)
        # A stroke with round ends: length * width + the two half discs.
        area = float((pixels - 0.5).sum()) / contrast
        assert area == pytest.approx(26 * 3 + math.pi * 1.5**2, rel=0.03)


def test_edges_are_anti_aliased():
    pixels = curves.render_curves(torch.tensor([0.2]), contrast=0.5)
    between = ((pixels > 0.51) & (pixels < 0.99)).float().mean() / (pixels > 0.51).float().mean()
    assert 0.2 < float(between) < 0.9


def test_position_moves_up_and_right():
    theta = torch.tensor([1.0])
    moved = curves.render_curves(theta, position=(5.0, 3.0))
    assert torch.allclose(moved, torch.roll(curves.render_curves(theta), (-3, 5), (2, 3)), atol=1e-4)


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
    again = curves.render_curves(
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


def test_textures_and_shapes_differ_by_class():
    n = len(curves.TEXTURES)
    ones = torch.ones(n)
    pixels = curves.render_textures(
        torch.arange(n), orientation=0.3 * ones, period=9 * ones, contrast=0.4 * ones, position=torch.zeros(n, 2),
        generator=torch.Generator().manual_seed(0),
    )  # fmt: skip
    m = len(curves.SHAPES)
    drawn = curves.render_shapes(
        torch.arange(m), orientation=torch.zeros(m), radius=torch.full((m,), 12.0), contrast=torch.full((m,), 0.5),
        position=torch.zeros(m, 2),
    )  # fmt: skip
    for group in (pixels, drawn):
        assert torch.pdist(group.flatten(1)).min() > 1
    area = (drawn - 0.5).sum(dim=(1, 2, 3)) / 0.5
    assert float(area[0]) == pytest.approx(math.pi * 144, rel=0.01)
    assert float(area[2]) == pytest.approx(2 * 144, rel=0.01)
    assert float(area[3]) == pytest.approx(3 * math.sqrt(3) / 4 * 144, rel=0.02)


def test_a_sweep_is_one_turn():
    theta, pixels = curves.orientation_sweep(15)
    assert theta.shape == (24,) and pixels.shape == (24, 1, 64, 64)
    assert float(theta[-1]) == pytest.approx(math.radians(345), abs=1e-5)
    assert len(curves.sweep_angles(0.5)) == 720
    with pytest.raises(Invalid):
        curves.sweep_angles(7)


def test_what_cannot_be_drawn_is_refused():
    with pytest.raises(Invalid):
        curves.render_curves(torch.zeros(1), radius=0.0)
    with pytest.raises(Invalid):
        curves.sample(2, torch.Generator(), kind="spiral")


def test_contact_sheet_shows_every_row():
    sheet = curves.contact_sheet()
    assert sheet.size == (12 * 66, 7 * 66)
