"""The bar on top of every page: name, places to go, state of the backend, share and light or dark."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import param
from panel.custom import JSComponent


class TopBar(JSComponent):
    """Navigation that goes back to each page as it was left, and one dot for the backend with its last round trip.

    What a page showed last stands in its address; the browser's tab remembers the address of each page.

    Message to Python: ``{"type": "theme", "dark": bool}`` once where nothing is remembered and the browser asks for
    dark, and on each click of the switch.
    """

    pages = param.List(default=[], doc="[group, path, name] of each page.")
    here = param.String(default="")
    state = param.Selector(default="starting", objects=["starting", "ready", "degraded", "lost"])
    words = param.String(default="", doc="Device and last round trip.")
    detail = param.String(default="", doc="What the backend says of itself beyond its state.")
    dark = param.Boolean(default=False)

    _esm = Path(__file__).with_name("bar.js")

    def __init__(self, *, on_theme: Callable[[bool], None] | None = None, **params) -> None:
        super().__init__(**params)
        self._on_theme = on_theme

    def _handle_msg(self, data: dict) -> None:
        if data.get("type") == "theme" and self._on_theme:
            self._on_theme(bool(data["dark"]))
