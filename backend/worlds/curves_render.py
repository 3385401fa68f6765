"""How stimuli of the curves world are drawn: arcs, lines, textures and shapes on a small grey canvas.

A curve is a circular arc: with n = (cos θ, sin θ) its outward normal at its middle p (x to the right, y up), the
centre of curvature lies at c = p − R n and the ink covers the points whose distance to the arc is below half the
line width,

    pixel = background + contrast · clip(width / 2 + 1/2 − distance, 0, 1),

so that edges are anti-aliased over one pixel. θ runs over 360 degrees, because an arc opens to one side; a line is
the limit R → ∞ and repeats after 180 degrees.
"""

from __future__ import annotations

import math
from functools import partial

import torch

from backend.core.errors import Invalid

SIZE = 64
LENGTH = 28.0


def grid(size: int = SIZE) -> tuple[torch.Tensor, torch.Tensor]:
    """Pixel centres as ``x, y``, each (size, size), in pixels from the canvas centre, y up."""
    axis = torch.arange(size, dtype=torch.float32) - (size - 1) / 2
    return axis[None, :].expand(size, size), -axis[:, None].expand(size, size)


def _rows(value: float | torch.Tensor, n: int) -> torch.Tensor:
    """A number or (N,) tensor as (N, 1, 1)."""
    return torch.as_tensor(value, dtype=torch.float32).expand(n)[:, None, None]


