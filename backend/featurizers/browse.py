"""An atlas of blocks on disk: what a page shows of every block of a featurizer, made once and read in milliseconds.

A folder ``assets/featurizers/NAME`` holds the featurizer itself and

    browse.json          summaries, details without pictures, names of factors, offsets of thumbnails
    browse.safetensors   clouds (float16), where each point comes from, examples' heat maps (uint8), factors
    browse.webp.bin      WebP thumbnails of a pool of pictures, one after the other

Examples of a block are laid along its manifold coordinate in equal bins, and within a bin by activation band (top,
75th, 50th and 10th percentile of the block's strength): a block's strongest pictures alone flatter it. Where no
manifold was decided, t is the rank along the first principal axis, and the topology says so.

Not covered: search; examples of text.
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
from safetensors.numpy import load_file, save_file
from torch import Tensor

from backend.core.errors import Corrupt, NotFound
from backend.core.settings import assets_dir, atlas_home
from backend.featurizers import statistics
from backend.featurizers.featurizer import Featurizer
from backend.wire.blocks import BlockDetail, BlockExample, BlockList, BlockSummary, CloudHeader

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
                 findings: Mapping[int, list[str]] | None = None, seed: int = 0,
                 progress: Callable[[float, str], None] | None = None) -> Path:  # fmt: skip
    """Write the atlas of ``featurizer`` on ``data`` into ``out``; ``manifolds`` names what can be steered, by block."""
    layout, manifolds, findings = layout or Layout(), manifolds or {}, findings or {}
    tell = progress or (lambda fraction, message: None)
    tell(0.0, "codes")
    table = statistics.read_codes(featurizer, data.x)
    stats = statistics.block_statistics(table)
    tell(0.1, "co-activation")
    overlap = statistics.co_activation(table)
    alive = [g for g in range(table.n_blocks) if stats.firing_rate[g] * table.n * table.positions >= layout.min_fired]
    place = np.zeros((table.n_blocks, 2))
    if alive:
        place[alive] = statistics.block_map(overlap[np.ix_(alive, alive)], seed=seed)
    tell(0.25, "factors")
    names = data.names or {}
    halves = statistics.Halves.draw(table.n, seed=seed)
    features = statistics.pooled(table)
    r2 = statistics.factor_r2(features, data.factors, cyclic=data.cyclic, names=tuple(names), halves=halves)
    del features
    # A sample of all rows, fired or not, for the decision on each block's shape.
    some = np.random.default_rng(seed).permutation(table.n)[: max(1, layout.n_rows // table.positions)]
    rows = featurizer.normalise(data.x[some].float()).flatten(0, 1)
    pool = np.sort(np.random.default_rng(seed).permutation(table.n)[: layout.n_pool])
    summaries, details, tensors = [], [], {}
    for number, block in enumerate(alive):
        tell(0.35 + 0.6 * number / len(alive), f"block {block}")
        summary, detail, cloud = _block(featurizer, data, rows, table, stats, block, shape_of, layout, pool,
                                        seed)  # fmt: skip
        summary["xy"] = [round(float(v), 4) for v in place[block]]
        summary["factors"] = {name: round(float(values[block]), 4) for name, values in r2.items()}
        summary["label"] = label_of(block, summary["factors"], summary["topology"])
        summary["manifold"] = manifolds.get(block)
        detail["neighbours"] = statistics.neighbours(overlap, block)
        detail["findings"] = findings.get(block, [])
        summaries.append(summary)
        details.append(detail)
        tensors |= {f"{block}.{key}": value for key, value in cloud.items()}
    columns = list(data.factors)
    tensors["factors"] = np.stack([np.asarray(data.factors[c], np.float32) for c in columns], 1).astype(np.float16)
    out.mkdir(parents=True, exist_ok=True)
    blob, offsets = _thumbnails(data.images, pool, layout)
    (out / "browse.webp.bin").write_bytes(blob)
    save_file({k: np.ascontiguousarray(v) for k, v in tensors.items()}, out / "browse.safetensors")
    about = {
        "format": 1, "blocks": summaries, "details": details, "factors": columns, "cyclic": list(data.cyclic),
        "thumbnails": offsets, "size": layout.thumbnail, "n_pictures": table.n, "positions": table.positions,
        "captions": {str(i): data.captions[i] for i in pool} if data.captions else {},
        "names": {k: list(v) for k, v in names.items()},
    }  # fmt: skip
    (out / "browse.json").write_text(json.dumps(about, separators=(",", ":")) + "\n")
    tell(1.0, "done")
    return out


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
    shown = np.zeros((len(keep), 3), np.float32)
    n_axes = min(3, code.shape[1])
    shown[:, :n_axes] = (code[keep] - mean) @ axes[:n_axes].T
    shown = shown / max(float(np.abs(shown).max()), 1e-9)
    examples, heat = _examples(table, block, picture, position, code, coordinate, layout, pool, data)
    share = stats.spectrum[block] / max(stats.spectrum[block].sum(), 1e-12)
    summary = {
        "index": block, "topology": shape.topology,
        **{name: _round(getattr(stats, name)[block]) for name in
           ("firing_rate", "energy", "stable_rank", "participation_ratio", "effective_rank")},
    }  # fmt: skip
    detail = {
        "spectrum": [_round(v) for v in stats.spectrum[block]],
        "axes_variance": [_round(v) for v in (*share[:3], 0.0, 0.0)][:3],
        "antipodal": None if shape.antipodal is None else _round(shape.antipodal),
        "confidence": None if shape.confidence is None else _round(shape.confidence),
        "tuning": {c: [_round(v) for v in statistics.tuning(table, block, data.factors[c])] for c in data.cyclic},
        "examples": examples, "reason": shape.reason,
    }  # fmt: skip
    cloud = {"xyz": shown.astype(np.float16), "t": np.minimum(coordinate(code[keep]), 0.9995).astype(np.float16),
             "picture": picture[keep].astype(np.int32), "heat": heat}  # fmt: skip
    return summary, detail, cloud


def _round(value: float) -> float:
    return float(f"{float(value):.5g}")


def _examples(table: statistics.CodeTable, block: int, picture: np.ndarray, position: np.ndarray, code: np.ndarray,
              coordinate: Callable[[np.ndarray], np.ndarray], layout: Layout, pool: np.ndarray,
              data: Data) -> tuple[list[dict], np.ndarray]:  # fmt: skip
    # One row per picture: the position at which the block is strongest speaks for it.
    norm = np.linalg.norm(code, axis=1)
    order = np.lexsort((-norm, picture))
    firsts = order[np.unique(picture[order], return_index=True)[1]]
    strength = norm[firsts]
    rank = np.argsort(np.argsort(strength)) / max(len(strength) - 1, 1)
    t = coordinate(code[firsts])
    usable = np.isin(picture[firsts], pool)
    where = {int(p): i for i, p in enumerate(pool)}
    presence, examples, maps, used = table.presence(block), [], [], set()
    largest = max(float(presence.max()), 1e-9)
    side = int(round(table.positions**0.5))
    side = side if side * side == table.positions else 0
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
            index = int(picture[firsts[best]])
            examples.append({
                "t": _round(min(t[best], 0.9999)), "strength": _round(strength[best] / largest), "band": band,
                "picture": index, "thumbnail": where[index],
            })  # fmt: skip
            heat = (presence[index] / largest).clamp(0, 1).numpy()
            maps.append((heat * 255).round().astype(np.uint8).reshape((side, side) if side else (1, -1)))
    empty = np.zeros((0, side, side) if side else (0, 1, table.positions), np.uint8)
    return examples, np.stack(maps) if maps else empty


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


def featurizer_folders() -> dict[str, Path]:
    """Name to folder of every featurizer on disk; one that a user made hides a shipped one of the same name."""
    found: dict[str, Path] = {}
    for root in (assets_dir() / "featurizers", atlas_home() / "featurizers"):
        found |= {path.parent.name: path.parent for path in sorted(root.glob("*/cfg.json"))}
    return found


class BlockBrowser:
    """Reads an atlas that ``build_browse`` wrote; ``NotFound`` where there is none, ``Corrupt`` where it is torn."""

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self.name = self.folder.name
        if not (self.folder / "browse.json").exists():
            raise NotFound(f"The blocks of {self.name} were asked for.", "There is no browse.json in its folder.",
                           "Make it with build_browse, or choose another featurizer.")  # fmt: skip
        try:
            self._about = json.loads((self.folder / "browse.json").read_text())
            self._tensors = load_file(self.folder / "browse.safetensors")
            self._pictures = (self.folder / "browse.webp.bin").read_bytes()
            self._rows = {block["index"]: i for i, block in enumerate(self._about["blocks"])}
            self._factors = self._tensors["factors"]
            if sum(length for _, length in self._about["thumbnails"]) != len(self._pictures):
                raise ValueError("thumbnails are cut short")
        except (KeyError, TypeError, ValueError, OSError) as error:
            raise Corrupt(f"The blocks of {self.name} were asked for.", f"Its atlas cannot be read: {error}.",
                          "Make it again with build_browse.") from error  # fmt: skip

    @property
    def factors(self) -> list[str]:
        """Names of the known factors."""
        return list(self._about["factors"])

    def blocks(self) -> BlockList:
        """All living blocks."""
        return BlockList(featurizer=self.name, factors=self.factors,
                         blocks=[BlockSummary(**block) for block in self._about["blocks"]])  # fmt: skip

    def _row(self, block: int) -> int:
        if block not in self._rows:
            raise NotFound(f"Block {block} of {self.name} was asked for.", f"It has {len(self._rows)} living blocks.",
                           "Take an index from the list of blocks.")  # fmt: skip
        return self._rows[block]

    def detail(self, block: int) -> tuple[BlockDetail, bytes]:
        """One block, and the body of its frame: the WebP pictures that its examples point into."""
        row = self._row(block)
        about = {k: v for k, v in self._about["details"][row].items() if k != "examples"}
        heat = self._tensors[f"{block}.heat"]
        parts, at, examples = [], 0, []
        for number, example in enumerate(self._about["details"][row]["examples"]):
            start, length = self._about["thumbnails"][example["thumbnail"]]
            parts.append(self._pictures[start : start + length])
            picture = example["picture"]
            examples.append(BlockExample(
                t=example["t"], strength=example["strength"], band=example["band"], offset=at, length=length,
                width=self._about["size"], height=self._about["size"],
                heat=(heat[number].astype(np.float32) / 255).round(3).tolist(),
                caption=self._about["captions"].get(str(picture), ""), factors=self._factors_of(picture),
            ))  # fmt: skip
            at += length
        summary = self._about["blocks"][row]
        return BlockDetail(featurizer=self.name, examples=examples, **summary, **about), b"".join(parts)

    def _factors_of(self, picture: int) -> dict[str, float]:
        return {name: round(float(v), 3) for name, v in zip(self.factors, self._factors[picture])}

    def cloud(self, block: int, *, n: int | None = None) -> tuple[CloudHeader, bytes]:
        """The code cloud of a block: header and body, float16 ``(n, 3)`` and then each column, see ``CloudHeader``."""
        row = self._row(block)
        xyz, t = self._tensors[f"{block}.xyz"][:n], self._tensors[f"{block}.t"][:n]
        known = self._factors[self._tensors[f"{block}.picture"][:n]]
        header = CloudHeader(featurizer=self.name, block=block, n=len(xyz), columns=["t", *self.factors],
                             variance=self._about["details"][row]["axes_variance"])  # fmt: skip
        columns = [t, *(known[:, i] for i in range(known.shape[1]))]
        return header, b"".join(np.ascontiguousarray(c.astype("<f2")).tobytes() for c in (xyz, *columns))
