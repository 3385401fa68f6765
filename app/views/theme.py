"""The one theme: colours of arms and coordinates, type, spacing, and how plots are drawn.

The same colour means the same place: a ring's coordinate has a cyclic, perceptually even map, a line's a sequential
one, and every pad, cloud, strip and curve takes its colours from here.
"""

from __future__ import annotations

import colorcet

ACCENT, ACCENT_DARK = "#0f7c86", "#3cb8c3"

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
    source = colorcet.b_cyclic_mygbm_30_95_c78_s25 if kind in ("ring", "torus") else colorcet.b_linear_bgyw_20_98_c66
    if kind not in ("ring", "torus"):
        source = source[24:225]
    return [source[int(i * len(source) / n)] for i in range(n)]


def colour_at(t: float, kind: str) -> str:
    """Colour of one coordinate in [0, 1]."""
    return palette(kind, 72)[int(t * 72) % 72 if kind in ("ring", "torus") else min(int(t * 72), 71)]


_MUI = {
    "shape": {"borderRadius": 8},
    "typography": {
        "fontFamily": "Roboto, 'Helvetica Neue', Arial, sans-serif",
        "fontSize": 14,
        **{level: {"fontSize": "14px", "fontWeight": 700} for level in ("h1", "h2", "h3", "h4", "h5", "h6")},
        "body1": {"fontSize": "14px"},
        "body2": {"fontSize": "13px"},
    },
    "components": {
        "MuiInputBase": {"styleOverrides": {"root": {"fontSize": "14px"}}},
        "MuiFormControlLabel": {"styleOverrides": {"label": {"fontSize": "13px"}}},
        "MuiCheckbox": {"styleOverrides": {"root": {"padding": "4px 6px"}}},
        "MuiAccordionSummary": {
            "styleOverrides": {"root": {"padding": 0, "minHeight": "40px"}, "content": {"margin": "8px 0"}}
        },
        "MuiAccordionDetails": {"styleOverrides": {"root": {"padding": "8px 0 0"}}},
    },
}

MUI = {
    "light": {"palette": {"primary": {"main": ACCENT}}, **_MUI},
    "dark": {"palette": {"primary": {"main": ACCENT_DARK}}, **_MUI},
}
"""What the widgets take from the theme, in light and dark."""

FAVICON = (
    "data:image/svg+xml,%3Csvg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 20 20' fill='none'%3E%3Ccircle cx='10' cy='10' r='8' "
    "stroke='%238aa' stroke-width='2.4'/%3E%3Cpath d='M10 2a8 8 0 0 1 7.6 10.5' stroke='%230f7c86' stroke-width='3' "
    "stroke-linecap='round'/%3E%3Ccircle cx='17' cy='13' r='3' fill='%230f7c86'/%3E%3C/svg%3E"
)

CSS = """
:root { --atlas-accent: #0f7c86; }
:host, body { font-variant-numeric: tabular-nums; }
h1, h2, h3 { font-family: inherit; letter-spacing: 0; }
.atlas-quiet { opacity: .76; font-size: 13px; line-height: 1.5; }
.atlas-h1 { font-size: 22px; font-weight: 700; line-height: 1.25; margin: 0 0 4px; letter-spacing: -.01em; }
.atlas-h2 { font-size: 14px; font-weight: 700; line-height: 1.4; margin: 0 0 2px; }
.atlas-num { font-size: 22px; font-weight: 700; line-height: 1.2; }
.atlas-banner { font-size: 13px; line-height: 1.5; padding: 10px 16px; border-radius: 8px; border-left: 4px solid #e8590c; background: color-mix(in srgb, #e8590c 10%, transparent); }
.atlas-banner.lost { border-color: #f08c00; background: color-mix(in srgb, #f08c00 12%, transparent); }
.atlas-link, a.atlas-link { color: inherit; text-decoration: underline; text-decoration-color: color-mix(in srgb, currentColor 40%, transparent); text-underline-offset: 3px; }
.atlas-link:hover { text-decoration-color: currentColor; }
.atlas-button { display: inline-block; font-size: 13px; font-weight: 700; padding: 7px 14px; border-radius: 8px; background: #0f7c86; color: #fff; text-decoration: none; }
.atlas-button:hover { background: #0b666f; }
.atlas-chip { display: inline-flex; align-items: center; gap: 6px; font-size: 12px; padding: 2px 8px; border-radius: 10px; background: color-mix(in srgb, currentColor 8%, transparent); color: inherit; text-decoration: none; white-space: nowrap; }
.atlas-facts { display: flex; flex-wrap: wrap; gap: 8px 24px; font-size: 13px; }
.atlas-facts div { display: flex; flex-direction: column; } .atlas-facts b { font-size: 15px; }
.atlas-facts span { font-size: 12px; opacity: .76; }
.atlas-plot { width: 100%; height: auto; display: block; font-family: inherit; }
.atlas-plot text { fill: currentColor; font-size: 11px; }
.atlas-plot .faint { opacity: .72; }
.atlas-skeleton { border-radius: 8px; background: color-mix(in srgb, currentColor 6%, transparent); display: grid; place-items: center; font-size: 13px; padding: 16px; text-align: center; }
.atlas-skeleton span { opacity: .76; }
a:focus-visible, button:focus-visible, summary:focus-visible { outline: 2px solid var(--atlas-accent, #0f7c86); outline-offset: 2px; }
@media (prefers-reduced-motion: no-preference) {
  .atlas-skeleton { animation: atlas-wait 1.4s ease-in-out infinite alternate; }
  @keyframes atlas-wait { from { opacity: 1 } to { opacity: .6 } } }
@media (prefers-reduced-motion: reduce) { * { animation: none !important; transition: none !important; } }
"""
"""Type in three sizes (22, 14, 12 to 13), spaces in steps of 8; text keeps at least 4.5 : 1 in both themes."""


def skeleton(awaited: str, *, height: int = 160) -> str:
    """A grey place of the right size that names what is awaited."""
    return f'<div class="atlas-skeleton" style="min-height:{height}px" aria-busy="true"><span>{awaited}</span></div>'
