"""The scheduler: batching by step, cancellation, isolation of failures, bounds. No model, no torch."""

from __future__ import annotations

import random
import threading
import time

import pytest

from backend.core.errors import Cancelled, Invalid
from backend.engine.scheduler import Full, Scheduler
from backend.engine.work import Priority, Work


class FakeRow:
    def __init__(self, n_steps, key="a", stage="denoise", bad_at=None):
        self.n_steps, self.step, self.key, self.stage, self.bad_at = n_steps, 0, key, stage, bad_at

    @property
    def done(self):
        return self.step >= self.n_steps

    @property
    def progress(self):
        return self.step / self.n_steps if self.n_steps else 1.0

    @property
    def batch_key(self):
        return self.key


class FakeRunner:
    """Counts what it was asked to do; moves all rows or none."""

    def __init__(self, max_batch=8, seconds=0.0):
        self.max_batch, self.seconds, self.batches = max_batch, seconds, []

    def advance(self, rows):
        assert len({id(r) for r in rows}) == len(rows), "a row twice in one batch"
        assert len({r.batch_key for r in rows}) == 1, "two batch keys in one batch"
        assert len(rows) <= self.max_batch and not any(r.done for r in rows)
        self.batches.append(list(rows))
        if any(r.bad_at == r.step for r in rows):
            raise Invalid("A row was to be moved.", "It is a bad one.", "Give another.")
        if self.seconds:
            time.sleep(self.seconds)
        for row in rows:
            row.step += 1


def work(runner, *steps, key="a", finish=None, **options):
    rows = [FakeRow(n, key) for n in steps]
    return Work(runner, rows, finish=finish or (lambda w: [r.step for r in w.rows]), **options)


def drain(scheduler, limit=10_000):
    for _ in range(limit):
        if not scheduler.turn() and not scheduler.depth:
            return
    raise AssertionError("the scheduler did not come to rest")


def test_rows_of_several_works_share_a_step_and_a_new_one_joins_at_the_next():
    runner, scheduler = FakeRunner(), Scheduler()
    first = work(runner, 4, 4, user="ann")
    scheduler.submit(first)
    scheduler.turn()
    second = work(runner, 3, user="bob")
    scheduler.submit(second)
    drain(scheduler)
    assert [len(b) for b in runner.batches] == [2, 3, 3, 3]
    assert first.future.result() == [4, 4] and second.future.result() == [3]


def test_different_keys_never_share():
    runner, scheduler = FakeRunner(), Scheduler()
    works = [work(runner, 3, key=k, user=k) for k in "ab"]
    for w in works:
        scheduler.submit(w)
    drain(scheduler)
    assert len(runner.batches) == 6 and all(w.future.result() == [3] for w in works)


def test_cancel_drops_the_rows_before_the_next_step():
    runner, scheduler = FakeRunner(), Scheduler()
    wanted, unwanted = work(runner, 5, user="ann"), work(runner, 5, user="bob")
    scheduler.submit(wanted)
    scheduler.submit(unwanted)
    scheduler.turn()
    scheduler.cancel(unwanted)
    drain(scheduler)
    assert unwanted.rows[0].step == 1 and wanted.future.result() == [5]
    with pytest.raises(Cancelled):
        unwanted.future.result()


def test_a_bad_row_fails_its_own_work_only():
    runner, scheduler = FakeRunner(), Scheduler()
    good, bad = work(runner, 4, 4, user="ann"), work(runner, 4, user="bob")
    bad.rows[0].bad_at = 2
    scheduler.submit(good)
    scheduler.submit(bad)
    drain(scheduler)
    assert good.future.result() == [4, 4]
    with pytest.raises(Invalid):
        bad.future.result()


def test_a_failing_finish_fails_its_own_work_only():
    runner, scheduler = FakeRunner(), Scheduler()

    def broken(w):
        raise OSError("disk")

    bad, good = work(runner, 1, finish=broken), work(runner, 2)
    scheduler.submit(bad)
    scheduler.submit(good)
    drain(scheduler)
    assert good.future.result() == [2]
    with pytest.raises(OSError):
        bad.future.result()


