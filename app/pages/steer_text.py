"""Steer text: one ring; the next-token distribution and the continuation follow, beside the straight chord."""

from __future__ import annotations

import asyncio
import html
import time
import uuid

import numpy as np
import panel as pn
import panel_material_ui as pmui
import param
from panel.io import hold

from app.client.backend import BackendError
from app.client.latest import LatestWins
from app.components import DistributionBars, ManifoldPad, SpaceView, SteerSlider
from app.pages.address import bind
from app.pages.shell import Shell, column, columns, heading, quiet, stage
from app.views.paths import path_panels
from app.views.theme import ARMS, CSS, colour_at, palette
from backend.wire.capabilities import Capabilities, ManifoldInfo
from backend.wire.text import (
    CompletionRequest,
    ManifoldCurves,
    PathRequest,
    PathResponse,
    TextCanvasRequest,
    TextFrame,
    TextSteer,
)  # fmt: skip


class State(param.Parameterized):
    """What the URL holds."""

    prompt = param.String(default="")
    manifold = param.String(default="")
    t = param.Number(default=None, allow_None=True)
    strength = param.Number(default=1.0)


class SteerText:
    """The page. ``view()`` is what is served."""

    def __init__(self) -> None:
        self.state = State()
        bind(self.state)
        self.shell = Shell("steer-text", title="Steer text", on_ready=self._ready)
        self.name = f"text-{uuid.uuid4().hex[:12]}"
        self.manifolds: dict[str, ManifoldInfo] = {}
        self.curves: ManifoldCurves | None = None
        self.frame: TextFrame | None = None
        self._loading, self._writing = True, 0
        self._sent: dict[int, float] = {}
        self.latest: LatestWins[TextCanvasRequest, TextFrame] = LatestWins(
            self._send, deliver=self._deliver, fail=self._fail
        )

        # Nobody has said where to go: the page shows what it does by moving once.
        self._first = self.state.t is None
        s, wide = self.state, {"sizing_mode": "stretch_width", "margin": 0}
        self.prompt = pmui.TextAreaInput(label="Prompt", value=s.prompt, rows=2, max_length=2000, size="small", **wide)
        self.examples = pmui.Select(label="Example prompts", options=[], size="small", **wide)
        self.choice = pmui.Select(label="Manifold", options={}, size="small", **wide)
        self.strength = SteerSlider(label="Strength", value=s.strength, on_slide=self._stronger, **wide)
        self.note, self.read, self.timing = quiet(), quiet(), quiet()
        self.pad = ManifoldPad(on_move=self._move, on_home=self._home, **wide)
        self.bars = DistributionBars(waiting="Waiting for the backend …", **wide)
        self.inside = SpaceView(caption="Activation space with the activation manifold", height_px=280, **wide)
        self.outside = SpaceView(caption="Behaviour space with the behaviour manifold", height_px=280, **wide)
        self.path = pn.pane.HTML("", stylesheets=[CSS], **wide)
        self.stories = {a: quiet() for a in ("off", "manifold", "chord")}

        self.prompt.param.watch(lambda e: self._fresh(e.new), "value")
        self.examples.param.watch(lambda e: e.new and setattr(self.prompt, "value", e.new), "value")
        self.choice.param.watch(lambda e: self._choose(e.new), "value")

    def view(self) -> pmui.Page:
        spaces = columns(
            column(
                heading(
                    "Activations",
                    "Residuals at the site on three principal axes; the curve is the manifold. Drag to turn.",
                ),
                self.inside,
                grow="1 1 280px",
                gap=8,
            ),
            column(
                heading("Behaviour", "Square roots of the answer probabilities; one cursor an arm in both spaces."),
                self.outside,
                grow="1 1 280px",
                gap=8,
            ),
            gap=32,
        )
        told = columns(
            *[
                column(
                    pn.pane.HTML(
                        f'<div style="font-size:13px;font-weight:700"><i style="display:inline-block;width:9px;height:9px;border-radius:50%;'
                        f'background:{ARMS[a][1]};margin-right:6px"></i>{ARMS[a][0]}</div>',
                        margin=0,
                    ),
                    story,
                    grow="1 1 200px",
                    gap=4,
                )
                for a, story in self.stories.items()
            ],
            gap=24,
        )
        main = column(self.prompt, self.bars, self.read, gap=24)
        below = column(
            spaces,
            column(
                heading(
                    "Along the way", "Probability of each class from the unsteered place to the point, for each arm."
                ),
                self.path,
                gap=8,
            ),
            column(
                heading("Continuations", "Greedy continuation of the prompt, written when the point is released."),
                told,
                gap=8,
            ),
            self.timing,
            gap=24,
        )
        right = column(self.choice, self.note, self.pad, self.strength, self.examples, gap=12)
        return self.shell.page(stage(main, right, below))

    # ------------------------------------------------------------------ what people do

    @property
    def info(self) -> ManifoldInfo | None:
        return self.manifolds.get(self.state.manifold)

    def _words(self, t: float) -> str:
        info = self.info
        if info is None or not info.ticks:
            return f"{t:.2f}"
        cyclic = info.kind == "ring"
        near = min(info.ticks, key=lambda k: abs(((k.t - t + 0.5) % 1) - 0.5) if cyclic else abs(k.t - t))
        return near.label.strip()

    def _move(self, t: float, final: bool) -> None:
        if self.info is None:
            return
        t = t % 1.0 if self.info.kind == "ring" else t
        self._first = False
        self.pad.steered = True
        if final:
            self.pad.t = t
            self.state.t = round(t, 4)
        self._ask(t, final=final)

    def _home(self) -> None:
        self._first = False
        self.state.t = None
        start = self._start()
        self.pad.param.update(steered=False, landed=None, t=start if start is not None else self.pad.t)
        self._ask(None, final=True)

    def _fresh(self, prompt: str) -> None:
        if self._loading:
            return
        self.state.prompt = prompt
        self.frame = None
        self._ask(self.state.t, final=True)

    def _stronger(self, strength: float, final: bool) -> None:
        self.state.strength = round(strength, 3)
        if final:
            self.strength.value = strength
        if self.state.t is not None:
            self._ask(self.state.t, final=final)

    def _choose(self, name: str | None) -> None:
        info = self.manifolds.get(name or "")
        if info is None:
            return
        changed = self.state.manifold != info.name
        self.state.manifold = info.name
        if changed and not self._loading:
            self.state.t, self._first = None, True
        self.curves, self.frame = None, None
        with hold():
            self.note.object = f'<div class="atlas-quiet">{info.description}</div>'
            self.examples.options = {"choose one": ""} | {p.replace("\n", " "): p for p in info.prompts}
            self.strength.param.update(safe=info.strength_safe, end=max(2.0, 1.25 * info.strength_safe))
            if info.prompts and (not self.state.prompt or (changed and not self._loading)):
                self._loading, before = True, self._loading
                self.state.prompt = self.prompt.value = info.prompts[0]
                self._loading = before
            many = len(info.ticks) > 26
            self.pad.param.update(
                kind="ring" if info.kind == "ring" else "line",
                colours=palette(info.kind),
                label=info.title,
                unit=info.unit,
                ticks=[[k.t, k.label.strip()] for i, k in enumerate(info.ticks) if not many or i % 10 == 0],
                names=[[k.t, k.label.strip()] for k in info.ticks],
                steered=self.state.t is not None,
                landed=None,
                t_from=None,
                t=self.state.t if self.state.t is not None else self.pad.t,
            )
            self.bars.param.update(
                labels=[k.label for k in info.ticks], colours=[colour_at(k.t, info.kind) for k in info.ticks]
            )
        self.shell.run(self._draw_curves(info))
        self._ask(self.state.t, final=True)

    # ------------------------------------------------------------------ the backend

    async def _ready(self, caps: Capabilities) -> None:
        text = [m.name for m in caps.models if m.kind == "text"]
        self.manifolds = {m.name: m for m in caps.manifolds if m.model in text}

        def fill() -> None:
            self._loading = True
            if not text:
                self.pad.label = ""
                self.bars.waiting = "No language model is installed. Make one with: manifold-atlas train calendar-llama"
                return
            if not self.manifolds:
                self.bars.waiting = (
                    "No manifold is fitted for this model. Make them with: manifold-atlas train calendar-manifolds"
                )
                return
            self.bars.waiting = "Asking the model …"
            self.choice.options = {m.title: m.name for m in self.manifolds.values()}
            name = self.state.manifold if self.state.manifold in self.manifolds else next(iter(self.manifolds))
            self.choice.value = name
            if self.state.prompt:
                self.prompt.value = self.state.prompt
            self._choose(name)
            self._loading = False

        self.shell.show(fill)

    async def _draw_curves(self, info: ManifoldInfo) -> None:
        curves = await self.shell.client.curves(info.name)

        def draw() -> None:
            if self.state.manifold != info.name:
                return
            self.curves = curves
            colours = palette(info.kind)
            closed = info.kind == "ring"
            points = np.asarray(curves.activation_points, np.float32).reshape(-1, 3)
            places = (
                np.asarray(curves.activation_point_t, np.float64)
                if curves.activation_point_t
                else np.zeros(len(points))
            )
            n = max(len(curves.label_t), 1)
            labels = [i for i in range(n) if n <= 26 or i % 10 == 0]
            with hold():
                self.inside.param.update(
                    points=points.astype("<f4").tobytes(),
                    palette=colours,
                    colour_index=(places % 1.0 * 71).astype(np.uint8).tobytes(),
                    curves=[
                        {
                            "points": [list(p) for p in curves.activation_curve],
                            "colours": colours,
                            "width": 4,
                            "closed": closed,
                        }
                    ],
                    labels=[
                        [*curves.activation_centroids[i], curves.labels[i].strip()]
                        for i in labels
                        if i < len(curves.activation_centroids)
                    ],
                )
                if curves.behaviour_curve:
                    self.outside.param.update(
                        axes=["√p 1", "√p 2", "√p 3"],
                        curves=[
                            {
                                "points": [list(p) for p in curves.behaviour_curve],
                                "colours": colours,
                                "width": 4,
                                "closed": closed,
                            }
                        ],
                        labels=[
                            [*curves.behaviour_centroids[i], curves.labels[i].strip()]
                            for i in labels
                            if i < len(curves.behaviour_centroids)
                        ],
                    )
            self._cursors()

        self.shell.show(draw)

    def _start(self) -> float | None:
        """Where the prompt's own answer lies."""
        off = next((a for a in self.frame.arms if a.arm == "off"), None) if self.frame else None
        return off.landed if off else None

    def _ask(self, t: float | None, *, final: bool) -> None:
        info = self.info
        if info is None or not self.state.prompt.strip():
            return
        arms = ["off"] if t is None else ["off", "manifold", "chord", "chord_subspace"]
        request = TextCanvasRequest(seq=0, model=info.model, prompt=self.state.prompt, manifold=info.name, t=t or 0.0,
                                    t_from=self._start(), strength=self.state.strength, arms=arms)  # fmt: skip
        self._sent[self.latest.submit(request)] = time.perf_counter()
        if final:
            self._writing += 1
            self.shell.run(self._write(t, self._writing))

    async def _send(self, seq: int, request: TextCanvasRequest) -> TextFrame | None:
        return await self.shell.client.text(self.name, request.model_copy(update={"seq": seq}))

    def _fail(self, error: Exception) -> None:
        told = (
            error
            if isinstance(error, BackendError)
            else BackendError("A distribution was asked for.", str(error), "Try again.")
        )
        self.shell.show(lambda: self.shell.tell(told))

    def _deliver(self, seq: int, frame: TextFrame) -> None:
        began = self._sent.pop(seq, None)

        def draw() -> None:
            self.frame = frame
            self.shell.clear()
            info = self.info
            if info is None or frame.manifold != info.name:
                return
            with hold():
                self.bars.arms = [
                    {
                        "arm": a.arm,
                        "title": ARMS[a.arm][0],
                        "colour": ARMS[a.arm][1],
                        "classes": a.classes,
                        "other": a.other,
                        "note": f"energy {a.energy:.3f} · on the concept {100 * a.coherence:.0f} %",
                    }
                    for a in frame.arms
                    if a.arm != "chord_subspace"
                ]
                off = next((a for a in frame.arms if a.arm == "off"), None)
                steered = next((a for a in frame.arms if a.arm == "manifold"), None)
                if off and off.landed is not None:
                    self.pad.t_from = off.landed
                    if steered is None and self.state.t is None:
                        self.pad.t = off.landed
                self.pad.landed = steered.landed if steered else None
                self._cursors()
                if steered and steered.landed is not None:
                    self.read.object = (
                        f'<div class="atlas-quiet">sent <b>{self._words(frame.t)}</b> · landed <b>{self._words(steered.landed)}</b>. '
                        "Energy is the Bhattacharyya distance to the behaviour manifold: low means that the answer is one the model "
                        "gives by itself.</div>"
                    )
                else:
                    self.read.object = '<div class="atlas-quiet">Nothing is steered. Drag the point, or move it with the arrow keys.</div>'
                whole = f" · round trip {1000 * (time.perf_counter() - began):.0f} ms" if began else ""
                self.timing.object = (
                    '<div class="atlas-quiet">'
                    + " · ".join(f"{k} {v:.1f} ms" for k, v in frame.timing_ms.items()) + whole + "</div>"
                )  # fmt: skip

                if self._first and off and off.landed is not None:
                    self._first = False
                    # Two classes on: far enough that the straight chord leaves the ring.
                    step = 2 / max(len(frame.labels), 3)
                    t = (
                        (off.landed + step) % 1.0
                        if info.kind == "ring"
                        else min(1.0, off.landed + 0.3)
                        if off.landed < 0.6
                        else off.landed - 0.3
                    )
                    self.state.t = round(t, 4)
                    self.pad.param.update(t=t, steered=True)
                    self._ask(t, final=True)

        self.shell.show(draw)

    def _cursors(self) -> None:
        if self.frame is None:
            return
        arms = self.frame.arms
        self.inside.cursors = [
            {"xyz": list(a.activation_xyz), "colour": ARMS[a.arm][1], "name": a.arm} for a in arms if a.activation_xyz
        ]
        self.outside.cursors = [
            {"xyz": list(a.behaviour_xyz), "colour": ARMS[a.arm][1], "name": a.arm} for a in arms if a.behaviour_xyz
        ]

    async def _write(self, t: float | None, turn: int) -> None:
        """Stream the continuations and the way there; a newer release stops this one."""
        await asyncio.sleep(0.15)
        info = self.info
        if info is None or turn != self._writing:
            return
        start = self._start()
        jobs = [self._story("off", None, turn)]
        if t is not None:
            jobs += [
                self._story(
                    a, TextSteer(manifold=info.name, t=t, t_from=start, strength=self.state.strength, arm=a), turn
                )
                for a in ("manifold", "chord")
            ]
        await asyncio.gather(*jobs)
        if t is not None and turn == self._writing:
            found = await self.shell.client.path(
                PathRequest(model=info.model, prompt=self.state.prompt, manifold=info.name, t_from=start or 0.0, t=t)
            )
            if turn == self._writing:
                self.shell.show(lambda: self._draw_path(found, info))

    def _draw_path(self, found: PathResponse, info: ManifoldInfo) -> None:
        self.path.object = path_panels(found, [colour_at(k.t, info.kind) for k in info.ticks])

    async def _story(self, arm: str, steer: TextSteer | None, turn: int) -> None:
        info = self.info
        text = ""
        request = CompletionRequest(model=info.model, prompt=self.state.prompt, max_tokens=28, steering=steer)
        async for piece in self.shell.client.complete(request):
            if turn != self._writing:
                return
            text += piece
            shown = html.escape(text).replace("\n", "<br>")
            self.shell.show(lambda shown=shown: setattr(self.stories[arm], "object", f"<div>{shown}</div>"))


def page() -> pmui.Page:
    return SteerText().view()
