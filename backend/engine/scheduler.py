"""The scheduler: one thread owns the device and moves rows step by step.

Each turn takes in what arrived, drops what was cancelled, lets ``Fairness`` pick rows of one batch key and calls their
runner once. A new row therefore joins at the next step, a cancelled one is gone by the next step, and rows of many
users share one model call. The thread outlives every error: a runner that raises fails only the work it was given.

    wait of a new drag <= one step of whatever runs + its own steps

Not covered: several devices (see the design for where one machine ends), and pausing a step half way.
"""

from __future__ import annotations

import collections
import logging
import threading
import time
from collections.abc import Callable, Hashable
from concurrent.futures import Future
from typing import Any

from backend.core.errors import AtlasError, Refused
from backend.engine.fairness import Fairness
from backend.engine.work import Priority, Row, Work, call

log = logging.getLogger(__name__)


class Full(Refused):
    """The queue is full; nothing was lost, ask again."""

    status = 503


class Scheduler:
    """A bounded queue of works and the one thread that carries them out.

    ``max_waiting`` bounds the works held in all, ``max_per_user`` those of one user. Drive it by ``start()``, or turn
    it by hand with ``turn()`` (tests, scripts).
    """

    def __init__(
        self,
        *,
        max_waiting: int = 64,
        max_per_user: int = 16,
        patience: float = 1.5,
        fill: int = 0,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.max_waiting, self.max_per_user = max_waiting, max_per_user
        self.fairness = Fairness(patience=patience, fill=fill)
        self.clock = clock
        self.n_turns = self.n_rows = 0
        self._works: list[Work] = []
        self._inbox: collections.deque[Work] = collections.deque()
        self._held: collections.Counter[Hashable] = collections.Counter()
        self._wake = threading.Condition()
        self._order = 0
        self._closed = False
        self._thread: threading.Thread | None = None

    # ---- from any thread -------------------------------------------------------------------------------------

    def start(self) -> Scheduler:
        """Start the device thread (once)."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="device", daemon=True)
            self._thread.start()
        return self

    def submit(self, work: Work) -> Future:
        """Queue ``work`` and return its future; raises ``Full`` where the queue or the user's share of it is full."""
        with self._wake:
            depth, mine = sum(self._held.values()), self._held[work.user]
            if self._closed or depth >= self.max_waiting or mine >= self.max_per_user:
                if self._closed:
                    true = "The server is shutting down."
                elif depth >= self.max_waiting:
                    true = f"{depth} requests are waiting, which is as many as this server holds."
                else:
                    true = f"{mine} requests of the same user are waiting, which is as many as one user may have."
                raise Full("One more request was to be queued.", true, "Wait for an answer, then ask again.")
            self._held[work.user] += 1
            self._order += 1
            work.order, work.born = self._order, self.clock()
            work.touched = work.born
            self._inbox.append(work)
            self._wake.notify()
        return work.future

    def call(
        self,
        fn: Callable[[], Any],
        *,
        stage: str = "task",
        priority: Priority = Priority.IMAGE,
        user: Hashable = "",
    ) -> Future:
        """Run ``fn()`` as a single step on the device thread."""
        return self.submit(call(fn, stage=stage, priority=priority, user=user))

    def cancel(self, work: Work, error: AtlasError | None = None) -> None:
        """Drop the rows of ``work`` before their next step; its future raises ``error`` (``Cancelled``)."""
        work.cancel(error)
        with self._wake:
            self._wake.notify()

    @property
    def depth(self) -> int:
        """Works that are waiting or running."""
        return sum(self._held.values())

    @property
    def alive(self) -> bool:
        return self._thread is not None and self._thread.is_alive()

    def close(self, timeout: float = 5.0) -> None:
        """Refuse new work, drop what waits, and wait for the step that runs."""
        with self._wake:
            self._closed = True
            for work in [*self._inbox, *self._works]:
                work.cancel()
            self._wake.notify_all()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join(timeout)

    # ---- on the device thread --------------------------------------------------------------------------------

    def turn(self) -> int:
        """Take in arrivals, drop the cancelled, move one batch by one step; returns the rows moved."""
        while self._inbox:
            work = self._inbox.popleft()
            self.fairness.arrive(work, self._works)
            self._works.append(work)
        for work in [w for w in self._works if w.stop is not None]:
            self._end(work, error=work.stop)
        for work in [w for w in self._works if w.done]:  # every row came from a cache
            self._finish(work)
        batch = self.fairness.pick(self._works, self.clock())
        if not batch:
            for work in [w for w in self._works if not w.done]:  # nothing is ready, so nothing will ever wake it
                self._end(work, error=RuntimeError("A work waits for rows that it does not have."))
            return 0
        self._advance(batch)
        return len(batch)

    def _advance(self, batch: list[tuple[Work, Row]]) -> None:
        works = list(dict.fromkeys(work for work, _ in batch))
        stages = {work: row.stage for work, row in batch}
        begin = self.clock()
        for work in works:
            if not work.started:
                work.started = True
                work.span("queue", 1e3 * (begin - work.born))
        try:
            works[0].runner.advance([row for _, row in batch])
        except Exception as error:
            if len(works) == 1:
                if isinstance(error, AtlasError):  # the user's to read; the log only notes it
                    log.info("Refused during a step: %s", error)
                else:
                    log.warning("A step failed: %s", error, exc_info=True)
                self._end(works[0], error=error)
                return
            for work in works:  # advance moves all rows or none, so each work can be tried alone
                if work in self._works:
                    self._advance([(w, row) for w, row in batch if w is work])
            return
        end = self.clock()
        self.fairness.charge(batch, end - begin)
        self.n_turns += 1
        self.n_rows += len(batch)
        for work in works:
            work.touched = end
            work.span(stages[work], 1e3 * (end - begin))
            if work.stop is None and work.done:
                self._finish(work)

    def _finish(self, work: Work) -> None:
        try:
            value = work.finish(work)
        except Exception as error:
            log.warning("A finished work could not be handed over: %s", error, exc_info=True)
            self._end(work, error=error)
        else:
            self._end(work, value=value)

    def _end(self, work: Work, *, value: Any = None, error: BaseException | None = None) -> None:
        self._works.remove(work)
        with self._wake:
            self._held[work.user] -= 1
            if self._held[work.user] <= 0:
                del self._held[work.user]
        if error is not None:
            work.future.set_exception(error)
        else:
            work.future.set_result(value)

    def _run(self) -> None:
        while True:
            with self._wake:
                while not self._inbox and not self._works and not self._closed:
                    self._wake.wait()
                if self._closed and not self._inbox and not self._works:
                    return
            try:
                self.turn()
            except Exception:  # a mistake in here must not end the only thread that owns the device
                log.exception("The scheduler itself failed; what it held is given up.")
                for work in list(self._works):
                    self._end(work, error=RuntimeError("The scheduler failed; see the server's log."))
