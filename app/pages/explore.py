"""Explore: the map of a featurizer's blocks, and the chosen one beside it."""

from __future__ import annotations

import asyncio
import math
from urllib.parse import quote

import numpy as np
import panel_material_ui as pmui
import param

from app.components import BlockMap, Picks, SearchBox
from app.pages.address import bind
from app.pages.block_panel import BlockPanel
from app.pages.layout import NONE, column, columns, row
from app.pages.shell import Shell
from app.views import blocks as views
from backend.wire.blocks import BlockDetail, BlockSummary
from backend.wire.capabilities import Capabilities, FeaturizerInfo

ANY = {"any topology": ""}


class State(param.Parameterized):
    """What the URL holds."""

    featurizer = param.String(default="")
    block = param.Integer(default=-1)
    query = param.String(default="")
    topology = param.String(default="")
    factor = param.String(default="")
    rank = param.Number(default=1.0, bounds=(1.0, None))
    seldom = param.Number(default=-5.0, bounds=(-5.0, 0.0), doc="Log₁₀ of the least firing rate; -5 is any.")
    often = param.Number(default=0.0, bounds=(-5.0, 0.0), doc="Log₁₀ of the largest firing rate.")
    colour = param.String(default="")


class Explore:
    """The page. ``view()`` is what is served."""

    def __init__(self) -> None:
        self.state = State()
        bind(self.state)
        self.shell = Shell("explore", title="Blocks", on_ready=self._ready)
        self.featurizers: dict[str, FeaturizerInfo] = {}
        self.blocks: list[BlockSummary] = []
        self._turn, self._loading = 0, True

        s, wide = self.state, {"sizing_mode": "stretch_width", "margin": 0}
        self.choice = pmui.Select(label="Featurizer", options=NONE, size="small", **wide)
        self.search = SearchBox(
            placeholder="Search blocks", value=s.query, on_search=lambda w: self._filter(query=w), **wide
        )
        self.topology = pmui.Select(label="Topology", options=ANY, size="small", **wide)
        self.factor = pmui.Select(label="Explains (R² ≥ 0.25)", options={"any factor": ""}, size="small", **wide)
        self.rank = pmui.FloatSlider(
            label="Rank at least", start=1.0, end=4.0, step=0.1, value=s.rank, size="small", **wide
        )
        self.firing = pmui.RangeSlider(
            label="Firing rate, log₁₀", start=-5.0, end=0.0, step=0.25, value=(s.seldom, max(s.seldom, s.often)),
            size="small", **wide,
        )
        self.map = BlockMap(waiting="Waiting for the backend …", on_pick=self._at, height_px=380, **wide)
        self.list = Picks(waiting="Waiting for the backend …", on_pick=self._open, height_px=420, **wide)

        self.panel = BlockPanel(on_open=self._open, on_colour=self._coloured)

        self.choice.param.watch(lambda e: self._loading or self._choose(e.new), "value")
        self.topology.param.watch(lambda e: self._filter(topology=e.new or ""), "value")
        self.factor.param.watch(lambda e: self._filter(factor=e.new or ""), "value")
        self.rank.param.watch(lambda e: self._filter(rank=e.new), "value_throttled")
        self.firing.param.watch(lambda e: self._filter(seldom=e.new[0], often=e.new[1]), "value_throttled")

    def view(self) -> pmui.Page:
        left = column(
            row(column(self.choice, grow="3 1 220px"), column(self.search, grow="3 1 220px"), align="flex-start"),
            row(
                column(self.topology, grow="1 1 120px"),
                column(self.factor, grow="1.3 1 140px"),
                column(self.rank, grow="1 1 120px"),
                column(self.firing, grow="1 1 130px"),
                gap=16,
                align="flex-start",
            ),
            self.map,
            self.list,
            grow="1 1 460px",
        )
        return self.shell.page(columns(left, self.panel.view()))

    # ------------------------------------------------------------------ what people do

    def _choose(self, name: str | None) -> None:
        if self._loading or not name or name == self.state.featurizer:
            return
        self.state.param.update(featurizer=name, block=-1, factor="", colour="")
        self.shell.run(self._load(name))

    def _wanted(self) -> views.Filter:
        s = self.state
        return views.Filter(words=s.query, topology=s.topology, factor=s.factor, least_rank=s.rank,
                            firing=(0.0 if s.seldom <= -5 else 10**s.seldom, 10**s.often))  # fmt: skip

    def _filter(self, **changes) -> None:
        if self._loading:
            return
        self.state.param.update(**changes)
        self._show_shown()

    def _show_shown(self) -> None:
        wanted = self._wanted()
        shown = [views.passes(b, wanted) for b in self.blocks]
        found = [b for b, yes in zip(self.blocks, shown) if yes]
        self.map.shown = np.array(shown, np.uint8).tobytes()
        self.search.found = f"{len(found)} of {len(self.blocks)}"
        self.list.param.update(rows=views.rows(found, self.state.factor), chosen=self.state.block,
                               waiting="No block passes. Empty the search or widen the filters.")  # fmt: skip

    def _at(self, position: int) -> None:
        if 0 <= position < len(self.blocks):
            self._open(self.blocks[position].index)

    def _open(self, index: int) -> None:
        self.state.block = index
        place = {b.index: i for i, b in enumerate(self.blocks)}
        self.map.param.update(chosen=place.get(index, -1), near=[])
        self.list.chosen = index
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
            self.blocks = found.blocks
            s = self.state
            s.featurizer = name
            kinds = [k for k in views.TOPOLOGY if any(b.topology == k for b in found.blocks)]
            self.topology.options = ANY | {k: k for k in kinds}
            s.topology = s.topology if s.topology in kinds else ""
            self.topology.value = s.topology
            self.factor.options = {"any factor": ""} | {f.replace("_", " "): f for f in found.factors}
            s.factor = s.factor if s.factor in found.factors else ""
            self.factor.value = s.factor
            self.rank.end = max(2.0, math.ceil(max((b.stable_rank for b in found.blocks), default=2.0)))
            self._loading = False
            self.map.param.update(**views.map_data(found.blocks), chosen=-1, near=[],
                                  waiting="" if found.blocks else "This featurizer has no living block.")  # fmt: skip
            self._show_shown()
            known = {b.index for b in found.blocks}
            start = s.block if s.block in known else views.first_choice(found.blocks)
            if start is not None:
                self._open(start)

        self.shell.show(draw)

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
            self.map.near = [here[n] for n in near]
            self.panel.show(
                detail, data, header, xyz, known, colour=self.state.colour, steer=self._steer_at(detail),
                near=[self.blocks[here[n]] for n in near],
            )  # fmt: skip

        self.shell.show(draw)

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
