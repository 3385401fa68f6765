"""Latest wins: storms, order, what is dropped and what is finished."""

from __future__ import annotations

import random
import threading
import time

import pytest

from backend.core.errors import Cancelled, Invalid, Superseded
from backend.engine.mailbox import Mailbox
from backend.engine.scheduler import Full, Scheduler
from backend.engine.work import Priority, Work


class Row:
    stage, batch_key = "denoise", "a"

    def __init__(self, n_steps):
        self.n_steps, self.step = n_steps, 0

    @property
    def done(self):
        return self.step >= self.n_steps

    @property
    def progress(self):
        return self.step / self.n_steps


class Runner:
    max_batch = 16

    def __init__(self, seconds=0.0):
        self.seconds, self.n_rows = seconds, 0

    def advance(self, rows):
        if self.seconds:
            time.sleep(self.seconds)
        self.n_rows += len(rows)
        for row in rows:
            row.step += 1


def maker(runner, value, steps=4):
    return lambda: Work(runner, [Row(steps)], finish=lambda w: value, priority=Priority.DRAG, user="c")


def by(future):
    error = future.exception()
    return error.by if isinstance(error, Superseded) else None


def drain(scheduler):
    while scheduler.turn() or scheduler.depth:
        pass


def test_a_storm_of_200_ends_on_the_last_value():
    runner, scheduler = Runner(seconds=0.002), Scheduler().start()
    mailbox = Mailbox(scheduler)
    futures = []
    for seq in range(200):
        futures.append(mailbox.put("canvas", seq, maker(runner, seq)))
        time.sleep(0.001)
    assert futures[-1].result(5) == 199
    shown = [f.result() for f in futures if f.exception(5) is None]
    assert shown == sorted(shown) and shown[-1] == 199
    assert len(shown) > 3, "a drag must always show motion"
    for seq, future in enumerate(futures):
        assert future.exception() is None and future.result() == seq or by(future) > seq
    assert runner.n_rows < 400  # of 800 for first-in-first-out
    scheduler.close()


def test_the_waiting_value_is_replaced_and_told_by_whom():
    runner, scheduler = Runner(), Scheduler()
    mailbox = Mailbox(scheduler)
    first = mailbox.put("c", 1, maker(runner, 1))
    for _ in range(3):  # three quarters done: kept
        scheduler.turn()
    second, third = mailbox.put("c", 2, maker(runner, 2)), mailbox.put("c", 3, maker(runner, 3))
    assert by(second) == 3 and not first.done()
    drain(scheduler)
    assert first.result() == 1 and third.result() == 3


def test_less_than_half_done_is_dropped_but_never_two_in_a_row():
    runner, scheduler = Runner(), Scheduler()
    mailbox = Mailbox(scheduler)
    first = mailbox.put("c", 1, maker(runner, 1))
    scheduler.turn()
    second = mailbox.put("c", 2, maker(runner, 2))
    scheduler.turn()
    assert by(first) == 2
    scheduler.turn()
    third = mailbox.put("c", 3, maker(runner, 3))
    drain(scheduler)
    assert second.result() == 2 and third.result() == 3


def test_old_values_and_equal_values():
    runner, scheduler = Runner(), Scheduler()
    mailbox = Mailbox(scheduler)
    new = mailbox.put("c", 9, maker(runner, 9))
    assert by(mailbox.put("c", 4, maker(runner, 4))) == 9
    assert mailbox.put("c", 9, maker(runner, "again")) is new
    drain(scheduler)
    assert new.result() == 9
    again = mailbox.put("c", 9, maker(runner, "again"))  # a reload asks for the same value once more
    drain(scheduler)
    assert again.result() == "again"


def test_canvases_do_not_disturb_each_other():
    runner, scheduler = Runner(), Scheduler()
    mailbox = Mailbox(scheduler)
    futures = [mailbox.put(name, 0, maker(runner, name)) for name in "abc"]
    drain(scheduler)
    assert [f.result() for f in futures] == ["a", "b", "c"]


def test_a_failing_value_does_not_block_the_next():
    runner, scheduler = Runner(), Scheduler()
    mailbox = Mailbox(scheduler)

    def broken():
        raise Invalid("A value was given.", "It is bad.", "Give another.")

    first = mailbox.put("c", 1, maker(runner, 1))
    scheduler.turn(), scheduler.turn(), scheduler.turn()
    second = mailbox.put("c", 2, broken)
    drain(scheduler)
    with pytest.raises(Invalid):
        second.result()
    third = mailbox.put("c", 3, maker(runner, 3))
    drain(scheduler)
    assert first.result() == 1 and third.result() == 3


def test_a_full_queue_reaches_the_caller():
    scheduler = Scheduler(max_waiting=1)
    mailbox = Mailbox(scheduler)
    mailbox.put("a", 0, maker(Runner(), 0))
    with pytest.raises(Full):
        mailbox.put("b", 0, maker(Runner(), 0)).result(0)


def test_abandon():
    runner, scheduler = Runner(), Scheduler()
    mailbox = Mailbox(scheduler)
    running = mailbox.put("c", 1, maker(runner, 1))
    for _ in range(3):
        scheduler.turn()
    waiting = mailbox.put("c", 2, maker(runner, 2))
    mailbox.abandon("c", 2)
    mailbox.abandon("c", 1)
    drain(scheduler)
    assert isinstance(waiting.exception(), Superseded) and isinstance(running.exception(), Cancelled)


def test_idle_canvases_are_forgotten():
    runner, scheduler = Runner(), Scheduler()
    mailbox = Mailbox(scheduler, idle=0.0)
    for i in range(20):
        mailbox.put(i, 5, maker(runner, i))
        drain(scheduler)
        time.sleep(0.001)
    assert len(mailbox) == 1


@pytest.mark.parametrize("seed", range(5))
def test_many_hands_at_once(seed):
    """Threads that put at random: each canvas's last value is always shown, and every future ends."""
    draw = random.Random(seed)
    runner, scheduler = Runner(seconds=0.0005), Scheduler(max_waiting=64, max_per_user=64).start()
    mailbox = Mailbox(scheduler)
    last, everything = {}, []

    def hand(name, pauses):
        for seq, pause in enumerate(pauses):
            last[name] = mailbox.put(name, seq, maker(runner, (name, seq)))
            everything.append(last[name])
            time.sleep(pause)

    threads = [threading.Thread(target=hand, args=(n, [draw.random() * 0.002 for _ in range(40)])) for n in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {name: future.result(5) for name, future in last.items()} == {n: (n, 39) for n in range(6)}
    for future in everything:
        assert future.exception(5) is None or isinstance(future.exception(), Superseded)
    scheduler.close()