def test_the_thread_outlives_everything():
    scheduler = Scheduler().start()
    try:
        for error in (ValueError("x"), MemoryError(), AssertionError()):
            def broken(error=error):
                raise error
            with pytest.raises(type(error)):
                scheduler.call(broken).result(5)
        assert scheduler.call(lambda: threading.current_thread().name).result(5) == "device"
        assert scheduler.alive
    finally:
        scheduler.close()
    assert not scheduler.alive
    with pytest.raises(Full, match="shutting down"):
        scheduler.call(lambda: 1)


def test_a_full_queue_refuses_with_what_is_true():
    scheduler = Scheduler(max_waiting=3, max_per_user=2)
    for user in ("ann", "ann", "bob"):
        scheduler.submit(work(FakeRunner(), 1, user=user))
    with pytest.raises(Full, match="3 requests are waiting") as refused:
        scheduler.submit(work(FakeRunner(), 1, user="cem"))
    assert refused.value.status == 503
    drain(scheduler)
    assert scheduler.depth == 0
    scheduler.submit(work(FakeRunner(), 1, user="ann"))
    scheduler.submit(work(FakeRunner(), 1, user="ann"))
    with pytest.raises(Full, match="same user"):
        scheduler.submit(work(FakeRunner(), 1, user="ann"))


def test_priorities_and_single_step_tasks():
    order, scheduler = [], Scheduler()
    for priority in (Priority.JOB, Priority.FILMSTRIP, Priority.IMAGE, Priority.DRAG):
        scheduler.call(lambda p=priority: order.append(p.name), priority=priority, user=priority)
    drain(scheduler)
    assert order == ["DRAG", "IMAGE", "FILMSTRIP", "JOB"]


def test_spans_name_the_stages_and_the_wait():
    clock = iter(range(1000))
    scheduler = Scheduler(clock=lambda: float(next(clock)))
    w = work(FakeRunner(), 2)
    scheduler.submit(w)
    drain(scheduler)
    assert set(w.spans) == {"queue", "denoise"} and w.spans["denoise"] == 2000.0 and w.spans["queue"] > 0


def test_a_work_that_waits_for_nothing_is_ended_not_kept_for_ever():
    scheduler = Scheduler()
    stuck = work(FakeRunner(), 2, key=None)
    scheduler.submit(stuck)
    scheduler.turn()
    assert scheduler.depth == 0
    with pytest.raises(RuntimeError):
        stuck.future.result()


def test_rows_that_are_all_done_finish_without_a_step():
    runner, scheduler = FakeRunner(), Scheduler()
    w = work(runner, 0, 0)
    scheduler.submit(w)
    drain(scheduler)
    assert w.future.result() == [0, 0] and runner.batches == []


@pytest.mark.parametrize("seed", range(30))
def test_random_traffic_keeps_every_promise(seed):
    """Whatever arrives: every future ends, every kept row makes exactly its steps, one failure hits one work."""
    draw = random.Random(seed)
    runner = FakeRunner(max_batch=draw.randint(1, 6))
    scheduler = Scheduler(max_waiting=40, max_per_user=40, patience=draw.choice([1e-6, 1.0]), fill=draw.choice([0, 4]))
    works, bad, cancelled = [], set(), set()
    for _ in range(60):
        if draw.random() < 0.5 and scheduler.depth < 40:
            w = work(runner, *[draw.randint(0, 5) for _ in range(draw.randint(1, 3))], key=draw.choice("abc"),
                     user=draw.choice("xyz"), priority=draw.choice(list(Priority)))  # fmt: skip
            if draw.random() < 0.15 and w.rows[0].n_steps:
                w.rows[0].bad_at = draw.randrange(w.rows[0].n_steps)
                bad.add(w)
            scheduler.submit(w)
            works.append(w)
        if draw.random() < 0.15 and works:
            unwanted = draw.choice(works)
            if not unwanted.future.done():
                scheduler.cancel(unwanted)
                cancelled.add(unwanted)
        scheduler.turn()
    drain(scheduler)
    assert scheduler.depth == 0 and all(w.future.done() for w in works)
    for w in works:
        error = w.future.exception()
        if w in cancelled:
            assert error is None or isinstance(error, Cancelled | Invalid)
        elif w in bad:
            assert isinstance(error, Invalid)
        else:
            assert error is None and w.future.result() == [r.n_steps for r in w.rows]
