"""What the server holds in memory: models that load in the background, manifolds and featurizers as they lie on disk.

A model is loaded once, by one thread, one after the other; who asks for one that is not there yet waits for a bounded
time and then gets ``Loading`` (503). Manifolds and featurizers are read when they are asked for and again when their
files change, so that a study's result can be used without a restart. One that cannot be read costs that one entry.

The model libraries are imported by the loading thread, not by this module: the server answers ``/v1/health`` at once.
"""

from __future__ import annotations

import asyncio
import json
import logging
import math
import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Any

from backend.core.errors import AtlasError, Corrupt, NotFound, Refused
from backend.core.settings import assets_dir, atlas_home
from backend.wire.capabilities import FeaturizerInfo, ManifoldInfo

log = logging.getLogger(__name__)

NOT_SERVED = ("factor-reader",)
"""Model types that are instruments of other models and no models to look at."""


class Loading(Refused):
    """It is on its way; nothing is wrong, ask again."""

    status = 503


def load_wait() -> float:
    """Seconds that a request waits for a model that is still loading (``ATLAS_LOAD_WAIT``)."""
    return float(os.environ.get("ATLAS_LOAD_WAIT", "30"))


class ModelShelf:
    """Models by name: ``load(name)`` makes one, ``available()`` lists what is on disk, ``ready(adapter)`` prepares it.

    ``ready`` runs on the loading thread before anybody gets the model: reader, first warm picture.
    """

    retry_after = 10.0
    """Seconds after which a model that failed is tried again when it is asked for: it may have been made anew."""

    def __init__(self, *, load: Callable[[str], Any], available: Callable[[], list[str]],
                 ready: Callable[[Any], None]) -> None:  # fmt: skip
        self._load, self._available, self._ready = load, available, ready
        self._slots: dict[str, Future] = {}
        self._lock = threading.Lock()
        self._failed_at: dict[str, float] = {}
        self._queue: list[str] = []
        self._thread: threading.Thread | None = None
        self.now = ""
        """The model that is being loaded."""
        self.listed = threading.Event()
        """Set once the disk has been looked at for the first time."""

    def start(self) -> None:
        """Load everything that is on disk, in the background."""
        self._run(self._everything)

    def close(self, timeout: float = 5.0) -> None:
        """Begin no further model; wait for the one that is being loaded."""
        with self._lock:
            self._queue.clear()
            thread = self._thread
        if thread is not None:
            thread.join(timeout)

    def names(self) -> list[str]:
        """Every model that was found so far."""
        return list(self._slots)

    def loaded(self) -> dict[str, Any]:
        """The adapters that are ready, by name."""
        slots = list(self._slots.items())
        return {name: f.result() for name, f in slots if f.done() and f.exception() is None}

    def failed(self) -> dict[str, BaseException]:
        """The models that could not be loaded, with what was wrong."""
        slots = list(self._slots.items())
        return {name: f.exception() for name, f in slots if f.done() and f.exception() is not None}

    @property
    def busy(self) -> bool:
        return not self.listed.is_set() or any(not f.done() for f in list(self._slots.values()))

    async def get(self, name: str, *, wait: float | None = None) -> Any:
        """The adapter of this name; raises ``NotFound``, ``Loading`` after ``wait`` seconds, or why it failed."""
        until = time.monotonic() + (load_wait() if wait is None else wait)
        while not self.listed.is_set() and time.monotonic() < until:
            await asyncio.sleep(0.02)
        slot = self._slots.get(name)
        if slot is None or time.monotonic() - self._failed_at.get(name, math.inf) > self.retry_after:
            slot = await asyncio.to_thread(self._look_again, name)
        if slot is None:
            known = ", ".join(self._slots) or "none yet; make one with 'manifold-atlas train NAME'"
            raise NotFound(f"The model {name} was asked for.", f"Models here: {known}.", "Choose one of these.")
        if not slot.done():
            await asyncio.wait([asyncio.wrap_future(slot)], timeout=max(0.0, until - time.monotonic()))
        if not slot.done():
            raise Loading(f"The model {name} was asked for.", f"It is still being loaded (now: {self.now or name}).",
                          "Ask again in a few seconds; /v1/health tells how far it is.")  # fmt: skip
        error = slot.exception()
        if error is not None:
            raise error if isinstance(error, AtlasError) else Corrupt(
                f"The model {name} was asked for.", f"It could not be loaded: {type(error).__name__}: {error}",
                f"Make it again with 'manifold-atlas train {name}', or see the server's log.",
            )  # fmt: skip
        return slot.result()

    # ---- the loading thread ----------------------------------------------------------------------------------

    def _run(self, first: Callable[[], None] | None = None) -> None:
        with self._lock:
            if self._thread is None or not self._thread.is_alive():
                self._thread = threading.Thread(target=self._work, args=(first,), name="load-models", daemon=True)
                self._thread.start()

    def _everything(self) -> None:
        for name in self._served():
            self._enqueue(name)
        self.listed.set()

    def _look_again(self, name: str) -> Future | None:
        if name in self._served():
            self._enqueue(name)
            self._run()
        return self._slots.get(name)

    def _enqueue(self, name: str) -> None:
        with self._lock:
            if name not in self._slots or self._failed_at.pop(name, None) is not None:
                self._slots[name] = Future()
                self._queue.append(name)

    def _served(self) -> list[str]:
        names = self._available()
        return [n for n in names if not (n.endswith("-lcm") and n.removesuffix("-lcm") in names) and _is_model(n)]

    def _work(self, first: Callable[[], None] | None) -> None:
        try:
            if first is not None:
                first()
        except Exception:
            log.exception("The models on disk could not be listed.")
        finally:
            self.listed.set()
        while True:
            with self._lock:
                if not self._queue:
                    self.now, self._thread = "", None
                    return
                name = self.now = self._queue.pop(0)
            began = time.monotonic()
            try:
                adapter = self._load(name)
                self._ready(adapter)
                self._slots[name].set_result(adapter)
                log.info("%s is ready after %.1f s.", name, time.monotonic() - began)
            except Exception as error:
                log.warning("%s could not be loaded: %s", name, error, exc_info=not isinstance(error, AtlasError))
                self._failed_at[name] = time.monotonic()
                self._slots[name].set_exception(error)


