"""Latest wins: of many values that a drag makes, only the newest waiting one is sent, and no answer is drawn late.

``pn.bind`` with an asynchronous function cancels only every second stale call; here nothing is cancelled: at most
``in_flight`` requests are under way, one value waits, and a newer value takes its place.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

V = TypeVar("V")
R = TypeVar("R")


class LatestWins(Generic[V, R]):
    """Send values of one canvas. ``send(seq, value)`` returns the answer or ``None`` where it was superseded.

    ``deliver`` gets answers in rising order of ``seq`` only; ``fail`` gets errors of the newest value only.
    """

    def __init__(self, send: Callable[[int, V], Awaitable[R | None]], *, deliver: Callable[[int, R], None],
                 fail: Callable[[Exception], None], in_flight: int = 2) -> None:  # fmt: skip
        self._send, self._deliver, self._fail, self._limit = send, deliver, fail, in_flight
        self._seq, self._delivered = 0, -1
        self._waiting: tuple[int, V] | None = None
        self._running: set[asyncio.Task] = set()

    def submit(self, value: V) -> int:
        """Take the newest value; returns its sequence number. Call it from the event loop."""
        self._seq += 1
        self._waiting = (self._seq, value)
        if len(self._running) < self._limit:
            task = asyncio.ensure_future(self._drain())
            self._running.add(task)
            task.add_done_callback(self._running.discard)
        return self._seq

    @property
    def busy(self) -> bool:
        return bool(self._running)

    async def _drain(self) -> None:
        while self._waiting is not None:
            (seq, value), self._waiting = self._waiting, None
            try:
                answer = await self._send(seq, value)
            except Exception as error:  # noqa: BLE001  the page shows it; a drag must never kill its own sender
                if seq == self._seq:
                    self._fail(error)
                continue
            if answer is not None and seq > self._delivered:
                self._delivered = seq
                self._deliver(seq, answer)
