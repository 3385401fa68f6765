"""Where one head looks: heat over the picture's patches, or over the words, and the whole pattern as a small matrix."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import param
from panel.custom import JSComponent


class AttentionView(JSComponent):
    """One weight a key. A click on a patch or word asks for that query: ``{"type": "query", "at": int}``."""

    tokens = param.List(default=[])
    weights = param.List(default=[], doc="Attention that each key gets.")
    picture = param.String(default="", doc="Data URI; empty for text.")
    grid = param.Integer(default=0, doc="Patches on an edge.")
    special = param.Integer(default=0, doc="Tokens before the patches.")
    sink = param.Integer(default=-1)
    query = param.Integer(default=-1, doc="The chosen query, -1 for the mean of all.")
    pattern = param.List(default=[], doc="Rows are queries.")
    waiting = param.String(default="")

    _esm = Path(__file__).with_name("attention.js")

    def __init__(self, *, on_query: Callable[[int], None] | None = None, **params) -> None:
        super().__init__(**params)
        self._on_query = on_query

    def _handle_msg(self, data: dict) -> None:
        if data.get("type") == "query" and self._on_query:
            self._on_query(int(data["at"]))
