"""Routes of blocks: the list, one block with its examples, and its cloud."""

from __future__ import annotations

import base64
import functools
import math

import numpy as np
from fastapi import FastAPI
from fastapi.responses import Response

from backend.wire import blocks, frame
from backend.wire.findings import Finding

from .held import Wrong, featurizers
from .life import Life
from .pictures import encode, picture


@functools.cache
def summaries(name: str) -> list[blocks.BlockSummary]:
    n = next((f.n_blocks for f in featurizers() if f.name == name), 0)
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
                graph_xy=(-xy[1], xy[0] / 2),
                bits=float(2 + 9 * rng.beta(2, 3)),
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


def unions(name: str) -> list[blocks.Union]:
    if "sdxl" not in name:
        return []
    return [blocks.Union(factor="light_azimuth", blocks=[17, 41, 90], r2=0.97, single=0.93, all=0.98)]


def atoms() -> list[blocks.Atom]:
    """Six atoms, each on its own wedge of the ring."""
    made = []
    for i in range(6):
        a = 2 * math.pi * (i + 0.5) / 6
        near = np.cos(2 * np.pi * (np.arange(24) + 0.5) / 24 - a).clip(0) ** 4
        made.append(
            blocks.Atom(atom=40 + i, arrow=(math.cos(a), math.sin(a), 0.1), inside=0.9, share=0.16, firing_rate=0.3,
                        along=near.round(3).tolist())
        )  # fmt: skip
    return made


def held_finding() -> Finding:
    return Finding(
        id="light-ring/median-error-deg", claim="The light lands where it is sent.", value=9.4, low=8.1, high=11.2,
        n=600, unit="°", status="holds", model="tabletop-sdxl",
    )  # fmt: skip


def routes(app: FastAPI, life: Life) -> None:
    """Add the routes of this family."""

    @app.get("/v1/featurizers/{name}/blocks")
    async def block_list(name: str) -> blocks.BlockList:
        if not summaries(name):
            raise Wrong(
                404,
                "NotFound",
                f"The featurizer {name} was asked for.",
                "There is no such featurizer.",
                "Choose one of the list.",
            )
        n = len(summaries(name))
        return blocks.BlockList(
            featurizer=name, blocks=summaries(name), factors=["light_azimuth", "hue", "size", "x", "shape"],
            edges=[(i, i + 7, 0.4) for i in range(n - 7)], unions=unions(name),
        )  # fmt: skip

    @app.post("/v1/featurizers/{name}/search")
    async def search(name: str, body: blocks.BlockSearch) -> blocks.BlockMatches:
        vision = "dino" in name
        if vision and body.text:
            raise Wrong(422, "Invalid", "A text was sent.", "'tabletop-dino' looks at pictures.", "Choose a picture.")
        if not body.text and not body.image:
            raise Wrong(422, "Invalid", "Own input was asked for.", "Nothing was sent.", "Write a text.")
        first = sum(map(ord, body.text or body.image or "")) % len(summaries(name))
        listed = [(first + 31 * i) % len(summaries(name)) for i in range(20)]
        heat = [[0.0] * 8 for _ in range(7)] + [[1.0] * 8]
        return blocks.BlockMatches(
            featurizer=name, positions=64, note="Read at 64 patches.", timing_ms={"model": 12.0, "encode": 1.0},
            picture="data:image/webp;base64," + base64.b64encode(encode(picture(0.2, hue=0.3, size=96))).decode(),
            matches=[blocks.BlockMatch(block=b, score=9.0 / (i + 1), share=0.3 / (i + 1), lift=4.0 / (i + 1),
                                       heat=heat if i < 12 else []) for i, b in enumerate(listed)],
        )  # fmt: skip

    @app.get("/v1/featurizers/{name}/blocks/{index}")
    async def block_detail(name: str, index: int) -> Response:
        if not 0 <= index < len(summaries(name)):
            raise Wrong(
                404,
                "NotFound",
                f"Block {index} of {name} was asked for.",
                f"It has {len(summaries(name))} blocks.",
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
                        turn=(np.add.outer(np.arange(8), np.arange(8)) / 16 % 1).round(3).tolist(),
                        caption="a red sphere on a table",
                        factors={"light_azimuth": 2 * math.pi * t},
                    )
                )
                blobs.append(data)
                at += len(data)
        around = 2 * np.pi * np.arange(16) / 16
        detail = blocks.BlockDetail(
            **summaries(name)[index].model_dump(),
            featurizer=name,
            spectrum=[1.0, 0.82, 0.09, 0.03],
            axes_variance=[0.52, 0.42, 0.05],
            antipodal=0.12,
            tuning={"light_azimuth": (1 + np.cos(around - 1)).tolist(), "hue": (1 + 0.1 * np.cos(around)).tolist()},
            neighbours=[3, 41, 90, 200],
            overlap=[0.3, 0.5, 0.1, 0.05],
            origin=(0.0, 0.0, 0.0),
            harmonics={"light_azimuth": [0.61, 0.08, 0.004, 0.002], "hue": [0.001, 0.002, 0.001, 0.0]},
            harmonic_floor=0.006,
            strengths=[3 + i * (23 - i) for i in range(24)],
            bands={"top": 0.93, "p75": 0.62, "p50": 0.48, "p10": 0.2},
            unions=[u for u in unions(name) if index in u.blocks],
            atoms=atoms() if index == 17 else [],
            atoms_from="2,048 directions, 32 active" if index < 100 else "",
            atoms_command="manifold-atlas train tabletop-blocks sdxl --atoms",
            examples=examples,
            findings=["light-ring/median-error-deg"] if index == 17 else [],
            measured=[held_finding()] if index == 17 else [],
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
