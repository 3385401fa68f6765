"""The latest-wins mailbox: one value runs, one waits, everything between is skipped.

Each canvas has a rising ``seq``. Of its values at most one runs and at most one waits; a new one takes the place of
the one that waits, whose caller gets ``Superseded`` with ``by``, the newer seq. A running work that is less than half
done is dropped in favour of the newer value, but never two in a row: otherwise a fast drag on a slow device would
show nothing until the hand rests. More than half done, it is finished.

    a settled drag shows its last value after at most  (rest of the running frame) + (one frame)

Not covered: the network (a client may abort a request; the server calls ``abandon``).
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Hashable
from concurrent.futures import Future

from backend.core.errors import AtlasError, Superseded
from backend.engine.scheduler import Scheduler
from backend.engine.work import Work


def superseded(canvas: Hashable, seq: int, by: int) -> Superseded:
    """The error of a value that a newer one replaced; its attribute ``by`` is the newer seq."""
    error = Superseded(f"Value {seq} of canvas {canvas} was to be shown.", f"The newer value {by} replaced it.",
                       f"Wait for the answer to {by}.")  # fmt: skip
    error.by = by  # type: ignore[attr-defined]
    return error


class _Letter:
    def __init__(self, seq: int, make: Callable[[], Work]) -> None:
        self.seq, self.make = seq, make
        self.future: Future = Future()
        self.future.set_running_or_notify_cancel()
        self.work: Work | None = None


class _Box:
    def __init__(self) -> None:
        self.seq = -1
        self.running: _Letter | None = None
        self.waiting: _Letter | None = None
        self.drops = 0
        self.touched = time.monotonic()


class Mailbox:
    """Latest-wins in front of a ``Scheduler``; thread-safe.

    ``keep_share``: a running work with more progress than this is finished. ``idle``: seconds after which a canvas
    that nobody touched is forgotten, so that its seq may start again from 0.
    """

    def __init__(self, scheduler: Scheduler, *, keep_share: float = 0.5, idle: float = 600.0) -> None:
        self.scheduler, self.keep_share, self.idle = scheduler, keep_share, idle
        self._boxes: dict[Hashable, _Box] = {}
        self._lock = threading.RLock()

    def put(self, canvas: Hashable, seq: int, make: Callable[[], Work]) -> Future:
        """Hand in a value; ``make`` builds its work when its turn comes. Never blocks.

        The future gives the work's result, raises ``Superseded`` (with ``by``) where a newer value replaced it, or
        what ``make``, the scheduler or the runner raised. The same seq twice is one work with one answer.
        """
        letter = _Letter(seq, make)
        stale: list[tuple[Future, AtlasError]] = []
        with self._lock:
            box = self._boxes.get(canvas)
            if box is None:
                self._forget_idle()
                box = self._boxes[canvas] = _Box()
            box.touched = time.monotonic()
            if seq < box.seq:
                letter.future.set_exception(superseded(canvas, seq, box.seq))
                return letter.future
            for same in (box.waiting, box.running):
                if same is not None and same.seq == seq:
                    return same.future
            box.seq = seq
            if box.waiting is not None:
                stale.append((box.waiting.future, superseded(canvas, box.waiting.seq, seq)))
                box.waiting = None
            if box.running is None:
                self._begin(canvas, box, letter)
            else:
                box.waiting = letter
                work = box.running.work
                if work is not None and box.drops == 0 and work.stop is None and work.progress < self.keep_share:
                    box.drops += 1
                    self.scheduler.cancel(work, superseded(canvas, box.running.seq, seq))
        for future, error in stale:
            future.set_exception(error)
        return letter.future

    def abandon(self, canvas: Hashable, seq: int) -> None:
        """The caller of value ``seq`` has gone: do not start it, and drop it if it runs."""
        with self._lock:
            box = self._boxes.get(canvas)
            if box is None:
                return
            if box.waiting is not None and box.waiting.seq == seq:
                letter, box.waiting = box.waiting, None
                letter.future.set_exception(superseded(canvas, seq, box.seq))
            elif box.running is not None and box.running.seq == seq and box.running.work is not None:
                self.scheduler.cancel(box.running.work)

    def __len__(self) -> int:
        return len(self._boxes)

    def _begin(self, canvas: Hashable, box: _Box, letter: _Letter) -> None:
        try:
            work = letter.work = letter.make()
            self.scheduler.submit(work)
        except Exception as error:
            letter.future.set_exception(error)
            return
        box.running = letter
        work.future.add_done_callback(lambda done: self._ended(canvas, letter, done))

    def _ended(self, canvas: Hashable, letter: _Letter, done: Future) -> None:
        error = done.exception()
        with self._lock:
            box = self._boxes.get(canvas)
            if box is not None and box.running is letter:
                box.running = None
                box.touched = time.monotonic()
                if error is None:
                    box.drops = 0
                while box.running is None and box.waiting is not None:
                    following, box.waiting = box.waiting, None
                    self._begin(canvas, box, following)
        if error is not None:
            letter.future.set_exception(error)
        else:
            letter.future.set_result(done.result())

    def _forget_idle(self) -> None:
        now = time.monotonic()
        for canvas in [c for c, b in self._boxes.items() if b.running is None and now - b.touched > self.idle]:
            del self._boxes[canvas]
