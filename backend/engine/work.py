"""Work, rows and runners: what the scheduler moves, without knowing what it is.

A **row** is one image or one sequence: it has a ``stage`` (a name for the timings), a ``batch_key`` (rows with equal
keys may share one call; ``None`` while the row waits for another row of its work), ``progress`` from 0 to 1 and
``done``. A **work** is the rows of one request and one future. A **runner** moves rows by one step:

    advance(rows)    moves every row one step, or raises and moves none

That all-or-nothing rule is what lets the scheduler try the works of a failed batch one by one, so that one bad
request never takes its neighbours down. Not covered here: order and fairness (``fairness``), threads (``scheduler``).
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import Future
from enum import IntEnum
from typing import Any, Protocol

from backend.core.errors import AtlasError, Cancelled


class Priority(IntEnum):
    """Who goes first; smaller is sooner."""

    DRAG = 0
    IMAGE = 1
    FILMSTRIP = 2
    JOB = 3


class Row(Protocol):
    stage: str
    batch_key: Hashable | None
    progress: float
    done: bool


class Runner(Protocol):
    max_batch: int

    def advance(self, rows: Sequence[Row]) -> None:
        """Move every row one step, or raise and move none."""


class Work:
    """The rows of one request, their future and their timings.

    ``finish(work)`` runs on the device thread once every row is done; what it returns is the future's result.
    ``spans`` collects milliseconds by stage; ``queue`` is the wait before the first step.
    """

    def __init__(
        self,
        runner: Runner,
        rows: Sequence[Row],
        *,
        finish: Callable[[Work], Any],
        priority: Priority = Priority.IMAGE,
        user: Hashable = "",
    ) -> None:
        self.runner, self.rows, self.finish = runner, list(rows), finish
        self.priority, self.user = priority, user
        self.future: Future = Future()
        self.future.set_running_or_notify_cancel()  # so that nobody but the scheduler ends it
        self.spans: dict[str, float] = {}
        self.order = 0
        self.born = self.touched = 0.0
        self.started = False
        self._lock = threading.Lock()
        self._stop: AtlasError | None = None

    @property
    def progress(self) -> float:
        """Mean progress of the rows, 0 to 1."""
        return sum(row.progress for row in self.rows) / len(self.rows) if self.rows else 1.0

    @property
    def done(self) -> bool:
        return all(row.done for row in self.rows)

    @property
    def stop(self) -> AtlasError | None:
        """Why it was cancelled; ``None`` while it is wanted."""
        return self._stop

    def cancel(self, error: AtlasError | None = None) -> None:
        """Ask for the rows to be dropped before their next step; the future then raises ``error`` (``Cancelled``)."""
        with self._lock:
            if self._stop is None:
                self._stop = error or Cancelled("This work was to be carried out.", "It was cancelled.", "Ask again.")

    def span(self, stage: str, ms: float) -> None:
        """Add ``ms`` milliseconds to a stage."""
        self.spans[stage] = self.spans.get(stage, 0.0) + ms


class _Call:
    """A row of one step: a function to call on the device thread."""

    def __init__(self, fn: Callable[[], Any], stage: str) -> None:
        self.fn, self.stage, self.value = fn, stage, None
        self.done, self.progress = False, 0.0
        self.batch_key: Hashable | None = id(self)  # never shared


class CallRunner:
    """Runs single-step tasks, one at a time: text, sinks, anything that is not a batch of equal rows."""

    max_batch = 1

    def advance(self, rows: Sequence[_Call]) -> None:
        for row in rows:
            row.value = row.fn()
            row.done, row.progress = True, 1.0


_CALLS = CallRunner()


def call(
    fn: Callable[[], Any], *, stage: str = "task", priority: Priority = Priority.IMAGE, user: Hashable = ""
) -> Work:
    """A work that calls ``fn()`` once on the device thread; its future holds what ``fn`` returned."""
    return Work(_CALLS, [_Call(fn, stage)], finish=lambda w: w.rows[0].value, priority=priority, user=user)
