"""A small stand-in for the backend: every route of the wire with plausible messages and drawn pictures, no torch.

Not covered: steering itself. Its "model" is a formula: a ball lit from where the manifold says, von Mises answers on
a ring of weekdays. Run it with ``python tests/app/fake_backend.py PORT``; ``make_app()`` is the ASGI app for tests.
"""

from __future__ import annotations

import asyncio
import base64
import functools
import io
import json
import math
import sys
import time

import numpy as np
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse
from PIL import Image

from backend.wire import blocks, canvas, capabilities, findings, frame, jobs, sinks, text

DAYS = (" Monday", " Tuesday", " Wednesday", " Thursday", " Friday", " Saturday", " Sunday")
COMPASS = ("right", "behind right", "behind", "behind left", "left", "front left", "front", "front right")
IMAGE_SITES = ["tabletop-sdxl/down.2.0#update", "tabletop-sdxl/mid.0#update"]
DAY_PROMPTS = [
    "Q: What day is two days after Monday?\nA:",
    "Q: What day is three days after Friday?\nA:",
    "Today is Monday, so tomorrow is",
]
PROMPTS = ["a red cube on a table", "a blue sphere", "a green cone on a table", "a violet torus"]


class Wrong(Exception):
    def __init__(self, status: int, kind: str, asked: str, true: str, todo: str) -> None:
        self.status, self.body = status, {"error": kind, "asked": asked, "true": true, "todo": todo}


@functools.cache
def _grid(size: int) -> tuple[np.ndarray, np.ndarray]:
    axis = (np.arange(size) + 0.5) / size * 2 - 1
    return np.meshgrid(axis, axis)


def picture(t: float, *, hue: float = 0.0, size: int = 128, strength: float = 1.0, blur: float = 0.0) -> Image.Image:
    """A lit ball with its shadow; ``t`` is where the light stands, ``blur`` greys it as a chord does."""
    x, y = _grid(size)
    r2 = x**2 + (y - 0.05) ** 2
    inside = r2 < 0.36
    z = np.sqrt(np.clip(0.36 - r2, 0, None)) / 0.6
    a, e = 2 * math.pi * t, 0.7
    light = (math.cos(a) * math.cos(e), -math.sin(e), math.sin(a) * math.cos(e) * -1)
    lit = np.clip((x / 0.6) * light[0] + ((y - 0.05) / 0.6) * light[1] + z * (0.55 + 0.45 * light[2]), 0, 1) * strength
    shadow = np.exp(-((x + 0.5 * light[0]) ** 2 / 0.2 + (y - 0.62 + 0.1 * light[2]) ** 2 / 0.02))
    base = np.stack([0.5 + 0.5 * np.cos(2 * math.pi * (hue - k / 3)) for k in range(3)])[:, None, None]
    ground = (0.80 - 0.12 * (y > 0.1) - 0.35 * shadow)[None] * np.array([1.0, 0.98, 0.95])[:, None, None]
    body = base * (0.18 + 0.82 * lit)[None] + 0.12 * lit[None] ** 8
    out = np.where(inside[None], body, ground)
    out = out * (1 - blur) + 0.55 * blur
    return Image.fromarray((np.clip(out, 0, 1) * 255).astype(np.uint8).transpose(1, 2, 0))


def encode(image: Image.Image, kind: str = "webp") -> bytes:
    out = io.BytesIO()
    image.save(out, {"webp": "WEBP", "png": "PNG", "jpeg": "JPEG"}[kind], **({"quality": 85} if kind != "png" else {}))
    return out.getvalue()


