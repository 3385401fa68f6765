"""The list of findings: each a sentence with its number, its interval, its controls and the command that re-runs it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import param
from panel.custom import JSComponent


class FindingList(JSComponent):
    """``items`` as ``app.views.findings.entry`` makes them; ``jobs`` is the state of each study's replay.

    Messages: ``{"type": "replay", "study", "seed", "scale"}`` and ``{"type": "cancel", "study"}``.
    """

    items = param.List(default=[])
    jobs = param.Dict(default={}, doc='study: {"state", "progress", "message"}.')
    waiting = param.String(default="")

    _esm = Path(__file__).with_name("findings.js")

    def __init__(self, *, on_replay: Callable[[str, int, str], None] | None = None,
                 on_cancel: Callable[[str], None] | None = None, **params) -> None:  # fmt: skip
        super().__init__(**params)
        self._on_replay, self._on_cancel = on_replay, on_cancel

    def _handle_msg(self, data: dict) -> None:
        if data.get("type") == "replay" and self._on_replay:
            self._on_replay(str(data["study"]), int(data.get("seed", 0)), str(data.get("scale", "small")))
        elif data.get("type") == "cancel" and self._on_cancel:
            self._on_cancel(str(data["study"]))
