"""Steer image: one pad; unsteered, manifold and straight chord answer it side by side from the same seed."""

from __future__ import annotations

import io
import json
import time
import uuid

import panel_material_ui as pmui
import param
from panel.io import hold

from app.client.backend import BackendError, Frame
from app.client.latest import LatestWins
from app.components import FilmStrip, FrameCanvas, ManifoldPad, SteerSlider
from app.pages.address import bind
from app.pages.shell import Shell, column, heading, quiet, row, stage
from app.views.theme import ARMS, colour_at, palette
from backend.wire.canvas import CanvasRequest, FilmstripRequest, ReadBack, Steer
from backend.wire.capabilities import Capabilities, ManifoldInfo, ModelInfo
from backend.wire.frame import unpack

STOPS = 12
EXAMPLES = ("a red cube on a table", "a blue sphere", "a photo of a green cone", "a violet torus on a table")


class State(param.Parameterized):
    """What the URL holds."""

    prompt = param.String(default=EXAMPLES[0])
    seed = param.Integer(default=7, bounds=(0, 2**31 - 1))
    manifold = param.String(default="")
    t = param.Number(default=None, allow_None=True)
    strength = param.Number(default=None, allow_None=True)
    steps = param.Integer(default=0, bounds=(0, 50), doc="0: as many as the model likes best.")
    start = param.Number(default=0.0, bounds=(0.0, 1.0))
    stop = param.Number(default=1.0, bounds=(0.0, 1.0))
    arms = param.String(default="off,manifold,chord")
    also = param.String(default="", doc="A second manifold, and where on it.")
    also_t = param.Number(default=0.0, bounds=(0.0, 1.0))