def _manifolds() -> list[capabilities.ManifoldInfo]:
    ring = [capabilities.Tick(t=i / 8, label=name) for i, name in enumerate(COMPASS)]
    return [
        capabilities.ManifoldInfo(
            name="light-azimuth",
            title="Where the light comes from",
            model="tabletop-sdxl",
            kind="ring",
            sites=IMAGE_SITES,
            unit="°",
            ticks=ring,
            factor="light_azimuth",
            prompts=PROMPTS,
            strength_safe=1.3,
            featurizer="tabletop-sdxl-mid",
            blocks=[17],
            description="A ring of light directions inside two sites of the middle of the network. No prompt names it.",
        ),
        capabilities.ManifoldInfo(
            name="hue",
            title="Colour of the thing",
            model="tabletop-sdxl",
            kind="ring",
            sites=IMAGE_SITES[:1],
            unit="°",
            ticks=[
                capabilities.Tick(t=i / 6, label=w)
                for i, w in enumerate(("red", "yellow", "green", "cyan", "blue", "violet"))
            ],
            factor="hue",
            prompts=PROMPTS,
            description="A ring of hues.",
            origin="blocks",
        ),
        capabilities.ManifoldInfo(
            name="elevation",
            title="How high the light stands",
            model="tabletop-sdxl",
            kind="line",
            sites=IMAGE_SITES[:1],
            ticks=[capabilities.Tick(t=0.0, label="low"), capabilities.Tick(t=1.0, label="high")],
            factor="light_elevation",
            prompts=PROMPTS,
            description="A line from grazing to overhead light.",
        ),
        capabilities.ManifoldInfo(
            name="weekday",
            title="Days of the week",
            model="calendar-llama",
            kind="ring",
            sites=["calendar-llama/5#resid_post"],
            ticks=[capabilities.Tick(t=i / 7, label=d) for i, d in enumerate(DAYS)],
            prompts=DAY_PROMPTS,
            tasks=["days after"],
            description="Residuals at layer 5 where the answer is a day: seven places on one ring.",
        ),
        capabilities.ManifoldInfo(
            name="age",
            title="Ages from 1 to 100",
            model="calendar-llama",
            kind="line",
            sites=["calendar-llama/5#resid_post"],
            ticks=[capabilities.Tick(t=i / 99, label=f" {i + 1}") for i in range(100)],
            prompts=["Ann was born 30 years ago. She is"],
            description="A line of ages.",
        ),
    ]


def _models() -> list[capabilities.ModelInfo]:
    make = capabilities.ModelInfo
    return [
        make(
            name="tabletop-sdxl",
            title="Tabletop SDXL",
            kind="image",
            n_parameters=21_000_000,
            sites=IMAGE_SITES,
            size=128,
            default_steps=4,
            prompts=PROMPTS,
            description="A small SDXL trained on lit table scenes.",
        ),
        make(
            name="calendar-llama",
            title="Calendar Llama",
            kind="text",
            n_parameters=6_000_000,
            layers=8,
            heads=8,
            sites=["calendar-llama/5#resid_post"],
            prompts=DAY_PROMPTS,
        ),
        make(
            name="tabletop-dino",
            title="Tabletop DINO",
            kind="vision",
            n_parameters=11_000_000,
            layers=8,
            heads=6,
            sites=[],
            size=128,
        ),
    ]


def _featurizers() -> list[capabilities.FeaturizerInfo]:
    make = capabilities.FeaturizerInfo
    return [
        make(
            name="tabletop-sdxl-mid",
            title="Tabletop SDXL, middle, 512 blocks of 4",
            model="tabletop-sdxl",
            site=IMAGE_SITES[1],
            variant="grassmannian",
            n_blocks=512,
            d_block=4,
            k=8,
            r2=0.934,
            description="Orthonormal frames.",
        ),
        make(
            name="tabletop-dino-6",
            title="Tabletop DINO, layer 6, 3,000 blocks",
            model="tabletop-dino",
            site="tabletop-dino/6#residual",
            variant="vanilla",
            n_blocks=3000,
            d_block=4,
            k=16,
            r2=0.91,
        ),
    ]


@functools.cache
def _blocks(name: str) -> list[blocks.BlockSummary]:
    n = next((f.n_blocks for f in _featurizers() if f.name == name), 0)
    rng = np.random.default_rng(len(name))
    names = ("light_azimuth", "hue", "size", "x", "shape")
    out = []
    for i in range(n):
        home = i % 7
        a = 2 * math.pi * home / 7
        xy = (3 * math.cos(a) + rng.normal(0, 0.6), 3 * math.sin(a) + rng.normal(0, 0.6))
        top = ("ring", "line", "point", "none", "unknown", "line", "sheet")[home]
        r2 = {k: float(max(0, rng.beta(1, 6) + (0.7 if j == home else 0))) for j, k in enumerate(names)}
        best = max(r2, key=r2.get)
        label = best.replace("_", " ") + (" ring" if top == "ring" else "") if r2[best] > 0.5 else f"block {i}"
        if i == 17:
            top, label, r2 = "ring", "light azimuth ring", {**r2, "light_azimuth": 0.93}
        out.append(
            blocks.BlockSummary(
                index=i,
                label=label,
                xy=xy,
                firing_rate=float(10 ** rng.uniform(-3, -0.7)),
                energy=float(rng.beta(1, 200)),
                stable_rank=float(1 + 2.5 * rng.beta(2, 3)),
                participation_ratio=float(1 + 2.8 * rng.beta(2, 3)),
                effective_rank=float(1 + 2.9 * rng.beta(2, 3)),
                topology=top,
                factors={k: min(v, 0.99) for k, v in r2.items()},
                manifold="light-azimuth" if i == 17 and "sdxl" in name else None,
            )
        )
    return out


