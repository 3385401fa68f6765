"""Reading an atlas of blocks that ``build_browse`` wrote: lists, one block with its pictures, its cloud.

Beside the atlas a featurizer's folder may hold ``card.json`` (its recipe names unions there) and ``atoms.json`` (the
b = 1 atoms inside each block, ``atoms.py``); where they are absent the page says how to make them. Everything is read
once and kept; the list of all blocks is kept as the bytes that are sent. Not covered: writing (``browse.py``).
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file

from backend.core.errors import Corrupt, NotFound
from backend.core.settings import assets_dir, atlas_home
from backend.wire.blocks import Atom, BlockDetail, BlockExample, BlockList, BlockSummary, CloudHeader, Union


@dataclass(frozen=True)
class CloudAxes:
    """How the codes of a block stand in its cloud: ``place = (code − mean) axes' / extent``."""

    mean: np.ndarray
    axes: np.ndarray
    """(3, b), rows are principal axes."""
    extent: float

    def place(self, code: np.ndarray) -> np.ndarray:
        """A difference of codes ``(..., b)`` on the cloud's axes, ``(..., 3)``."""
        return code @ self.axes.T / self.extent


def featurizer_folders() -> dict[str, Path]:
    """Name to folder of every featurizer on disk; one that a user made hides a shipped one of the same name."""
    found: dict[str, Path] = {}
    for root in (assets_dir() / "featurizers", atlas_home() / "featurizers"):
        found |= {path.parent.name: path.parent for path in sorted(root.glob("*/cfg.json"))}
    return found


