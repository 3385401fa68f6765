"""Blocks of a featurizer as pictures: which are shown, in which colour and order, and one block in words and plots."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from urllib.parse import quote

import numpy as np

from app.views.charts import bars, number, radial
from app.views.theme import facts as facts_line
from app.views.theme import meter, palette
from backend.wire.blocks import BlockDetail, BlockSummary, CloudHeader

TOPOLOGY = {
    "ring": "#0f7c86", "ring of directions": "#37b24d", "torus": "#6741d9", "sheet": "#c2255c", "line": "#d9822b",
    "point": "#3f7fbf", "none": "#7b8794", "unknown": "#a4adb6",
}  # fmt: skip
"""Colour of each topology on the map."""

AROUND = ("ring", "ring of directions", "torus")
"""Topologies whose coordinate t goes round."""

CYCLIC = ("azimuth", "hue", "yaw", "angle", "orientation", "phase")


@dataclass(frozen=True)
class Filter:
    """What is asked of a block to be shown."""

    words: str = ""
    topology: str = ""
    factor: str = ""
    least_r2: float = 0.25
    """Held-out R² of ``factor``; without a factor it is not asked."""
    least_rank: float = 1.0
    firing: tuple[float, float] = (0.0, 1.0)


def best_factor(block: BlockSummary) -> tuple[str, float]:
    """The known factor that is read best from a block, and its held-out R²; ``("", 0)`` without factors."""
    if not block.factors:
        return "", 0.0
    name = max(block.factors, key=lambda k: block.factors[k])
    return name, block.factors[name]


def passes(block: BlockSummary, wanted: Filter) -> bool:
    """Whether a block is shown. Each word must stand in its label, number, topology, manifold or best factor."""
    if wanted.topology and block.topology != wanted.topology:
        return False
    if wanted.factor and block.factors.get(wanted.factor, 0.0) < wanted.least_r2:
        return False
    if block.stable_rank < wanted.least_rank or not wanted.firing[0] <= block.firing_rate <= wanted.firing[1]:
        return False
    text = f"{block.label} block {block.index} {block.topology} {block.manifold or ''} {best_factor(block)[0]}".replace(
        "_", " "
    ).lower()
    return all(_found(word, text) for word in wanted.words.lower().replace("_", " ").split())


def _found(word: str, text: str) -> bool:
    # A number is a block's index, not a part of one: "17" is not block 170.
    return word in text.split() if word.isdigit() else word in text


def ordered(blocks: Sequence[BlockSummary], factor: str = "") -> list[BlockSummary]:
    """Steerable blocks first, then those that explain ``factor`` (or any known factor) best."""
    return sorted(
        blocks,
        key=lambda b: (b.manifold is None, -(b.factors.get(factor, 0.0) if factor else best_factor(b)[1]), b.index),
    )


def first_choice(blocks: Sequence[BlockSummary]) -> int | None:
    """The block to open when none was asked for: steerable, else a ring, else the one that explains most."""
    found = sorted(blocks, key=lambda b: (b.manifold is None, b.topology != "ring", -best_factor(b)[1]))
    return found[0].index if found else None


def map_data(blocks: Sequence[BlockSummary]) -> dict:
    """Arrays of the map: places, sizes by firing rate, colours by topology, and tips."""
    kinds = [k for k in TOPOLOGY if any(b.topology == k for b in blocks)]
    rate = np.array([max(b.firing_rate, 1e-6) for b in blocks] or [1.0])
    # Area follows the square root of the firing rate: rates span decades.
    radius = 2.2 + 6.0 * np.sqrt(rate / rate.max())
    return {
        "xy": np.array([b.xy for b in blocks], "<f4").reshape(-1, 2).tobytes(),
        "size": np.clip(radius * 4, 6, 255).astype(np.uint8).tobytes()[: len(blocks)],
        "colour_index": np.array(
            [kinds.index(b.topology) if b.topology in kinds else 0 for b in blocks], np.uint8
        ).tobytes(),
        "palette": [TOPOLOGY[k] for k in kinds],
        "labels": [tip(b) for b in blocks],
        "legend": [[k, TOPOLOGY[k]] for k in kinds],
    }


def tip(block: BlockSummary) -> str:
    """Two lines for the map's tip."""
    name, r2 = best_factor(block)
    told = f"\n{name.replace('_', ' ')} R² {r2:.2f}" if name else ""
    own = "" if block.label == f"block {block.index}" else f"block {block.index}: "
    return f"{own}{block.label}\nfires {percent(block.firing_rate)}, rank {block.stable_rank:.1f}{told}"


def rows(blocks: Sequence[BlockSummary], factor: str = "", *, most: int = 60) -> list[dict]:
    """Entries of the list beside the map."""
    out = []
    for b in ordered(blocks, factor)[:most]:
        name, r2 = (factor, b.factors.get(factor, 0.0)) if factor else best_factor(b)
        own = f"{b.index}" if b.label == f"block {b.index}" else f"{b.index} · {b.label}"
        out.append(
            {
                "key": b.index,
                "title": own + (" · steerable" if b.manifold else ""),
                "colour": TOPOLOGY.get(b.topology, "#888"),
                "note": f"{name.replace('_', ' ')} {r2:.2f}" if name else b.topology,
                "share": r2,
            }
        )
    return out


def percent(share: float) -> str:
    """A share in percent with as many digits as it needs."""
    return f"{100 * share:.2f} %" if share < 0.01 else f"{100 * share:.1f} %"