def _finding(**kw) -> findings.Finding:
    return findings.Finding(**{"seeds": [0], "measured": "2025-11-22", **kw})


def _findings() -> list[findings.Finding]:
    light = "manifold-atlas study light-ring --scale small --seed 0"
    return [
        _finding(
            id="light-ring/median-error-deg",
            claim="Moving along the ring turns the light to where it was sent.",
            question="How far from the sent direction does the light land?",
            value=9.4,
            low=8.1,
            high=11.2,
            n=240,
            unit="°",
            controls={"chord": 31.0, "random": 88.0, "shuffled coordinate": 91.2},
            evidence="interventional",
            status="holds",
            aim="below 15°",
            model="tabletop-sdxl",
            data="tabletop",
            command=light,
            supports=["light-ring/off-target"],
        ),
        _finding(
            id="light-ring/off-target",
            claim="Other factors stay where they were.",
            value=0.06,
            low=0.05,
            high=0.08,
            n=240,
            controls={"chord": 0.14, "random": 0.33},
            evidence="interventional",
            status="falls short",
            aim="below 0.05",
            model="tabletop-sdxl",
            data="tabletop",
            command=light,
            caveat="Size is read with an error of 4 %.",
        ),
        _finding(
            id="weekday-ring/energy-ratio",
            claim="The straight chord leaves the behaviour manifold; the ring stays on it.",
            value=2.7,
            low=2.2,
            high=3.3,
            n=42,
            published="2.1 to 3.4 (Llama-3.1-8B, layer 19)",
            controls={"random": 5.1},
            evidence="interventional",
            status="holds",
            model="calendar-llama",
            data="calendar",
            command="manifold-atlas study weekday-ring --scale small --seed 0",
        ),
        _finding(
            id="sinks/broadcast-share",
            claim="Some sinks of the vision model send content; none of the language model's do.",
            value=0.21,
            low=0.12,
            high=0.33,
            n=48,
            controls={"calendar-llama": 0.0},
            evidence="correlational",
            status="null",
            model="tabletop-dino",
            data="tabletop",
            command="manifold-atlas study sinks --scale small --seed 0",
            contradicts=["weekday-ring/energy-ratio"],
        ),
        _finding(
            id="curves/published-number",
            claim="Curve detectors were to be found without labels.",
            value=None,
            n=0,
            evidence="observational",
            status="unjudged",
            model="curve-inception",
            data="curves",
            command="manifold-atlas study curves --scale small --seed 0",
        ),
    ]


def _cards() -> list[findings.Card]:
    make = findings.Card
    return [
        make(
            name="tabletop-sdxl",
            kind="model",
            title="Tabletop SDXL",
            summary="Text to picture at 128 pixels, four steps.",
            facts={"parameters": 21_000_000, "steps": 9000},
            gates=[
                {"name": "shape is read", "value": 0.94, "aim": 0.9, "passed": True},
                {"name": "colour, median error °", "value": 11.0, "aim": 10.0, "passed": False},
            ],
        ),
        make(
            name="tabletop",
            kind="dataset",
            title="Tabletop world",
            summary="Procedural scenes with known factors.",
            facts={"factors": 8},
        ),
        make(
            name="tabletop-sdxl-mid",
            kind="featurizer",
            title="512 blocks of 4",
            summary="Grassmannian featurizer of the middle.",
            facts={"R²": 0.934, "k": 8},
            gates=[{"name": "R²", "value": 0.934, "aim": 0.9, "passed": True}],
        ),
        make(name="light-azimuth", kind="manifold", title="Where the light comes from", summary="A ring at two sites."),
    ]


