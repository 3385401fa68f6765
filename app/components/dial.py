"""A ring of classes whose sizes are probabilities, with the point that goes around; the pointer takes over."""

from __future__ import annotations

from pathlib import Path

import param
from panel.custom import JSComponent


class Dial(JSComponent):
    """Answers along a whole ring: ``rows[i]`` are the class probabilities where the point is at ``i / len(rows)``."""

    rows = param.List(default=[], doc="Probabilities (points, classes).")
    labels = param.List(default=[])
    places = param.List(default=[], doc="Where on the ring each class stands, in [0, 1).")
    colours = param.List(default=[], doc="One colour a class.")
    caption = param.String(default="")
    waiting = param.String(default="")
    period_s = param.Number(default=9.0)

    _esm = Path(__file__).with_name("dial.js")
