"""Stimuli of the curves world: symmetries of the figure are those of the picture, and lengths are kept."""

import math

import pytest
import torch

from backend.core.errors import Invalid
from backend.worlds import curves
from backend.worlds.curves_render import grid, render_curves, render_lines, render_shapes, render_textures


def test_a_curve_opens_away_from_its_normal():
    # Normal to the right: the arc's middle is at the canvas centre, its ends lie to the left.
    pixels = render_curves(torch.tensor([0.0]), radius=10.0, contrast=0.5, length=30.0)[0, 0] - 0.5
    x, _ = grid()
    assert (pixels * x).sum() / pixels.sum() < -2
    assert pixels[31:33, 31:33].min() > 0.4


def test_turning_by_ninety_degrees_is_rotating_the_picture():
    theta = torch.tensor([0.3])
    for render in (render_curves, render_lines):
        turned = render(theta + math.pi / 2)
        assert torch.allclose(turned, torch.rot90(render(theta), 1, (2, 3)), atol=1e-4)


def test_half_a_turn_changes_a_curve_but_not_a_line():
    theta = torch.tensor([0.7])
    assert torch.allclose(render_lines(theta), render_lines(theta + math.pi), atol=1e-4)
    difference = render_curves(theta, radius=10.0) - render_curves(theta + math.pi, radius=10.0)
    assert difference.abs().max() > 0.4


def test_a_very_large_radius_is_a_line():
    theta = torch.linspace(0, 6, 7)
    flat = render_curves(theta, radius=1e4, length=24.0)
    assert torch.allclose(flat, render_lines(theta, length=24.0), atol=0.02)


def test_ink_is_length_times_width_and_contrast_has_a_sign():
    for contrast in (0.4, -0.4):
        pixels = render_lines(torch.tensor([0.4]), width=3.0, length=26.0, contrast=contrast)
        # A stroke with round ends: length * width + the two half discs.
        area = float((pixels - 0.5).sum()) / contrast
        assert area == pytest.approx(26 * 3 + math.pi * 1.5**2, rel=0.03)


def test_edges_are_anti_aliased():
    pixels = render_curves(torch.tensor([0.2]), contrast=0.5)
    between = ((pixels > 0.51) & (pixels < 0.99)).float().mean() / (pixels > 0.51).float().mean()
    assert 0.2 < float(between) < 0.9


def test_position_moves_up_and_right():
    theta = torch.tensor([1.0])
    moved = render_curves(theta, position=(5.0, 3.0))
    assert torch.allclose(moved, torch.roll(render_curves(theta), (-3, 5), (2, 3)), atol=1e-4)


def test_textures_and_shapes_differ_by_class():
    n = len(curves.TEXTURES)
    ones = torch.ones(n)
    pixels = render_textures(
        torch.arange(n), orientation=0.3 * ones, period=9 * ones, contrast=0.4 * ones, position=torch.zeros(n, 2),
        generator=torch.Generator().manual_seed(0),
    )  # fmt: skip
    m = len(curves.SHAPES)
    drawn = render_shapes(
        torch.arange(m), orientation=torch.zeros(m), radius=torch.full((m,), 12.0), contrast=torch.full((m,), 0.5),
        position=torch.zeros(m, 2),
    )  # fmt: skip
    for group in (pixels, drawn):
        assert torch.pdist(group.flatten(1)).min() > 1
    area = (drawn - 0.5).sum(dim=(1, 2, 3)) / 0.5
    assert float(area[0]) == pytest.approx(math.pi * 144, rel=0.01)
    assert float(area[2]) == pytest.approx(2 * 144, rel=0.01)
    assert float(area[3]) == pytest.approx(3 * math.sqrt(3) / 4 * 144, rel=0.02)


def test_what_has_no_size_is_refused():
    with pytest.raises(Invalid):
        render_curves(torch.zeros(1), radius=0.0)
