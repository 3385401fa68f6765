"""Blocks of a featurizer as pictures: which are shown, in which colour and order, and one block in words and plots."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from urllib.parse import quote

import numpy as np

from app.views.charts import bars, number
from app.views.findings import with_unit
from app.views.theme import facts as facts_line
from app.views.theme import meter, palette
from app.views.tuning import number_of_bits
from backend.wire.blocks import BlockDetail, BlockList, BlockMatch, BlockMatches, BlockSummary, CloudHeader, Union

TOPOLOGY = {
    "ring": "#0f7c86", "ring of directions": "#37b24d", "torus": "#6741d9", "sheet": "#c2255c", "line": "#d9822b",
    "point": "#3f7fbf", "none": "#7b8794", "unknown": "#a4adb6",
}  # fmt: skip
"""Colour of each topology on the map."""

AROUND = ("ring", "ring of directions", "torus")
"""Topologies whose coordinate t goes round."""

ARRANGEMENTS = {"UMAP of co-activation": "", "co-activation graph": "graph", "rank × firing rate": "axes"}
"""How the map may stand; the values are what the address holds."""

PAINTS = {"topology": "", "best factor": "factor", "stable rank": "rank", "bits": "bits", "energy": "energy"}
"""What the colours of the map may mean."""

FACTORS = ("#0f7c86", "#d9822b", "#6741d9", "#c2255c", "#37b24d", "#3f7fbf", "#a0522d", "#b8860b", "#5c940d", "#862e9c",
           "#495057", "#e8590c")  # fmt: skip
"""Colours of factors on the map, by their place in the featurizer's list."""

DIRECTION = "direction"
"""The colouring of a cloud by the angle of each code in the plane of the first two axes."""

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
    among: frozenset[int] | None = None
    """Only these: the blocks of a union."""


def best_factor(block: BlockSummary) -> tuple[str, float]:
    """The known factor that is read best from a block, and its held-out R²; ``("", 0)`` without factors."""
    if not block.factors:
        return "", 0.0
    name = max(block.factors, key=lambda k: block.factors[k])
    return name, block.factors[name]


def passes(block: BlockSummary, wanted: Filter) -> bool:
    """Whether a block is shown. Each word must stand in its label, number, topology, manifold or best factor."""
    if wanted.among is not None and block.index not in wanted.among:
        return False
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


def map_data(found: BlockList, *, paint: str = "") -> dict:
    """What the map shows however it is arranged: sizes by firing rate, colours, tips and edges."""
    blocks = found.blocks
    rate = np.array([max(b.firing_rate, 1e-6) for b in blocks] or [1.0])
    # Area follows the square root of the firing rate: rates span decades.
    radius = 2.2 + 6.0 * np.sqrt(rate / rate.max())
    here = {b.index: i for i, b in enumerate(blocks)}
    edges = [(here[i], here[j], w) for i, j, w in found.edges if i in here and j in here]
    return {
        "size": np.clip(radius * 4, 6, 255).astype(np.uint8).tobytes()[: len(blocks)],
        "labels": [tip(b) for b in blocks],
        "edges": np.array([e[:2] for e in edges], "<i4").tobytes(),
        "weights": np.array([e[2] for e in edges], "<f4").tobytes(), **painted(found, paint),
    }  # fmt: skip


