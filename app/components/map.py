"""The map of blocks: a scatter on a plain canvas that stays smooth for tens of thousands of points."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import param
from panel.custom import JSComponent


class BlockMap(JSComponent):
    """Points with a place, a size and a colour each; filtered ones stay as dust.

    Message: ``{"type": "pick", "at": int}``; ``at`` is the position in the arrays. The wheel (or + and -) zooms,
    dragging moves, a double click (or 0) shows all, and the arrow keys go to the nearest point in their direction.
    Where ``xy`` changes and the number of points does not, the points walk to their new places.
    """

    xy = param.Bytes(default=b"", doc="float32 (n, 2), little endian.")
    size = param.Bytes(default=b"", doc="uint8 (n,): radius in quarter pixels.")
    colour_index = param.Bytes(default=b"", doc="uint8 (n,): place in the palette.")
    palette = param.List(default=[])
    shown = param.Bytes(default=b"", doc="uint8 (n,): 0 is filtered out.")
    labels = param.List(default=[], doc="What the tip says of each point.")
    chosen = param.Integer(default=-1)
    near = param.List(default=[], doc="Positions that are ringed and joined to the chosen one: its neighbours.")
    near_weight = param.List(default=[], doc="How strongly each is joined, 0 to 1.")
    marked = param.List(default=[], doc="Positions that are marked together: a union of blocks.")
    edges = param.Bytes(default=b"", doc="int32 (m, 2): positions that are joined.")
    weights = param.Bytes(default=b"", doc="float32 (m,).")
    joined = param.Boolean(default=False, doc="Draw the edges.")
    axes = param.List(default=[], doc="[[name, [[value, words], ...]], ...] across and up, where places have units.")
    scale = param.List(default=[], doc="[low, high] in words where the palette is a scale; else the legend is shown.")
    legend = param.List(default=[], doc="[name, colour] of what the colours mean.")
    waiting = param.String(default="")
    height_px = param.Integer(default=420)

    _esm = Path(__file__).with_name("map.js")

    def __init__(self, *, on_pick: Callable[[int], None] | None = None, **params) -> None:
        super().__init__(**params)
        self._on_pick = on_pick

    def _handle_msg(self, data: dict) -> None:
        if data.get("type") == "pick" and self._on_pick:
            self._on_pick(int(data["at"]))
