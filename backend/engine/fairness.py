"""Which rows take the next step: priority first, then the user who has had the least of the device.

Each user has a clock of device seconds received (start-time fair queueing: a user who arrives starts at the smallest
clock of those who are waiting, so nobody saves up credit while away). Of the ready rows the leader is the one with the
smallest ``(level, clock, age)``; every row with the leader's batch key may ride with it, one row of each user before
anybody's second. A row of a lower level rides only while the batch is smaller than ``fill``: on a GPU it costs
nothing, on a CPU it would slow the drag, so there ``fill`` is 0.

    level = max(0, priority - floor(seconds since its last step / patience))

so strict priority never starves anybody: after ``patience`` seconds without a step a work counts one level higher.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable

from backend.engine.work import Row, Work


class Fairness:
    """Keeps the users' clocks and picks batches; pure bookkeeping, no threads, no clock of its own."""

    def __init__(self, *, patience: float = 1.5, fill: int = 0) -> None:
        self.patience, self.fill = patience, fill
        self.clock: dict[Hashable, float] = {}

    def arrive(self, work: Work, works: Iterable[Work]) -> None:
        """Set the clock of the user of a new ``work``; ``works`` are those already here."""
        floor = min((self.clock.get(w.user, 0.0) for w in works), default=max(self.clock.values(), default=0.0))
        if len(self.clock) > 4096:  # users come and go for ever; those at or below the floor carry no information
            self.clock = {user: c for user, c in self.clock.items() if c > floor}
        self.clock[work.user] = max(self.clock.get(work.user, 0.0), floor)

    def level(self, work: Work, now: float) -> int:
        """Effective priority of ``work`` at time ``now`` (seconds)."""
        return max(0, int(work.priority) - int((now - work.touched) / self.patience))

    def pick(self, works: Iterable[Work], now: float) -> list[tuple[Work, Row]]:
        """The rows of the next step; empty where nothing is ready."""
        ready = []
        for work in works:
            level, clock = self.level(work, now), self.clock.get(work.user, 0.0)
            for row in work.rows:
                if not row.done and row.batch_key is not None:
                    ready.append((level, clock, work.order, work, row))
        if not ready:
            return []
        top, _, _, lead, lead_row = min(ready, key=lambda item: item[:3])
        turns: dict[Hashable, int] = {}
        riders = []
        for level, clock, order, work, row in sorted(ready, key=lambda item: (item[0], item[2])):
            if work.runner is lead.runner and row.batch_key == lead_row.batch_key:
                turn = turns[work.user] = turns.get(work.user, -1) + 1
                riders.append((level, turn, clock, order, work, row))
        riders.sort(key=lambda item: item[:4])
        batch: list[tuple[Work, Row]] = []
        for level, _, _, _, work, row in riders[: lead.runner.max_batch]:
            if level == top or len(batch) < self.fill:
                batch.append((work, row))
        return batch

    def charge(self, batch: list[tuple[Work, Row]], seconds: float) -> None:
        """Book ``seconds`` of device time on the users of ``batch``, in equal parts by row."""
        for work, _ in batch:
            self.clock[work.user] = self.clock.get(work.user, 0.0) + seconds / len(batch)