class BlockBrowser:
    """The atlas in a folder; ``NotFound`` where there is none, ``Corrupt`` where it is torn."""

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
            self._card = self._beside("card.json")
            self._atoms = self._beside("atoms.json")
            self._unions = _unions(self._card)
            if sum(length for _, length in self._about["thumbnails"]) != len(self._pictures):
                raise ValueError("thumbnails are cut short")
        except (KeyError, TypeError, ValueError, OSError) as error:
            raise Corrupt(f"The blocks of {self.name} were asked for.", f"Its atlas cannot be read: {error}.",
                          "Make it again with build_browse.") from error  # fmt: skip

    def _beside(self, name: str) -> dict[str, Any]:
        path = self.folder / name
        return json.loads(path.read_text()) if path.exists() else {}

    @property
    def factors(self) -> list[str]:
        """Names of the known factors."""
        return list(self._about["factors"])

    def blocks(self) -> BlockList:
        """All living blocks."""
        return BlockList(featurizer=self.name, factors=self.factors, edges=self._about.get("edges", []),
                         unions=[u for u in self._unions if set(u.blocks) <= set(self._rows)],
                         blocks=[BlockSummary(**block) for block in self._about["blocks"]])  # fmt: skip

    @cached_property
    def blocks_json(self) -> bytes:
        """``blocks()`` as it is sent; written once, since thousands of blocks cost a tenth of a second."""
        return self.blocks().model_dump_json().encode()

    def usual(self, block: int) -> float | None:
        """Mean summed norm of a block on the atlas' pictures; ``None`` for blocks and atlases that do not know it."""
        known = self._about.get("usual")
        return known[self._rows[block]] if known and block in self._rows else None

    def __contains__(self, block: int) -> bool:
        return block in self._rows

    def _row(self, block: int) -> int:
        if block not in self._rows:
            raise NotFound(f"Block {block} of {self.name} was asked for.", f"It has {len(self._rows)} living blocks.",
                           "Take an index from the list of blocks.")  # fmt: skip
        return self._rows[block]

    def _slice(self, row: int, key: str, *, of: str) -> np.ndarray:
        """One block's part of an array; before format 2 every block had arrays of its own."""
        if self._about.get("format", 1) < 2:
            return self._tensors[f"{self._about['blocks'][row]['index']}.{key}"]
        first, last = self._tensors[of][row : row + 2]
        return self._tensors[key][first:last]

    def axes(self, block: int) -> CloudAxes | None:
        """The axes of a block's cloud; ``None`` in atlases before format 2."""
        row = self._row(block)
        if "axes" not in self._tensors:
            return None
        return CloudAxes(self._tensors["mean"][row], self._tensors["axes"][row], float(self._tensors["extent"][row]))

    def coordinates(self, block: int, code: np.ndarray) -> np.ndarray:
        """Coordinate t ``(m,)`` of codes ``(m, b)``: that of the nearest point of the block's cloud."""
        from scipy.spatial import cKDTree

        row, axes = self._row(block), self.axes(block)
        if axes is None:
            raise Corrupt(f"Coordinates in block {block} of {self.name} were asked for.",
                          "Its atlas is of an older format, which has no axes.",
                          "Make it again with build_browse.")  # fmt: skip
        xyz = self._slice(row, "xyz", of="start").astype(np.float32)
        near = cKDTree(xyz).query(axes.place(code - axes.mean))[1]
        return self._slice(row, "t", of="start")[near].astype(np.float64)

    def detail(self, block: int) -> tuple[BlockDetail, bytes]:
        """One block, and the body of its frame: the WebP pictures that its examples point into."""
        row = self._row(block)
        about = {k: v for k, v in self._about["details"][row].items() if k != "examples"}
        heat = self._slice(row, "heat", of="first")
        turn = self._slice(row, "turn", of="first") if "turn" in self._tensors else None
        parts, at, examples = [], 0, []
        for number, example in enumerate(self._about["details"][row]["examples"]):
            start, length = self._about["thumbnails"][example["thumbnail"]]
            parts.append(self._pictures[start : start + length])
            picture = example["picture"]
            examples.append(BlockExample(
                t=example["t"], strength=example["strength"], band=example["band"], offset=at, length=length,
                width=self._about["size"], height=self._about["size"],
                heat=(heat[number].astype(np.float32) / 255).round(3).tolist(),
                turn=[] if turn is None else (turn[number].astype(np.float32) / 256).round(3).tolist(),
                caption=self._about["captions"].get(str(picture), ""), factors=self._factors_of(picture),
            ))  # fmt: skip
            at += length
        summary = self._about["blocks"][row]
        atoms = [Atom(**a) for a in self._atoms.get("blocks", {}).get(str(block), [])]
        found = BlockDetail(
            featurizer=self.name, examples=examples, harmonic_floor=self._about.get("harmonic_floor"), atoms=atoms,
            unions=[u for u in self._unions if block in u.blocks], atoms_from=self._atoms.get("featurizer", ""),
            atoms_command=_atoms_command(self._card),
            **summary, **about,
        )  # fmt: skip
        return found, b"".join(parts)

    def _factors_of(self, picture: int) -> dict[str, float]:
        return {name: round(float(v), 3) for name, v in zip(self.factors, self._factors[picture])}

    def cloud(self, block: int, *, n: int | None = None) -> tuple[CloudHeader, bytes]:
        """The code cloud of a block: header and body, float16 ``(n, 3)`` and then each column, see ``CloudHeader``."""
        row = self._row(block)
        own = ["t", "strength"] if "strength" in self._tensors else ["t"]
        xyz, *values = (self._slice(row, key, of="start")[:n] for key in ("xyz", *own))
        known = self._factors[self._slice(row, "picture", of="start")[:n]]
        header = CloudHeader(featurizer=self.name, block=block, n=len(xyz), columns=[*own, *self.factors],
                             variance=self._about["details"][row]["axes_variance"])  # fmt: skip
        columns = [*values, *(known[:, i] for i in range(known.shape[1]))]
        return header, b"".join(np.ascontiguousarray(c.astype("<f2")).tobytes() for c in (xyz, *columns))


def _atoms_command(card: dict[str, Any]) -> str:
    """The command that trains the atoms; only one recipe knows how."""
    command = str(card.get("command", ""))
    return f"{command} --atoms" if "train tabletop-blocks" in command else ""


def _unions(card: dict[str, Any]) -> list[Union]:
    """The unions of two or more blocks that a featurizer's card names."""
    found = []
    for factor, held in (card.get("factors") or {}).items():
        if isinstance(held, dict) and len(held.get("union_blocks", [])) > 1:
            found.append(Union(factor=factor, blocks=held["union_blocks"], r2=held["union"], single=held["single"],
                               all=held.get("all")))  # fmt: skip
    return found
