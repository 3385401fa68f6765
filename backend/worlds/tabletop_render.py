"""The tabletop renderer: one lit object, its cast shadow and a table, vectorised over scenes.

The camera never moves, so where each pixel's sub-samples meet the table is known once. Per scene only the pixels
that can see the object or its shadow (a bounding-sphere test) are traced, with ``SIDE**2`` sub-samples each; every
sub-sample has its own direction to the light inside a small disc, which softens the shadow's rim. Shading is

    colour = albedo * (sky * occlusion + sun * visible * max(0, n . l)) + gloss

in linear light, averaged over sub-samples, bent below 1 and coded as sRGB. Azimuth is where the light comes *from*:
0 is right, pi/2 away from the camera, so the shadow points to azimuth + pi. Not covered: inter-reflection.
"""

from __future__ import annotations

import functools
import math
from typing import NamedTuple

import torch
from torch import Tensor

from backend.core.errors import Invalid
from backend.worlds.tabletop_geometry import OUTLINES, SHAPES, meet, normal

PITCH = math.radians(43)
DISTANCE = 7.0
HALF_WIDTH = 1.40
TARGET_Z = 0.26
SIDE = 3
SUN_RADIUS = math.radians(2.2)
SUN = (1.14, 1.07, 0.97)
SKY = (0.300, 0.315, 0.345)
TABLE = (0.60, 0.55, 0.49)
BACKDROP = (0.82, 0.79, 0.755)
GLOSS, SHININESS = 0.22, 36.0
KNEE = 0.72
CHUNK = 48


class Rendered(NamedTuple):
    """``images`` (n, size, size, 3) uint8 sRGB and ``factors``: those given plus shadow_area and luminance."""

    images: Tensor
    factors: dict[str, Tensor]


class _Camera(NamedTuple):
    eye: tuple[float, float, float]
    rays: Tensor  # (3, P, S) unit directions
    ground: Tensor  # (2, P, S) table points
    table: Tensor  # (P, 3) linear albedo, fading into the backdrop


def hue_to_linear(hue: Tensor, *, saturation: float = 0.76, value: float = 0.92) -> Tensor:
    """Linear-light RGB ``(..., 3)`` of an HSV hue in radians."""
    sector = (torch.tensor([5.0, 3.0, 1.0]) + hue[..., None] * (3 / math.pi)) % 6
    code = value - value * saturation * torch.minimum(sector, 4 - sector).clamp(0, 1)
    return _to_linear(code)


def _to_linear(code: Tensor) -> Tensor:
    return torch.where(code <= 0.04045, code / 12.92, ((code + 0.055) / 1.055) ** 2.4)


def _to_srgb(light: Tensor) -> Tensor:
    light = light.clamp(0, 1)
    return torch.where(light <= 0.0031308, light * 12.92, 1.055 * light.clamp_min(1e-8) ** (1 / 2.4) - 0.055)


def _shoulder(light: Tensor) -> Tensor:
    """Linear below ``KNEE``, then bending smoothly towards 1, so that bright paint keeps its shading."""
    over = (light - KNEE).clamp_min(0)
    return light.clamp_max(KNEE) + (1 - KNEE) * (1 - torch.exp(over / (KNEE - 1)))


