"""A small picture that walks through its film-strip by itself; the pointer takes over and turns it."""

from __future__ import annotations

from pathlib import Path

import param
from panel.custom import JSComponent


class Turntable(JSComponent):
    """The stops of one manifold as a loop. With reduced motion it stands still until it is turned."""

    frame = param.Bytes(default=b"", doc="A frame whose arms are the stops, in order; one arm stands still.")
    colours = param.List(default=[], doc="Colours along the coordinate, for the mark on the rim.")
    caption = param.String(default="", doc="What is shown, for screen readers.")
    waiting = param.String(default="")
    period_s = param.Number(default=9.0, doc="Seconds for one turn.")

    _esm = Path(__file__).with_name("turntable.js")
