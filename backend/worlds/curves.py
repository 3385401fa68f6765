"""Curves and lines with known orientation, on a small grey canvas, among textures and shapes.

Every stimulus comes with its exact ground truth; ``curves_render`` has the equation of what is drawn. After Cammarata
et al., "Curve Detectors" (2020), whose synthetic stimuli are parametrised by orientation and radius too.

Not covered: filled regions with curved edges other than the distractor shapes, colour, occlusion, perspective.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

import numpy as np
import torch
from PIL import Image

from backend.core.errors import Invalid
from backend.worlds.curves_render import (
    LENGTH,
    SIZE,
    render_curves,
    render_lines,
    render_shapes,
    render_textures,
)

KINDS = ("curve", "line", "texture", "shape")
TEXTURES = ("grating", "noise", "checks", "dots")
SHAPES = ("disc", "ring", "square", "triangle", "cross")
KIND_SHARES = (0.5, 0.2, 0.15, 0.15)
RADIUS_RANGE = (6.0, 28.0)
WIDTH_RANGE = (1.5, 4.5)
CONTRAST_RANGE = (0.2, 0.5)


@dataclass
class CurveSample:
    """Stimuli with their exact ground truth; fields that do not apply to a row's kind are nan or −1."""

    pixels: torch.Tensor
    """(N, 1 or 3, size, size) grey values in 0..1."""
    kind: torch.Tensor
    """(N,) index into ``KINDS``."""
    orientation: torch.Tensor
    """(N,) radians, direction of the normal: [0, 2π) for curves, [0, π) for lines and gratings, else nan."""
    radius: torch.Tensor
    """(N,) radius of curvature in pixels, ``inf`` for lines, nan for textures and shapes."""
    width: torch.Tensor
    """(N,) line width in pixels, nan for textures and shapes."""
    contrast: torch.Tensor
    """(N,) ink minus background, negative for dark ink."""
    position: torch.Tensor
    """(N, 2) middle of the curve, line or shape: pixels from the canvas centre, x to the right, y up."""
    texture: torch.Tensor
    """(N,) index into ``TEXTURES`` or −1."""
    shape: torch.Tensor
    """(N,) index into ``SHAPES`` or −1."""

    def __len__(self) -> int:
        return self.pixels.shape[0]

    def __getitem__(self, rows: torch.Tensor | slice) -> CurveSample:
        return CurveSample(**{f.name: getattr(self, f.name)[rows] for f in fields(self)})


