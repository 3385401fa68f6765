"""The six shapes of the tabletop world: where a ray meets them and which way their surface points.

Every shape stands on the plane z = 0 around the z axis in units of its size. All but the torus are convex, an
intersection of half-spaces and quadrics, so a ray is inside them for one interval of t, found in closed form:

    inside(t) = max_i near_i < t < min_i far_i

The torus is sphere-traced inside its bounding drum. Normals of the faceted shapes are the softmax-weighted mean of
the face normals (weights exp(f_i / bevel), f_i the signed distance to face i), which shades edges as if they were
slightly rounded; the silhouette itself stays sharp. Not covered: textures, transparency, more than one object.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

SHAPES: tuple[str, ...] = ("sphere", "cube", "cylinder", "cone", "torus", "pyramid")

SPHERE_RADIUS = 0.5
CUBE_HALF = 0.42
CYLINDER_RADIUS, CYLINDER_HEIGHT = 0.4, 0.95
CONE_RADIUS, CONE_HEIGHT = 0.5, 1.1
TORUS_RING, TORUS_TUBE = 0.45, 0.20
PYRAMID_HALF, PYRAMID_HEIGHT = 0.5, 1.0
BEVEL = 0.016
TORUS_STEPS = 18

_FAR = 1e6


@dataclass(frozen=True)
class Outline:
    """Bounding sphere on the axis (``centre`` is its height) and the footprint on the table, in units of size."""

    centre: float
    radius: float
    foot: float
    square: bool
    height: float


OUTLINES: dict[str, Outline] = {
    "sphere": Outline(0.5, 0.5, 0.0, False, 1.0),
    "cube": Outline(CUBE_HALF, CUBE_HALF * math.sqrt(3), CUBE_HALF, True, 2 * CUBE_HALF),
    "cylinder": Outline(0.475, 0.625, CYLINDER_RADIUS, False, CYLINDER_HEIGHT),
    "cone": Outline(0.4364, 0.664, CONE_RADIUS, False, CONE_HEIGHT),
    "torus": Outline(TORUS_TUBE, TORUS_RING + TORUS_TUBE, 0.52, False, 2 * TORUS_TUBE),
    "pyramid": Outline(0.25, 0.751, PYRAMID_HALF, True, PYRAMID_HEIGHT),
}

Vec = tuple[Tensor, Tensor, Tensor]


def meet(shape: str, origin: Vec, direction: Vec) -> tuple[Tensor, Tensor]:
    """``(t, hit)``: the first t > 0 with ``origin + t * direction`` on the shape; all tensors broadcast together."""
    if shape == "torus":
        return _meet_torus(origin, direction)
    near, far = _INTERVALS[shape](origin, direction)
    return near, (far > near) & (far > 1e-4)


def normal(shape: str, point: Vec) -> Vec:
    """Outward unit normal at a surface ``point``, bevelled at edges; the base of the cone, never seen, is left out."""
    x, y, z = point
    if shape == "sphere":
        return _unit(x, y, z - SPHERE_RADIUS)
    if shape == "torus":
        r = (x * x + y * y).sqrt().clamp_min(1e-6)
        k = (r - TORUS_RING) / r
        return _unit(x * k, y * k, z - TORUS_TUBE)
    if shape == "cube":
        wx, wy, wz = (_excess(c.abs() - CUBE_HALF) for c in (x, y, z - CUBE_HALF))
        return _unit(x.sign() * wx, y.sign() * wy, (z - CUBE_HALF).sign() * wz)
    if shape == "pyramid":
        slope = math.hypot(PYRAMID_HEIGHT, PYRAMID_HALF)
        out, up = PYRAMID_HEIGHT / slope, PYRAMID_HALF / slope
        lift = (z - PYRAMID_HEIGHT) * up
        wx, wy = _excess(x.abs() * out + lift), _excess(y.abs() * out + lift)
        return _unit(x.sign() * wx * out, y.sign() * wy * out, (wx + wy) * up - _excess(-z))
    r = (x * x + y * y).sqrt().clamp_min(1e-6)
    if shape == "cylinder":
        side, top, base = _excess(r - CYLINDER_RADIUS), _excess(z - CYLINDER_HEIGHT), _excess(-z)
        return _unit(x / r * side, y / r * side, top - base)
    slope = math.hypot(CONE_HEIGHT, CONE_RADIUS)
    out, up = CONE_HEIGHT / slope, CONE_RADIUS / slope
    return _unit(x / r * out, y / r * out, torch.full_like(z, up))


def _excess(distance: Tensor) -> Tensor:
    return torch.exp((distance / BEVEL).clamp(-30, 10))


def _unit(x: Tensor, y: Tensor, z: Tensor) -> Vec:
    scale = torch.rsqrt(x * x + y * y + z * z + 1e-12)
    return x * scale, y * scale, z * scale


def _quadratic(a: Tensor, b: Tensor, c: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Roots of ``a t^2 + 2 b t + c`` (those divided by +a first) and the discriminant."""
    a = torch.where(a.abs() < 1e-9, torch.full_like(a, 1e-9), a)
    disc = b * b - a * c
    root = disc.clamp_min(0).sqrt()
    return (-b - root) / a, (-b + root) / a, disc