def facts(block: BlockSummary) -> str:
    """The block's numbers in one line."""
    told = [
        (percent(block.firing_rate), "of positions fire"), (percent(block.energy), "of the energy"),
        (f"{block.stable_rank:.2f}", "stable rank"), (f"{block.participation_ratio:.2f}", "participation ratio"),
        (f"{block.effective_rank:.2f}", "effective rank"), (block.topology, "topology"),
    ]  # fmt: skip
    if isinstance(block, BlockDetail) and block.confidence is not None:
        told.append((f"{block.confidence:.2f}", "confidence"))
    if isinstance(block, BlockDetail) and block.antipodal is not None:
        told.append((f"{block.antipodal:.2f}", "mirror likeness"))
    return facts_line(told)


def factor_lines(block: BlockSummary) -> str:
    """Held-out R² of each known factor, as small bars."""
    best_first = sorted(block.factors.items(), key=lambda kv: -kv[1])
    return "".join(meter(name.replace("_", " "), r2, f"{r2:.2f}") for name, r2 in best_first)


def spectrum(block: BlockDetail) -> str:
    """Eigenvalues of the code's covariance as shares of their sum."""
    whole = sum(block.spectrum) or 1.0
    return bars([v / whole for v in block.spectrum], names=[str(i + 1) for i in range(len(block.spectrum))],
                label="Share of the code's variance on each principal axis")  # fmt: skip


def tuning(block: BlockDetail) -> str:
    """How strongly the block fires around each cyclic factor."""
    if not block.tuning:
        return '<div class="atlas-quiet">No cyclic factor of this world is known.</div>'
    ring = palette("ring")
    made = [radial(values, ring, title=name.replace("_", " ")) for name, values in block.tuning.items() if values]
    return f'<div class="atlas-radials">{"".join(made)}</div>'


def cyclic(name: str, block: BlockSummary) -> bool:
    """Whether a column of the cloud goes around: t on a ring, or a factor whose name says so."""
    return block.topology in AROUND if name == "t" else any(word in name for word in CYCLIC)


def read_cloud(header: CloudHeader, body: bytes | memoryview) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Positions ``(n, 3)`` and columns ``(n,)``, float32; raises ``ValueError`` where the body is too short."""
    need = 2 * header.n * (3 + len(header.columns))
    if len(body) < need:
        raise ValueError("A cloud was cut short: it has fewer bytes than its header says. Ask the server again.")
    halves = np.frombuffer(bytes(body[:need]), "<f2").astype(np.float32)
    xyz, rest = halves[: 3 * header.n].reshape(-1, 3), halves[3 * header.n :]
    return xyz, {name: rest[i * header.n : (i + 1) * header.n] for i, name in enumerate(header.columns)}


def colour_index(values: np.ndarray, *, around: bool, name: str, n: int = 72) -> np.ndarray:
    """Place of each value in ``n`` colours: angles modulo a turn, others between their 2nd and 98th percentile."""
    if around:
        turn = 1.0 if name == "t" else 2 * math.pi
        return (np.mod(values / turn, 1.0) * n).astype(np.int64).clip(0, n - 1).astype(np.uint8)
    lo, hi = np.percentile(values, [2, 98]) if len(values) else (0.0, 1.0)
    return ((values - lo) / max(hi - lo, 1e-9) * n).clip(0, n - 1).astype(np.uint8)


def example_items(block: BlockDetail) -> list[dict]:
    """Example pictures for the lanes; the tip tells band, strength and true factors."""
    out = []
    for e in block.examples:
        known = ", ".join(f"{k.replace('_', ' ')} {number(v, digits=2)}" for k, v in list(e.factors.items())[:6])
        out.append(
            {
                "offset": e.offset,
                "length": e.length,
                "t": e.t,
                "band": e.band,
                "heat": e.heat,
                "title": "\n".join(x for x in (e.caption, f"t {e.t:.2f}, strength {e.strength:.2f}", known) if x),
            }
        )
    return out


def lanes(block: BlockDetail, n: int = 8) -> tuple[list[str], list[str]]:
    """Names and colours of ``n`` parts of the coordinate: degrees on a ring, shares elsewhere."""
    around = block.topology in AROUND
    colours = palette("ring" if around else "line")
    named = [f"{360 * i / n:.0f}°" if around else f"{i / n:.2f}" for i in range(n)]
    return named, [colours[int((i + 0.5) * len(colours) / n)] for i in range(n)]


def title(block: BlockDetail, *, steer: str | None) -> str:
    """A block's name, the way to steer it where there is one (``steer`` is its address), its numbers and findings."""
    own = f"Block {block.index}" if block.label == f"block {block.index}" else f"Block {block.index}: {block.label}"
    button = f'<a class="atlas-button" href="{steer}">Steer it</a>' if steer else ""
    mirror = ""
    if block.antipodal is not None and block.antipodal > 0.6 and block.topology == "ring":
        mirror = (
            '<div class="atlas-quiet">The cloud is much like its mirror image: '
            "this ring may be an artefact of signs.</div>"
        )
    links = " ".join(
        f'<a class="atlas-chip" href="/catalogue?query={quote(f)}#{quote(f)}">{escape(f)}</a>' for f in block.findings
    )
    return (
        f'<div class="atlas-split"><h1 class="atlas-h1">{escape(own)}</h1>{button}</div>'
        f'<div style="height:12px"></div>{facts(block)}{mirror}<div style="margin-top:12px">{links}</div>'
    )