def painted(found: BlockList, paint: str) -> dict:
    """Colours of the map: by topology, by the factor held best, or along a scale of one number."""
    blocks = found.blocks
    if paint in ("rank", "bits", "energy"):
        number_of = {"rank": lambda b: b.stable_rank, "bits": lambda b: b.bits or 0.0,
                     "energy": lambda b: math.log10(max(b.energy, 1e-9))}[paint]  # fmt: skip
        values = np.array([number_of(b) for b in blocks] or [0.0])
        lo, hi = np.percentile(values, [2, 98])
        place = ((values - lo) / max(hi - lo, 1e-9) * 24).clip(0, 23).astype(np.uint8)
        told = [f"{100 * 10**v:.2g} %" if paint == "energy" else f"{v:.1f}" for v in (lo, hi)]
        words = {"rank": "rank", "bits": "bits", "energy": "energy"}[paint]
        return {"palette": palette("line", 24), "colour_index": place.tobytes()[: len(blocks)], "legend": [],
                "scale": [f"{words} {told[0]}", told[1]]}  # fmt: skip
    if paint == "factor":
        held = [best_factor(b) for b in blocks]
        there = [f for f in found.factors if any(name == f and r2 >= 0.25 for name, r2 in held)]
        colours = [FACTORS[found.factors.index(f) % len(FACTORS)] for f in there] + [TOPOLOGY["unknown"]]
        place = [there.index(name) if name in there and r2 >= 0.25 else len(there) for name, r2 in held]
        names = [f.replace("_", " ") for f in there] + ["none above R² 0.25"]
        return {"palette": colours, "colour_index": bytes(place), "scale": [],
                "legend": [[n, c] for n, c in zip(names, colours)]}  # fmt: skip
    kinds = [k for k in TOPOLOGY if any(b.topology == k for b in blocks)]
    place = [kinds.index(b.topology) if b.topology in kinds else 0 for b in blocks]
    return {"palette": [TOPOLOGY[k] for k in kinds], "colour_index": bytes(place), "scale": [],
            "legend": [[k, TOPOLOGY[k]] for k in kinds]}  # fmt: skip


def arranged(blocks: Sequence[BlockSummary], arrangement: str) -> dict:
    """Places of the map's points; ``axes`` where they mean something."""
    axes: list = []
    if arrangement == "axes":
        places = [(math.log10(max(b.firing_rate, 1e-6)), b.stable_rank) for b in blocks]
        top = max((p[1] for p in places), default=2.0)
        decades = [(v, f"{100 * 10.0**v:g} %") for v in range(-6, 1)]
        axes = [["fires on", decades], ["stable rank", [(1 + i / 2, f"{1 + i / 2:g}") for i in range(int(2 * top))]]]
    elif arrangement == "graph":
        places = [b.graph_xy or b.xy for b in blocks]
    else:
        places = [b.xy for b in blocks]
    return {"xy": np.array(places, "<f4").reshape(-1, 2).tobytes(), "axes": axes, "joined": arrangement == "graph"}


def tip(block: BlockSummary) -> str:
    """Two lines for the map's tip."""
    name, r2 = best_factor(block)
    told = f"\n{name.replace('_', ' ')} R² {r2:.2f}" if name else ""
    own = "" if block.label == f"block {block.index}" else f"block {block.index}: "
    return f"{own}{block.label}\nfires {percent(block.firing_rate)}, rank {block.stable_rank:.1f}{told}"


def overlapping(near: Sequence[BlockSummary], block: BlockDetail) -> list[dict]:
    """Entries of the neighbours, by how often they fire where the block does."""
    known = dict(zip(block.neighbours, block.overlap))
    if not known:
        return rows(near, most=8)
    entries = {r["key"]: r for r in rows(near, most=len(near))}
    return [entries[b.index] | {"note": f"{100 * known[b.index]:.0f} % overlap", "share": known[b.index]}
            for b in sorted(near, key=lambda b: -known.get(b.index, 0.0))[:8] if b.index in known]  # fmt: skip


def matched(blocks: Sequence[BlockSummary], matches: Sequence[BlockMatch]) -> list[dict]:
    """Entries of the list where it answers one's own input: strongest first, with how unusual each is."""
    known, top = {b.index: b for b in blocks}, max((m.score for m in matches), default=1.0)
    out = []
    for m in (m for m in matches if m.block in known):
        b = known[m.block]
        (row,) = rows([b])
        usual = f"{m.lift:.1f} × its usual" if m.lift else f"{100 * m.share:.1f} %"
        out.append(row | {"note": usual, "share": m.score / top})
    return out


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
    if isinstance(block, BlockDetail) and block.bits is not None:
        told.insert(2, (number_of_bits(block), "bits a firing"))
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


