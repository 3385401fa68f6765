"""Routes of language: von Mises answers on a ring of weekdays, paths, curves and a canned continuation."""

from __future__ import annotations

import asyncio
import json
import math

import numpy as np
from fastapi import FastAPI
from fastapi.responses import Response, StreamingResponse

from backend.wire import capabilities, text

from .held import DAYS, Wrong, found
from .life import Life


def circular(p: np.ndarray) -> float:
    n = len(p)
    return float(np.angle((p * np.exp(2j * np.pi * np.arange(n) / n)).sum()) / (2 * np.pi) % 1)


def answers(info: capabilities.ManifoldInfo, t: float, arm: str, strength: float) -> tuple[np.ndarray, float]:
    n = len(info.ticks)
    gap = np.abs(np.arange(n) / n - t)
    gap = np.minimum(gap, 1 - gap) if info.kind == "ring" else gap
    sharp = {"off": 60, "manifold": 50 * strength, "chord": 12, "chord_subspace": 16, "random": 2}[arm] * (n / 7) ** 2
    other = {"off": 0.02, "manifold": 0.03, "chord": 0.34, "chord_subspace": 0.22, "random": 0.7}[arm]
    p = np.exp(-sharp * gap**2)
    return p / p.sum() * (1 - other), other


def xyz(t: float, arm: str, kind: str) -> tuple[float, float, float]:
    r = {"off": 1.0, "manifold": 1.0, "chord": 0.55, "chord_subspace": 0.7, "random": 0.2}[arm]
    if kind != "ring":
        return (2 * t - 1, r * math.sin(3 * t), 0.3 * t)
    return (r * math.cos(2 * math.pi * t), r * math.sin(2 * math.pi * t), 0.2 * math.sin(4 * math.pi * t))


def routes(app: FastAPI, life: Life) -> None:
    """Add the routes of this family."""

    def distribution(info, arm: str, t: float, own: float, strength: float) -> text.ArmDistribution:
        p, other = answers(info, own if arm == "off" else t, arm, strength)
        place = own if arm == "off" else t
        order = np.argsort(-p)[:3]
        return text.ArmDistribution(
            arm=arm,
            classes=p.tolist(),
            other=other,
            top=[(info.ticks[i].label, float(p[i])) for i in order],
            landed=circular(p) if info.kind == "ring" else float((p * np.linspace(0, 1, len(p))).sum() / p.sum()),
            energy=other / 2,
            coherence=1 - other,
            activation_xyz=xyz(place, arm, info.kind),
            behaviour_xyz=xyz(place, arm, info.kind),
        )

    def own_place(info, prompt: str) -> float:
        return (len(prompt) % len(info.ticks)) / len(info.ticks)

    @app.put("/v1/text/{name}")
    async def put_text(name: str, request: text.TextCanvasRequest) -> Response:
        info = found(request.manifold)
        life.newest[name] = max(life.newest.get(name, -1), request.seq)
        await asyncio.sleep(life.delay / 3)
        if life.newest[name] > request.seq:
            return Response(status_code=204, headers={"X-Atlas-Superseded-By": str(life.newest[name])})
        own = own_place(info, request.prompt)
        made = text.TextFrame(
            seq=request.seq, model=request.model, prompt=request.prompt, manifold=info.name, t=request.t,
            t_from=request.t_from if request.t_from is not None else own, labels=[k.label for k in info.ticks],
            arms=[distribution(info, a, request.t, own, request.strength) for a in request.arms],
            timing_ms={"queue": 0.4, "forward": life.delay * 300, "project": 0.3},
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
        points = np.array([xyz(v, "manifold", info.kind) for v in t]) + rng.normal(0, 0.06, (600, 3))
        return text.ManifoldCurves(
            name=name,
            labels=[k.label for k in info.ticks],
            label_t=[k.t for k in info.ticks],
            activation_curve=[xyz(v, "manifold", info.kind) for v in ts],
            behaviour_curve=[xyz(v, "manifold", info.kind) for v in ts],
            activation_centroids=[xyz(k.t, "manifold", info.kind) for k in info.ticks],
            activation_variance=[0.5, 0.3, 0.1],
            behaviour_centroids=[xyz(k.t, "manifold", info.kind) for k in info.ticks],
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
