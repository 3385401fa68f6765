"""Sinks: every attention head on one board, and what the chosen head's resting place computes."""

from __future__ import annotations

import base64

import panel_material_ui as pmui
import param
from pydantic import ValidationError

from app.client.backend import BackendError
from app.client.latest import LatestWins
from app.components import Examples, HeadBoard
from app.pages.address import bind
from app.pages.head_panel import HeadPanel
from app.pages.layout import NONE, column, columns, heading, markup, quiet, row
from app.pages.shell import Shell
from app.views import heads
from backend.wire.capabilities import Capabilities, ModelInfo
from backend.wire.sinks import HeadDetail, HeadRequest, SinkBoard, SinkRequest

LARGEST = 4 * 1024 * 1024


class State(param.Parameterized):
    """What the URL holds."""

    model = param.String(default="")
    example = param.Integer(default=0)
    text = param.String(default="")
    layer = param.Integer(default=-1)
    head = param.Integer(default=-1)
    query = param.Integer(default=-1, doc="The token whose attention is shown, -1 for the mean of all.")
    measure = param.String(default="strength")


class Sinks:
    """The page. ``view()`` is what is served."""

    def __init__(self) -> None:
        self.state = State()
        bind(self.state)
        self.shell = Shell("sinks", title="Sinks", on_ready=self._ready)
        self.models: dict[str, ModelInfo] = {}
        self.board: SinkBoard | None = None
        self.upload: str | None = None
        self._loading, self._examples_model = True, ""
        self.boards: LatestWins[SinkRequest, SinkBoard] = LatestWins(
            lambda _seq, request: self.shell.client.sinks(request),
            deliver=self._draw_board,
            fail=self.shell.fail,
            in_flight=1,
        )
        self.details: LatestWins[HeadRequest, HeadDetail] = LatestWins(
            lambda _seq, request: self.shell.client.head(request),
            deliver=self._draw_head,
            fail=self.shell.fail,
            in_flight=1,
        )

        s, wide = self.state, {"sizing_mode": "stretch_width", "margin": 0}
        if s.measure not in heads.MEASURES:
            s.measure = "strength"
        self.choice = pmui.Select(label="Model", options=NONE, size="small", **wide)
        self.measure = pmui.Select(
            label="Size of a dot",
            options={v[0]: k for k, v in heads.MEASURES.items()},
            value=s.measure,
            size="small",
            **wide,
        )
        self.text = pmui.TextAreaInput(
            label="Text to look at", value=s.text, rows=2, max_length=4000, size="small", visible=False, **wide
        )
        self.lines = pmui.Select(label="Example texts", options=[], size="small", visible=False, **wide)
        self.pictures = Examples(waiting="Loading example pictures …", on_pick=self._example, visible=False, **wide)
        self.file = pmui.FileInput(
            label="Own picture (PNG or JPEG)",
            accept="image/png,image/jpeg",
            visible=False,
            size="small",
            variant="outlined",
            **wide,
        )
        self.heads = HeadBoard(waiting="Waiting for the backend …", on_pick=self._pick, **wide)
        self.legend = markup()
        self.rule = quiet()
        self.scatter = markup()
        self.panel = HeadPanel(on_query=self._query)

        self.choice.param.watch(lambda e: self._loading or self._choose(e.new), "value")
        self.measure.param.watch(lambda e: self._resize(e.new), "value")
        self.text.param.watch(lambda e: self._words(e.new), "value")
        self.lines.param.watch(lambda e: self._line(e.new), "value")
        self.file.param.watch(lambda e: self._own(e.new), "value")

    def view(self) -> pmui.Page:
        scatter = column(
            quiet("Value ratio against stable rank: a silent sink is at the left, a broadcast right and low."),
            self.scatter,
            grow="1 1 200px",
            gap=8,
        )
        left = column(
            row(column(self.choice, grow="2 1 200px"), column(self.measure, grow="1 1 140px")),
            self.text,
            self.lines,
            self.pictures,
            self.file,
            heading(
                "Every head",
                "Rows are layers, columns heads. Size is the measure, colour the label; arrows walk the board.",
            ),
            columns(column(self.heads, self.legend, grow="0 0 290px"), scatter, gap=24),
            self.rule,
            grow="1.2 1 500px",
        )
        return self.shell.page(columns(left, self.panel.view()))

    # ------------------------------------------------------------------ what people do

    @property
    def info(self) -> ModelInfo | None:
        return self.models.get(self.state.model)

    def _choose(self, name: str | None) -> None:
        if self._loading or not name or name == self.state.model:
            return
        self.upload = None
        self.state.param.update(model=name, example=0, text="", layer=-1, head=-1, query=-1)
        # The board of another model would pass for this one's.
        self.board = None
        self.heads.param.update(cells=[], chosen=[])
        self.scatter.object = self.legend.object = self.rule.object = ""
        self.panel.wait(f"Reading every head of {self.models[name].title} …")
        self._forms()
        self._ask()

    def _example(self, at: int) -> None:
        self.upload = None
        self.state.param.update(example=at, text="", query=-1)
        self.pictures.chosen = at
        self._ask()

    def _words(self, text: str) -> None:
        if self._loading:
            return
        self.state.param.update(text=text, query=-1)
        self._ask()

    def _line(self, text: str | None) -> None:
        if self._loading or not text:
            return
        self.text.value = text

    def _own(self, data: bytes | None) -> None:
        if self._loading or not data:
            return
        if len(data) > LARGEST:
            self.shell.tell(
                BackendError(
                    "A picture was chosen.",
                    f"It has {len(data) / 2**20:.1f} MB; at most 4 MB are read.",
                    "Choose a smaller one.",
                )
            )
            return
        self.upload = base64.b64encode(data).decode()
        self.state.query = self.pictures.chosen = -1
        self._ask()

    def _resize(self, measure: str) -> None:
        self.state.measure = measure
        if self.board:
            self.heads.cells = heads.cells(self.board, measure)

    def _pick(self, layer: int, head: int) -> None:
        self.state.param.update(layer=layer, head=head, query=-1)
        self._ask_head()

    def _query(self, at: int) -> None:
        self.state.query = max(at, -1)
        self._ask_head()

    # ------------------------------------------------------------------ the backend

    def _request(self) -> dict:
        s, info = self.state, self.info
        if self.upload and info and info.kind == "vision":
            return {"model": s.model, "image": self.upload}
        if info and info.kind == "text" and s.text.strip():
            return {"model": s.model, "text": s.text}
        return {"model": s.model, "example": max(s.example, 0)}

    def _ask(self) -> None:
        if self.info is None:
            return
        if not self.board:
            self.heads.waiting = f"Reading every head of {self.info.title} …"
        try:
            self.boards.submit(SinkRequest(**self._request()))
        except ValidationError as error:
            self.shell.tell(BackendError.unfit("Every head was to be read.", error))

    def _ask_head(self) -> None:
        s = self.state
        if self.info is None or s.layer < 0 or s.head < 0:
            return
        self.heads.chosen = [s.layer, s.head]
        self.details.submit(HeadRequest(**self._request(), layer=s.layer, head=s.head, query=self._asked))

    @property
    def _asked(self) -> int | None:
        return self.state.query if self.state.query >= 0 else None

    async def _ready(self, caps: Capabilities) -> None:
        self.models = {m.name: m for m in caps.models if m.layers and m.kind in ("text", "vision")}

        def fill() -> None:
            self._loading = True
            ordered = sorted(self.models.values(), key=lambda m: m.kind != "vision")
            self.choice.options = {m.title: m.name for m in ordered} or NONE
            if not ordered:
                told = "No model with attention heads is installed. Make one with: manifold-atlas train tabletop-dino"
                self.heads.waiting = told
                self.panel.tell(told)
                self._loading = False
                return
            if self.state.model not in self.models:
                self.state.model = ordered[0].name
            self.choice.value = self.state.model
            self._loading = False
            self._forms()
            self._ask()

        self.shell.show(fill)

    def _forms(self) -> None:
        """Show what can be asked of this kind of model."""
        info = self.info
        vision = info is not None and info.kind == "vision"
        self._loading = True
        self.pictures.visible = self.file.visible = vision
        self.text.visible = self.lines.visible = not vision
        self.text.value = self.state.text
        self._loading = False
        if info is not None and self._examples_model != info.name:
            self.shell.run(self._examples(info))

    async def _examples(self, info: ModelInfo) -> None:
        found, data = await self.shell.client.sink_examples(info.name)

        def draw() -> None:
            self._examples_model = info.name
            if info.kind == "vision":
                self.pictures.param.update(
                    frame=data,
                    chosen=-1 if self.upload else self.state.example,
                    waiting="This model's world has no example pictures.",
                    items=[
                        {"offset": e.offset, "length": e.length, "t": 0, "band": "", "heat": [], "title": e.caption}
                        for e in found.examples
                    ],
                )
            else:
                self._loading = True
                self.lines.options = {"choose one": ""} | {
                    (e.caption or e.text or "").replace("\n", " "): e.text or "" for e in found.examples
                }
                if not self.state.text and found.examples:
                    at = min(max(self.state.example, 0), len(found.examples) - 1)
                    self.text.value = found.examples[at].text or ""
                self._loading = False

        self.shell.show(draw)

    def _draw_board(self, _seq: int, board: SinkBoard) -> None:
        def draw() -> None:
            if board.model != self.state.model:
                return
            self.board = board
            self.shell.clear()
            self.heads.param.update(
                layers=board.layers, heads=board.heads, cells=heads.cells(board, self.state.measure)
            )
            self.legend.object = heads.legend(board)
            self.rule.object = f'<div class="atlas-quiet">{heads.threshold(board)}</div>'
            there = any((h.layer, h.head) == (self.state.layer, self.state.head) for h in board.board)
            if not there and (best := heads.most_telling(board.board)):
                self.state.param.update(layer=best[0], head=best[1])
            self.scatter.object = heads.values_against_rank(board, (self.state.layer, self.state.head))
            if self.state.query >= board.n:
                self.state.query = -1
            self._ask_head()

        self.shell.show(draw)

    def _draw_head(self, _seq: int, detail: HeadDetail) -> None:
        def draw() -> None:
            board, h = self.board, detail.summary
            if board is None or (h.layer, h.head) != (self.state.layer, self.state.head):
                return
            self.shell.clear()
            self.panel.show(detail, board, asked=self._asked)
            self.scatter.object = heads.values_against_rank(board, (h.layer, h.head))

        self.shell.show(draw)


def page() -> pmui.Page:
    return Sinks().view()
