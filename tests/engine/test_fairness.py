"""Fairness: a virtual device whose step costs one second, no threads."""

from __future__ import annotations

from backend.engine.scheduler import Scheduler
from backend.engine.work import Priority, Work


class Clock:
    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


class Row:
    stage, progress = "denoise", 0.0

    def __init__(self, n_steps, key="a"):
        self.left, self.batch_key = n_steps, key

    @property
    def done(self):
        return self.left == 0


class Runner:
    def __init__(self, clock, max_batch=1):
        self.clock, self.max_batch, self.log = clock, max_batch, []

    def advance(self, rows):
        self.clock.now += 1.0
        self.log.append(len(rows))
        for row in rows:
            row.left -= 1


def make(runner, steps, user, rows=1, priority=Priority.IMAGE, key="a"):
    return Work(runner, [Row(steps, key) for _ in range(rows)], finish=lambda w: runner.clock(), user=user,
                priority=priority)  # fmt: skip


def drain(scheduler):
    while scheduler.turn():
        pass


def test_a_greedy_user_does_not_delay_a_modest_one():
    clock = Clock()
    scheduler, runner = Scheduler(clock=clock, patience=1e9), Runner(clock)
    greedy = [make(runner, 5, "greedy") for _ in range(10)]
    for w in greedy:
        scheduler.submit(w)
    scheduler.turn()
    modest = make(runner, 5, "modest")
    scheduler.submit(modest)
    drain(scheduler)
    assert modest.future.result() <= 12  # 5 of its own, 5 of the other, one already running; first-come would be 55
    assert max(w.future.result() for w in greedy) == 55


def test_nobody_saves_up_credit_while_away():
    clock = Clock()
    scheduler, runner = Scheduler(clock=clock, patience=1e9), Runner(clock)
    scheduler.submit(make(runner, 100, "old"))
    for _ in range(50):
        scheduler.turn()
    late = make(runner, 20, "late")
    scheduler.submit(late)
    while not late.future.done():
        scheduler.turn()
    assert 38 <= late.future.result() - 50 <= 41  # turn about, not 20 turns in a row


def test_a_small_batch_takes_one_row_of_each_user_first():
    clock = Clock()
    scheduler, runner = Scheduler(clock=clock, patience=1e9), Runner(clock, max_batch=2)
    scheduler.submit(make(runner, 4, "wide", rows=8))
    narrow = make(runner, 4, "narrow")
    scheduler.submit(narrow)
    drain(scheduler)
    assert narrow.future.result() == 4.0


def test_strict_priority_with_patience_starves_nobody():
    clock = Clock()
    scheduler, runner = Scheduler(clock=clock, patience=10.0), Runner(clock)
    strip = make(runner, 3, "strip", priority=Priority.FILMSTRIP, key="strip")
    scheduler.submit(strip)
    for _ in range(200):  # a drag that never rests
        scheduler.submit(make(runner, 1, "hand", priority=Priority.DRAG))
        scheduler.turn()
    assert strip.future.done() and 20 <= strip.future.result() <= 100


def test_lower_levels_ride_along_only_where_it_is_free():
    for fill, expected in ((0, [1, 1, 3, 3]), (4, [4, 4, 2])):
        clock = Clock()
        scheduler, runner = Scheduler(clock=clock, patience=1e9, fill=fill), Runner(clock, max_batch=8)
        scheduler.submit(make(runner, 2, "hand", priority=Priority.DRAG))
        strip = make(runner, 2, "strip", rows=3, priority=Priority.FILMSTRIP)
        if fill:
            strip.rows[0].left = strip.rows[1].left = 3
        scheduler.submit(strip)
        drain(scheduler)
        assert runner.log == expected
