"""A list of things to choose from: a colour, a name, a quiet line and a bar each."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import param
from panel.custom import JSComponent


class Picks(JSComponent):
    """``rows``: ``{"key": int, "title", "note", "colour", "share": 0..1}``.

    Message: ``{"type": "pick", "key": int}``.
    """

    rows = param.List(default=[])
    chosen = param.Integer(default=-1)
    waiting = param.String(default="")
    height_px = param.Integer(default=260)

    _esm = Path(__file__).with_name("picks.js")

    def __init__(self, *, on_pick: Callable[[int], None] | None = None, **params) -> None:
        super().__init__(**params)
        self._on_pick = on_pick

    def _handle_msg(self, data: dict) -> None:
        if data.get("type") == "pick" and self._on_pick:
            self._on_pick(int(data["key"]))
