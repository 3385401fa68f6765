"""The search box: ``/`` focuses it from anywhere on the page, Escape empties it, and it says how much it found."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import param
from panel.custom import JSComponent


class SearchBox(JSComponent):
    """Message to Python: ``{"type": "search", "text": str}``, at most one in 120 ms."""

    value = param.String(default="")
    placeholder = param.String(default="Search")
    found = param.String(default="", doc="How much was found, in words.")

    _esm = Path(__file__).with_name("search.js")

    def __init__(self, *, on_search: Callable[[str], None] | None = None, **params) -> None:
        super().__init__(**params)
        self._on_search = on_search

    def _handle_msg(self, data: dict) -> None:
        if data.get("type") == "search" and self._on_search:
            self._on_search(str(data.get("text", ""))[:200])
