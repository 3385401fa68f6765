"""Home: what can be done here, shown by doing it. Three live thumbnails lead to the three rooms."""

from __future__ import annotations

import asyncio
import uuid
from html import escape
from urllib.parse import quote, urlencode

import panel as pn
import panel_material_ui as pmui

from app.client.backend import BackendError
from app.components import Dial, HeadBoard, Turntable
from app.pages.layout import column, columns, markup, quiet
from app.pages.shell import Shell
from app.views import heads, places
from app.views.charts import number
from app.views.findings import tally
from app.views.theme import colour_at, palette, skeleton
from backend.wire.canvas import CanvasRequest, FilmstripRequest, Steer
from backend.wire.capabilities import Capabilities, ManifoldInfo, ModelInfo
from backend.wire.sinks import SinkRequest
from backend.wire.text import PathRequest

STOPS = 12


class Home:
    """The page. ``view()`` is what is served."""

    def __init__(self) -> None:
        self.shell = Shell("home", title="Home", on_ready=self._ready)
        wide = {"sizing_mode": "stretch_width", "margin": 0}
        self.turn = Turntable(waiting="Waiting for the backend …", caption="A picture whose light goes around", **wide)
        self.dial = Dial(waiting="Waiting for the backend …", caption="Answers along a ring of days", **wide)
        self.board = HeadBoard(waiting="Waiting for the backend …", compact=True, on_pick=self._head, **wide)
        self.image_note, self.text_note, self.sinks_note = quiet(), quiet(), quiet()
        self.state = markup(skeleton("Asking the backend what it holds …", height=96))
        self._sinks_model = ""

    def view(self) -> pmui.Page:
        intro = markup(
            '<h1 class="atlas-h1">Browse the concepts a network has learned, drag along one, '
            "and watch the model follow.</h1>"
            '<div class="atlas-quiet">Pictures, words and attention heads, each beside its control. '
            "Every number here can be run again with one command.</div>",
            styles={"max-width": "1000px"},
        )
        return self.shell.page(
            column(
                intro,
                columns(
                    self._card("Turn the light", "/steer-image", "Steer an image", self.turn, self.image_note),
                    self._card("Move the answer", "/steer-text", "Steer text", self.dial, self.text_note),
                    self._card("See what rests", "/sinks", "Open the sinks", self.board, self.sinks_note),
                ),
                self.state, gap=32,
            )
        )  # fmt: skip

    @staticmethod
    def _card(title: str, link: str, words: str, live: pn.viewable.Viewable, note: pn.viewable.Viewable) -> pn.Column:
        head = markup(
            f'<div class="atlas-split"><h2 class="atlas-h2">{title}</h2>'
            f'<a class="atlas-link atlas-quiet" href="{link}">{words}</a></div>'
        )
        return column(head, live, note, grow="1 1 300px", gap=12, styles={"max-width": "460px"})

    def _head(self, layer: int, head: int) -> None:
        if pn.state.location:
            query = urlencode({"model": self._sinks_model, "layer": layer, "head": head})
            pn.state.location.param.update(reload=True, pathname="/sinks", search=f"?{query}")

    # ------------------------------------------------------------------ the backend

    async def _ready(self, caps: Capabilities) -> None:
        # Each thumbnail on its own: one that fails leaves the others alone.
        await asyncio.gather(self._image(caps), self._text(caps), self._sinks(caps), self._about(caps))

    def _manifold(self, caps: Capabilities, kind: str) -> tuple[ModelInfo | None, ManifoldInfo | None]:
        """The manifold to show and its own model; where there is none, any model of this kind."""
        models = {m.name: m for m in caps.models if m.kind == kind}
        info = places.first(m for m in caps.manifolds if m.model in models)
        return (models[info.model] if info else next(iter(models.values()), None)), info

    async def _image(self, caps: Capabilities) -> None:
        model, info = self._manifold(caps, "image")
        if model is None:
            self._say(self.turn, "No image model is installed. Make one with: manifold-atlas train tabletop-sdxl")
            return
        prompt = (info.prompts if info and info.prompts else model.prompts or ["a red cube on a table"])[0]
        self._say(self.turn, "Rendering one picture …")
        try:
            frame = await self.shell.client.canvas(
                f"home-{uuid.uuid4().hex[:12]}",
                CanvasRequest(
                    seq=1,
                    model=model.name,
                    prompt=prompt,
                    steps=model.default_steps,
                    guidance=model.default_guidance,
                    arms=["off"],
                    format="webp",
                ),
            )
            if frame is not None:
                self.shell.show(lambda: setattr(self.turn, "frame", frame.data))
            if info is None:
                return
            self.shell.show(
                lambda: setattr(
                    self.image_note,
                    "object",
                    f'<div class="atlas-quiet">“{escape(prompt)}”. The whole manifold is being rendered …</div>',
                )
            )
            strip = await self.shell.client.filmstrip(
                FilmstripRequest(
                    model=model.name,
                    prompt=prompt,
                    steps=model.default_steps,
                    guidance=model.default_guidance,
                    stops=STOPS,
                    format="webp",
                    steer=[Steer(manifold=info.name, t=0.0, strength=info.strength_default)],
                )
            )
        except BackendError as error:
            self._failed(self.turn, self.image_note, error)
            return

        def draw() -> None:
            self.turn.param.update(
                frame=strip.data, colours=palette(info.kind), caption=f"{prompt}, along: {info.title}"
            )
            self.image_note.object = (
                f'<div class="atlas-quiet">“{escape(prompt)}”, one seed, {STOPS} places on a {info.kind}: '
                f"{escape(info.title.lower())}. Move the pointer around it.</div>"
            )

        self.shell.show(draw)

    async def _text(self, caps: Capabilities) -> None:
        model, info = self._manifold(caps, "text")
        if model is None or info is None:
            self._say(
                self.dial,
                "No language model with a manifold is installed. Make them with: manifold-atlas train calendar-llama",
            )
            return
        if not info.prompts or len(info.ticks) > 26:
            self._say(self.dial, "This manifold has no example prompt.")
            return
        self._say(self.dial, "Asking the model along the ring …")
        try:
            found = await self.shell.client.path(
                PathRequest(
                    model=model.name,
                    prompt=info.prompts[0],
                    manifold=info.name,
                    t_from=0.0,
                    t=0.98,
                    points=41,
                    arms=["manifold"],
                )
            )
            frames = [[round(p, 4) for p in row] for row in found.arms[0].classes]
        except BackendError as error:
            self._failed(self.dial, self.text_note, error)
            return

        def draw() -> None:
            self.dial.param.update(
                labels=[k.label for k in info.ticks],
                places=[k.t for k in info.ticks],
                colours=[colour_at(k.t, info.kind) for k in info.ticks],
                rows=frames,
            )
            asked = escape(info.prompts[0].replace("\n", " "))
            self.text_note.object = (
                f'<div class="atlas-quiet">“{asked}” The area of a disc is the probability of that answer '
                "while one activation is moved.</div>"
            )

        self.shell.show(draw)

    async def _sinks(self, caps: Capabilities) -> None:
        model = next((m for kind in ("vision", "text") for m in caps.models if m.kind == kind and m.layers), None)
        if model is None:
            self._say(
                self.board,
                "No model with attention heads is installed. Make one with: manifold-atlas train tabletop-dino",
            )
            return
        self._say(self.board, "Reading every head …")
        try:
            board = await self.shell.client.sinks(SinkRequest(model=model.name, example=0))
        except BackendError as error:
            self._failed(self.board, self.sinks_note, error)
            return

        def draw() -> None:
            self._sinks_model = model.name
            self.board.param.update(layers=board.layers, heads=board.heads, cells=heads.cells(board, "strength"))
            self.sinks_note.object = (
                f'<div class="atlas-quiet">Every head of {escape(model.title)}: the size is how much attention rests '
                f"on one token, the colour what that token sends.</div>{heads.legend(board)}"
            )

        self.shell.show(draw)

    async def _about(self, caps: Capabilities) -> None:
        try:
            catalogue = await self.shell.client.catalogue()
            said = f'<a class="atlas-link" href="/catalogue">{tally(catalogue.findings)}</a>'
        except BackendError:
            said = '<a class="atlas-link" href="/catalogue">Findings</a>'
        models = (
            ", ".join(f"{escape(m.title)} ({number(m.n_parameters / 1e6, digits=2)} M)" for m in caps.models)
            or "none yet: manifold-atlas train"
        )
        blocks = (
            ", ".join(
                f'<a class="atlas-link" href="/explore?featurizer={quote(f.name)}">{escape(f.title)}</a>'
                for f in caps.featurizers
            )
            or "none yet"
        )
        skipped = "".join(f'<div class="atlas-quiet">Skipped: {escape(s)}</div>' for s in caps.skipped[:4])
        lines = "".join(
            f'<div class="atlas-line"><span>{k}</span><span>{v}</span></div>'
            for k, v in (
                ("Models", models),
                ("Blocks to browse", blocks),
                ("Manifolds", ", ".join(escape(m.title) for m in caps.manifolds) or "none yet"),
                ("Catalogue", said),
                ("Runs on", f"{caps.device}, version {caps.version}"),
            )
        )
        self.shell.show(
            lambda: setattr(self.state, "object", f'<h2 class="atlas-h2">What is here</h2>{lines}{skipped}')
        )

    def _say(self, part: Turntable | Dial | HeadBoard, words: str) -> None:
        self.shell.show(lambda: setattr(part, "waiting", words))

    def _failed(self, part: Turntable | Dial | HeadBoard, note: pn.pane.HTML, error: BackendError) -> None:
        def draw() -> None:
            part.waiting = error.asked
            note.object = f'<div class="atlas-quiet">{escape(error.true)} {escape(error.todo)}</div>'

        self.shell.show(draw)


def page() -> pmui.Page:
    return Home().view()
