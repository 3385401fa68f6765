"""Steer text: one ring; the next-token distribution and the continuation follow, beside the straight chord."""

from __future__ import annotations

import asyncio
import html
import io
import time
import uuid

import panel_material_ui as pmui
import param
from pydantic import ValidationError

from app.client.backend import BackendError
from app.client.latest import LatestWins
from app.components import DistributionBars, ManifoldPad, SpaceView, SteerSlider
from app.pages.address import bind
from app.pages.layout import NONE, column, columns, heading, markup, quiet, row, stage
from app.pages.shell import Shell
from app.pages.steering import SteeringPage
from app.views import answers, export, places
from app.views.paths import path_panels
from app.views.theme import arm_name, colour_at, palette
from backend.wire.capabilities import Capabilities, ManifoldInfo
from backend.wire.text import CompletionRequest, PathRequest, TextCanvasRequest, TextFrame, TextSteer

STEERED = ("off", "manifold", "chord", "chord_subspace")
"""The arms of this page, in the order of their keys."""


class State(param.Parameterized):
    """What the URL holds."""

    prompt = param.String(default="")
    manifold = param.String(default="")
    t = param.Number(default=None, allow_None=True, bounds=(0.0, 1.0))
    strength = param.Number(default=1.0, bounds=(0.0, 4.0))
    arms = param.String(default="off,manifold,chord", doc="Those that are shown; all are computed.")


