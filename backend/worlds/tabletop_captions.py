"""What a caption of a tabletop scene says: the shape, mostly the colour, now and then the place; never the light.

Hue is continuous; the caption uses the nearest of twelve colour words, 30 degrees apart, so a word pins the hue to
within 15 degrees. Light, yaw and size are never named: they are controls that no prompt gives.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from backend.core.errors import NotFound
from backend.worlds.tabletop_geometry import SHAPES

HUE_NAMES: tuple[str, ...] = (
    "red", "orange", "yellow", "lime", "green", "mint", "cyan", "azure", "blue", "violet", "magenta", "rose",
)  # fmt: skip

COLOUR_SHARE = 0.85
PLACE_SHARE = 0.12

_TEMPLATES = (
    "a {thing} on a table",
    "{a_thing}",
    "a {thing}",
    "a photo of a {thing}",
    "a picture of a {thing} on a table",
    "a {thing} standing on a table",
    "one {thing} on a plain table",
    "a table with a {thing} on it",
    "a single {thing}",
    "an image of a {thing}",
)
_PLACES = {"left": ("on the left", "to the left"), "right": ("on the right", "to the right"),
           "centre": ("in the centre", "in the middle")}  # fmt: skip


def nearest_hue_name(hue: float) -> str:
    """The colour word nearest to ``hue`` (radians, any turn)."""
    return HUE_NAMES[round(hue / (2 * math.pi) * len(HUE_NAMES)) % len(HUE_NAMES)]


def hue_of_name(name: str) -> float:
    """Centre of a colour word in radians, in [0, 2 pi); raises ``NotFound`` for a word that captions never use."""
    if name not in HUE_NAMES:
        raise NotFound(f"The hue of '{name}' was asked for.", "Captions do not use this word.",
                       f"Use one of: {', '.join(HUE_NAMES)}.")  # fmt: skip
    return HUE_NAMES.index(name) * 2 * math.pi / len(HUE_NAMES)


def caption(factors: dict[str, Tensor], i: int, generator: torch.Generator) -> str:
    """One caption of scene ``i``: lower case, random wording, colour in 85 % of draws, place in about one in ten."""
    with_colour, with_place, pick, variant = torch.rand(4, generator=generator).tolist()
    thing = SHAPES[int(factors["shape"][i])]
    if with_colour < COLOUR_SHARE:
        thing = f"{nearest_hue_name(float(factors['hue'][i]))} {thing}"
    text = _TEMPLATES[int(pick * len(_TEMPLATES))].format(thing=thing, a_thing=thing)
    x = float(factors["x"][i])
    place = "left" if x < -0.25 else "right" if x > 0.25 else "centre" if abs(x) < 0.12 else None
    if place and with_place < PLACE_SHARE:
        text = f"{text} {_PLACES[place][int(variant * 2)]}"
    return text.replace("a azure", "an azure").replace("a orange", "an orange")
