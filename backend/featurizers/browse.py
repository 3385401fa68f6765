"""An atlas of blocks on disk: what a page shows of every block of a featurizer, made once and read in milliseconds.

A folder ``assets/featurizers/NAME`` holds the featurizer itself and

    browse.json          summaries, details without pictures, names of factors, offsets of thumbnails
    browse.safetensors   clouds (float16), where each point comes from, examples' maps (uint8), factors; every array
                         holds all blocks one after the other (``start``, ``first``): thousands of blocks open fast
    browse.webp.bin      WebP thumbnails of a pool of pictures, one after the other

Examples of a block are laid along its manifold coordinate in equal bins, and within a bin by activation band (top,
75th, 50th and 10th percentile of the block's strength): a block's strongest pictures alone flatter it. Where no
manifold was decided, t is the rank along the first principal axis, and the topology says so.

Bits of a block are those of its contribution where it fires, at a distortion of 20 % of the variance of the
activation (``description.py``, smooth rate). Reading is ``browser.py``. Not covered: examples of text.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.numpy import save_file
from torch import Tensor

from backend.featurizers import block_graph, statistics, tuning
from backend.featurizers.description import CodeMoments, rate_bits
from backend.featurizers.featurizer import Featurizer

BANDS: dict[str, float] = {"top": 0.985, "p75": 0.75, "p50": 0.5, "p10": 0.1}
"""Activation bands and the percentile of strength, among pictures on which the block fires, that each stands for."""


@dataclass(frozen=True)
class BlockShape:
    """What is decided of a block's cloud: kind, mirror symmetry, and a coordinate where there is one."""

    topology: str
    antipodal: float | None = None
    coordinate: Callable[[np.ndarray], np.ndarray] | None = None
    """Codes ``(n, b)`` to t ``(n,)`` in [0, 1)."""
    reason: str = ""
    confidence: float | None = None
    """How sure a ring is, 0 to 1."""


N_STRENGTHS = 24
"""Bins of the histogram of strengths."""
DISTORTION = 0.2
"""Share of the activation's variance at which bits are counted, the paper's headline."""

PlaceOf = Callable[[np.ndarray], np.ndarray]

ShapeOf = Callable[[int, np.ndarray, np.ndarray], BlockShape]
"""A block, its codes where it fires ``(m, b)``, and on all rows, fired or not ``(N, b)``, to a ``BlockShape``."""


@dataclass(frozen=True)
class Layout:
    """How much of each block is kept."""

    n_bins: int = 8
    n_cloud: int = 500
    n_pool: int = 1200
    """Pictures that may serve as examples."""
    thumbnail: int = 72
    quality: int = 72
    n_rows: int = 40000
    """Rows on which a block's code is looked at whether it fires or not."""
    min_fired: int = 100
    """Blocks that fire on fewer positions are not listed."""


@dataclass(frozen=True)
class Data:
    """What the atlas is made from: raw activations ``x`` (n, T, d), pictures (n, H, W, 3) uint8 and factors (n,)."""

    x: Tensor
    images: np.ndarray
    factors: Mapping[str, np.ndarray]
    cyclic: Sequence[str] = ()
    names: Mapping[str, Sequence[str]] | None = None
    """Factors that are names: the words of their integers."""
    captions: Sequence[str] | None = None


def label_of(index: int, factors: Mapping[str, float], topology: str) -> str:
    """A short, honest name: the factor held best (R² at least 0.5), "partly" below that, else the block's number."""
    if factors:
        best = max(factors, key=lambda name: factors[name])
        ring = " ring" if topology == "ring" else ""
        if factors[best] >= 0.5:
            return best.replace("_", " ") + ring
        if factors[best] >= 0.25:
            return f"partly {best.replace('_', ' ')}{ring}"
    return f"block {index}"