class SteerImage:
    """The page. ``view()`` is what is served."""

    def __init__(self) -> None:
        self.state = State()
        bind(self.state)
        self.shell = Shell("steer-image", title="Steer image", on_ready=self._ready)
        self.name = f"image-{uuid.uuid4().hex[:12]}"
        self.manifolds: dict[str, ManifoldInfo] = {}
        self.models: dict[str, ModelInfo] = {}
        self.frame: Frame | None = None
        self.unsteered: ReadBack | None = None
        self._sent: dict[int, float] = {}
        self._server: dict[str, float] = {}
        self._kept: dict[str, str] = {}
        self._strip_of: tuple | None = None
        self._history: list[float | None] = []
        # Nobody has said where to go: the first picture is followed by a quarter turn, so that the page shows what it does.
        self._first = self.state.t is None
        self._loading = True
        self.latest: LatestWins[CanvasRequest, Frame] = LatestWins(self._send, deliver=self._deliver, fail=self._fail)

        s, wide = self.state, {"sizing_mode": "stretch_width", "margin": 0}
        self.prompt = pmui.AutocompleteInput(
            label="Prompt", value=s.prompt, options=list(dict.fromkeys([s.prompt, *EXAMPLES])), restrict=False,
            min_characters=0, size="small", **wide,
        )  # fmt: skip
        self.seed = pmui.IntInput(label="Seed", value=s.seed, start=0, end=2**31 - 1, width=120, size="small", margin=0)
        self.dice = pmui.IconButton(icon="casino", description="Another seed", margin=0, size="small")
        self.choice = pmui.Select(label="Manifold", options={}, size="small", **wide)
        self.strength = SteerSlider(label="Strength", value=s.strength or 1.0, on_slide=self._stronger, **wide)
        self.window = pmui.RangeSlider(label="Share of the steps that are steered", start=0.0, end=1.0, step=0.05,
                                       value=(s.start, s.stop), size="small", **wide)  # fmt: skip
        self.steps = pmui.RadioButtonGroup(
            options={"model's own": 0, "4": 4, "8": 8, "16": 16},
            value=s.steps if s.steps in (0, 4, 8, 16) else 0,
            size="small",
            margin=0,
        )
        self.also = pmui.Select(label="Together with", options={"nothing else": ""}, size="small", **wide)
        self.also_t = SteerSlider(
            label="Place on it",
            value=s.also_t,
            start=0.0,
            end=1.0,
            step=0.01,
            visible=False,
            on_slide=self._beside,
            **wide,
        )
        self.arms = pmui.CheckBoxGroup(
            inline=True, value=[a for a in s.arms.split(",") if a in ARMS],
            options={f"{i} {ARMS[a][0]}": a for i, a in enumerate(ARMS, 1)}, size="small", margin=0,
        )  # fmt: skip
        self.note, self.safe, self.read = quiet(), quiet(), quiet()
        self.pad = ManifoldPad(on_move=self._move, on_home=self._home, on_arm=self._flip, **wide)
        self.canvas = FrameCanvas(on_painted=self._painted, waiting="Waiting for the backend …", **wide)
        self.strip = FilmStrip(on_pick=lambda t: self._move(t, True), **wide)
        self.save_png = pmui.FileDownload(
            label="Picture", filename="atlas.png", callback=self._png, size="small", margin=0
        )
        self.save_json = pmui.FileDownload(
            label="Record", filename="atlas-record.json", callback=self._json, size="small", margin=0
        )
        # Set afterwards: given at once it is normalised twice, which warns.
        self.save_png.variant = self.save_json.variant = "outlined"
        self.unsteer = pmui.Button(
            label="Unsteered (Home)", variant="text", size="small", margin=0, on_click=lambda _e: self._home()
        )
        self.undo = pmui.Button(
            label="Undo", variant="text", size="small", disabled=True, margin=0, on_click=lambda _e: self._undo()
        )
        self._panes()

        self.prompt.param.watch(lambda e: self._fresh(prompt=e.new or ""), "value")
        self.seed.param.watch(lambda e: e.new is not None and self._fresh(seed=e.new), "value")
        self.dice.on_click(lambda _e: setattr(self.seed, "value", int(time.time_ns() // 1000 % 100_000)))
        self.steps.param.watch(lambda e: self._fresh(steps=e.new), "value")
        self.choice.param.watch(lambda e: self._choose(e.new), "value")
        self.also.param.watch(lambda e: self._join(e.new or ""), "value")
        self.window.param.watch(lambda e: self._again(start=e.new[0], stop=e.new[1]), "value_throttled")
        self.arms.param.watch(lambda e: self._toggle(e.new), "value")

    # ------------------------------------------------------------------ the page

    def view(self) -> pmui.Page:
        more = pmui.Accordion(
            (
                "Steps, window and a second manifold",
                column(
                    self.window,
                    column(quiet("Sampler steps"), self.steps, gap=4),
                    self.also,
                    self.also_t,
                    styles={"padding": "8px 0"},
                ),
            ),
            disable_gutters=True,
            elevation=0,
            sizing_mode="stretch_width",
            margin=0,
        )
        left = column(
            row(column(self.prompt, grow="1 1 240px"), self.seed, self.dice, align="flex-start"),
            self.canvas,
            self.read,
        )
        below = column(
            column(
                heading("Film-strip", "The whole manifold for this prompt and seed. Click a stop to go there."),
                self.strip,
                gap=8,
            ),
            row(self.save_png, self.save_json, self.undo, self.unsteer),
        )
        right = column(
            self.choice, self.note, self.pad, self.strength, self.safe,
            column(quiet("Shown side by side (keys 1 to 5)"), self.arms, gap=4), more, gap=12,
        )  # fmt: skip
        return self.shell.page(stage(left, right, below))

    def _panes(self) -> None:
        shown = [a for a in ARMS if a in self.arms.value]
        notes = self._notes()
        still = self.state.t is None and self.frame is not None and not self._first
        self.canvas.panes = [
            {
                "arm": a,
                "title": ARMS[a][0],
                "colour": ARMS[a][1],
                "note": "" if still and a != "off" else notes.get(a, ""),
                "empty": "Nothing is steered. Drag the point." if still and a != "off" else "",
            }
            for a in shown
        ]

    def _notes(self) -> dict[str, str]:
        """Where each arm landed; an arm that the last frame lacks keeps what was said of it."""
        if not self.frame:
            return {}
        info, notes = self.info, {}
        for arm in self.frame.header.arms:
            if info and arm.read_back and arm.read_back.landed is not None:
                notes[arm.arm] = f"landed at {self._words(arm.read_back.landed)}"
                if arm.arm != "off" and arm.read_back.error is not None:
                    notes[arm.arm] += f", {arm.read_back.error:.0f}{info.unit} off"
        return self._kept | notes

    # ------------------------------------------------------------------ what people do

    @property
    def info(self) -> ManifoldInfo | None:
        return self.manifolds.get(self.state.manifold)

    def _words(self, t: float) -> str:
        info = self.info
        if info is None:
            return ""
        if info.unit == "°":
            return f"{t * 360:.0f}°"
        if info.ticks:
            return min(info.ticks, key=lambda k: abs(((k.t - t + 0.5) % 1) - 0.5)).label
        return f"{t:.2f} {info.unit}".strip()

    def _move(self, t: float, final: bool) -> None:
        info = self.info
        if info is None:
            return
        t = t % 1.0 if info.kind in ("ring", "torus") else t
        self._first = False
        self.pad.steered = True
        self.strip.t = t
        if final:
            self._history.append(self.state.t)
            self.undo.disabled = False
            # Only here: the point follows the pointer by itself, and an echo of where it was would pull it back.
            self.pad.t = t
            self.state.t = round(t, 4)
        self._ask(t, preview=not final)

    def _home(self) -> None:
        self._history.append(self.state.t)
        self.undo.disabled = False
        self._rest()

    def _rest(self) -> None:
        self._first = False
        self.state.t = None
        landed = self.unsteered.landed if self.unsteered else None
        self.pad.param.update(steered=False, landed=None, t=landed if landed is not None else self.pad.t)
        self.strip.t = None
        self._ask(None, preview=False)

    def _go(self, t: float) -> None:
        """Put the point somewhere without a pointer."""
        self.state.t = round(t, 4)
        self.pad.param.update(t=t, steered=True)
        self.strip.t = t
        self._ask(t, preview=False)

    def _undo(self) -> None:
        if not self._history:
            return
        t = self._history.pop()
        self.undo.disabled = not self._history
        if t is None:
            self._rest()
        else:
            self._go(t)

    def _fresh(self, **changes) -> None:
        """Another prompt, seed or step count: everything on the page belongs to the old one."""
        if self._loading:
            return
        self.state.param.update(**changes)
        self.shell.link(prompt=self.state.prompt, seed=self.state.seed)
        self.canvas.param.update(stale=True, stops=b"")
        self.unsteered, self._kept = None, {}
        self._ask(self.state.t, preview=False)

    def _again(self, **changes) -> None:
        if self._loading:
            return
        self.state.param.update(**changes)
        self._ask(self.state.t, preview=False)

    def _stronger(self, strength: float, final: bool) -> None:
        self.state.strength = round(strength, 3)
        if final:
            self.strength.value = strength
        self._safe_note()
        if self.state.t is not None:
            self._ask(self.state.t, preview=not final)

    def _join(self, name: str) -> None:
        """Steer along a second manifold as well."""
        info = self.manifolds.get(name)
        self.also_t.visible = info is not None
        if info is not None:
            self.also_t.param.update(
                label=info.title, colours=palette(info.kind)[::6], unit=info.unit, cyclic=info.kind == "ring",
                ticks=[] if info.unit == "°" else [[k.t, k.label] for k in info.ticks],
            )  # fmt: skip
        self._again(also=name)

    def _beside(self, t: float, final: bool) -> None:
        self.state.also_t = round(t, 4)
        if final:
            self.also_t.value = t
        if self.state.t is not None:
            self._ask(self.state.t, preview=not final)

    def _flip(self, number: int) -> None:
        """Keys 1 to 5 show and hide an arm."""
        arms = list(self.arms.options.values())
        if number <= len(arms):
            arm, shown = arms[number - 1], list(self.arms.value)
            self.arms.value = [a for a in shown if a != arm] if arm in shown else [*shown, arm]

    def _toggle(self, arms: list[str]) -> None:
        self.state.arms = ",".join(a for a in ARMS if a in arms)
        self._panes()
        if not self._loading:
            self._ask(self.state.t, preview=False)

    def _choose(self, name: str | None) -> None:
        info = self.manifolds.get(name or "")
        if info is None:
            return
        changed = self.state.manifold != info.name
        self.state.manifold = info.name
        if changed and not self._loading:
            self.state.t = None
            self._first = True
            self.strength.value = info.strength_default
            self.state.strength = info.strength_default
        self._kept = {}
        self.unsteered = None
        found = "Found without labels by a featurizer." if info.origin == "blocks" else ""
        self.note.object = f'<div class="atlas-quiet">{info.description} {found}</div>'
        many = len(info.ticks) > 14
        self.pad.param.update(
            kind="ring" if info.kind in ("ring", "torus") else "line",
            colours=palette(info.kind),
            label=info.title,
            unit=info.unit,
            ticks=[[k.t, k.label] for i, k in enumerate(info.ticks) if not many or i % 10 == 0],
            names=[[k.t, k.label] for k in info.ticks],
            landed=None,
            t_from=None,
            steered=self.state.t is not None,
            **({"t": self.state.t} if self.state.t is not None else {}),
        )
        self.strength.param.update(safe=info.strength_safe, end=max(2.0, 1.25 * info.strength_safe))
        self.strip.param.update(
            stops=[[i / STOPS, self._words(i / STOPS), colour_at(i / STOPS, info.kind)] for i in range(STOPS)],
            t=self.state.t,
        )
        self.canvas.stops = b""
        others = {m.title: m.name for m in self.manifolds.values() if m.name != info.name and m.model == info.model}
        before, self._loading = self._loading, True
        self.also.options = {"nothing else": ""} | others
        if self.state.also not in others.values():
            self.state.also = ""
        self.also.value = self.state.also
        self._loading = before
        self._safe_note()
        self._ask(self.state.t, preview=False)

    def _safe_note(self) -> None:
        info = self.info
        if info is None:
            return
        beyond = self._strength > info.strength_safe
        text = (
            f"<b>Beyond {info.strength_safe:.2g}</b> pictures leave the model's own range."
            if beyond
            else f"Safe up to {info.strength_safe:.2g}: there, steered pictures stay in the model's own range."
        )
        self.safe.object = f'<div class="atlas-quiet">{text}</div>'

    # ------------------------------------------------------------------ the backend

    async def _ready(self, caps: Capabilities) -> None:
        image = [m for m in caps.models if m.kind == "image"]
        self.models = {m.name: m for m in image}
        self.manifolds = {m.name: m for m in caps.manifolds if any(m.model == i.name for i in image)}

        def fill() -> None:
            with hold():
                self._loading = True
                if not image:
                    self.pad.label = ""
                    self.canvas.waiting = (
                        "No image model is installed. Make one with: manifold-atlas train tabletop-sdxl"
                    )
                    return
                self.canvas.waiting = "Denoising …"
                self.prompt.options = list(
                    dict.fromkeys([self.state.prompt, *EXAMPLES, *(p for m in image for p in m.prompts)])
                )
                self.choice.options = {m.title: m.name for m in self.manifolds.values()}
                if not self.manifolds:
                    self.note.object = '<div class="atlas-quiet">No manifold is fitted for this model yet. Run: manifold-atlas study light-ring</div>'
                name = self.state.manifold if self.state.manifold in self.manifolds else next(iter(self.manifolds), "")
                if self.state.strength is None and name:
                    self.state.strength = self.manifolds[name].strength_default
                    self.strength.value = self.state.strength
                self.choice.value = name or None
                self._loading = False
                if name:
                    self._choose(name)
                else:
                    self._ask(None, preview=False)

        self.shell.show(fill)

    def _request(self, t: float | None, *, preview: bool) -> CanvasRequest:
        s, info = self.state, self.info
        arms = [a for a in ARMS if a in self.arms.value]
        steer: list[Steer] = []
        if t is None or info is None:
            arms = ["off"]
        else:
            t_from = self.unsteered.landed if self.unsteered else None
            steer = [
                Steer(manifold=info.name, t=t, t_from=t_from, strength=self._strength, window=(s.start, s.stop)),
                *self._second(),
            ]
            if preview and self.unsteered is not None:
                # The unsteered picture cannot change during a drag.
                arms = [a for a in arms if a != "off"] or ["off"]
        if self.unsteered is None and "off" not in arms:
            arms = ["off", *arms]
        return CanvasRequest(
            seq=0, **self._common(), steer=steer, arms=arms, preview=preview, format="webp" if preview else "png"
        )

    @property
    def _strength(self) -> float:
        return 1.0 if self.state.strength is None else self.state.strength

    def _second(self) -> list[Steer]:
        s = self.state
        return [Steer(manifold=s.also, t=s.also_t, window=(s.start, s.stop))] if s.also in self.manifolds else []

    def _common(self) -> dict:
        """What the pictures of the page share: model, prompt, seed, steps and guidance."""
        s, info = self.state, self.info
        model = self.models.get(info.model) if info else next(iter(self.models.values()), None)
        if model is None:
            return {"prompt": s.prompt, "seed": s.seed}
        return {
            "model": model.name,
            "prompt": s.prompt,
            "seed": s.seed,
            "steps": s.steps or model.default_steps,
            "guidance": model.default_guidance,
        }

    def _ask(self, t: float | None, *, preview: bool) -> None:
        try:
            request = self._request(t, preview=preview)
        except ValueError as error:
            self.shell.tell(
                BackendError(
                    "A picture was asked for.", str(error).splitlines()[0], "Change the prompt or the settings."
                )
            )
            return
        seq = self.latest.submit(request)
        self._sent[seq] = time.perf_counter()

    async def _send(self, seq: int, request: CanvasRequest) -> Frame | None:
        return await self.shell.client.canvas(self.name, request.model_copy(update={"seq": seq}))

    def _fail(self, error: Exception) -> None:
        told = (
            error
            if isinstance(error, BackendError)
            else BackendError("A picture was asked for.", str(error), "Try again.")
        )
        self.shell.show(lambda: self.shell.tell(told))

    def _deliver(self, seq: int, frame: Frame) -> None:
        def draw() -> None:
            self.frame = frame
            header = frame.header
            current = header.prompt == self.state.prompt and header.seed == self.state.seed
            info = self.info
            self.shell.clear()
            with hold():
                for arm in header.arms:
                    if arm.arm == "off" and current and arm.read_back:
                        self.unsteered = arm.read_back
                self._server = dict(header.timing_ms)
                self.canvas.stale = False
                self.canvas.frame = frame.data
                by_arm = {a.arm: a for a in header.arms}
                main = by_arm.get("manifold") or by_arm.get("off")
                if self.unsteered and self.unsteered.landed is not None:
                    self.pad.t_from = self.unsteered.landed
                    if self.state.t is None and not header.steer:
                        self.pad.t = self.unsteered.landed
                if main and main.read_back and header.steer:
                    self.pad.landed = main.read_back.landed
                self._kept = self._notes()
                if main and main.read_back and header.steer and info:
                    self.read.object = self._read_line(header.steer[0], main.read_back, info)
                elif not header.steer:
                    self.read.object = '<div class="atlas-quiet">Nothing is steered. Drag the point, or move it with the arrow keys.</div>'
            if self._first and info and current and not header.steer:
                self._first = False
                start = self.unsteered.landed if self.unsteered and self.unsteered.landed is not None else 0.0
                self._go((start + 0.25) % 1.0 if info.kind in ("ring", "torus") else 1.0 if start < 0.5 else 0.0)
                return
            self._panes()
            s = self.state
            key = (s.prompt, s.seed, s.steps, s.manifold, s.strength, s.start, s.stop, s.also, s.also_t)
            if not header.preview and info and key != self._strip_of:
                self._strip_of = key
                self.shell.run(self._film(key))

        self.shell.show(draw)

    def _read_line(self, steer: Steer, read: ReadBack, info: ManifoldInfo) -> str:
        moved = ", ".join(
            f"{k.replace('_', ' ')} {100 * v:.0f} %" for k, v in sorted(read.moved.items(), key=lambda kv: -kv[1])[:5]
        )
        landed = f"landed <b>{self._words(read.landed)}</b> · " if read.landed is not None else ""
        shape = f" · reads as {read.shape}" if read.shape else ""
        return (
            f'<div class="atlas-quiet">{landed}sent <b>{self._words(steer.t)}</b>{shape}<br>'
            f"What else moved, as a share of its range: {moved or 'nothing that can be read'}. "
            f"Read by a network trained on renders alone; how well the whole ring is reached stands in "
            f'<a href="/catalogue?query={info.name}" style="color:inherit">the findings</a>.</div>'
        )

    def _painted(self, seq: int, paint_ms: float) -> None:
        began = self._sent.pop(seq, None)
        for old in [k for k in self._sent if k < seq]:
            self._sent.pop(old)
        stages = dict(self._server)
        if began is not None:
            whole = 1000 * (time.perf_counter() - began)
            stages["paint"] = paint_ms
            stages["wire"] = max(0.0, whole - sum(self._server.values()) - paint_ms)
        self.canvas.timing = {k: round(v, 2) for k, v in stages.items()}

    async def _film(self, key: tuple) -> None:
        info, s = self.info, self.state
        if info is None:
            return

        def clear() -> None:
            self.strip.param.update(frame=b"", waiting="Rendering the stops of this manifold …")
            self.canvas.stops = b""

        self.shell.show(clear)
        request = FilmstripRequest(
            **self._common(),
            stops=STOPS,
            format="webp",
            steer=[
                Steer(manifold=info.name, t=0.0, strength=self._strength, window=(s.start, s.stop)),
                *self._second(),
            ],
        )
        try:
            frame = await self.shell.client.filmstrip(request)
        except BackendError:
            if key == self._strip_of:
                self._strip_of = None
            self.shell.show(
                lambda: setattr(self.strip, "waiting", "The stops could not be rendered; the next release asks again.")
            )
            raise
        if key == self._strip_of:

            def draw() -> None:
                self.strip.param.update(frame=frame.data, waiting="")
                self.canvas.stops = frame.data

            self.shell.show(draw)

    # ------------------------------------------------------------------ export

    def _arm_bytes(self) -> tuple[bytes, str]:
        if self.frame is None:
            return b"", "png"
        body = unpack(self.frame.data)[1]
        by_arm = {a.arm: a for a in self.frame.header.arms}
        arm = by_arm.get("manifold") or next(iter(by_arm.values()))
        return bytes(body[arm.offset : arm.offset + arm.length]), arm.format

    def _png(self) -> io.BytesIO:
        """The steered picture as PNG with its record inside, in a text chunk named ``manifold-atlas``."""
        from PIL import Image, PngImagePlugin

        data, _ = self._arm_bytes()
        out = io.BytesIO()
        if data:
            info = PngImagePlugin.PngInfo()
            info.add_text("manifold-atlas", json.dumps(self.frame.header.record))
            Image.open(io.BytesIO(data)).save(out, "PNG", pnginfo=info)
        out.seek(0)
        return out

    def _json(self) -> io.StringIO:
        return io.StringIO(json.dumps(self.frame.header.record if self.frame else {}, indent=1))


def page() -> pmui.Page:
    return SteerImage().view()