class SteerText(SteeringPage):
    """The page. ``view()`` is what is served."""

    def __init__(self) -> None:
        s = State()
        bind(s)
        super().__init__(s, STEERED)
        self.shell = Shell("steer-text", title="Steer text", on_ready=self._ready)
        self.name = f"text-{uuid.uuid4().hex[:12]}"
        self.manifolds: dict[str, ManifoldInfo] = {}
        self.frame: TextFrame | None = None
        self._loading, self._writing = True, 0
        self._sent: dict[int, tuple[float, TextCanvasRequest]] = {}
        self.request: TextCanvasRequest | None = None
        self._sliding: float | None = None
        # Nobody has said where to go: the page shows what it does by moving once.
        self._first = s.t is None
        self.latest: LatestWins[TextCanvasRequest, TextFrame] = LatestWins(
            self._send, deliver=self._deliver, fail=self.shell.fail
        )

        wide, small = {"sizing_mode": "stretch_width", "margin": 0}, {"size": "small", "margin": 0}
        self.prompt = pmui.TextAreaInput(label="Prompt", value=s.prompt, rows=2, max_length=2000, size="small", **wide)
        self.examples = pmui.Select(label="Example prompts", options=[], size="small", **wide)
        self.choice = pmui.Select(label="Manifold", options=NONE, size="small", **wide)
        self.strength = SteerSlider(label="Strength", value=s.strength, on_slide=self._stronger, **wide)
        self.note, self.read, self.timing, self.path = quiet(), quiet(), quiet(), markup()
        self.pad = ManifoldPad(on_move=self._move, on_home=self._home, on_arm=self._flip, **wide)
        self.save_json = pmui.FileDownload(label="Record", filename="atlas-record.json", callback=self._json, **small)
        self.save_code = pmui.FileDownload(label="Snippet", filename="atlas.py", callback=self._code, **small)
        self.saves = (self.save_json, self.save_code)
        for save in self.saves:
            save.param.update(variant="outlined", disabled=True)
        self.bars = DistributionBars(waiting="Waiting for the backend …", **wide)
        self.inside = SpaceView(caption="Activation space with the activation manifold", height_px=280, **wide)
        self.outside = SpaceView(caption="Behaviour space with the behaviour manifold", height_px=280, **wide)
        self.stories = {a: markup() for a in ("off", "manifold", "chord")}
        self.told = {
            a: column(markup(arm_name(a)), s, grow="1 1 200px", gap=4) for a, s in self.stories.items()
        }

        self.prompt.param.watch(lambda e: self._fresh(e.new), "value")
        self.examples.param.watch(lambda e: e.new and setattr(self.prompt, "value", e.new), "value")
        self.choice.param.watch(lambda e: self._loading or self._choose(e.new), "value")
        self.arms.param.watch(lambda e: self._toggle(e.new), "value")

    def view(self) -> pmui.Page:
        inside = heading("Activations", "Residuals at the site on three principal axes; the curve is the manifold.")
        outside = heading("Behaviour", "Square roots of the answer probabilities; one cursor an arm in both spaces.")
        way = heading("Along the way", "Probability of each class from the unsteered place to the point, for each arm.")
        told = heading("Continuations", "Greedy continuation of the prompt, written when the point is released.")
        main = column(self.prompt, self.bars, self.read, gap=24)
        below = column(
            columns(column(inside, self.inside, grow="1 1 280px", gap=8),
                    column(outside, self.outside, grow="1 1 280px", gap=8), gap=32),
            column(way, self.path, gap=12), column(told, columns(*self.told.values(), gap=24), gap=12), self.timing,
            row(*self.saves, self.undo, self.unsteer), gap=24,
        )  # fmt: skip
        shown = column(quiet("Shown side by side (keys 1 to 4)"), self.arms, gap=4)
        side = column(self.choice, self.note, self.pad, self.strength, shown, self.examples, gap=12)
        return self.shell.page(stage(main, side, below))

    # ------------------------------------------------------------------ what people do

    @property
    def info(self) -> ManifoldInfo | None:
        return self.manifolds.get(self.state.manifold)

    def _move(self, t: float, final: bool) -> None:
        if self.info is None:
            return
        t = t % 1.0 if self.info.kind in places.AROUND else t
        self._first = False
        self.pad.steered = True
        if final:
            self._remember()
            self.pad.t = t
            self.state.t = round(t, 4)
        self._ask(t, final=final)

    def _restrengthened(self) -> None:
        self.strength.value = self.state.strength

    def _go(self, t: float) -> None:
        """Put the point somewhere without a pointer."""
        self.state.t = round(t, 4)
        self.pad.steered = True
        self.pad.go(t)
        self._ask(t, final=True)

    def _toggle(self, arms: list[str]) -> None:
        self.state.arms = ",".join(a for a in STEERED if a in arms)
        self._paint_arms()

    def _paint_arms(self) -> None:
        """Bars, cursors and continuations of the arms that are shown; all are computed, so this asks for nothing."""
        shown = self.arms.value
        for arm, part in self.told.items():
            part.visible = arm in shown
        if self.frame is not None:
            frame = self.frame.model_copy(update={"arms": [a for a in self.frame.arms if a.arm in shown]})
            self.bars.param.update(arms=answers.bars(frame), waiting="No arm is shown. Press 1 to 4.")
            self.inside.cursors = answers.cursors(frame, "activation")
            self.outside.cursors = answers.cursors(frame, "behaviour")

    def _rest(self) -> None:
        self._first = False
        self.state.t = None
        start = self._start()
        self.pad.param.update(steered=False, landed=None)
        if start is not None:
            self.pad.go(start)
        self._ask(None, final=True)

    def _fresh(self, prompt: str) -> None:
        if self._loading:
            return
        self.state.prompt = prompt
        self.frame = None
        self._ask(self.state.t, final=True)

    def _stronger(self, strength: float, final: bool) -> None:
        # The address, and with it the browser's history, gets the strength when the slider is let go.
        self._sliding = None if final else round(strength, 3)
        if final:
            self._remember()
            self.state.strength, self.strength.value = round(strength, 3), strength
        if self.state.t is not None:
            self._ask(self.state.t, final=final)

    def _choose(self, name: str | None) -> None:
        info, s = self.manifolds.get(name or ""), self.state
        if info is None:
            return
        by_hand = s.manifold != info.name and not self._loading
        s.manifold = info.name
        if by_hand:
            s.t, self._first = None, True
            self._forget_way()
        self.frame = None
        self.note.object = f'<div class="atlas-quiet">{html.escape(info.description)}</div>'
        before, self._loading = self._loading, True
        self.examples.options = {"choose one": ""} | {p.replace("\n", " "): p for p in info.prompts}
        if info.prompts and (not s.prompt or by_hand):
            s.prompt = self.prompt.value = info.prompts[0]
        self._loading = before
        self.strength.param.update(safe=info.strength_safe, end=max(2.0, 1.25 * info.strength_safe))
        self.pad.param.update(**places.pad(info), colours=palette(info.kind), landed=None, t_from=None,
                              steered=s.t is not None)  # fmt: skip
        if s.t is not None:
            self.pad.go(s.t)
        colours = [colour_at(k.t, info.kind) for k in info.ticks]
        self.bars.param.update(labels=[k.label for k in info.ticks], colours=colours)
        self.shell.run(self._draw_curves(info))
        self._ask(s.t, final=True)

    # ------------------------------------------------------------------ the backend

    async def _ready(self, caps: Capabilities) -> None:
        text = {m.name for m in caps.models if m.kind == "text"}
        self.manifolds = known = {m.name: m for m in caps.manifolds if m.model in text}

        def fill() -> None:
            self._loading = True
            if not known:
                self.pad.label = ""
                lacks, name = (
                    ("manifold is fitted", "calendar-manifolds")
                    if text
                    else ("language model is installed", "calendar-llama")
                )
                self.bars.waiting = f"No {lacks}. Make it with: manifold-atlas train {name}"
                return
            self.bars.waiting = "Asking the model …"
            start = known.get(self.state.manifold) or places.first(known.values())
            self.choice.options = {m.title: m.name for m in known.values()}
            self.choice.value = name = start.name
            if self.state.prompt:
                self.prompt.value = self.state.prompt
            self._choose(name)
            self._loading = False

        self.shell.show(fill)

    async def _draw_curves(self, info: ManifoldInfo) -> None:
        inside, outside = answers.spaces(await self.shell.client.curves(info.name), info)

        def draw() -> None:
            if self.state.manifold == info.name:
                self.inside.param.update(**inside)
                self.outside.param.update(**outside)

        self.shell.show(draw)

    @property
    def _strength(self) -> float:
        return self.state.strength if self._sliding is None else self._sliding

    def _start(self) -> float | None:
        """Where the prompt's own answer lies."""
        off = answers.of(self.frame, "off")
        return off.landed if off else None

    def _ask(self, t: float | None, *, final: bool) -> None:
        info, s = self.info, self.state
        if info is None:
            return
        if not s.prompt.strip():
            self.bars.param.update(arms=[], waiting="Write a prompt above, or choose one of the examples.")
            return
        arms = ["off"] if t is None else list(STEERED)
        try:
            request = TextCanvasRequest(seq=0, model=info.model, prompt=s.prompt, manifold=info.name, t=t or 0.0,
                                        t_from=self._start(), strength=self._strength, arms=arms)  # fmt: skip
        except ValidationError as error:
            self.shell.tell(BackendError.unfit("A distribution was asked for.", error))
            return
        self._sent[self.latest.submit(request)] = time.perf_counter(), request
        if final:
            self._writing += 1
            self.shell.run(self._write(t, self._writing))

    async def _send(self, seq: int, request: TextCanvasRequest) -> TextFrame | None:
        return await self.shell.client.text(self.name, request.model_copy(update={"seq": seq}))

    def _deliver(self, seq: int, frame: TextFrame) -> None:
        began, request = self._sent.pop(seq)
        for old in [k for k in self._sent if k < seq]:
            self._sent.pop(old)
        timing_ms = frame.timing_ms | {"round trip": 1000 * (time.perf_counter() - began)}
        self.shell.show(lambda: self._draw(frame, request, timing_ms))

    def _draw(self, frame: TextFrame, request: TextCanvasRequest, timing_ms: dict[str, float]) -> None:
        info = self.info
        if info is None or frame.manifold != info.name or frame.prompt != self.state.prompt:
            return
        self.frame, self.request = frame, request
        for save in self.saves:
            save.disabled = False
        self.shell.clear()
        off, steered = answers.of(frame, "off"), answers.of(frame, "manifold")
        self._paint_arms()
        if off and off.landed is not None:
            self.pad.t_from = off.landed
            if steered is None and self.state.t is None:
                self.pad.go(off.landed)
        self.pad.landed = steered.landed if steered else None
        self.read.object = answers.read_line(info, frame)
        stages = " · ".join(f"{k} {v:.1f} ms" for k, v in timing_ms.items())
        self.timing.object = f'<div class="atlas-quiet">{stages}</div>'
        if self._first and off and off.landed is not None:
            self._first = False
            self._go(answers.start_from(info, off.landed, len(frame.labels)))

    async def _write(self, t: float | None, turn: int) -> None:
        """Stream the continuations and the way there; a newer release stops this one."""
        await asyncio.sleep(0.15)
        info, s = self.info, self.state
        if info is None or turn != self._writing:
            return
        start = self._start()
        told = [self._story("off", None, turn)]
        if t is not None:
            steer = TextSteer(manifold=info.name, t=t, t_from=start, strength=self._strength)
            told += [self._story(a, steer.model_copy(update={"arm": a}), turn) for a in ("manifold", "chord")]
            self.shell.show(self._await_path)
        else:
            self.shell.show(self._clear_story)
        await asyncio.gather(*told)
        if t is None or turn != self._writing:
            return
        found = await self.shell.client.path(
            PathRequest(model=info.model, prompt=s.prompt, manifold=info.name, t_from=start or 0.0, t=t)
        )
        if turn == self._writing:
            colours = [colour_at(k.t, info.kind) for k in info.ticks]
            self.shell.show(lambda: setattr(self.path, "object", path_panels(found, colours)))

    def _await_path(self) -> None:
        # A way that is drawn already stays until the new one is there; before the first, say what is going on.
        if "atlas-panels" not in (self.path.object or ""):
            self.path.object = '<div class="atlas-quiet">Walking from the prompt\'s own answer to the point …</div>'

    def _clear_story(self) -> None:
        for arm in ("manifold", "chord"):
            self.stories[arm].object = ""
        self.path.object = '<div class="atlas-quiet">There is no way yet: the point is where the prompt leads.</div>'

    async def _story(self, arm: str, steer: TextSteer | None, turn: int) -> None:
        info, text = self.info, ""
        if info is None:
            return
        request = CompletionRequest(model=info.model, prompt=self.state.prompt, max_tokens=28, steering=steer)
        async for piece in self.shell.client.complete(request):
            if turn != self._writing:
                return
            text += piece
            shown = html.escape(text.strip()).replace("\n", "<br>")
            self.shell.show(
                lambda shown=shown: setattr(self.stories[arm], "object", f'<div class="atlas-story">{shown}</div>')
            )

    # ------------------------------------------------------------------ export

    def _json(self) -> io.StringIO:
        return export.text_record(self.request, self.frame) if self.request and self.frame else io.StringIO("{}")

    def _code(self) -> io.StringIO:
        return export.text_snippet(self.request, self.shell.client.url) if self.request else io.StringIO()


def page() -> pmui.Page:
    return SteerText().view()