def build_browse(featurizer: Featurizer, data: Data, out: Path, *, shape_of: ShapeOf | None = None,
                 layout: Layout | None = None, manifolds: Mapping[int, str] | None = None,
                 findings: Mapping[int, list[str]] | None = None, place_of: PlaceOf | None = None, seed: int = 0,
                 progress: Callable[[float, str], None] | None = None) -> Path:  # fmt: skip
    """Write the atlas of ``featurizer`` on ``data`` into ``out``; ``manifolds`` names what can be steered, by block.

    ``place_of`` maps the overlap (n, n) of the living blocks to their places on the map, by default UMAP.
    """
    layout, manifolds, findings = layout or Layout(), manifolds or {}, findings or {}
    tell = progress or (lambda fraction, message: None)
    tell(0.0, "codes")
    table = statistics.read_codes(featurizer, data.x)
    stats = statistics.block_statistics(table)
    tell(0.1, "co-activation")
    overlap = statistics.co_activation(table)
    alive = [g for g in range(table.n_blocks) if stats.fired[g] >= layout.min_fired]
    among = overlap[np.ix_(alive, alive)]
    place = np.zeros((0, 2))
    if alive:
        place = place_of(among) if place_of else statistics.block_map(among, seed=seed)
    edges = block_graph.strongest(among)
    graph = block_graph.graph_map(len(alive), edges, seed=seed)
    tell(0.25, "factors")
    names = data.names or {}
    halves = statistics.Halves.draw(table.n, seed=seed)
    features = statistics.pooled(table)
    r2 = statistics.factor_r2(features, data.factors, cyclic=data.cyclic, names=tuple(names), halves=halves)
    width = table.code.shape[-1]
    code, strength = features[:, :, :width], features[:, :, width]
    curves = {c: tuning.tuning_curves(strength, data.factors[c]) for c in data.cyclic}
    turns = {c: tuning.harmonics(code, data.factors[c]) for c in data.cyclic}
    usual = strength.mean(1).numpy()
    del features, code, strength
    # A sample of all rows, fired or not, for the decision on each block's shape.
    some = np.random.default_rng(seed).permutation(table.n)[: max(1, layout.n_rows // table.positions)]
    rows = featurizer.normalise(data.x[some].float()).flatten(0, 1)
    bits = _bits(featurizer, stats, float(rows.double().var(0, unbiased=False).mean()))
    pool = np.sort(np.random.default_rng(seed).permutation(table.n)[: layout.n_pool])
    summaries, details, clouds = [], [], []
    for number, block in enumerate(alive):
        if number % 16 == 0:
            tell(0.35 + 0.6 * number / len(alive), f"block {block}")
        summary, detail, cloud = _block(featurizer, data, rows, table, stats, block, shape_of, layout, pool,
                                        seed)  # fmt: skip
        summary["xy"] = [round(float(v), 4) for v in place[number]]
        summary["graph_xy"] = [round(float(v), 4) for v in graph[number]]
        summary["bits"] = _round(bits[block])
        summary["factors"] = {name: round(float(values[block]), 4) for name, values in r2.items()}
        summary["label"] = label_of(block, summary["factors"], summary["topology"])
        summary["manifold"] = manifolds.get(block)
        detail["neighbours"] = statistics.neighbours(overlap, block)
        detail["overlap"] = [_round(overlap[block, i]) for i in detail["neighbours"]]
        detail["tuning"] = {c: [_round(v) for v in curve[block]] for c, curve in curves.items()}
        detail["harmonics"] = {c: [_round(v) for v in share[block]] for c, share in turns.items()}
        detail["findings"] = findings.get(block, [])
        summaries.append(summary)
        details.append(detail)
        clouds.append(cloud)
    columns = list(data.factors)
    tensors = _packed(clouds)
    tensors["factors"] = np.stack([np.asarray(data.factors[c], np.float32) for c in columns], 1).astype(np.float16)
    out.mkdir(parents=True, exist_ok=True)
    blob, offsets = _thumbnails(data.images, pool, layout)
    (out / "browse.webp.bin").write_bytes(blob)
    save_file({k: np.ascontiguousarray(v) for k, v in tensors.items()}, out / "browse.safetensors")
    about = {
        "format": 2, "blocks": summaries, "details": details, "factors": columns, "cyclic": list(data.cyclic),
        "thumbnails": offsets, "size": layout.thumbnail, "n_pictures": table.n, "positions": table.positions,
        "captions": {str(i): data.captions[i] for i in pool} if data.captions else {},
        "names": {k: list(v) for k, v in names.items()},
        "edges": [[alive[i], alive[j], _round(w)] for i, j, w in edges],
        "harmonic_floor": _round(tuning.harmonic_floor(table.n)), "usual": [_round(usual[g]) for g in alive],
    }  # fmt: skip
    (out / "browse.json").write_text(json.dumps(about, separators=(",", ":")) + "\n")
    tell(1.0, "done")
    return out


def _packed(clouds: list[dict]) -> dict[str, np.ndarray]:
    """The arrays of all blocks one after the other, with where each block begins."""
    if not clouds:
        return {}
    whole = {key: np.concatenate([c[key] for c in clouds]) for key in ("xyz", "t", "strength", "picture")}
    whole |= {key: np.concatenate([c[key] for c in clouds]) for key in ("heat", "turn")}
    whole |= {key: np.stack([c[key] for c in clouds]) for key in ("mean", "axes", "extent")}
    whole["start"] = np.cumsum([0, *(len(c["t"]) for c in clouds)])
    whole["first"] = np.cumsum([0, *(len(c["heat"]) for c in clouds)])
    return whole


def _bits(featurizer: Featurizer, stats: statistics.BlockStatistics, variance: float) -> np.ndarray:
    """Bits ``(G,)`` of every block's contribution where it fires."""
    frames = featurizer.frames().detach().double()
    moments = CodeMoments(
        n=1, count=stats.fired, mean=stats.mean, gram=(frames @ frames.mT).numpy(), histogram=np.ones(1),
        second=stats.covariance + stats.mean[:, :, None] * stats.mean[:, None, :], residual=np.zeros((1, 1)),
        variance=variance,
    )  # fmt: skip
    return rate_bits(moments.spectrum("contribution"), max(DISTORTION * variance, 1e-12))


def _block(featurizer: Featurizer, data: Data, rows: Tensor, table: statistics.CodeTable,
           stats: statistics.BlockStatistics, block: int, shape_of: ShapeOf | None, layout: Layout, pool: np.ndarray,
           seed: int) -> tuple[dict, dict, dict]:  # fmt: skip
    picture, position, code = (v.numpy() for v in table.of(block))
    shape = BlockShape("unknown")
    if shape_of is not None:
        rng = np.random.default_rng(seed + block)
        with torch.no_grad():
            shape = shape_of(block, code[rng.permutation(len(code))[:4000]], featurizer.pre_code(rows, block).numpy())
    mean = code.mean(0)
    # (b, b), rows are principal axes
    axes = np.linalg.svd(np.cov((code - mean).T).reshape(code.shape[1], -1))[2]
    first = (code - mean) @ axes[0]
    ranks = np.sort(first)

    def coordinate(z: np.ndarray) -> np.ndarray:
        if shape.coordinate is not None:
            return shape.coordinate(z)
        # ranks along the first axis
        return np.searchsorted(ranks, (z - mean) @ axes[0]) / (len(ranks) + 1)

    keep = np.random.default_rng(seed + block).permutation(len(code))[: layout.n_cloud]
    shown = np.zeros((len(code), 3), np.float32)
    n_axes = min(3, code.shape[1])
    shown[:, :n_axes] = (code - mean) @ axes[:n_axes].T
    extent = max(float(np.abs(shown[keep]).max()), 1e-9)
    norm = np.linalg.norm(code, axis=1)
    largest = max(float(norm.max()), 1e-9)
    # Around the plane of the first two axes, 0 to 1.
    turn = np.arctan2(shown[:, 1], shown[:, 0]) / (2 * np.pi) % 1.0
    where = _OfBlock(picture, position, code, norm / largest, turn, coordinate)
    examples, heat, turns, strength = _examples(where, table, layout, pool)
    share = stats.spectrum[block] / max(stats.spectrum[block].sum(), 1e-12)
    origin = np.zeros(3)
    origin[:n_axes] = -(mean @ axes[:n_axes].T) / extent
    summary = {
        "index": block, "topology": shape.topology,
        **{name: _round(getattr(stats, name)[block]) for name in
           ("firing_rate", "energy", "stable_rank", "participation_ratio", "effective_rank")},
    }  # fmt: skip
    detail = {
        "spectrum": [_round(v) for v in stats.spectrum[block]],
        "axes_variance": [_round(v) for v in (*share[:3], 0.0, 0.0)][:3],
        "origin": [_round(v) for v in origin],
        "antipodal": None if shape.antipodal is None else _round(shape.antipodal),
        "confidence": None if shape.confidence is None else _round(shape.confidence),
        "strengths": np.histogram(strength, N_STRENGTHS, (0.0, 1.0))[0].tolist(),
        "bands": {band: _round(np.quantile(strength, level)) for band, level in BANDS.items()},
        "examples": examples, "reason": shape.reason,
    }  # fmt: skip
    full = np.zeros((3, code.shape[1]), np.float32)
    full[:n_axes] = axes[:n_axes]
    cloud = {"xyz": (shown[keep] / extent).astype(np.float16), "picture": picture[keep].astype(np.int32),
             "t": np.minimum(coordinate(code[keep]), 0.9995).astype(np.float16), "heat": heat, "turn": turns,
             "strength": (norm[keep] / largest).astype(np.float16), "mean": mean.astype(np.float32), "axes": full,
             "extent": np.float32(extent)}  # fmt: skip
    return summary, detail, cloud


def _round(value: float) -> float:
    return float(f"{float(value):.5g}")


@dataclass(frozen=True)
class _OfBlock:
    """Where one block fires, ordered by picture: picture, position (m,), code (m, b), and what is known of each."""

    picture: np.ndarray
    position: np.ndarray
    code: np.ndarray
    strength: np.ndarray
    """Relative to the largest."""
    turn: np.ndarray
    coordinate: Callable[[np.ndarray], np.ndarray]


def _examples(of: _OfBlock, table: statistics.CodeTable, layout: Layout,
              pool: np.ndarray) -> tuple[list[dict], np.ndarray, np.ndarray, np.ndarray]:  # fmt: skip
    """Examples, their maps of strength and direction ``(n, H, W)`` uint8, and the strength of every picture."""
    # One row per picture: the position at which the block is strongest speaks for it.
    order = np.lexsort((-of.strength, of.picture))
    firsts = order[np.unique(of.picture[order], return_index=True)[1]]
    strength = of.strength[firsts]
    rank = np.argsort(np.argsort(strength)) / max(len(strength) - 1, 1)
    t = of.coordinate(of.code[firsts])
    usable = np.isin(of.picture[firsts], pool)
    examples, maps, turns, used = [], [], [], set()
    side = int(round(table.positions**0.5))
    shape = (side, side) if side * side == table.positions else (1, table.positions)
    for bin_ in range(layout.n_bins):
        inside = np.flatnonzero(usable & ((t * layout.n_bins).astype(int).clip(0, layout.n_bins - 1) == bin_))
        for band, level in BANDS.items():
            free = [i for i in inside if i not in used]
            if not free:
                continue
            best = min(free, key=lambda i: abs(rank[i] - level))
            # A band that has nobody within a quarter of the ranks is left empty rather than filled with a stranger.
            if abs(rank[best] - level) > 0.25:
                continue
            used.add(best)
            index = int(of.picture[firsts[best]])
            examples.append({
                "t": _round(min(t[best], 0.9999)), "strength": _round(strength[best]), "band": band,
                "picture": index, "thumbnail": int(np.searchsorted(pool, index)),
            })  # fmt: skip
            here = slice(*np.searchsorted(of.picture, [index, index + 1]))
            heat, turn = np.zeros(table.positions), np.zeros(table.positions)
            heat[of.position[here]], turn[of.position[here]] = of.strength[here], of.turn[here]
            maps.append((heat * 255).round().astype(np.uint8).reshape(shape))
            turns.append((turn * 256).astype(np.int64).clip(0, 255).astype(np.uint8).reshape(shape))
    empty = np.zeros((0, *shape), np.uint8)
    return examples, np.stack(maps) if maps else empty, np.stack(turns) if turns else empty, strength


def _thumbnails(images: np.ndarray, pool: np.ndarray, layout: Layout) -> tuple[bytes, list[list[int]]]:
    parts, offsets, at = [], [], 0
    for index in pool:
        picture = Image.fromarray(np.asarray(images[index])).resize((layout.thumbnail,) * 2, Image.Resampling.LANCZOS)
        buffer = io.BytesIO()
        picture.save(buffer, "WEBP", quality=layout.quality, method=4)
        parts.append(buffer.getvalue())
        offsets.append([at, len(parts[-1])])
        at += len(parts[-1])
    return b"".join(parts), offsets
