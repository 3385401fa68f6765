"""Steer image: one pad; unsteered, manifold and straight chord answer it side by side from the same seed."""

from __future__ import annotations

import html
import io
import time
import uuid

import panel_material_ui as pmui
from pydantic import ValidationError

from app.client.backend import BackendError, Frame
from app.client.latest import LatestWins
from app.components import FilmStrip, FrameCanvas, ManifoldPad, SteerSlider
from app.pages.address import bind
from app.pages.image_request import EXAMPLES, STOPS, ImageRequests, State
from app.pages.layout import NONE, column, heading, quiet, row, stage
from app.pages.shell import Shell
from app.pages.steering import SteeringPage
from app.views import export, places
from app.views.theme import ARMS, palette
from backend.wire.canvas import CanvasRequest, ReadBack
from backend.wire.capabilities import Capabilities, ManifoldInfo

RESTS = '<div class="atlas-quiet">Nothing is steered. Drag the point, or move it with the arrow keys.</div>'


class SteerImage(SteeringPage):
    """The page. ``view()`` is what is served."""

    def __init__(self) -> None:
        s = State()
        bind(s)
        super().__init__(s, tuple(ARMS))
        self.shell = Shell("steer-image", title="Steer image", on_ready=self._ready)
        self.name = f"image-{uuid.uuid4().hex[:12]}"
        self.requests = ImageRequests(s)
        self.frame: Frame | None = None
        self.unsteered: ReadBack | None = None
        self._known = False
        self._sent: dict[int, float] = {}
        self._server: dict[str, float] = {}
        self._notes: dict[str, str] = {}
        self._strip_of: tuple | None = None
        # Nobody has said where to go: after the first picture the page moves once, so that it shows what it does.
        self._first = s.t is None
        self._loading = True
        self.latest: LatestWins[CanvasRequest, Frame] = LatestWins(
            self._send, deliver=self._deliver, fail=self.shell.fail
        )

        wide = {"sizing_mode": "stretch_width", "margin": 0}
        small = {"size": "small", "margin": 0}
        self.prompt = pmui.AutocompleteInput(
            label="Prompt", value=s.prompt, options=list(dict.fromkeys([s.prompt, *EXAMPLES])), restrict=False,
            min_characters=0, size="small", **wide,
        )  # fmt: skip
        self.seed = pmui.IntInput(label="Seed", value=s.seed, start=0, end=2**31 - 1, width=120, **small)
        self.dice = pmui.IconButton(icon="casino", description="Another seed", **small)
        self.choice = pmui.Select(label="Manifold", options=NONE, size="small", **wide)
        self.strength = SteerSlider(label="Strength", value=self.requests.strength, on_slide=self._stronger, **wide)
        self.window = pmui.RangeSlider(label="Share of the steps that are steered", start=0.0, end=1.0, step=0.05,
                                       value=(s.start, s.stop), size="small", **wide)  # fmt: skip
        steps = {"model's own" if n == 0 else str(n): n for n in sorted({0, 4, 8, 16, s.steps})}
        self.steps = pmui.RadioButtonGroup(options=steps, value=s.steps, **small)
        self.also = pmui.Select(label="Together with", options={"nothing else": ""}, size="small", **wide)
        self.also_t = SteerSlider(label="Place on it", value=s.also_t, start=0.0, end=1.0, step=0.01, visible=False,
                                  on_slide=self._beside, **wide)  # fmt: skip
        self.note, self.safe, self.read = quiet(), quiet(), quiet()
        self.pad = ManifoldPad(on_move=self._move, on_home=self._home, on_arm=self._flip, **wide)
        self.canvas = FrameCanvas(on_painted=self._painted, waiting="Waiting for the backend …", **wide)
        self.strip = FilmStrip(on_pick=self._jump, **wide)
        self.save_png = pmui.FileDownload(label="Picture", filename="atlas.png", callback=self._png, **small)
        self.save_json = pmui.FileDownload(label="Record", filename="atlas-record.json", callback=self._json, **small)
        self.save_code = pmui.FileDownload(label="Snippet", filename="atlas.py", callback=self._code, **small)
        self.saves = (self.save_png, self.save_json, self.save_code)
        for save in self.saves:
            # Set afterwards: given at once it is normalised twice, which warns.
            save.param.update(variant="outlined", disabled=True)
        self._panes()

        self.prompt.param.watch(lambda e: self._fresh(prompt=e.new or ""), "value")
        self.seed.param.watch(lambda e: e.new is not None and self._fresh(seed=e.new), "value")
        self.dice.on_click(lambda _e: setattr(self.seed, "value", int(time.time_ns() // 1000 % 100_000)))
        self.steps.param.watch(lambda e: self._fresh(steps=e.new), "value")
        self.choice.param.watch(lambda e: self._loading or self._choose(e.new), "value")
        self.also.param.watch(lambda e: self._join(e.new or ""), "value")
        self.window.param.watch(lambda e: self._again(start=e.new[0], stop=e.new[1]), "value_throttled")
        self.arms.param.watch(lambda e: self._toggle(e.new), "value")

    def view(self) -> pmui.Page:
        steps = column(quiet("Sampler steps"), self.steps, gap=4)
        details = column(self.window, steps, self.also, self.also_t, styles={"padding": "8px 0"})
        more = pmui.Accordion(("Steps, window and a second manifold", details), disable_gutters=True, elevation=0,
                              sizing_mode="stretch_width", margin=0)  # fmt: skip
        main = column(
            row(column(self.prompt, grow="1 1 240px"), self.seed, self.dice, align="flex-start"), self.canvas, self.read
        )
        told = heading("Film-strip", "The whole manifold for this prompt and seed. Click a stop to go there.")
        below = column(column(told, self.strip, gap=8), row(*self.saves, self.undo, self.unsteer))
        shown = column(quiet("Shown side by side (keys 1 to 5)"), self.arms, gap=4)
        side = column(self.choice, self.note, self.pad, self.strength, self.safe, shown, more, gap=12)
        return self.shell.page(stage(main, side, below))

    def _panes(self) -> None:
        still = self.state.t is None and self.frame is not None and not self._first
        self.canvas.panes = [
            {
                "arm": a, "title": ARMS[a][0], "colour": ARMS[a][1],
                "note": "" if still and a != "off" else self._notes.get(a, ""),
                "empty": "Nothing is steered. Drag the point." if still and a != "off" else "",
            }
            for a in ARMS if a in self.arms.value
        ]  # fmt: skip

    # ------------------------------------------------------------------ what people do

    @property
    def info(self) -> ManifoldInfo | None:
        return self.requests.info

    def _move(self, t: float, final: bool) -> None:
        info = self.info
        if info is None:
            return
        t = t % 1.0 if info.kind in places.AROUND else t
        self._first = False
        self.pad.steered = True
        if final:
            self._remember()
            self.strip.t = t
            self.pad.t = t
            self.state.t = round(t, 4)
        self._ask(t, preview=not final)

    def _jump(self, t: float) -> None:
        """To a stop of the film-strip."""
        self._remember()
        self._first = False
        self._go(t)

    def _rest(self) -> None:
        self._first = False
        self.state.t = None
        landed = self.unsteered.landed if self.unsteered else None
        self.pad.param.update(steered=False, landed=None)
        if landed is not None:
            self.pad.go(landed)
        self.strip.t = None
        self._ask(None, preview=False)

    def _go(self, t: float) -> None:
        """Put the point somewhere without a pointer."""
        self.state.t = round(t, 4)
        self.pad.steered = True
        self.pad.go(t)
        self.strip.t = t
        self._ask(t, preview=False)

    def _restrengthened(self) -> None:
        self.strength.value = self.requests.strength
        self._warn()

    def _fresh(self, **changes) -> None:
        """Another prompt, seed or step count: everything on the page belongs to the old one."""
        if self._loading:
            return
        self.state.param.update(**changes)
        self.canvas.param.update(stale=True, stops=b"")
        self._forget()
        self._ask(self.state.t, preview=False)

    def _forget(self) -> None:
        self.unsteered, self._known, self._notes = None, False, {}

    def _again(self, **changes) -> None:
        if self._loading:
            return
        self.state.param.update(**changes)
        self._ask(self.state.t, preview=False)

    def _stronger(self, strength: float, final: bool) -> None:
        if final:
            self._remember()
            self.state.strength, self.strength.value = round(strength, 3), strength
        self._slide("strength", strength, final)
        self._warn()
        if self.state.t is not None:
            self._ask(self.state.t, preview=not final)

    def _slide(self, name: str, value: float, final: bool) -> None:
        if final:
            self.requests.sliding.pop(name, None)
        else:
            self.requests.sliding[name] = round(value, 4)

    def _warn(self) -> None:
        """Say what the strength means for the pictures."""
        if self.info:
            self.safe.object = places.safe(self.info, self.requests.strength)

    def _join(self, name: str) -> None:
        """Steer along a second manifold as well."""
        info = self.requests.manifolds.get(name)
        self.also_t.visible = info is not None
        if info is not None:
            ticks = [] if info.unit == "°" else [[k.t, k.label] for k in info.ticks]
            self.also_t.param.update(label=info.title, colours=palette(info.kind)[::6], unit=info.unit, ticks=ticks,
                                     cyclic=info.kind in places.AROUND)  # fmt: skip
        self._again(also=name)

    def _beside(self, t: float, final: bool) -> None:
        if final:
            self.state.also_t, self.also_t.value = round(t, 4), t
        self._slide("also_t", t, final)
        if self.state.t is not None:
            self._ask(self.state.t, preview=not final)

    def _toggle(self, arms: list[str]) -> None:
        self.state.arms = ",".join(a for a in ARMS if a in arms)
        self._panes()
        if not self._loading:
            self._ask(self.state.t, preview=False)

    def _choose(self, name: str | None) -> None:
        info = self.requests.manifolds.get(name or "")
        if info is None:
            return
        s = self.state
        if s.manifold != info.name and not self._loading:
            s.param.update(t=None, strength=info.strength_default)
            self.strength.value = info.strength_default
            self._first = True
            self._forget_way()
        s.manifold = info.name
        self._forget()
        found = "Found without labels, by a featurizer." if info.origin == "blocks" else ""
        self.note.object = f'<div class="atlas-quiet">{html.escape(info.description)} {found}</div>'
        self.pad.param.update(**places.pad(info), colours=palette(info.kind), landed=None, t_from=None,
                              steered=s.t is not None)  # fmt: skip
        if s.t is not None:
            self.pad.go(s.t)
        self.strength.param.update(safe=info.strength_safe, end=max(2.0, 1.25 * info.strength_safe))
        around = info.kind in places.AROUND
        self.strip.param.update(stops=places.stops(info, STOPS), t=s.t, around=around)
        self.canvas.param.update(stops=b"", around=around)
        self._strip_of = None
        others = {
            m.title: m.name for m in self.requests.manifolds.values() if m.name != info.name and m.model == info.model
        }
        before, self._loading = self._loading, True
        s.also = s.also if s.also in others.values() else ""
        self.also.options = {"nothing else": ""} | others
        self.also.value = s.also
        self._join(s.also)
        self._loading = before
        self._warn()
        self._ask(s.t, preview=False)

    # ------------------------------------------------------------------ the backend

    async def _ready(self, caps: Capabilities) -> None:
        models = {m.name: m for m in caps.models if m.kind == "image"}
        self.requests.models = models
        self.requests.manifolds = known = {m.name: m for m in caps.manifolds if m.model in models}

        def fill() -> None:
            s = self.state
            self._loading = True
            if not models:
                self.pad.label = ""
                self.canvas.waiting = "No image model is installed. Make one with: manifold-atlas train tabletop-sdxl"
                return
            self.canvas.waiting = "Denoising …"
            prompts = [s.prompt, *EXAMPLES, *(p for m in models.values() for p in m.prompts)]
            self.prompt.options = list(dict.fromkeys(prompts))
            start = known.get(s.manifold) or places.first(known.values())
            self.choice.options = {m.title: m.name for m in known.values()} or NONE
            if not known:
                self.note.object = (
                    '<div class="atlas-quiet">No manifold is fitted for this model yet. '
                    "Run: manifold-atlas study light-ring</div>"
                )
            name = start.name if start else ""
            if s.strength is None and name:
                s.strength = self.strength.value = known[name].strength_default
            s.manifold = self.choice.value = name
            self._loading = False
            if name:
                self._choose(name)
            else:
                self._ask(None, preview=False)

        self.shell.show(fill)

    def _ask(self, t: float | None, *, preview: bool) -> None:
        shown = [a for a in ARMS if a in self.arms.value]
        landed = self.unsteered.landed if self.unsteered else None
        try:
            request = self.requests.canvas(t, shown, preview=preview, landed=landed, known=self._known)
        except ValidationError as error:
            self.shell.tell(BackendError.unfit("A picture was asked for.", error))
            return
        self._sent[self.latest.submit(request)] = time.perf_counter()

    async def _send(self, seq: int, request: CanvasRequest) -> Frame | None:
        return await self.shell.client.canvas(self.name, request.model_copy(update={"seq": seq}))

    def _deliver(self, _seq: int, frame: Frame) -> None:
        self.shell.show(lambda: self._draw(frame))

    def _draw(self, frame: Frame) -> None:
        header, info = frame.header, self.info
        if header.prompt != self.state.prompt or header.seed != self.state.seed:
            return
        steered = places.steered(header)
        self.frame = frame
        for save in self.saves:
            save.disabled = False
        self.shell.clear()
        self._server = dict(header.timing_ms)
        self.canvas.param.update(stale=False, frame=frame.data)
        arms = {a.arm: a for a in header.arms}
        if "off" in arms:
            self._known, self.unsteered = True, arms["off"].read_back
        landed = self.unsteered.landed if self.unsteered else None
        if landed is not None:
            self.pad.t_from = landed
            if self.state.t is None and not steered:
                self.pad.go(landed)
        for arm in header.arms:
            self._notes[arm.arm] = places.note(info, arm)
        read = arms["manifold"].read_back if "manifold" in arms else None
        if read and info:
            self.pad.landed = read.landed
            self.read.object = places.read_line(info, header.steer[0], read)
        elif not steered:
            self.read.object = RESTS
        if self._first and info and not steered:
            self._first = False
            self._go(places.start_from(info, landed))
            return
        self._panes()
        if not header.preview and info and self.requests.key != self._strip_of:
            self._strip_of = self.requests.key
            self.shell.run(self._film(self._strip_of))

    def _painted(self, seq: int, paint_ms: float) -> None:
        began = self._sent.pop(seq, None)
        for old in [k for k in self._sent if k < seq]:
            self._sent.pop(old)
        stages = dict(self._server)
        if began is not None:
            whole = 1000 * (time.perf_counter() - began)
            stages["wire"] = max(0.0, whole - sum(self._server.values()) - paint_ms)
            stages["paint"] = paint_ms
        self.canvas.timing = {k: round(v, 2) for k, v in stages.items()}

    async def _film(self, key: tuple) -> None:
        waiting = "Rendering the stops of this manifold …"
        self.shell.show(
            lambda: (self.strip.param.update(frame=b"", waiting=waiting), self.canvas.param.update(stops=b""))
        )
        try:
            frame = await self.shell.client.filmstrip(self.requests.filmstrip())
        except BackendError:
            self._strip_of = None if key == self._strip_of else self._strip_of
            told = "The stops could not be rendered; the next release asks again."
            self.shell.show(lambda: self.strip.param.update(waiting=told))
            raise
        if key == self._strip_of:
            self.shell.show(lambda: (self.strip.param.update(frame=frame.data, waiting=""),
                                     self.canvas.param.update(stops=frame.data)))  # fmt: skip

    # ------------------------------------------------------------------ export

    def _png(self) -> io.BytesIO:
        return export.picture(self.frame.data, self.frame.header) if self.frame else io.BytesIO()

    def _json(self) -> io.StringIO:
        return export.record(self.frame.header if self.frame else None)

    def _code(self) -> io.StringIO:
        return export.snippet(self.frame.header if self.frame else None, self.shell.client.url)


def page() -> pmui.Page:
    return SteerImage().view()
