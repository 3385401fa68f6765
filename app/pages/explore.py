"""Explore: the map of a featurizer's blocks, filtered or ranked by one's own text or picture, and one block beside it.

What the page shows stands in its address, save a picture of one's own, which never leaves the session.
"""

from __future__ import annotations

import asyncio
import base64
import math
from html import escape
from urllib.parse import quote

import numpy as np
import panel_material_ui as pmui
import param
from pydantic import ValidationError

from app.client.backend import BackendDown, BackendError
from app.components import BlockMap, Picks, SearchBox
from app.pages.address import bind
from app.pages.block_panel import OVERLAYS, BlockPanel
from app.pages.layout import NONE, column, columns, markup, quiet, row
from app.pages.shell import Shell
from app.views import blocks as views
from app.views.theme import skeleton
from backend.wire.blocks import BlockDetail, BlockList, BlockMatches, BlockSearch, BlockSummary
from backend.wire.capabilities import Capabilities, FeaturizerInfo

ANY = {"any topology": ""}
NO_UNION = {"any block": ""}
BY = {"words": "", "my text": "text", "my picture": "picture"}
"""How blocks are searched; the values are what the address holds. A picture of one's own stays out of it."""
LARGEST = 4 * 1024 * 1024


class State(param.Parameterized):
    """What the URL holds."""

    featurizer = param.String(default="")
    block = param.Integer(default=-1)
    query = param.String(default="")
    by = param.Selector(default="", objects=list(BY.values()))
    like = param.String(default="", doc="One's own text, by which blocks are ranked.")
    topology = param.String(default="")
    factor = param.String(default="")
    union = param.String(default="", doc="The factor whose union of blocks is marked.")
    rank = param.Number(default=1.0, bounds=(1.0, None))
    seldom = param.Number(default=-5.0, bounds=(-5.0, 0.0), doc="Log₁₀ of the least firing rate; -5 is any.")
    often = param.Number(default=0.0, bounds=(-5.0, 0.0), doc="Log₁₀ of the largest firing rate.")
    map = param.Selector(default="", objects=list(views.ARRANGEMENTS.values()))
    paint = param.Selector(default="", objects=list(views.PAINTS.values()))
    colour = param.String(default="")
    overlay = param.Selector(default="", objects=list(OVERLAYS.values()))


