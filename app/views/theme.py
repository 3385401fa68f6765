"""The one theme: colours of arms and coordinates, type, spacing, and how plots are drawn.

The same colour means the same place: a ring's coordinate has a cyclic, perceptually even map, a line's a sequential
one, and every pad, cloud, strip and curve takes its colours from here.
"""

from __future__ import annotations

import colorcet

ACCENT = "#0f7c86"

ARMS: dict[str, tuple[str, str]] = {
    "off": ("Unsteered", "#7b8794"),
    "manifold": ("Along the manifold", "#0f7c86"),
    "chord": ("Straight chord", "#d9622b"),
    "chord_subspace": ("Chord, same subspace", "#b8860b"),
    "random": ("Random, equal push", "#8e6bbf"),
}
"""Title and colour of each arm, the same on every page."""

LABELS = {"nop": "#3f7fbf", "broadcast": "#d9622b", "other": "#7b8794", "no sink": "#b9c0c8"}
"""Colour of each label of a head."""


def palette(kind: str, n: int = 72) -> list[str]:
    """``n`` colours along a coordinate: cyclic for a ring or torus, sequential for a line or sheet."""
    source = colorcet.cyclic_mygbm_30_95_c78_s25 if kind in ("ring", "torus") else colorcet.linear_bgyw_20_98_c66
    if kind not in ("ring", "torus"):
        source = source[24:225]
    return [source[int(i * len(source) / n)] for i in range(n)]


def colour_at(t: float, kind: str) -> str:
    """Colour of one coordinate in [0, 1]."""
    return palette(kind, 72)[int(t * 72) % 72 if kind in ("ring", "torus") else min(int(t * 72), 71)]


CSS = """
:root { --atlas-accent: #0f7c86; }
body { font-variant-numeric: tabular-nums; }
.atlas-quiet { opacity: .74; font-size: 13px; line-height: 1.45; }
.atlas-h { font-size: 20px; font-weight: 600; margin: 0 0 4px; }
.atlas-h2 { font-size: 15px; font-weight: 600; margin: 0 0 4px; }
.atlas-num { font-size: 20px; font-weight: 600; font-variant-numeric: tabular-nums; }
.atlas-card { border-radius: 12px; padding: 16px; background: color-mix(in srgb, currentColor 4%, transparent); }
a:focus-visible, button:focus-visible { outline: 2px solid var(--atlas-accent); outline-offset: 2px; }
@media (prefers-reduced-motion: reduce) { * { animation: none !important; transition: none !important; } }
"""

NAV_CSS = """
:host { width: 100%; }
nav { display: flex; gap: 4px 18px; align-items: center; flex-wrap: wrap; font-size: 14px; }
nav a { color: inherit; text-decoration: none; opacity: .82; padding: 6px 2px; border-bottom: 2px solid transparent; white-space: nowrap; }
nav a:hover { opacity: 1; }
nav a.here { opacity: 1; font-weight: 600; border-bottom-color: currentColor; }
nav .group { font-size: 11px; letter-spacing: .04em; opacity: .62; margin-left: 6px; }
"""
