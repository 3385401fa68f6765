"""The one theme: colours of arms and coordinates, type, spacing, and how plots are drawn.

The same colour means the same place: a ring's coordinate has a cyclic, perceptually even map, a line's a sequential
one, and every pad, cloud, strip and curve takes its colours from here.
"""

from __future__ import annotations

from collections.abc import Iterable
from html import escape
from pathlib import Path
from urllib.parse import quote

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
        "button": {"textTransform": "none", "fontSize": "13px", "whiteSpace": "nowrap"},
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

_ICON = (
    "<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 20 20' fill='none'>"
    "<circle cx='10' cy='10' r='8' stroke='#8aa' stroke-width='2.4'/>"
    "<path d='M10 2a8 8 0 0 1 7.6 10.5' stroke='#0f7c86' stroke-width='3' stroke-linecap='round'/>"
    "<circle cx='17' cy='13' r='3' fill='#0f7c86'/></svg>"
)
FAVICON = "data:image/svg+xml," + quote(_ICON, safe="/:='")
"""A ring and the point on it."""

CSS = Path(__file__).with_name("atlas.css").read_text(encoding="utf-8")
"""Type in three sizes (22, 14, 12 to 13), spaces in steps of 8; text keeps at least 4.5 : 1 in both themes."""


def key(colour: str, words: str, *, strong: bool = False) -> str:
    """A colour and what it stands for."""
    cls = "atlas-key strong" if strong else "atlas-key"
    return f'<span class="{cls}"><i style="background:{colour}"></i>{escape(words)}</span>'


def arm_name(arm: str) -> str:
    """An arm's name in its colour."""
    title, colour = ARMS[arm]
    return key(colour, title, strong=True)


def facts(told: Iterable[tuple[str, str]]) -> str:
    """Numbers with their names below, in one line: ``(value, name)``."""
    pairs = "".join(f"<div><b>{escape(value)}</b><span>{escape(name)}</span></div>" for value, name in told)
    return f'<div class="atlas-facts">{pairs}</div>'


def meter(name: str, share: float, told: str, colour: str = ACCENT) -> str:
    """A name, a bar between 0 and 1, and the number."""
    width = 100 * min(max(share, 0.0), 1.0)
    bar = f'<i><b style="width:{width:.1f}%;background:{colour}"></b></i>'
    return f'<div class="atlas-meter"><span>{escape(name)}</span>{bar}<span>{escape(told)}</span></div>'


def skeleton(awaited: str, *, height: int = 160, waiting: bool = True) -> str:
    """A grey place of the right size that names what is awaited, or, with ``waiting=False``, what to do next."""
    cls, busy = ("atlas-skeleton waits", "true") if waiting else ("atlas-skeleton", "false")
    return f'<div class="{cls}" style="min-height:{height}px" aria-busy="{busy}"><span>{awaited}</span></div>'
