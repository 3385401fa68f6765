"""Harvesting: run data through a model and keep what its sites say.

``harvest`` iterates and holds one batch at a time; ``harvest_into`` writes one store per site. Activations are read
behind the intervention point, without hooks; unsteered unless the caller steers.

Not covered: gradients (activations are detached) and choosing the data.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from backend.activations.point_set import install
from backend.activations.site import Site
from backend.activations.store import ActivationStore
from backend.core.errors import Refused
from backend.models.adapter import Adapter


@dataclass
class Harvested:
    """What one batch gave: x (calls·R, T, d) per site, calls outermost; ``n_calls`` forward passes per site."""

    x: dict[str, Tensor]
    n_calls: int
    batch: Any


def harvest(adapter: Adapter, sites: Sequence[str | Site], batches: Iterable, forward: Callable[[Any], Any], *,
            select: Callable[[Tensor], Tensor] | None = None) -> Iterator[Harvested]:  # fmt: skip
    """Yield the activations of every batch, on the CPU; ``forward(batch)`` runs the model once or more.

    ``select`` maps x (R, T, d) to the tokens to keep, for example ``lambda x: x[:, -1:]``. Raises ``Refused`` for a
    site that the model lacks and for one that ``forward`` never reaches.
    """
    names = [str(Site.parse(site, model=adapter.name)) for site in sites]
    points = install(adapter, names)
    for batch in batches:
        with points.reading(names) as seen, torch.no_grad():
            forward(batch)
        silent = [name for name in names if not seen[name]]
        if silent:
            raise Refused(
                f"Activations at '{silent[0]}' were asked for.",
                "The forward pass never reached this site.",
                "Run the model that carries it: a UNet and its few-step twin have sites of their own.",
            )
        x = {
            name: torch.cat([(select(part) if select else part).detach().cpu() for part in seen[name]])
            for name in names
        }
        yield Harvested(x, len(seen[names[0]]), batch)


def harvest_into(folder: Path | str, adapter: Adapter, sites: Sequence[str | Site], batches: Iterable,
                 forward: Callable[[Any], Any], *, labels: Callable[[Any], Mapping[str, Tensor]] | None = None,
                 select: Callable[[Tensor], Tensor] | None = None, dtype: str = "float32", rows_per_shard: int = 4096,
                 progress: Callable[[int], None] | None = None) -> dict[str, ActivationStore]:  # fmt: skip
    """Harvest into one store per site under ``folder``; returns the stores by canonical site.

    ``labels(batch)`` gives the row labels (R, ...); where one batch makes several calls, they are repeated and the
    label ``call`` counts them. ``progress`` gets the number of rows so far.
    """
    names = [str(Site.parse(site, model=adapter.name)) for site in sites]
    stores = {
        name: ActivationStore.create(
            Path(folder) / slug(name), site=name, revision=adapter.revision, dtype=dtype, rows_per_shard=rows_per_shard
        )
        for name in names
    }
    digest, n_rows = hashlib.sha256(), 0
    for got in harvest(adapter, names, batches, forward, select=select):
        _update(digest, got.batch)
        own = {key: torch.as_tensor(value) for key, value in (labels(got.batch) if labels else {}).items()}
        for name, store in stores.items():
            n = got.x[name].shape[0]
            repeated = {key: value.repeat(n // len(value), *[1] * (value.ndim - 1)) for key, value in own.items()}
            if got.n_calls > 1:
                repeated["call"] = torch.arange(got.n_calls).repeat_interleave(n // got.n_calls)
            store.write(got.x[name], repeated)
        n_rows += got.x[names[0]].shape[0]
        if progress:
            progress(n_rows)
    for store in stores.values():
        store.flush()
        store.record(data=digest.hexdigest()[:16])
    return stores


def data_digest(batches: Iterable) -> str:
    """Digest of data: tensors, strings, numbers, and lists and dicts of them."""
    digest = hashlib.sha256()
    for batch in batches:
        _update(digest, batch)
    return digest.hexdigest()[:16]


def slug(site: str) -> str:
    """A site as a folder name: ``tabletop-sdxl/down.2.1#update`` becomes ``tabletop-sdxl+down.2.1+update``."""
    return site.replace("/", "+").replace("#", "+")


def _update(digest, value: Any) -> None:
    if isinstance(value, Tensor):
        value = value.detach().cpu().contiguous()
        digest.update(f"{value.dtype} {tuple(value.shape)}".encode())
        digest.update(value.flatten().view(torch.uint8).numpy().tobytes())
    elif isinstance(value, Mapping):
        for key in sorted(value):
            digest.update(str(key).encode())
            _update(digest, value[key])
    elif isinstance(value, (list, tuple)):
        for part in value:
            _update(digest, part)
    else:
        digest.update(repr(value).encode())