def cyclic(name: str, block: BlockSummary) -> bool:
    """Whether a column of the cloud goes around: t on a ring, a direction, or a factor whose name says so."""
    if name == DIRECTION:
        return True
    return block.topology in AROUND if name == "t" else any(word in name for word in CYCLIC)


def read_cloud(header: CloudHeader, body: bytes | memoryview) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Positions ``(n, 3)`` and columns ``(n,)``, float32; raises ``ValueError`` where the body is too short."""
    need = 2 * header.n * (3 + len(header.columns))
    if len(body) < need:
        raise ValueError("A cloud was cut short: it has fewer bytes than its header says. Ask the server again.")
    halves = np.frombuffer(bytes(body[:need]), "<f2").astype(np.float32)
    xyz, rest = halves[: 3 * header.n].reshape(-1, 3), halves[3 * header.n :]
    return xyz, {name: rest[i * header.n : (i + 1) * header.n] for i, name in enumerate(header.columns)}


def direction(xyz: np.ndarray) -> np.ndarray:
    """Angle ``(n,)`` in radians of each point ``(n, 3)`` in the plane of its first two axes."""
    return np.arctan2(xyz[:, 1], xyz[:, 0])


def arrows(block: BlockDetail, colours: Sequence[str]) -> list[dict]:
    """The b = 1 atoms as directions inside the cloud, from where its codes are zero."""
    start = list(block.origin or (0.0, 0.0, 0.0))
    return [{"from": start, "to": [a + b for a, b in zip(start, atom.arrow)], "colour": colours[i % len(colours)],
             "name": str(atom.atom)} for i, atom in enumerate(block.atoms)]  # fmt: skip


def together(block: BlockDetail, featurizer: str) -> str:
    """The unions a block belongs to: what it holds with the others, and what it holds alone."""
    if not block.unions:
        return ('<div class="atlas-quiet">It belongs to no union that holds a factor together. Unions are named on '
                "the featurizer's card.</div>")  # fmt: skip
    return "".join(_together(block, union, featurizer) for union in block.unions)


def _together(block: BlockDetail, union: Union, featurizer: str) -> str:
    name, alone = union.factor.replace("_", " "), block.factors.get(union.factor, 0.0)
    links = ", ".join(
        f'<a class="atlas-link" href="/explore?featurizer={quote(featurizer)}&block={b}&union={quote(union.factor)}">'
        f"{b}</a>" for b in union.blocks if b != block.index
    )  # fmt: skip
    whole = meter("all blocks of the featurizer", union.all, f"{union.all:.2f}", "#7b8794") if union.all else ""
    return (
        f'<div class="atlas-said">Together with blocks {links} it holds <b>{escape(name)}</b> '
        f"<b>{union.r2:.2f}</b> (alone {alone:.2f}).</div>"
        f'{meter("alone", alone, f"{alone:.2f}")}{meter("together", union.r2, f"{union.r2:.2f}", "#d9622b")}{whole}'
    )


def about(block: BlockDetail) -> str:
    """The findings that name the block, as sentences with their values; what to run where there is none."""
    if not block.measured:
        run = (f" Measure it with <code>manifold-atlas study {escape(block.manifold)}</code>." if block.manifold else
               " A block gets findings when its manifold is steered or a study names it.")  # fmt: skip
        return f'<div class="atlas-quiet">No finding names this block yet.{run}</div>'
    made = []
    for f in block.measured:
        between = f" ({number(f.low)} to {number(f.high)})" if f.low is not None and f.high is not None else ""
        made.append(
            f'<a class="atlas-found" href="/catalogue?query={quote(f.id)}#{quote(f.id)}"><span>{escape(f.claim)}</span>'
            f"<b>{escape(with_unit(f.value, f.unit))}</b><small>{escape(f.status)}{escape(between)}</small></a>"
        )
    return "".join(made)


def colour_index(values: np.ndarray, *, around: bool, name: str, n: int = 72) -> np.ndarray:
    """Place of each value in ``n`` colours: angles modulo a turn, others between their 2nd and 98th percentile."""
    if around:
        turn = 1.0 if name == "t" else 2 * math.pi
        return (np.mod(values / turn, 1.0) * n).astype(np.int64).clip(0, n - 1).astype(np.uint8)
    lo, hi = np.percentile(values, [2, 98]) if len(values) else (0.0, 1.0)
    return ((values - lo) / max(hi - lo, 1e-9) * n).clip(0, n - 1).astype(np.uint8)


def colour_scale(values: np.ndarray, *, around: bool, name: str) -> str:
    """The colours of a cloud as a bar between the values they mean."""
    kind = "ring" if around else "line"
    lo, hi = (0.0, 1.0) if name == "t" else np.percentile(values, [2, 98]) if len(values) else (0.0, 1.0)
    ends = ("0°", "360°") if around else (number(float(lo), digits=2), number(float(hi), digits=2))
    gradient = ", ".join(palette(kind, 24))
    return (f'<div class="atlas-scale"><span>{ends[0]}</span><i style="background:linear-gradient(90deg,{gradient})">'
            f"</i><span>{ends[1]}</span></div>")  # fmt: skip


def seen(found: BlockMatches, block: int) -> str:
    """What was read of one's own input, and where in it a block fires."""
    match = next((m for m in found.matches if m.block == block), None)
    took = sum(found.timing_ms.values())
    said = f"{escape(found.note)} {len(found.matches)} blocks, {took:.0f} ms."
    where = ""
    if match is not None and found.picture:
        where = f" The squares show where block {block} fires." if match.heat else ""
    elif found.picture and found.matches:
        where = f" Block {block} is silent on it."
    picture = f'<div class="pic"><img alt="what was read" src="{escape(found.picture)}">{_squares(match)}</div>' if (
        found.picture) else ""  # fmt: skip
    words = ""
    if match is not None and match.heat and found.tokens:
        shades = zip(found.tokens, match.heat[0])
        words = "".join(
            f'<span style="background:color-mix(in srgb, #d9622b {70 * v:.0f}%, transparent)">{escape(token)}</span>'
            for token, v in shades
        )
        words = f'<div class="atlas-story" style="white-space:pre-wrap">{words}</div>'
    return f'<div class="atlas-seen">{picture}<div><div class="atlas-quiet">{said}{where}</div>{words}</div></div>'


