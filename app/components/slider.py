"""A slider that steers: it answers while it moves, and shades what lies beyond the measured range."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import param
from panel.custom import JSComponent


class SteerSlider(JSComponent):
    """Message to Python: ``{"type": "slide", "value": float, "final": bool}``, at most one a painted frame."""

    label = param.String(default="")
    value = param.Number(default=1.0)
    start = param.Number(default=0.0)
    end = param.Number(default=2.0)
    step = param.Number(default=0.05)
    safe = param.Number(default=None, allow_None=True, doc="Above this the track is hatched.")
    colours = param.List(default=[], doc="Colours along the track; empty for a plain one.")
    ticks = param.List(default=[], doc="[value, label]; the nearest is read out instead of the number.")
    cyclic = param.Boolean(default=False, doc="Names are taken modulo one turn.")
    unit = param.String(default="", doc="`°` reads the value as a share of 360.")

    _esm = Path(__file__).with_name("slider.js")

    def __init__(self, *, on_slide: Callable[[float, bool], None] | None = None, **params) -> None:
        super().__init__(**params)
        self._on_slide = on_slide

    def _handle_msg(self, data: dict) -> None:
        if data.get("type") == "slide" and self._on_slide:
            self._on_slide(min(max(float(data["value"]), self.start), self.end), bool(data.get("final")))
