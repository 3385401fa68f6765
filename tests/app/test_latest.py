"""Latest wins: of many values only the newest waits, answers come in rising order, an error never stops the sender."""

from __future__ import annotations

import asyncio

from app.client.latest import LatestWins


class Desk:
    """A sender whose answers are let go by hand."""

    def __init__(self, *, in_flight: int = 1) -> None:
        self.begun, self.got, self.failed = [], [], []
        self.gates: dict[int, asyncio.Future] = {}
        self.latest = LatestWins(
            self.send, deliver=lambda s, v: self.got.append((s, v)), fail=self.failed.append, in_flight=in_flight
        )

    async def send(self, seq: int, value):
        self.begun.append(value)
        self.gates[value] = asyncio.get_running_loop().create_future()
        return await self.gates[value]

    async def answer(self, value, answer=...) -> None:
        gate = self.gates[value]
        if isinstance(answer, Exception):
            gate.set_exception(answer)
        else:
            gate.set_result(value if answer is ... else answer)
        for _ in range(4):
            await asyncio.sleep(0)


async def _rest() -> None:
    for _ in range(4):
        await asyncio.sleep(0)


async def test_only_the_newest_waits():
    desk = Desk()
    desk.latest.submit(0)
    await _rest()
    for value in range(1, 200):
        desk.latest.submit(value)
    await _rest()
    assert desk.begun == [0]
    await desk.answer(0)
    assert desk.begun == [0, 199]
    await desk.answer(199)
    assert [v for _, v in desk.got] == [0, 199]
    assert not desk.latest.busy


async def test_a_late_answer_is_not_drawn():
    desk = Desk(in_flight=2)
    desk.latest.submit("old")
    await _rest()
    desk.latest.submit("new")
    await _rest()
    assert desk.begun == ["old", "new"]
    await desk.answer("new")
    await desk.answer("old")
    assert [v for _, v in desk.got] == ["new"]


async def test_sequence_numbers_rise():
    desk = Desk()
    first, second = desk.latest.submit("a"), desk.latest.submit("b")
    assert second > first
    await _rest()
    await desk.answer("b")
    assert desk.got == [(second, "b")]


async def test_superseded_is_silent():
    desk = Desk()
    desk.latest.submit("a")
    await _rest()
    await desk.answer("a", None)
    assert desk.got == [] and desk.failed == []


async def test_errors_of_the_newest_are_told_and_the_sender_goes_on():
    desk = Desk()
    desk.latest.submit("a")
    await _rest()
    desk.latest.submit("b")
    # "a" is not the newest any more: its failure is of no interest.
    await desk.answer("a", ValueError("old"))
    assert desk.failed == []
    await desk.answer("b", ValueError("new"))
    assert [str(e) for e in desk.failed] == ["new"]
    desk.latest.submit("c")
    await _rest()
    await desk.answer("c")
    assert [v for _, v in desk.got] == ["c"]


async def test_at_most_so_many_are_under_way():
    desk = Desk(in_flight=2)
    for value in range(5):
        desk.latest.submit(value)
        await _rest()
    assert desk.begun == [0, 1]