def _local(orientation: torch.Tensor, position: torch.Tensor, size: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Pixel coordinates along the normal and along the tangent of each row, (N, size, size) each."""
    x, y = grid(size)
    dx, dy = x - position[:, 0, None, None], y - position[:, 1, None, None]
    c, s = orientation.cos()[:, None, None], orientation.sin()[:, None, None]
    return dx * c + dy * s, dy * c - dx * s


def _ink(distance: torch.Tensor, width: torch.Tensor) -> torch.Tensor:
    """Coverage 0..1 of a stroke of the given width, anti-aliased over one pixel."""
    return (width / 2 + 0.5 - distance).clamp(0, 1)


def _drawn(ink: torch.Tensor, contrast: float | torch.Tensor, background: float | torch.Tensor) -> torch.Tensor:
    """Pixels (N, 1, size, size) of ink or a pattern (N, size, size) on its background."""
    n = len(ink)
    return (_rows(background, n) + _rows(contrast, n) * ink).clamp(0, 1)[:, None]


def render_curves(
    orientation: torch.Tensor,
    *,
    radius: float | torch.Tensor = 14.0,
    width: float | torch.Tensor = 2.5,
    contrast: float | torch.Tensor = 0.5,
    position: tuple[float, float] | torch.Tensor = (0.0, 0.0),
    size: int = SIZE,
    length: float | torch.Tensor = LENGTH,
    background: float | torch.Tensor = 0.5,
) -> torch.Tensor:
    """Arcs with outward normals at ``orientation`` (N,) radians, as (N, 1, size, size) in 0..1.

    Every other argument is a number or an (N,) tensor, lengths in pixels (``position`` (2,) or (N, 2), from the
    canvas centre, y up). An arc is ``length`` long but never more than a half circle; with ``radius=math.inf`` it is
    a straight stroke. Raises ``Invalid`` for a
    radius or width that is not positive. Equation in the module docstring.
    """
    orientation = torch.as_tensor(orientation, dtype=torch.float32).reshape(-1)
    if bool((torch.as_tensor(radius) <= 0).any()) or bool((torch.as_tensor(width) <= 0).any()):
        raise Invalid(
            f"A curve of radius {radius} and width {width} was asked for.",
            "Both are lengths in pixels and must be positive.",
            "Give a radius and a width above 0.",
        )
    n = len(orientation)
    position = torch.as_tensor(position, dtype=torch.float32).expand(n, 2)
    u, v = _local(orientation, position, size)
    length = _rows(length, n)
    if isinstance(radius, float) and math.isinf(radius):
        distance = torch.hypot(u, (v.abs() - length / 2).clamp(min=0))
    else:
        radius = _rows(radius, n)
        half = (length / (2 * radius)).clamp(max=math.pi / 2)
        u = u + radius
        inside = torch.atan2(v, u).abs() <= half
        to_arc = (torch.hypot(u, v) - radius).abs()
        to_end = torch.hypot(u - radius * half.cos(), v.abs() - radius * half.sin())
        distance = torch.where(inside, to_arc, to_end)
    return _drawn(_ink(distance, _rows(width, n)), contrast, background)


render_lines = partial(render_curves, radius=math.inf)
"""Straight strokes with normals at ``orientation`` (N,) radians, (N, 1, size, size): ``render_curves``, R → ∞."""


def render_textures(
    texture: torch.Tensor,
    *,
    orientation: torch.Tensor,
    period: torch.Tensor,
    contrast: torch.Tensor,
    position: torch.Tensor,
    generator: torch.Generator,
    size: int = SIZE,
    background: float | torch.Tensor = 0.5,
) -> torch.Tensor:
    """Whole-canvas textures of class ``texture`` (N,) with ``period`` in pixels, as (N, 1, size, size).

    ``generator`` draws the noise texture alone; the other classes are functions of their arguments.
    """
    n = len(texture)
    u, v = _local(orientation, position, size)
    period = period[:, None, None]
    wave_u, wave_v = (2 * math.pi * u / period).sin(), (2 * math.pi * v / period).sin()
    # Distance to the nearest point of a square lattice, for dots a third of a period wide.
    near = torch.hypot(_to_lattice(u, period), _to_lattice(v, period))
    white = torch.randn(n, size, size, generator=generator)
    pattern = torch.stack(
        [
            wave_u,
            _blur(white, period[:, 0, 0] / 4),
            (wave_u * wave_v * period / 3).clamp(-1, 1),
            2 * _ink(near, period / 2.5) - 1,
        ]
    )[texture, torch.arange(n)]
    return _drawn(pattern, contrast, background)


def _to_lattice(x: torch.Tensor, period: torch.Tensor) -> torch.Tensor:
    return x - period * torch.round(x / period)


def _blur(white: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
    """White noise (N, s, s) under a Gaussian of ``sigma`` (N,) pixels, back at half its range: std 1/2 per image."""
    size = white.shape[-1]
    fy, fx = torch.fft.fftfreq(size)[:, None], torch.fft.rfftfreq(size)[None, :]
    gain = torch.exp(-2 * (math.pi * sigma[:, None, None]) ** 2 * (fx**2 + fy**2))
    smooth = torch.fft.irfft2(torch.fft.rfft2(white) * gain, s=(size, size))
    return 0.5 * smooth / smooth.std(dim=(1, 2), keepdim=True).clamp(min=1e-6)


def render_shapes(
    shape: torch.Tensor,
    *,
    orientation: torch.Tensor,
    radius: torch.Tensor,
    contrast: torch.Tensor,
    position: torch.Tensor,
    size: int = SIZE,
    background: float | torch.Tensor = 0.5,
) -> torch.Tensor:
    """Filled shapes of class ``shape`` (N,) with circumradius ``radius`` pixels, as (N, 1, size, size)."""
    n = len(shape)
    u, v = _local(orientation, position, size)
    r = radius[:, None, None]
    centre = torch.hypot(u, v)
    # Regular polygon: the largest of the distances to its edges' lines.
    triangle = torch.stack([u * math.cos(a) + v * math.sin(a) for a in (0, 2 * math.pi / 3, 4 * math.pi / 3)]).amax(0)
    bar = r / 3.2
    arms = torch.minimum(torch.maximum(u.abs() - r, v.abs() - bar), torch.maximum(u.abs() - bar, v.abs() - r))
    signed = torch.stack(
        [
            centre - r,
            (centre - 0.8 * r).abs() - 0.2 * r,
            torch.maximum(u.abs(), v.abs()) - r * math.sqrt(0.5),
            triangle - r / 2,
            arms,
        ]
    )[shape, torch.arange(n)]
    return _drawn((0.5 - signed).clamp(0, 1), contrast, background)
