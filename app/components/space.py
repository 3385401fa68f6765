"""A rotatable 3-D space on a plain canvas: points, curves, arrows, labels and one cursor.

From three thousand points on they are not drawn but added up in a picture of sums, whose opacity follows how many fall
on a pixel: 100,000 points stay smooth without a graphics card, and a dense place looks dense.
"""

from __future__ import annotations

from pathlib import Path

import param
from panel.custom import JSComponent


class SpaceView(JSComponent):
    """Points ``(n, 3)`` as little-endian float32 bytes, coloured from a palette by one byte each."""

    points = param.Bytes(default=b"", doc="float32 x, y, z of each point.")
    colour_index = param.Bytes(default=b"", doc="One byte a point: its place in ``palette``.")
    palette = param.List(default=[], doc="Up to 256 colours as #rrggbb.")
    curves = param.List(
        default=[], doc='{"points": [[x, y, z], ...], "colours": [...] | "colour", "width", "dash", "closed"}.'
    )
    labels = param.List(default=[], doc="[x, y, z, text] of named places.")
    cursors = param.List(default=[], doc='{"xyz": [x, y, z], "colour", "name"}: where each arm is now.')
    arrows = param.List(
        default=[], doc='{"from": [x, y, z], "to": [x, y, z], "colour", "name"}: directions inside the space.'
    )
    axes = param.List(default=["PC 1", "PC 2", "PC 3"])
    caption = param.String(default="", doc="What is shown, for screen readers.")
    height_px = param.Integer(default=300)

    _esm = Path(__file__).with_name("space.js")