def _circular(p: np.ndarray) -> float:
    n = len(p)
    return float(np.angle((p * np.exp(2j * np.pi * np.arange(n) / n)).sum()) / (2 * np.pi) % 1)


def _answers(info: capabilities.ManifoldInfo, t: float, arm: str, strength: float) -> tuple[np.ndarray, float]:
    n = len(info.ticks)
    gap = np.abs(np.arange(n) / n - t)
    gap = np.minimum(gap, 1 - gap) if info.kind == "ring" else gap
    sharp = {"off": 60, "manifold": 50 * strength, "chord": 12, "chord_subspace": 16, "random": 2}[arm] * (n / 7) ** 2
    other = {"off": 0.02, "manifold": 0.03, "chord": 0.34, "chord_subspace": 0.22, "random": 0.7}[arm]
    p = np.exp(-sharp * gap**2)
    return p / p.sum() * (1 - other), other


def _xyz(t: float, arm: str, kind: str) -> tuple[float, float, float]:
    r = {"off": 1.0, "manifold": 1.0, "chord": 0.55, "chord_subspace": 0.7, "random": 0.2}[arm]
    if kind != "ring":
        return (2 * t - 1, r * math.sin(3 * t), 0.3 * t)
    return (r * math.cos(2 * math.pi * t), r * math.sin(2 * math.pi * t), 0.2 * math.sin(4 * math.pi * t))


