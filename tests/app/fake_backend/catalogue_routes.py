"""Routes of what is there: health, capabilities, and the catalogue with its findings and cards."""

from __future__ import annotations

import time

from fastapi import FastAPI

from backend.wire import capabilities, findings

from .held import featurizers, manifolds, models
from .life import Life


def _finding(**kw) -> findings.Finding:
    return findings.Finding(**{"seeds": [0], "measured": "2025-11-22", **kw})


def all_findings() -> list[findings.Finding]:
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


GATES = {
    "tabletop-sdxl": [
        {"name": "shape is read", "value": 0.94, "aim": 0.9, "passed": True},
        {"name": "colour, median error °", "value": 11.0, "aim": 10.0, "passed": False},
    ],
    "tabletop-sdxl-mid": [{"name": "R²", "value": 0.934, "aim": 0.9, "passed": True}],
}
"""What some of the things that are held had to reach."""


def all_cards() -> list[findings.Card]:
    """A card of everything that is held, and of the world it was made from."""

    def card(kind: str, info, facts: dict) -> findings.Card:
        return findings.Card(name=info.name, kind=kind, title=info.title, summary=info.description, facts=facts,
                             gates=GATES.get(info.name, []))  # fmt: skip

    world = findings.Card(
        name="tabletop", kind="dataset", title="Tabletop world", summary="Scenes with known factors.",
        facts={"factors": 8},
    )  # fmt: skip
    return [
        *(card("model", m, {"parameters": m.n_parameters}) for m in models()),
        world,
        *(card("featurizer", f, {"R²": f.r2, "k": f.k}) for f in featurizers()),
        *(card("manifold", m, {}) for m in manifolds()),
    ]


def routes(app: FastAPI, life: Life) -> None:
    """Add the routes of this family."""

    @app.get("/v1/health")
    async def health() -> capabilities.Health:
        return capabilities.Health(status="ready", device="cpu", version="0", uptime_s=time.monotonic() - life.began)

    @app.get("/v1/capabilities")
    async def caps() -> capabilities.Capabilities:
        return capabilities.Capabilities(
            version="0", device="cpu", models=models(), manifolds=manifolds(), featurizers=featurizers()
        )

    @app.get("/v1/catalogue")
    async def catalogue() -> findings.Catalogue:
        return findings.Catalogue(
            cards=all_cards(), findings=all_findings(), skipped=["findings/torn.json: not JSON"]
        )