def sample(
    n: int,
    generator: torch.Generator,
    *,
    size: int = SIZE,
    kind: str | None = None,
    jitter: float = 10.0,
    noise: float = 0.06,
    rgb: bool = False,
) -> CurveSample:
    """Draw ``n`` stimuli (or ``n`` of one ``kind``) with their ground truth.

    ``jitter`` bounds the position in pixels, ``noise`` is the largest standard deviation of the white noise added
    (each row draws its own below it). Raises ``Invalid`` for an unknown kind.
    """

    def uniform(low: float, high: float) -> torch.Tensor:
        return low + (high - low) * torch.rand(n, generator=generator)

    if kind is None:
        kinds = torch.multinomial(torch.tensor(KIND_SHARES), max(n, 1), replacement=True, generator=generator)[:n]
    elif kind in KINDS:
        kinds = torch.full((n,), KINDS.index(kind))
    else:
        raise Invalid(
            f"Stimuli of kind {kind!r} were asked for.",
            f"The curves world has the kinds {', '.join(KINDS)}.",
            "Use one of these, or leave the kind out for a mixture.",
        )
    is_curve, is_line, is_texture, is_shape = (kinds == k for k in range(4))
    turn = uniform(0, 2 * math.pi)
    # Log-uniform radii: curvature, not radius, is what the eye and the network can tell apart.
    radius = torch.exp(uniform(math.log(RADIUS_RANGE[0]), math.log(RADIUS_RANGE[1])))
    width, length = uniform(*WIDTH_RANGE), uniform(0.8 * LENGTH, 1.3 * LENGTH)
    sign = torch.randint(0, 2, (n,), generator=generator) * 2.0 - 1
    contrast = sign * uniform(*CONTRAST_RANGE)
    # Keeps ink of the drawn contrast inside 0..1 on either side of the background.
    background = torch.where(sign > 0, uniform(0.1, 0.5), uniform(0.5, 0.9))
    position = torch.stack([uniform(-jitter, jitter), uniform(-jitter, jitter)], dim=1)
    texture = torch.randint(0, len(TEXTURES), (n,), generator=generator)
    shape = torch.randint(0, len(SHAPES), (n,), generator=generator)
    period, extent = uniform(5, 18), uniform(7, 20)

    pixels = torch.empty(n, 1, size, size)
    if is_curve.any():
        m = is_curve
        pixels[m] = render_curves(
            turn[m], radius=radius[m], width=width[m], contrast=contrast[m], position=position[m], size=size,
            length=length[m], background=background[m],
        )
    if is_line.any():
        m = is_line
        pixels[m] = render_lines(
            turn[m], width=width[m], contrast=contrast[m], position=position[m], size=size, length=length[m],
            background=background[m],
        )
    if is_texture.any():
        m = is_texture
        # A texture has ink on both sides of its background, so it lies in the middle of the range.
        pixels[m] = render_textures(
            texture[m], orientation=turn[m], period=period[m], contrast=contrast[m], position=position[m],
            generator=generator, size=size,
        )
    if is_shape.any():
        m = is_shape
        pixels[m] = render_shapes(
            shape[m], orientation=turn[m], radius=extent[m], contrast=contrast[m], position=position[m], size=size,
            background=background[m],
        )
    if noise > 0:
        sigma = uniform(0, noise)[:, None, None, None]
        pixels = (pixels + sigma * torch.randn(n, 1, size, size, generator=generator)).clamp(0, 1)

    nan = torch.full((n,), math.nan)
    half_turn = is_line | (is_texture & (texture == TEXTURES.index("grating")))
    orientation = torch.where(is_curve, turn, torch.where(half_turn, turn % math.pi, nan))
    return CurveSample(
        pixels=pixels.expand(-1, 3, -1, -1).contiguous() if rgb else pixels,
        kind=kinds,
        orientation=orientation,
        radius=torch.where(is_curve, radius, torch.where(is_line, math.inf, nan)),
        width=torch.where(is_curve | is_line, width, nan),
        contrast=contrast,
        position=torch.where(is_texture[:, None], torch.zeros(2), position),
        texture=torch.where(is_texture, texture, -1),
        shape=torch.where(is_shape, shape, -1),
    )


def orientation_sweep(
    step_deg: float = 0.5,
    *,
    radius: float = 14.0,
    width: float = 2.5,
    contrast: float = 0.5,
    position: tuple[float, float] = (0.0, 0.0),
    size: int = SIZE,
    background: float = 0.5,
) -> tuple[torch.Tensor, torch.Tensor]:
    """One curve turned through 360 degrees: orientations (M,) radians and pixels (M, 1, size, size), M = 360 / step."""
    theta = sweep_angles(step_deg)
    pixels = render_curves(
        theta, radius=radius, width=width, contrast=contrast, position=position, size=size, background=background
    )
    return theta, pixels


def sweep_angles(step_deg: float = 0.5) -> torch.Tensor:
    """The orientations of a sweep, (360 / step,) radians; raises ``Invalid`` where the step does not divide 360."""
    count = 360 / step_deg if step_deg > 0 else 0.5
    if abs(count - round(count)) > 1e-6:
        raise Invalid(
            f"An orientation sweep in steps of {step_deg} degrees was asked for.",
            "The steps must divide the full circle, so that the last is as far from the first as from its neighbour.",
            "Use a step such as 0.2, 0.5, 1 or 5 degrees.",
        )
    return torch.arange(round(count), dtype=torch.float64).mul(2 * math.pi / round(count)).float()


def contact_sheet() -> Image.Image:
    """A picture of the world, 12 columns: curves by orientation at three radii, lines, textures, shapes, a mixture."""
    theta = sweep_angles(30)
    rows = [render_curves(theta, radius=r, contrast=c) for r, c in ((8.0, 0.45), (14.0, -0.45), (26.0, 0.45))]
    rows.append(render_lines(theta))
    draw = torch.Generator().manual_seed(0)
    rows += [sample(12, draw, kind=k, jitter=4.0).pixels for k in ("texture", "shape")]
    rows.append(sample(12, draw).pixels)
    tiles = torch.nn.functional.pad(torch.stack(rows), (1, 1, 1, 1), value=1.0)[:, :, 0]
    sheet = tiles.permute(0, 2, 1, 3).reshape(len(rows) * tiles.shape[2], -1)
    return Image.fromarray((sheet * 255).round().byte().numpy().astype(np.uint8))