def make_app(*, delay: float = 0.03) -> FastAPI:
    """The ASGI app. ``delay`` is what one picture "costs", in seconds."""
    app = FastAPI()
    newest: dict[str, int] = {}
    running: dict[str, dict] = {}
    began = time.monotonic()

    @app.exception_handler(Wrong)
    async def wrong(_request: Request, error: Wrong) -> JSONResponse:
        return JSONResponse(error.body, error.status)

    def found(name: str) -> capabilities.ManifoldInfo:
        for info in _manifolds():
            if info.name == name:
                return info
        raise Wrong(
            404,
            "NotFound",
            f"The manifold {name} was asked for.",
            "There is no such manifold.",
            "Choose one of the list.",
        )

    @app.get("/v1/health")
    async def health() -> capabilities.Health:
        return capabilities.Health(status="ready", device="cpu", version="0", uptime_s=time.monotonic() - began)

    @app.get("/v1/capabilities")
    async def caps() -> capabilities.Capabilities:
        return capabilities.Capabilities(
            version="0", device="cpu", models=_models(), manifolds=_manifolds(), featurizers=_featurizers()
        )

    @app.get("/v1/catalogue")
    async def catalogue() -> findings.Catalogue:
        return findings.Catalogue(cards=_cards(), findings=_findings(), skipped=["findings/torn.json: not JSON"])

    def drawn(request: canvas.ImageRequest, ts: list[tuple[str, float]], *, seq: int, cached: bool = False) -> Response:
        hue = {"red": 0.0, "green": 0.33, "blue": 0.62, "violet": 0.78}.get(
            next((w for w in request.prompt.split() if w in ("red", "green", "blue", "violet")), "red"), 0.0
        )
        own = (request.seed * 0.137) % 1
        arms, blobs, at = [], [], 0
        for arm, t in ts:
            name = request.steer[0].manifold if request.steer else ""
            place = own if arm == "off" else t
            image = picture(own if name == "hue" else place, hue=place if name == "hue" and arm != "off" else hue,
                            blur={"chord": 0.25, "random": 0.5}.get(arm, 0.0))  # fmt: skip
            data = encode(image, request.format)
            landed = (place + (0.0 if arm in ("off", "manifold") else 0.06) + 0.01) % 1
            gap = abs((landed - t + 0.5) % 1 - 0.5) * 360
            arms.append(
                canvas.ArmFrame(
                    arm=arm,
                    offset=at,
                    length=len(data),
                    format=request.format,
                    width=128,
                    height=128,
                    cached=cached,
                    read_back=canvas.ReadBack(
                        factors={"light_azimuth": landed * 360},
                        shape="sphere",
                        landed=landed if request.steer else None,
                        error=None if arm == "off" else gap,
                        moved={"hue": 0.02, "size": 0.04, "position_x": 0.01},
                    ),
                )
            )
            blobs.append(data)
            at += len(data)
        header = canvas.FrameHeader(
            seq=seq,
            model=request.model,
            prompt=request.prompt,
            seed=request.seed,
            steps=request.steps,
            guidance=request.guidance,
            steer=request.steer,
            arms=arms,
            preview=request.preview,
            record={"request": request.model_dump()},
            timing_ms={
                "queue": 1.2,
                "text": 0.0,
                "denoise": delay * 800,
                "decode": delay * 150,
                "read": 2.0,
                "encode": 3.1,
            },
        )
        return Response(frame.pack(header.model_dump(), blobs), media_type=frame.MEDIA_TYPE)

    @app.put("/v1/canvas/{name}")
    async def put_canvas(name: str, request: canvas.CanvasRequest) -> Response:
        newest[name] = max(newest.get(name, -1), request.seq)
        for steer in request.steer:
            found(steer.manifold)
        await asyncio.sleep(delay)
        if newest[name] > request.seq:
            return Response(status_code=204, headers={"X-Atlas-Superseded-By": str(newest[name])})
        t = request.steer[0].t if request.steer else 0.0
        return drawn(request, [(a, t) for a in request.arms], seq=request.seq)

    @app.post("/v1/filmstrip")
    async def filmstrip(request: canvas.FilmstripRequest) -> Response:
        await asyncio.sleep(delay * 4)
        return drawn(request, [("manifold", i / request.stops) for i in range(request.stops)], seq=0, cached=True)

    def distribution(info, arm: str, t: float, own: float, strength: float) -> text.ArmDistribution:
        p, other = _answers(info, own if arm == "off" else t, arm, strength)
        place = own if arm == "off" else t
        order = np.argsort(-p)[:3]
        return text.ArmDistribution(
            arm=arm,
            classes=p.tolist(),
            other=other,
            top=[(info.ticks[i].label, float(p[i])) for i in order],
            landed=_circular(p) if info.kind == "ring" else float((p * np.linspace(0, 1, len(p))).sum() / p.sum()),
            energy=other / 2,
            coherence=1 - other,
            activation_xyz=_xyz(place, arm, info.kind),
            behaviour_xyz=_xyz(place, arm, info.kind),
        )

    def own_place(info, prompt: str) -> float:
        return (len(prompt) % len(info.ticks)) / len(info.ticks)

    @app.put("/v1/text/{name}")
    async def put_text(name: str, request: text.TextCanvasRequest) -> Response:
        info = found(request.manifold)
        newest[name] = max(newest.get(name, -1), request.seq)
        await asyncio.sleep(delay / 3)
        if newest[name] > request.seq:
            return Response(status_code=204, headers={"X-Atlas-Superseded-By": str(newest[name])})
        own = own_place(info, request.prompt)
        made = text.TextFrame(
            seq=request.seq, model=request.model, prompt=request.prompt, manifold=info.name, t=request.t,
            t_from=request.t_from if request.t_from is not None else own, labels=[k.label for k in info.ticks],
            arms=[distribution(info, a, request.t, own, request.strength) for a in request.arms],
            timing_ms={"queue": 0.4, "forward": delay * 300, "project": 0.3},
        )  # fmt: skip
        return Response(made.model_dump_json(), media_type="application/json")

    @app.post("/v1/text/path")
    async def path(request: text.PathRequest) -> text.PathResponse:
        info = found(request.manifold)
        fraction = np.linspace(0, 1, request.points)
        span = request.t - request.t_from
        if info.kind == "ring" and request.points < 40:
            span = (span + 0.5) % 1 - 0.5 if abs(span) < 0.95 else span
        arms = []
        for arm in request.arms:
            rows = [
                distribution(
                    info,
                    arm,
                    (request.t_from + f * span) % 1 if info.kind == "ring" else request.t_from + f * span,
                    0.0,
                    1.0,
                )
                for f in fraction
            ]
            arms.append(
                text.ArmPath(
                    arm=arm,
                    classes=[r.classes for r in rows],
                    other=[r.other for r in rows],
                    energy=[r.energy for r in rows],
                    coherence=[r.coherence for r in rows],
                    activation_xyz=[r.activation_xyz for r in rows],
                    behaviour_xyz=[r.behaviour_xyz for r in rows],
                )
            )
        return text.PathResponse(
            labels=[k.label for k in info.ticks], fraction=fraction.tolist(), arms=arms, timing_ms={"forward": 9.0}
        )

    @app.get("/v1/manifolds/{name}/curves")
    async def curves(name: str) -> text.ManifoldCurves:
        info = found(name)
        ts = np.linspace(0, 1, 96, endpoint=False)
        rng = np.random.default_rng(1)
        t = rng.uniform(0, 1, 600)
        points = np.array([_xyz(v, "manifold", info.kind) for v in t]) + rng.normal(0, 0.06, (600, 3))
        return text.ManifoldCurves(
            name=name,
            labels=[k.label for k in info.ticks],
            label_t=[k.t for k in info.ticks],
            activation_curve=[_xyz(v, "manifold", info.kind) for v in ts],
            behaviour_curve=[_xyz(v, "manifold", info.kind) for v in ts],
            activation_centroids=[_xyz(k.t, "manifold", info.kind) for k in info.ticks],
            activation_variance=[0.5, 0.3, 0.1],
            behaviour_centroids=[_xyz(k.t, "manifold", info.kind) for k in info.ticks],
            activation_points=points.tolist(),
            activation_point_t=t.tolist(),
        )

    @app.post("/v1/completions")
    async def completions(request: text.CompletionRequest) -> StreamingResponse:
        if request.model == "nobody":
            raise Wrong(
                404,
                "NotFound",
                "The model nobody was asked for.",
                "There is no such model.",
                "Choose one of /v1/models.",
            )

        async def stream():
            t = request.steering.t if request.steering else own_place(found("weekday"), request.prompt)
            day = DAYS[round(t * 7) % 7]
            for piece in (day, ".", "\n", "Q", ":", " What", " day", " comes", " next", "?"):
                yield f"data: {json.dumps({'choices': [{'text': piece}]})}\n\n"
                await asyncio.sleep(0.005)
            yield "data: [DONE]\n\n"

        return StreamingResponse(stream(), media_type="text/event-stream")

    @app.get("/v1/featurizers/{name}/blocks")
    async def block_list(name: str) -> blocks.BlockList:
        if not _blocks(name):
            raise Wrong(
                404,
                "NotFound",
                f"The featurizer {name} was asked for.",
                "There is no such featurizer.",
                "Choose one of the list.",
            )
        return blocks.BlockList(
            featurizer=name, blocks=_blocks(name), factors=["light_azimuth", "hue", "size", "x", "shape"]
        )

    @app.get("/v1/featurizers/{name}/blocks/{index}")
    async def block_detail(name: str, index: int) -> Response:
        if not 0 <= index < len(_blocks(name)):
            raise Wrong(
                404,
                "NotFound",
                f"Block {index} of {name} was asked for.",
                f"It has {len(_blocks(name))} blocks.",
                "Take one of them.",
            )
        rng = np.random.default_rng(index)
        examples, blobs, at = [], [], 0
        for i in range(8):
            for band in ("top", "p75", "p50", "p10")[: 4 if i % 3 else 3]:
                t = (i + rng.uniform(0.1, 0.9)) / 8
                data = encode(picture(t, hue=rng.uniform(), size=72))
                heat = np.exp(-(np.add.outer((np.arange(8) - 4) ** 2, (np.arange(8) - 3 - i % 3) ** 2) / 5))
                examples.append(
                    blocks.BlockExample(
                        t=t,
                        strength={"top": 0.97, "p75": 0.7, "p50": 0.5, "p10": 0.2}[band],
                        band=band,
                        offset=at,
                        length=len(data),
                        width=72,
                        height=72,
                        heat=heat.round(3).tolist(),
                        caption="a red sphere on a table",
                        factors={"light_azimuth": 2 * math.pi * t},
                    )
                )
                blobs.append(data)
                at += len(data)
        around = 2 * np.pi * np.arange(16) / 16
        detail = blocks.BlockDetail(
            **_blocks(name)[index].model_dump(),
            featurizer=name,
            spectrum=[1.0, 0.82, 0.09, 0.03],
            axes_variance=[0.52, 0.42, 0.05],
            antipodal=0.12,
            tuning={"light_azimuth": (1 + np.cos(around - 1)).tolist(), "hue": (1 + 0.1 * np.cos(around)).tolist()},
            neighbours=[3, 41, 90, 200],
            examples=examples,
            findings=["light-ring/median-error-deg"] if index == 17 else [],
        )
        return Response(frame.pack(detail.model_dump(), blobs), media_type=frame.MEDIA_TYPE)

    @app.get("/v1/featurizers/{name}/blocks/{index}/cloud")
    async def cloud(name: str, index: int, n: int = 20000) -> Response:
        rng = np.random.default_rng(index)
        n = min(n, 4000)
        t = rng.uniform(0, 1, n)
        xyz = np.stack([np.cos(2 * np.pi * t), np.sin(2 * np.pi * t), 0.3 * np.sin(4 * np.pi * t)], 1) + rng.normal(
            0, 0.07, (n, 3)
        )
        head = blocks.CloudHeader(
            featurizer=name,
            block=index,
            n=n,
            columns=["t", "light_azimuth", "hue", "size"],
            variance=[0.52, 0.42, 0.05],
        )
        columns = [t, 2 * np.pi * t, rng.uniform(0, 2 * np.pi, n), rng.uniform(0.4, 1, n)]
        body = [xyz.astype("<f2").tobytes(), *(c.astype("<f2").tobytes() for c in columns)]
        return Response(frame.pack(head.model_dump(), body), media_type=frame.MEDIA_TYPE)

    def board_of(request: sinks.SinkRequest) -> sinks.SinkBoard:
        model = next((m for m in _models() if m.name == request.model and m.layers), None)
        if model is None:
            raise Wrong(
                404,
                "NotFound",
                f"The heads of {request.model} were asked for.",
                "It has none.",
                "Choose another model.",
            )
        vision = model.kind == "vision"
        grid, special = (8, 5) if vision else (0, 0)
        words = (request.text or DAY_PROMPTS[(request.example or 0) % 3]).split()
        tokens = (
            ["CLS", *(f"register {i}" for i in range(4)), *(f"patch {r},{c}" for r in range(8) for c in range(8))]
            if vision
            else ["<bos>", *(" " + w for w in words)]
        )
        rng = np.random.default_rng((request.example or 0) + len(request.text or "") + len(request.image or ""))
        heads = []
        for layer in range(model.layers):
            for head in range(model.heads):
                s = float(rng.beta(1, 2) * (0.3 + layer / model.layers))
                kind = (
                    "no sink"
                    if s < 0.3
                    else rng.choice(["nop", "broadcast", "other"], p=[0.6, 0.25, 0.15] if vision else [0.95, 0.0, 0.05])
                )
                at = int(rng.integers(0, special)) if vision else 0
                heads.append(
                    sinks.HeadSummary(
                        layer=layer,
                        head=head,
                        strength=s,
                        event=min(1.0, s * 1.2),
                        sink=at,
                        token=tokens[at],
                        token_type=("cls" if at == 0 else "register") if vision else "bos",
                        value_ratio=float(rng.gamma(2, 0.3)),
                        value_ratio_raw=float(rng.gamma(2, 0.3)),
                        stable_rank=float(1 + rng.gamma(2, 1)),
                        rank1_energy=float(rng.beta(2, 2)),
                        label=str(kind),
                        constant=not vision,
                    )
                )
        picture_uri = None
        if vision:
            data = (
                base64.b64decode(request.image)
                if request.image
                else encode(picture((request.example or 0) / 12, hue=(request.example or 0) / 7))
            )
            picture_uri = f"data:image/webp;base64,{base64.b64encode(data).decode()}"
        return sinks.SinkBoard(
            model=model.name,
            layers=model.layers,
            heads=model.heads,
            tokens=tokens,
            n=len(tokens),
            uniform=1 / len(tokens),
            board=heads,
            timing_ms={"forward": 11.0},
            picture=picture_uri,
            grid=grid,
            special=special,
        )

    @app.post("/v1/sinks")
    async def sinks_board(request: sinks.SinkRequest) -> sinks.SinkBoard:
        return board_of(request)

    @app.post("/v1/sinks/head")
    async def sinks_head(request: sinks.HeadRequest) -> sinks.HeadDetail:
        whole = board_of(sinks.SinkRequest(**request.model_dump(exclude={"layer", "head", "query"})))
        summary = next((h for h in whole.board if (h.layer, h.head) == (request.layer, request.head)), None)
        if summary is None:
            raise Wrong(
                404,
                "NotFound",
                f"Head {request.layer}.{request.head} was asked for.",
                "There is no such head.",
                "Take one of the board.",
            )
        n = whole.n
        rng = np.random.default_rng(request.layer * 97 + request.head)
        a = rng.gamma(0.4, 1, (n, n))
        a[:, summary.sink] += summary.strength * a.sum(1) * 2
        a = np.tril(a) + 1e-9 if whole.grid == 0 else a
        a = a / a.sum(1, keepdims=True)
        query = n - 1 if request.query is None else min(request.query, n - 1)
        norms = rng.gamma(4, 0.2, n)
        norms[summary.sink] *= summary.value_ratio
        spectrum = np.sort(rng.gamma(0.5, 1, 8))[::-1]
        sink = summary.label != "no sink"
        return sinks.HeadDetail(
            summary=summary,
            tokens=whole.tokens,
            inflow=a.mean(0).tolist(),
            query=query,
            query_row=a[query].tolist(),
            value_norms=norms.tolist(),
            spectrum=(spectrum / spectrum.sum()).tolist(),
            pattern=a[:96, :96].round(4).tolist(),
            timing_ms={"forward": 12.0},
            causal_label="nop" if sink else "",
            effects={"zero": 0.004, "mean": 0.006, "donor": 0.011, "ordinary": 0.09, "remove": 0.21, "control": 0.05}
            if sink
            else {},
        )

    @app.get("/v1/sinks/examples")
    async def sink_examples(model: str) -> Response:
        vision = "dino" in model
        made, blobs, at = [], [], 0
        for i in range(8 if vision else 3):
            data = encode(picture(i / 12, hue=i / 7, size=72)) if vision else b""
            made.append(
                sinks.SinkExample(
                    index=i,
                    caption=f"scene {i}" if vision else DAY_PROMPTS[i],
                    text=None if vision else DAY_PROMPTS[i],
                    offset=at,
                    length=len(data),
                    width=72,
                    height=72,
                )
            )
            blobs.append(data)
            at += len(data)
        return Response(frame.pack(sinks.SinkExamples(examples=made).model_dump(), blobs), media_type=frame.MEDIA_TYPE)

    def told(job: dict) -> jobs.JobInfo:
        seconds = time.monotonic() - job["began"]
        progress = min(1.0, seconds / 4)
        state = "cancelled" if job["cancelled"] else "done" if progress >= 1 else "running"
        return jobs.JobInfo(
            id=job["id"],
            kind="study",
            name=job["name"],
            state=state,
            progress=progress,
            seconds=seconds,
            message=f"seed 0, {int(progress * 240)} of 240 pictures",
        )

    @app.post("/v1/jobs")
    async def start(request: jobs.JobRequest) -> jobs.JobInfo:
        job = {"id": f"job-{len(running)}", "name": request.name, "began": time.monotonic(), "cancelled": False}
        running[job["id"]] = job
        return told(job)

    @app.get("/v1/jobs")
    async def every_job() -> list[jobs.JobInfo]:
        return [told(j) for j in running.values()]

    @app.get("/v1/jobs/{name}")
    async def one_job(name: str) -> jobs.JobInfo:
        if name not in running:
            raise Wrong(404, "NotFound", f"The job {name} was asked for.", "There is no such job.", "Start it again.")
        return told(running[name])

    @app.get("/v1/jobs/{name}/events")
    async def events(name: str, request: Request) -> StreamingResponse:
        if name not in running:
            raise Wrong(404, "NotFound", f"The job {name} was asked for.", "There is no such job.", "Start it again.")
        first = int(request.headers.get("last-event-id", "-1")) + 1

        async def stream():
            number = first
            while True:
                job = told(running[name])
                yield f"id: {number}\ndata: {jobs.JobEvent(id=number, job=job).model_dump_json()}\n\n"
                if job.state != "running":
                    return
                number += 1
                await asyncio.sleep(0.3)

        return StreamingResponse(stream(), media_type="text/event-stream")

    @app.delete("/v1/jobs/{name}")
    async def cancel(name: str) -> jobs.JobInfo:
        running[name]["cancelled"] = True
        return told(running[name])

    return app


if __name__ == "__main__":
    import uvicorn

    uvicorn.run(make_app(), host="127.0.0.1", port=int(sys.argv[1]), log_level="warning")
