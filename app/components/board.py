"""The head board: layer by head, size = sink strength, colour = label; a click opens the head."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import param
from panel.custom import JSComponent


class HeadBoard(JSComponent):
    """``cells``: ``{"layer", "head", "value", "colour", "title"}``. Message: ``{"type": "pick", "layer", "head"}``."""

    layers = param.Integer(default=0)
    heads = param.Integer(default=0)
    cells = param.List(default=[])
    chosen = param.List(default=[], doc="[layer, head].")
    compact = param.Boolean(default=False, doc="Small cells without names, for a thumbnail.")
    waiting = param.String(default="")

    _esm = Path(__file__).with_name("board.js")

    def __init__(self, *, on_pick: Callable[[int, int], None] | None = None, **params) -> None:
        super().__init__(**params)
        self._on_pick = on_pick

    def _handle_msg(self, data: dict) -> None:
        if data.get("type") == "pick" and self._on_pick:
            self._on_pick(int(data["layer"]), int(data["head"]))
