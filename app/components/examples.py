"""Example pictures: laid along a manifold's coordinate in lanes, or as plain thumbnails to choose from."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import param
from panel.custom import JSComponent


class Examples(JSComponent):
    """Pictures inside a frame container, each with its place, band and heat map.

    ``items``: ``{"offset", "length", "t", "band", "title", "heat": [[float]], "turn": [[float]]}``.
    With ``lanes`` they stand in that many
    equal parts of the coordinate, strongest band on top; with 0 they are thumbnails.

    Message: ``{"type": "pick", "at": int}``.
    """

    frame = param.Bytes(default=b"", doc="The whole container; offsets count from its body.")
    items = param.List(default=[])
    lanes = param.Integer(default=0)
    lane_labels = param.List(default=[])
    lane_colours = param.List(default=[])
    heat = param.Boolean(default=False, doc="Draw the heat maps over the pictures.")
    turn_palette = param.List(default=[], doc="Colours around a turn; where given, heat maps show direction as hue.")
    chosen = param.Integer(default=-1)
    waiting = param.String(default="")

    _esm = Path(__file__).with_name("examples.js")

    def __init__(self, *, on_pick: Callable[[int], None] | None = None, **params) -> None:
        super().__init__(**params)
        self._on_pick = on_pick

    def _handle_msg(self, data: dict) -> None:
        if data.get("type") == "pick" and self._on_pick:
            self._on_pick(int(data["at"]))
