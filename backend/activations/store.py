"""Activations on disk: a folder of safetensors shards and ``meta.json``, read shard by shard, larger than memory.

    meta.json                 site, model revision, data digest, shapes, rows per shard, digests, centring
    shard-00000.safetensors   x (n, T, d) and one "label.NAME" (n, ...) per label
    centring.safetensors      mean and scale, once fitted

Activations are a tensor plus where it came from. A shard that does not hold what ``meta.json`` says is reported by name
and the others stay readable. Not covered: appending from two processes at once.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from backend.activations.centring import Centring
from backend.core.errors import Corrupt, Invalid, NotFound

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


@dataclass
class Activations:
    """x (n, T, d) of one site with its provenance and row labels (n, ...)."""

    x: Tensor
    site: str
    revision: str
    data: str
    """Digest of the data that went through the model."""
    labels: dict[str, Tensor] = field(default_factory=dict)
    centring: Centring | None = None
    """How to centre x; it has not been applied."""

    def __len__(self) -> int:
        return self.x.shape[0]


class ActivationStore:
    """A folder of activations of one site; ``create`` makes one, the constructor opens one.

    The constructor raises ``NotFound`` for a folder that is no store and ``Corrupt`` for an unreadable ``meta.json``.
    """

    def __init__(self, folder: Path | str) -> None:
        self.folder = Path(folder)
        path = self.folder / "meta.json"
        if not path.exists():
            raise NotFound(
                f"The activations in '{self.folder.name}' were asked for.",
                "The folder holds no meta.json.",
                "Harvest them first.",
            )
        try:
            self.meta: dict = json.loads(path.read_text())
            self.meta["shards"], self.meta["site"], DTYPES[self.meta["dtype"]]
        except (ValueError, KeyError, TypeError) as error:
            raise Corrupt(
                f"The activations in '{self.folder.name}' were asked for.",
                f"Their meta.json cannot be read ({type(error).__name__}: {error}).",
                "Harvest them again.",
            ) from error
        self._pending: list[tuple[Tensor, dict[str, Tensor]]] = []
        self._sound: set[str] = set()

    @classmethod
    def create(cls, folder: Path | str, *, site: str, revision: str, data: str = "", dtype: str = "float32",
               rows_per_shard: int = 4096, about: Mapping | None = None) -> ActivationStore:  # fmt: skip
        """Start an empty store; ``about`` is free JSON (seeds, steps). Raises ``Invalid`` where a store exists."""
        folder = Path(folder)
        if (folder / "meta.json").exists() or dtype not in DTYPES:
            raise Invalid(
                f"A store of activations in '{folder.name}' with numbers of type {dtype} was asked for.",
                "The folder holds one already." if dtype in DTYPES else f"Types are {', '.join(DTYPES)}.",
                "Use another folder or type.",
            )
        folder.mkdir(parents=True, exist_ok=True)
        meta = {
            "format": 1, "site": site, "revision": revision, "data": data, "dtype": dtype, "shape": None,
            "labels": {}, "rows_per_shard": rows_per_shard, "shards": [], "about": dict(about or {}),
        }  # fmt: skip
        _write_json(folder / "meta.json", meta)
        return cls(folder)

    @property
    def site(self) -> str:
        return self.meta["site"]

    @property
    def n_rows(self) -> int:
        """Rows on disk; rows written since the last flush are not counted."""
        return sum(shard["rows"] for shard in self.meta["shards"])

    @property
    def n_shards(self) -> int:
        return len(self.meta["shards"])

    @property
    def shape(self) -> tuple[int, int]:
        """Tokens and width (T, d) of one row."""
        return tuple(self.meta["shape"] or (0, 0))

    @property
    def centring(self) -> Centring | None:
        path = self.folder / "centring.safetensors"
        return Centring.load(path) if path.exists() else None

    def write(self, x: Tensor, labels: Mapping[str, Tensor | Sequence] | None = None) -> None:
        """Append x (n, T, d) or (n, d) with labels (n, ...); full shards go to disk, the rest at ``flush``.

        Raises ``Invalid`` where shapes or label names are not those of the first write, or x is not finite.
        """
        x = x.detach().cpu()
        x = x[:, None] if x.ndim == 2 else x
        labels = {name: torch.as_tensor(value).detach().cpu() for name, value in (labels or {}).items()}
        shapes = {name: list(value.shape[1:]) for name, value in labels.items()}
        if self.meta["shape"] is None:
            self.meta["shape"], self.meta["labels"] = list(x.shape[1:]), shapes
        wrong = list(x.shape[1:]) != self.meta["shape"] or shapes != self.meta["labels"]
        if wrong or any(value.shape[0] != x.shape[0] for value in labels.values()):
            raise Invalid(
                f"Rows of shape {tuple(x.shape)} with labels {shapes} were written to '{self.folder.name}'.",
                f"It holds rows of shape {tuple(self.meta['shape'])} with labels {self.meta['labels']}.",
                "Use one store per site and one set of labels, one entry per row.",
            )
        x = x.to(DTYPES[self.meta["dtype"]])
        if not bool(torch.isfinite(x).all()):
            raise Invalid(
                f"Activations of '{self.site}' were written as {self.meta['dtype']}.",
                "Some of them are not finite.",
                "Check the model's output, or store them in a wider type.",
            )
        self._pending.append((x, labels))
        while sum(part.shape[0] for part, _ in self._pending) >= self.meta["rows_per_shard"]:
            self._write_shard(self.meta["rows_per_shard"])

    def flush(self) -> None:
        """Write what is pending as a last, smaller shard."""
        pending = sum(part.shape[0] for part, _ in self._pending)
        if pending:
            self._write_shard(pending)

    def __enter__(self) -> ActivationStore:
        return self

    def __exit__(self, *error) -> None:
        if error[0] is None:
            self.flush()

    def record(self, **about) -> None:
        """Write provenance that is known only at the end: ``data`` the digest, everything else under ``about``."""
        if "data" in about:
            self.meta["data"] = about.pop("data")
        self.meta["about"].update(about)
        _write_json(self.folder / "meta.json", self.meta)

    def shard(self, index: int) -> Activations:
        """Shard ``index``; raises ``Corrupt`` naming the file where it does not hold what ``meta.json`` says."""
        return self._read(index, slice(None))

    def shards(self, *, skipped: list[Corrupt] | None = None) -> Iterator[Activations]:
        """All shards in order; with a list in ``skipped``, corrupt ones are appended there and left out."""
        for index in range(self.n_shards):
            try:
                yield self.shard(index)
            except Corrupt as error:
                if skipped is None:
                    raise
                skipped.append(error)

    def read(self, rows: slice | Sequence[int] | Tensor | None = None) -> Activations:
        """Rows by number, in the order asked for; ``None`` reads all. Only shards that hold some of them are touched.

        Raises ``Invalid`` for a row that does not exist, ``Corrupt`` naming the file.
        """
        n = self.n_rows
        if rows is None or isinstance(rows, slice):
            index = torch.arange(n)[rows or slice(None)]
        else:
            index = torch.as_tensor(rows, dtype=torch.long)
            index = torch.where(index < 0, index + n, index)
        if len(index) and (int(index.min()) < 0 or int(index.max()) >= n):
            raise Invalid(
                f"Row {int(index.max())} of '{self.folder.name}' was asked for.",
                f"It holds {n} rows.",
                "Ask for rows below that.",
            )
        dtype = DTYPES[self.meta["dtype"]]
        x = torch.empty(len(index), *self.shape, dtype=dtype)
        labels: dict[str, Tensor] = {}
        first = 0
        for number, shard in enumerate(self.meta["shards"]):
            here = ((index >= first) & (index < first + shard["rows"])).nonzero()[:, 0]
            if len(here):
                part = self._read(number, index[here] - first)
                x[here] = part.x
                for name, value in part.labels.items():
                    if name not in labels:
                        labels[name] = torch.empty(len(index), *value.shape[1:], dtype=value.dtype)
                    labels[name][here] = value
            first += shard["rows"]
        return self._wrap(x, labels)

    def batches(self, size: int, *, generator: torch.Generator | None = None) -> Iterator[Tensor]:
        """Tokens (size, d) in float32, one pass, the last batch shorter; two shards in memory at a time.

        With a ``generator`` the order of shards and the tokens within a shard are shuffled.
        """
        left: Tensor | None = None
        order = torch.randperm(self.n_shards, generator=generator) if generator else torch.arange(self.n_shards)
        for index in order.tolist():
            x = self.shard(index).x.float().flatten(0, 1)
            x = x[torch.randperm(len(x), generator=generator)] if generator else x
            x = x if left is None else torch.cat([left, x])
            whole = len(x) // size * size
            yield from x[:whole].split(size) if whole else ()
            left = x[whole:]
        if left is not None and len(left):
            yield left

    def fit_centring(self, *, per_token: bool = False) -> Centring:
        """Fit mean and scale in one streamed pass and keep them beside the shards."""
        centring = Centring.fit((shard.x for shard in self.shards()), per_token=per_token)
        centring.save(self.folder / "centring.safetensors")
        return centring

    def _wrap(self, x: Tensor, labels: dict[str, Tensor]) -> Activations:
        return Activations(x, self.site, self.meta["revision"], self.meta["data"], labels, self.centring)

    def _read(self, index: int, rows: slice | Tensor) -> Activations:
        shard = self.meta["shards"][index]
        path = self.folder / shard["file"]
        try:
            if shard["file"] not in self._sound:
                if path.stat().st_size != shard["bytes"] or _digest(path) != shard["sha256"]:
                    raise ValueError("its bytes are not those that were written")
                self._sound.add(shard["file"])
            with safe_open(path, "pt") as handle:
                x = handle.get_tensor("x")[rows]
                labels = {key[6:]: handle.get_tensor(key)[rows] for key in handle.keys() if key.startswith("label.")}
        except (OSError, ValueError, SafetensorError) as error:
            raise Corrupt(
                f"Shard {index} of '{self.folder.name}' was asked for.",
                f"The file {shard['file']} cannot be used: {error}.",
                "Harvest again, or read the other shards (shards(skipped=[])).",
            ) from error
        return self._wrap(x, labels)

    def _write_shard(self, n: int) -> None:
        xs, labels, taken = [], {name: [] for name in self.meta["labels"]}, 0
        while taken < n:
            x, own = self._pending.pop(0)
            keep = min(len(x), n - taken)
            if keep < len(x):
                self._pending.insert(0, (x[keep:], {name: value[keep:] for name, value in own.items()}))
            xs.append(x[:keep])
            for name, value in own.items():
                labels[name].append(value[:keep])
            taken += keep
        name = f"shard-{self.n_shards:05d}.safetensors"
        path = self.folder / name
        tensors = {"x": torch.cat(xs).contiguous()}
        tensors |= {f"label.{key}": torch.cat(value).contiguous() for key, value in labels.items()}
        save_file(tensors, path.with_suffix(".new"))
        os.replace(path.with_suffix(".new"), path)
        self.meta["shards"].append({"file": name, "rows": n, "bytes": path.stat().st_size, "sha256": _digest(path)})
        # After the shard: a run that is killed in between leaves a stray file, never a promise without a file.
        _write_json(self.folder / "meta.json", self.meta)


def _write_json(path: Path, value: dict) -> None:
    path.with_suffix(".new").write_text(json.dumps(value, indent=1))
    os.replace(path.with_suffix(".new"), path)


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