def _is_model(name: str) -> bool:
    """False for folders with a configuration that are parts or instruments: a VAE alone, the factor reader."""
    for root in (assets_dir() / "models", atlas_home() / "models"):
        config = root / name / "config.json"
        if config.is_file() and not (root / name / "model_index.json").exists():
            try:
                about = json.loads(config.read_text())
            except (OSError, ValueError):
                return True  # loading it will say what is wrong
            return about.get("model_type") not in NOT_SERVED and "_class_name" not in about
    return True


def _stamp(folder: Path, names: tuple[str, ...]) -> tuple[float, ...]:
    return tuple((folder / name).stat().st_mtime if (folder / name).exists() else 0.0 for name in names)


class _DiskShelf:
    """Entries in folders, read when asked for, read again when their files change."""

    files: tuple[str, ...] = ()
    look_every = 2.0

    def __init__(self) -> None:
        self._entries: dict[str, tuple[Path, tuple[float, ...], Any]] = {}
        self._listed: tuple[float, dict[str, Path]] = (-1e9, {})
        self._lock = threading.Lock()

    def folders(self) -> dict[str, Path]:
        """Name to folder; the disk is looked at every ``look_every`` seconds at most."""
        now = time.monotonic()
        if now - self._listed[0] > self.look_every:
            self._listed = (now, self._list())
        return self._listed[1]

    def get(self, name: str) -> Any:
        """One entry; raises ``NotFound`` with the names there are, or ``Corrupt``."""
        folders = self.folders()
        if name not in folders:
            self._listed = (-1e9, {})
            folders = self.folders()
        if name not in folders:
            what = type(self).__name__.removesuffix("Shelf").lower()
            raise NotFound(f"The {what} {name} was asked for.", f"There are {', '.join(folders) or 'none'}.",
                           "Choose one of these, or make one first.")  # fmt: skip
        folder = folders[name]
        stamp = _stamp(folder, self.files)
        with self._lock:
            held = self._entries.get(name)
            if held is not None and held[0] == folder and held[1] == stamp:
                return held[2]
            entry = self._read(folder)
            self._entries[name] = (folder, stamp, entry)
            return entry

    def everything(self) -> tuple[dict[str, Any], list[str]]:
        """All entries that can be read, and one line for each that cannot."""
        found, skipped = {}, []
        for name in list(self.folders()):
            try:
                found[name] = self.get(name)
            except AtlasError as error:
                skipped.append(f"{name}: {error.true}")
            except Exception as error:  # a broken file must cost one entry, whatever it breaks
                skipped.append(f"{name}: {type(error).__name__}: {error}")
        return found, skipped

    def _list(self) -> dict[str, Path]:
        raise NotImplementedError

    def _read(self, folder: Path) -> Any:
        raise NotImplementedError