def _squares(match: BlockMatch | None) -> str:
    if match is None or not match.heat:
        return ""
    h, w = len(match.heat), len(match.heat[0])
    cells = "".join(
        f'<rect x="{x}" y="{y}" width="1" height="1" fill="#ff9a28" opacity="{0.8 * v:.2f}"/>'
        for y, line in enumerate(match.heat) for x, v in enumerate(line) if v > 0
    )  # fmt: skip
    return f'<svg viewBox="0 0 {w} {h}" preserveAspectRatio="none" aria-hidden="true">{cells}</svg>'


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
                "turn": e.turn,
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
    """A block's name, the way to steer it where there is one (``steer`` is its address), and its numbers."""
    own = f"Block {block.index}" if block.label == f"block {block.index}" else f"Block {block.index}: {block.label}"
    button = f'<a class="atlas-button" href="{steer}">Steer it</a>' if steer else ""
    mirror = ""
    if block.antipodal is not None and block.antipodal > 0.6 and block.topology == "ring":
        mirror = (
            '<div class="atlas-quiet">The cloud is much like its mirror image: '
            "this ring may be an artefact of signs.</div>"
        )
    return (
        f'<div class="atlas-split"><h1 class="atlas-h1">{escape(own)}</h1>{button}</div>'
        f'<div style="height:12px"></div>{facts(block)}{mirror}'
    )