class Explore:
    """The page. ``view()`` is what is served."""

    def __init__(self) -> None:
        self.state = State()
        bind(self.state)
        self.shell = Shell("explore", title="Blocks", on_ready=self._ready)
        self.featurizers: dict[str, FeaturizerInfo] = {}
        self.found = BlockList(featurizer="", blocks=[], factors=[])
        self.matches: BlockMatches | None = None
        self.upload: str | None = None
        self._turn, self._ask_turn, self._loading = 0, 0, True

        s, wide = self.state, {"sizing_mode": "stretch_width", "margin": 0}
        self.choice = pmui.Select(label="Featurizer", options=NONE, size="small", **wide)
        self.by = pmui.Select(label="Search by", options=BY, value=s.by, size="small", width=130, margin=0)
        self.search = SearchBox(
            placeholder="Search blocks", value=s.query, on_search=lambda w: self._filter(query=w), **wide
        )
        self.text = pmui.TextInput(
            label="Your text", placeholder="Write, then press Enter", value=s.like, max_length=4000, size="small",
            **wide,
        )
        self.file = pmui.FileInput(
            label="Your picture (PNG or JPEG)", accept="image/png,image/jpeg,image/webp", size="small",
            variant="outlined", **wide,
        )  # fmt: skip
        self.seen = markup(visible=False)
        self.topology = pmui.Select(label="Topology", options=ANY, size="small", **wide)
        self.factor = pmui.Select(label="Explains (R² ≥ 0.25)", options={"any factor": ""}, size="small", **wide)
        self.union = pmui.Select(label="Holds together", options=NO_UNION, size="small", **wide)
        self.rank = pmui.FloatSlider(
            label="Rank at least", start=1.0, end=4.0, step=0.1, value=s.rank, size="small", **wide
        )
        self.firing = pmui.RangeSlider(
            label="Firing rate, log₁₀", start=-5.0, end=0.0, step=0.25, value=(s.seldom, max(s.seldom, s.often)),
            size="small", **wide,
        )
        self.arrangement = pmui.Select(label="Map by", options=views.ARRANGEMENTS, value=s.map, size="small", **wide)
        self.paints = pmui.Select(label="Colour is", options=views.PAINTS, value=s.paint, size="small", **wide)
        self.map = BlockMap(waiting="Waiting for the backend …", on_pick=self._at, height_px=440, **wide)
        self.list = Picks(waiting="Waiting for the backend …", on_pick=self._open, height_px=420, **wide)

        self.panel = BlockPanel(on_open=self._open, on_colour=self._coloured, on_overlay=self._overlaid)
        self.panel.overlay.value = s.overlay
        self.panel.lay(s.overlay)
        self._forms()

        self.choice.param.watch(lambda e: self._loading or self._choose(e.new), "value")
        self.by.param.watch(lambda e: self._search_by(e.new or ""), "value")
        self.text.param.watch(lambda e: self._loading or self._write(e.new or ""), "value")
        self.file.param.watch(lambda e: self._loading or self._own(e.new), "value")
        self.topology.param.watch(lambda e: self._filter(topology=e.new or ""), "value")
        self.factor.param.watch(lambda e: self._filter(factor=e.new or ""), "value")
        self.union.param.watch(lambda e: self._filter(union=e.new or ""), "value")
        self.rank.param.watch(lambda e: self._filter(rank=e.new), "value_throttled")
        self.firing.param.watch(lambda e: self._filter(seldom=e.new[0], often=e.new[1]), "value_throttled")
        self.arrangement.param.watch(lambda e: self._arrange(e.new or ""), "value")
        self.paints.param.watch(lambda e: self._paint(e.new or ""), "value")

    @property
    def blocks(self) -> list[BlockSummary]:
        """The blocks of the featurizer, in the order of the map."""
        return self.found.blocks

    def view(self) -> pmui.Page:
        left = column(
            self.choice,
            row(self.by, column(self.search, self.text, self.file, grow="3 1 220px", gap=0), align="flex-start"),
            self.seen,
            row(
                column(self.topology, grow="1 1 120px"),
                column(self.factor, grow="1.3 1 140px"),
                column(self.union, grow="1.3 1 140px"),
                gap=16,
                align="flex-start",
            ),
            row(column(self.rank, grow="1 1 160px"), column(self.firing, grow="1 1 160px"), gap=16, align="flex-start"),
            column(
                row(column(self.arrangement, grow="1 1 160px"), column(self.paints, grow="1 1 160px"), gap=16),
                quiet("Size follows the firing rate. The wheel zooms, arrows walk from block to block, Enter opens."),
                self.map,
                gap=8,
            ),
            self.list,
            grow="1 1 460px",
        )
        return self.shell.page(columns(left, self.panel.view()))

    # ------------------------------------------------------------------ what people do

    def _choose(self, name: str | None) -> None:
        if self._loading or not name or name == self.state.featurizer:
            return
        self.matches = self.upload = None
        self.state.param.update(featurizer=name, block=-1, factor="", union="", colour="", like="")
        self.shell.run(self._load(name))

    def _wanted(self) -> views.Filter:
        s = self.state
        union = next((u.blocks for u in self.found.unions if u.factor == s.union), None)
        return views.Filter(words="" if s.by else s.query, topology=s.topology, factor=s.factor, least_rank=s.rank,
                            firing=(0.0 if s.seldom <= -5 else 10**s.seldom, 10**s.often),
                            among=None if union is None else frozenset(union))  # fmt: skip

    def _filter(self, **changes) -> None:
        if self._loading:
            return
        self.state.param.update(**changes)
        self._show_shown()

    def _show_shown(self) -> None:
        wanted = self._wanted()
        shown = [views.passes(b, wanted) for b in self.blocks]
        answer = self.matches.matches if self.matches and self.state.by else None
        if answer is not None:
            held = {m.block for m in answer}
            shown = [yes and b.index in held for b, yes in zip(self.blocks, shown)]
        found = [b for b, yes in zip(self.blocks, shown) if yes]
        place = {b.index: i for i, b in enumerate(self.blocks)}
        self.map.param.update(shown=np.array(shown, np.uint8).tobytes(),
                              marked=[place[b] for b in wanted.among or () if b in place])  # fmt: skip
        self.search.found = f"{len(found)} of {len(self.blocks)}"
        by_factor = self.state.factor or self.state.union
        rows = views.matched(found, answer) if answer is not None else views.rows(found, by_factor)
        empty = "No block passes. Empty the search or widen the filters."
        if self.state.by and answer is None:
            empty = "Write a text and press Enter." if self.state.by == "text" else "Choose a picture."
            rows = rows if self.blocks and not self._awaited else []
        self.list.param.update(rows=rows, chosen=self.state.block, waiting=empty)

    @property
    def _awaited(self) -> bool:
        """Whether one's own input is wanted and not there yet."""
        return self.state.by == "text" and not self.state.like or self.state.by == "picture" and not self.upload

    # ------------------------------------------------------------------ one's own text or picture

    def _forms(self) -> None:
        by = self.state.by
        self.search.visible, self.text.visible, self.file.visible = not by, by == "text", by == "picture"

    def _search_by(self, by: str) -> None:
        if self._loading or by == self.state.by:
            return
        self.state.by = by
        self.matches, self.seen.visible = None, False
        self._forms()
        self._show_shown()
        if not self._awaited:
            self._ask()

    def _write(self, text: str) -> None:
        self.state.like = text.strip()
        self._ask()

    def _own(self, data: bytes | None) -> None:
        if not data:
            return
        if len(data) > LARGEST:
            self._refuse(BackendError("A picture was chosen.", f"It has {len(data) / 2**20:.1f} MB; at most 4 MB "
                                      "are read.", "Choose a smaller one."))  # fmt: skip
            return
        self.upload = base64.b64encode(data).decode()
        self._ask()

    def _ask(self) -> None:
        """Rank the blocks by one's own input; a newer question makes an older answer void."""
        by, name = self.state.by, self.state.featurizer
        self._ask_turn += 1
        self.matches = None
        if not by or self._awaited or not name:
            self.seen.visible = False
            self._show_shown()
            return
        self.seen.param.update(object=skeleton("Reading it at the featurizer's site …", height=56), visible=True)
        self.shell.run(self._answer(name, self._ask_turn))

    async def _answer(self, name: str, turn: int) -> None:
        s = self.state
        own = {"text": s.like} if s.by == "text" else {"image": self.upload}
        try:
            found = await self.shell.client.search_blocks(name, BlockSearch(**own))
        except BackendDown:
            raise
        except (BackendError, ValidationError) as error:
            unfit = isinstance(error, ValidationError)
            told = BackendError.unfit("Blocks of your own input were asked for.", error) if unfit else error
            self.shell.show(lambda: self._refuse(told) if turn == self._ask_turn else None)
            return

        def draw() -> None:
            if turn != self._ask_turn or not s.by:
                return
            self.shell.clear()
            self.matches = found
            self._show_shown()
            self._show_seen()
            first = next((m.block for m in found.matches), None)
            if first is not None and s.block not in {m.block for m in found.matches[:12]}:
                self._open(first)

        self.shell.show(draw)

    def _refuse(self, told: BackendError) -> None:
        """Say under the search why there is no answer: a banner would go with the next block that opens."""
        said = " ".join(escape(part) for part in (told.true, told.todo))
        self.seen.param.update(
            object=f'<div class="atlas-banner" role="alert"><b>{escape(told.asked)}</b> {said}</div>', visible=True
        )

    def _show_seen(self) -> None:
        if self.matches is not None and self.state.by:
            self.seen.param.update(object=views.seen(self.matches, self.state.block), visible=True)

    # ------------------------------------------------------------------ the map

    def _arrange(self, arrangement: str) -> None:
        if not self._loading:
            self.state.map = arrangement
            self.map.param.update(**views.arranged(self.blocks, arrangement))

    def _paint(self, paint: str) -> None:
        if not self._loading:
            self.state.paint = paint
            self.map.param.update(**views.painted(self.found, paint))

    def _at(self, position: int) -> None:
        if 0 <= position < len(self.blocks):
            self._open(self.blocks[position].index)

    def _open(self, index: int) -> None:
        self.state.block = index
        place = {b.index: i for i, b in enumerate(self.blocks)}
        self.map.param.update(chosen=place.get(index, -1), near=[], near_weight=[])
        self.list.chosen = index
        self._show_seen()
        self._turn += 1
        self.shell.run(self._block(self.state.featurizer, index, self._turn))

    # ------------------------------------------------------------------ the backend

    async def _ready(self, caps: Capabilities) -> None:
        self.featurizers = {f.name: f for f in caps.featurizers}
        name = self.state.featurizer if self.state.featurizer in self.featurizers else next(iter(self.featurizers), "")

        def fill() -> None:
            self._loading = True
            self.choice.options = {f.title: f.name for f in self.featurizers.values()} or NONE
            self.choice.value = name
            if not name:
                told = "No featurizer is installed. Train one with: manifold-atlas train"
                self.map.waiting = self.list.waiting = told
                self.panel.tell(told, waiting=False)
            self._loading = False

        self.shell.show(fill)
        if name:
            await self._load(name)

    async def _load(self, name: str) -> None:
        self.shell.show(lambda: self.map.param.update(xy=b"", labels=[], waiting=f"Loading the blocks of {name} …"))
        found = await self.shell.client.blocks(name)

        def draw() -> None:
            self._loading = True
            self.found = found
            s = self.state
            s.featurizer = name
            kinds = [k for k in views.TOPOLOGY if any(b.topology == k for b in found.blocks)]
            self._offer(self.topology, "topology", ANY | {k: k for k in kinds})
            self._offer(self.factor, "factor", {"any factor": ""} | {f.replace("_", " "): f for f in found.factors})
            told = {f"{u.factor.replace('_', ' ')} {u.r2:.2f} in {len(u.blocks)}": u.factor for u in found.unions}
            self._offer(self.union, "union", NO_UNION | told)
            self.union.disabled = not found.unions
            placed = all(b.graph_xy for b in found.blocks)
            ways = {k: v for k, v in views.ARRANGEMENTS.items() if v != "graph" or placed}
            self._offer(self.arrangement, "map", ways)
            valued = any(b.bits is not None for b in found.blocks)
            self._offer(self.paints, "paint", {k: v for k, v in views.PAINTS.items() if v != "bits" or valued})
            self.rank.end = max(2.0, math.ceil(max((b.stable_rank for b in found.blocks), default=2.0)))
            self._loading = False
            self.map.param.update(**views.map_data(found, paint=s.paint), **views.arranged(found.blocks, s.map),
                                  chosen=-1, near=[], near_weight=[],
                                  waiting="" if found.blocks else "This featurizer has no living block.")  # fmt: skip
            self._show_shown()
            known = {b.index for b in found.blocks}
            among = [b for b in found.blocks if b.index in (self._wanted().among or known)]
            start = s.block if s.block in known else views.first_choice(among)
            if start is not None:
                self._open(start)
            if s.by:
                self._ask()

        self.shell.show(draw)

    def _offer(self, select: pmui.Select, name: str, options: dict[str, str]) -> None:
        """Options of a filter; what the address asks for and is not among them falls back to the first."""
        select.options = options
        if getattr(self.state, name) not in options.values():
            setattr(self.state, name, "")
        select.value = getattr(self.state, name)

    async def _block(self, featurizer: str, index: int, turn: int) -> None:
        if self.panel.detail is None:
            self.shell.show(lambda: self.panel.tell(f"Loading block {index} …"))
        (detail, data), (header, body) = await asyncio.gather(
            self.shell.client.block(featurizer, index), self.shell.client.cloud(featurizer, index)
        )
        xyz, known = views.read_cloud(header, body)

        def draw() -> None:
            if turn != self._turn:
                return
            self.shell.clear()
            here = {b.index: i for i, b in enumerate(self.blocks)}
            near = [n for n in detail.neighbours if n in here]
            overlap = dict(zip(detail.neighbours, detail.overlap))
            self.map.param.update(near=[here[n] for n in near], near_weight=[overlap.get(n, 0.0) for n in near])
            self.panel.show(
                detail, data, header, xyz, known, colour=self.state.colour, steer=self._steer_at(detail),
                near=[self.blocks[here[n]] for n in near],
            )  # fmt: skip

        self.shell.show(draw)

    def _overlaid(self, overlay: str) -> None:
        self.state.overlay = overlay

    def _coloured(self, name: str) -> None:
        self.state.colour = "" if name == "t" else name

    def _steer_at(self, block: BlockDetail) -> str | None:
        """The address of the page that steers a block's manifold."""
        caps = self.shell.capabilities
        model = next((m.model for m in caps.manifolds if m.name == block.manifold), "") if caps else ""
        if not block.manifold:
            return None
        text = any(m.name == model and m.kind == "text" for m in caps.models) if caps else False
        return f"/{'steer-text' if text else 'steer-image'}?manifold={quote(block.manifold)}"


def page() -> pmui.Page:
    return Explore().view()