@functools.cache
def _camera(size: int) -> _Camera:
    back, up = (math.cos(PITCH), math.sin(PITCH)), (math.sin(PITCH), math.cos(PITCH))
    eye = (0.0, -DISTANCE * back[0], TARGET_Z + DISTANCE * back[1])
    # Sub-samples of a pixel lie in one run, so a mean over the last axis is the anti-aliasing filter.
    grid = (torch.arange(size * SIDE, dtype=torch.float64) + 0.5) / (size * SIDE) * 2 - 1
    v, u = torch.meshgrid(-grid, grid, indexing="ij")
    u, v = (g.reshape(size, SIDE, size, SIDE).permute(0, 2, 1, 3).reshape(size * size, SIDE**2) for g in (u, v))
    u, v = u * HALF_WIDTH / DISTANCE, v * HALF_WIDTH / DISTANCE
    rays = torch.stack([u, back[0] + v * up[0], -back[1] + v * up[1]])
    rays = rays / rays.norm(dim=0)
    t = -eye[2] / rays[2]
    ground = torch.stack([eye[0] + t * rays[0], eye[1] + t * rays[1]])
    middle = ground.mean(-1)
    fade = ((middle[1] - 0.2) / 2.6).clamp(0, 1)
    fade = (fade * fade * (3 - 2 * fade))[:, None]
    vignette = 1 - 0.05 * (middle.pow(2).sum(0) / 4.0).clamp(0, 2)[:, None]
    table = (torch.tensor(TABLE, dtype=torch.float64) * (1 - fade) + torch.tensor(BACKDROP).double() * fade) * vignette
    return _Camera(eye, rays.float(), ground.float(), table.float())


@functools.cache
def _sun_disc() -> Tensor:
    """``(2, S)`` offsets in a disc, dealt so that neighbouring sub-samples see distant parts of the sun."""
    n = SIDE**2
    index = torch.arange(n, dtype=torch.float64)
    radius, angle = ((index + 0.5) / n).sqrt(), index * (math.pi * (3 - math.sqrt(5)))
    order = (torch.arange(n) * 4) % n
    return torch.stack([radius * angle.cos(), radius * angle.sin()])[:, order].float()


def light_direction(azimuth: Tensor, elevation: Tensor) -> Tensor:
    """Unit vectors ``(..., 3)`` towards the light; both angles in radians."""
    flat = elevation.cos()
    return torch.stack([flat * azimuth.cos(), flat * azimuth.sin(), elevation.sin()], dim=-1)


@torch.inference_mode()
def render(factors: dict[str, Tensor], *, size: int = 128) -> Rendered:
    """Render every scene of ``factors`` (tensors of length n, as ``sample_factors`` gives them).

    Raises ``Invalid`` where a factor is missing or the lengths differ.
    """
    needed = ("shape", "hue", "size", "x", "y", "yaw", "light_azimuth", "light_elevation")
    missing = [name for name in needed if name not in factors]
    lengths = {len(factors[name]) for name in needed if name in factors}
    if missing or len(lengths) != 1:
        raise Invalid(
            "A tabletop scene was asked for.",
            f"Missing factors: {missing or 'none'}; lengths: {sorted(lengths)}.",
            f"Give one tensor of equal length for each of {', '.join(needed)}.",
        )
    n = lengths.pop()
    shapes = factors["shape"].long()
    if n and not (0 <= int(shapes.min()) and int(shapes.max()) < len(SHAPES)):
        raise Invalid("A shape number was given.", f"Shapes are 0 to {len(SHAPES) - 1}.", "Index into SHAPES.")
    images = torch.empty(n, size, size, 3, dtype=torch.uint8)
    shadow, luminance = torch.empty(n), torch.empty(n)
    for kind, shape in enumerate(SHAPES):
        for rows in (shapes == kind).nonzero().squeeze(1).split(CHUNK):
            if len(rows):
                part = {name: factors[name][rows].float() for name in needed[1:]}
                light, shadow[rows] = _render_one_kind(shape, part, size)
                light = _shoulder(light)
                luminance[rows] = light.mean(1) @ torch.tensor([0.2126, 0.7152, 0.0722])
                coded = (_to_srgb(light) * 255 + 0.5).to(torch.uint8)
                images[rows] = coded.view(-1, size, size, 3)
    return Rendered(images, {**factors, "shadow_area": shadow, "luminance": luminance})