class ManifoldShelf(_DiskShelf):
    """``SteerableManifold`` by name; the same object as long as its files are the same."""

    files = ("manifold.json", "manifold.safetensors")

    def _list(self) -> dict[str, Path]:
        from backend.manifolds.store import manifold_folders

        return manifold_folders()

    def _read(self, folder: Path) -> Any:
        from backend.manifolds.store import read_manifold

        return read_manifold(folder)

    def infos(self) -> tuple[list[ManifoldInfo], list[str]]:
        found, skipped = self.everything()
        return [manifold.info for manifold in found.values()], skipped


class FeaturizerShelf(_DiskShelf):
    """Featurizer folders: what each says of itself, and its browser of blocks."""

    files = ("cfg.json", "browse.json", "browse.safetensors", "card.json")

    def __init__(self) -> None:
        super().__init__()
        self._browsers: dict[str, tuple[tuple[float, ...], Any]] = {}

    def _list(self) -> dict[str, Path]:
        roots = (assets_dir() / "featurizers", atlas_home() / "featurizers")
        return {p.parent.name: p.parent for root in roots if root.is_dir() for p in sorted(root.glob("*/cfg.json"))}

    def _read(self, folder: Path) -> FeaturizerInfo:
        try:
            about = json.loads((folder / "cfg.json").read_text())
            card = json.loads((folder / "card.json").read_text()) if (folder / "card.json").exists() else {}
            told = {**card, **(about.get("info") or {})}
            site = str(told.get("site", ""))
            return FeaturizerInfo(
                name=folder.name, title=str(card.get("title") or told.get("title") or folder.name),
                model=str(told.get("model") or site.rpartition("/")[0]), site=site,
                variant=str(about["architecture"]).removeprefix("bsf-"), n_blocks=int(about["n_blocks"]),
                d_block=int(about["d_block"]), k=int(about["k"]), r2=float(_find(told, "r2") or 0.0),
                description=str(card.get("summary") or told.get("description") or ""),
            )  # fmt: skip
        except (KeyError, TypeError, ValueError, OSError) as error:
            raise Corrupt(f"The featurizer {folder.name} was to be read.", f"Its cfg.json is not one: {error}.",
                          "Make it again with its recipe.") from error  # fmt: skip

    def browser(self, name: str) -> Any:
        """The block browser of a featurizer; raises ``NotFound`` or ``Corrupt``."""
        self.get(name)
        folder = self.folders()[name]
        stamp = _stamp(folder, self.files)
        held = self._browsers.get(name)
        if held is None or held[0] != stamp:
            from backend.featurizers.browse import BlockBrowser

            held = self._browsers[name] = (stamp, BlockBrowser(folder))
        return held[1]

    def infos(self) -> tuple[list[FeaturizerInfo], list[str]]:
        found, skipped = self.everything()
        return list(found.values()), skipped


def _find(told: dict, key: str) -> float | None:
    """A measured number on the card's top level or under ``quality``."""
    for place in (told, told.get("quality") or {}, told.get("facts") or {}):
        if isinstance(place, dict) and isinstance(place.get(key), (int, float)):
            return place[key]
    return None