def _slab(o: Tensor, d: Tensor, low: float, high: float) -> tuple[Tensor, Tensor]:
    inverse = 1.0 / torch.where(d.abs() < 1e-9, torch.full_like(d, 1e-9), d)
    first, second = (low - o) * inverse, (high - o) * inverse
    return torch.minimum(first, second), torch.maximum(first, second)


def _sphere(o: Vec, d: Vec) -> tuple[Tensor, Tensor]:
    z = o[2] - SPHERE_RADIUS
    a = d[0] * d[0] + d[1] * d[1] + d[2] * d[2]
    b = o[0] * d[0] + o[1] * d[1] + z * d[2]
    near, far, disc = _quadratic(a, b, o[0] * o[0] + o[1] * o[1] + z * z - SPHERE_RADIUS**2)
    return torch.where(disc > 0, near, _FAR), torch.where(disc > 0, far, -_FAR)


def _cube(o: Vec, d: Vec) -> tuple[Tensor, Tensor]:
    nx, fx = _slab(o[0], d[0], -CUBE_HALF, CUBE_HALF)
    ny, fy = _slab(o[1], d[1], -CUBE_HALF, CUBE_HALF)
    nz, fz = _slab(o[2], d[2], 0.0, 2 * CUBE_HALF)
    return torch.maximum(torch.maximum(nx, ny), nz), torch.minimum(torch.minimum(fx, fy), fz)


def _drum(o: Vec, d: Vec, radius: float, height: float) -> tuple[Tensor, Tensor]:
    a, b = d[0] * d[0] + d[1] * d[1], o[0] * d[0] + o[1] * d[1]
    near, far, disc = _quadratic(a, b, o[0] * o[0] + o[1] * o[1] - radius**2)
    nz, fz = _slab(o[2], d[2], 0.0, height)
    return torch.where(disc > 0, torch.maximum(near, nz), _FAR), torch.where(disc > 0, torch.minimum(far, fz), -_FAR)


def _cylinder(o: Vec, d: Vec) -> tuple[Tensor, Tensor]:
    return _drum(o, d, CYLINDER_RADIUS, CYLINDER_HEIGHT)


def _cone(o: Vec, d: Vec) -> tuple[Tensor, Tensor]:
    k2 = (CONE_RADIUS / CONE_HEIGHT) ** 2
    z = o[2] - CONE_HEIGHT
    a = d[0] * d[0] + d[1] * d[1] - k2 * d[2] * d[2]
    b = o[0] * d[0] + o[1] * d[1] - k2 * z * d[2]
    first, second, disc = _quadratic(a, b, o[0] * o[0] + o[1] * o[1] - k2 * z * z)
    near, far = torch.minimum(first, second), torch.maximum(first, second)
    # A ray steeper than the flank (a < 0) is inside the lower nappe on one side of a single root: beyond the later
    # one where it falls, before the earlier one where it rises.
    steep, falls = a < 0, d[2] < 0
    low = torch.where(steep, torch.where(falls, far, -_FAR), near)
    high = torch.where(steep, torch.where(falls, _FAR, near), far)
    nz, fz = _slab(o[2], d[2], 0.0, CONE_HEIGHT)
    low, high = torch.maximum(low, nz), torch.minimum(high, fz)
    return torch.where(disc > 0, low, _FAR), torch.where(disc > 0, high, -_FAR)


def _pyramid(o: Vec, d: Vec) -> tuple[Tensor, Tensor]:
    near, far = _slab(o[2], d[2], 0.0, PYRAMID_HEIGHT)
    k = PYRAMID_HALF / PYRAMID_HEIGHT
    for axis in (0, 1):
        for sign in (1.0, -1.0):
            # Half-space sign * x + k z <= half.
            value = PYRAMID_HALF - sign * o[axis] - k * o[2]
            slope = sign * d[axis] + k * d[2]
            t = value / torch.where(slope.abs() < 1e-9, torch.full_like(slope, 1e-9), slope)
            near = torch.where(slope < 0, torch.maximum(near, t), near)
            far = torch.where(slope < 0, far, torch.minimum(far, t))
    return near, far


_INTERVALS = {"sphere": _sphere, "cube": _cube, "cylinder": _cylinder, "cone": _cone, "pyramid": _pyramid}


def _meet_torus(origin: Vec, direction: Vec) -> tuple[Tensor, Tensor]:
    ring, tube = TORUS_RING, TORUS_TUBE
    near, far = _drum(origin, direction, ring + tube, 2 * tube)
    shape = near.shape
    alive = ((far > near) & (far > 1e-4)).flatten().nonzero().squeeze(1)
    ox, oy, oz, dx, dy, dz = (v.expand(shape).flatten()[alive] for v in (*origin, *direction))
    t, end = near.flatten()[alive].clamp_min(0.0), far.flatten()[alive]
    oz = oz - tube
    speed = torch.rsqrt(dx * dx + dy * dy + dz * dz)
    closest = torch.full_like(t, 1.0)
    for _ in range(TORUS_STEPS):
        x, y, z = ox + t * dx, oy + t * dy, oz + t * dz
        r = (x * x + y * y).sqrt() - ring
        gap = (r * r + z * z).sqrt() - tube
        closest = torch.minimum(closest, gap)
        t = t + gap * speed
    met = (closest < 0.004) & (t < end + 0.05)
    hit, first = torch.zeros(near.numel(), dtype=torch.bool), torch.zeros(near.numel())
    hit[alive], first[alive] = met, t
    return first.view(shape), hit.view(shape)