def _render_one_kind(shape: str, f: dict[str, Tensor], size: int) -> tuple[Tensor, Tensor]:
    """Linear light ``(B, P, 3)`` and shadow_area ``(B,)`` of scenes that share a shape."""
    camera, outline = _camera(size), OUTLINES[shape]
    n, s = len(f["hue"]), f["size"]
    to_light = light_direction(f["light_azimuth"], f["light_elevation"])  # (B, 3)
    sunlit = to_light[:, 2]

    # What every pixel of the bare table sends, with the soft darkening around the object's foot.
    ground = camera.ground.mean(-1)  # (2, P)
    gx, gy = ground[0] - f["x"][:, None], ground[1] - f["y"][:, None]  # (B, P)
    open_sky = 1 - _contact(shape, gx / s[:, None], gy / s[:, None], f["yaw"][:, None])
    sky, sun = torch.tensor(SKY), torch.tensor(SUN)
    light = camera.table * (sky * open_sky[..., None] + sun * sunlit[:, None, None])  # (B, P, 3)

    # Pixels whose ray, or whose table point seen from the light, can meet the bounding sphere.
    height, reach = outline.centre * s, outline.radius * s + 0.05
    eye = [camera.eye[0] - f["x"], camera.eye[1] - f["y"], camera.eye[2] - height]
    mid = camera.rays.mean(-1)
    mid = mid / mid.norm(dim=0)
    along = eye[0][:, None] * mid[0] + eye[1][:, None] * mid[1] + eye[2][:, None] * mid[2]
    square = (eye[0] ** 2 + eye[1] ** 2 + eye[2] ** 2)[:, None]
    seen = square - along**2 < (reach**2)[:, None]
    along = -gx * to_light[:, :1] - gy * to_light[:, 1:2] + (height * to_light[:, 2])[:, None]
    square = gx**2 + gy**2 + (height**2)[:, None]
    cast = square - along**2 < (reach[:, None] + along.clamp_min(0) * math.tan(SUN_RADIUS)) ** 2
    scene, pixel = (seen | cast).nonzero(as_tuple=True)  # (M,)

    cos, sin, inverse = f["yaw"].cos(), f["yaw"].sin(), 1 / s

    def local(x: Tensor, y: Tensor, z: Tensor, c: Tensor, k: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return x * c + y * k, y * c - x * k, z

    c, k, scale = cos[scene][:, None], sin[scene][:, None], inverse[scene][:, None]
    rays = camera.rays[:, pixel]  # (3, M, S)
    dx, dy, dz = local(rays[0], rays[1], rays[2], c, k)
    ex, ey, ez = local(eye[0], eye[1], eye[2] + height, cos, sin)
    ex, ey, ez = (e[scene][:, None] * scale for e in (ex, ey, ez))
    t, hit = meet(shape, (ex, ey, ez), (dx * scale, dy * scale, dz * scale))

    # The light's directions, one a sub-sample, in the object's frame: (B, S) each.
    disc = _sun_disc() * math.tan(SUN_RADIUS)
    a, e = f["light_azimuth"][:, None], f["light_elevation"][:, None]
    side = (-a.sin(), a.cos(), torch.zeros_like(a))
    rise = (-e.sin() * a.cos(), -e.sin() * a.sin(), e.cos())
    lx, ly, lz = (to_light[:, i, None] + side[i] * disc[0] + rise[i] * disc[1] for i in range(3))
    lx, ly, lz = local(lx, ly, lz, cos[:, None], sin[:, None])

    open_table = ~hit
    tx, ty = camera.ground[0][pixel] - f["x"][scene][:, None], camera.ground[1][pixel] - f["y"][scene][:, None]
    tx, ty, _ = local(tx, ty, ty, c, k)
    _, shaded = meet(shape, (tx * scale, ty * scale, torch.zeros(1, 1)), (lx[scene], ly[scene], lz[scene]))
    shaded &= open_table

    count = SIDE**2
    bare = open_table.sum(1) / count  # (M,) share of the pixel that is table
    dark = shaded.sum(1) / count
    level = sky * (open_sky[scene, pixel] * bare)[:, None] + sun * ((bare - dark) * sunlit[scene])[:, None]
    colour = camera.table[pixel] * level

    row, sub = hit.nonzero(as_tuple=True)  # (H,)
    which = scene[row]
    at = t[row, sub]
    d = (dx[row, sub], dy[row, sub], dz[row, sub])
    u = inverse[which]
    point = (ex[row, 0] + at * d[0] * u, ey[row, 0] + at * d[1] * u, ez[row, 0] + at * d[2] * u)
    toward = (lx[which, sub], ly[which, sub], lz[which, sub])
    shine = _shade(shape, point, d, toward, hue_to_linear(f["hue"])[which], sky, sun)
    colour.index_add_(0, row, shine / count)

    light[scene, pixel] = colour
    table_share = torch.full((n,), float(size * size)).index_add_(0, scene, bare - 1)
    shadow = torch.zeros(n).index_add_(0, scene, dark) / table_share
    return light, shadow


def _contact(shape: str, x: Tensor, y: Tensor, yaw: Tensor) -> Tensor:
    """Share of the sky that the object hides from the table point (x, y), in units of size; a soft fit, not exact."""
    outline = OUTLINES[shape]
    if shape == "sphere":
        # Exact for a sphere of radius r at height r: form factor r^3 / (x^2 + y^2 + r^2)^(3/2).
        return 0.9 * (1 + (x * x + y * y) * 4) ** -1.5
    if outline.square:
        x, y = x * yaw.cos() + y * yaw.sin(), y * yaw.cos() - x * yaw.sin()
        gap = ((x.abs() - outline.foot).clamp_min(0) ** 2 + (y.abs() - outline.foot).clamp_min(0) ** 2).sqrt()
    else:
        gap = ((x * x + y * y).sqrt() - outline.foot).clamp_min(0)
    strength = 0.5 if shape in ("cube", "cylinder") else 0.36
    return strength * torch.exp(-gap / (0.28 * outline.height + 0.05))


def _shade(shape, point, ray, toward, albedo: Tensor, sky: Tensor, sun: Tensor) -> Tensor:
    """Linear colour ``(H, 3)`` of surface points; everything in the object's frame."""
    nx, ny, nz = normal(shape, point)
    lit = (nx * toward[0] + ny * toward[1] + nz * toward[2]).clamp_min(0)
    visible = (lit > 0).float()
    if shape == "torus":
        start = tuple(p + 0.02 * m for p, m in zip(point, (nx, ny, nz), strict=True))
        visible = visible * (~meet(shape, start, toward)[1]).float()
    hx, hy, hz = toward[0] - ray[0], toward[1] - ray[1], toward[2] - ray[2]
    half = (nx * hx + ny * hy + nz * hz).clamp_min(0) * torch.rsqrt(hx * hx + hy * hy + hz * hz + 1e-9)
    gloss = GLOSS * visible * half**SHININESS

    # Paint: a broad pale band runs from the axis outwards on the +x side, a narrow deep one on the -x side, so that
    # yaw is a full cycle for every shape and one of them can be seen from any direction.
    x, y, _ = point
    pale = _band(y, 0.105) * (x > 0)
    deep = _band(y, 0.060) * (x < 0)
    white = torch.tensor([0.93, 0.92, 0.88])
    albedo = albedo + (white - albedo) * (0.86 * pale)[:, None]
    albedo = albedo * (1 - 0.72 * deep)[:, None]

    near_table = 0.62 + 0.38 * (point[2] / 0.45).clamp(0, 1)
    ambient = sky * ((0.62 + 0.38 * nz) * near_table)[:, None]
    bounce = torch.tensor(TABLE) * (0.10 + 0.16 * (0.5 - 0.5 * nz))[:, None]
    return albedo * (ambient + bounce + sun * (lit * visible)[:, None]) + sun * gloss[:, None]


def _band(y: Tensor, half_width: float) -> Tensor:
    return ((half_width - y.abs()) / 0.02 + 0.5).clamp(0, 1)
