"""Models that load in the background: once each, by one thread, one after the other.

Who asks for one that is not there yet waits for a bounded time and then gets ``Loading`` (503). The model libraries are
imported by the loading thread, not by this module: the server answers ``/v1/health`` at once.
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
from typing import Any

from backend.core.errors import AtlasError, Corrupt, NotFound, Refused
from backend.core.settings import assets_dir, atlas_home

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
