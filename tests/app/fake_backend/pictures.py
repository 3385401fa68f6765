"""Drawn pictures: a ball lit from where the manifold says."""

from __future__ import annotations

import functools
import io
import math

import numpy as np
from PIL import Image


@functools.cache
def _grid(size: int) -> tuple[np.ndarray, np.ndarray]:
    axis = (np.arange(size) + 0.5) / size * 2 - 1
    return np.meshgrid(axis, axis)


def picture(t: float, *, hue: float = 0.0, size: int = 128, strength: float = 1.0, blur: float = 0.0) -> Image.Image:
    """A lit ball with its shadow; ``t`` is where the light stands, ``blur`` greys it as a chord does."""
    x, y = _grid(size)
    r2 = x**2 + (y - 0.05) ** 2
    inside = r2 < 0.36
    z = np.sqrt(np.clip(0.36 - r2, 0, None)) / 0.6
    a, e = 2 * math.pi * t, 0.7
    light = (math.cos(a) * math.cos(e), -math.sin(e), math.sin(a) * math.cos(e) * -1)
    lit = np.clip((x / 0.6) * light[0] + ((y - 0.05) / 0.6) * light[1] + z * (0.55 + 0.45 * light[2]), 0, 1) * strength
    shadow = np.exp(-((x + 0.5 * light[0]) ** 2 / 0.2 + (y - 0.62 + 0.1 * light[2]) ** 2 / 0.02))
    base = np.stack([0.5 + 0.5 * np.cos(2 * math.pi * (hue - k / 3)) for k in range(3)])[:, None, None]
    ground = (0.80 - 0.12 * (y > 0.1) - 0.35 * shadow)[None] * np.array([1.0, 0.98, 0.95])[:, None, None]
    body = base * (0.18 + 0.82 * lit)[None] + 0.12 * lit[None] ** 8
    out = np.where(inside[None], body, ground)
    out = out * (1 - blur) + 0.55 * blur
    return Image.fromarray((np.clip(out, 0, 1) * 255).astype(np.uint8).transpose(1, 2, 0))


def encode(image: Image.Image, kind: str = "webp") -> bytes:
    out = io.BytesIO()
    image.save(out, {"webp": "WEBP", "png": "PNG", "jpeg": "JPEG"}[kind], **({"quality": 85} if kind != "png" else {}))
    return out.getvalue()
