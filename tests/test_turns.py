"""Turns: few in a pass, in their order, and given up by who is cancelled."""

from __future__ import annotations

import trio
import trio.testing

from trio_beat._turns import Turns


class Passes(trio.abc.Instrument):
    """Counts the scheduler's passes."""

    def __init__(self) -> None:
        self.count = 0

    def before_io_wait(self, timeout: float) -> None:
        self.count += 1


async def test_few_in_a_pass_and_in_order(autojump_clock: trio.testing.MockClock) -> None:
    turns, passes = Turns(3), Passes()
    taken: list[tuple[int, int]] = []

    async def work(who: int) -> None:
        for _ in range(4):
            await turns.take()
            taken.append((passes.count, who))

    trio.lowlevel.add_instrument(passes)
    async with trio.open_nursery() as nursery:
        await nursery.start(turns.run)
        async with trio.open_nursery() as workers:
            for who in range(10):
                workers.start_soon(work, who)
        nursery.cancel_scope.cancel()
    trio.lowlevel.remove_instrument(passes)
    for number in {number for number, _ in taken}:
        assert sum(other == number for other, _ in taken) <= 3
    # Nobody gets a second turn before everybody had a first; within a pass, Trio draws the order.
    assert {who for _, who in taken[:12]} == set(range(10))
    assert len(taken) == 40


async def test_cancelled_while_waiting(autojump_clock: trio.testing.MockClock) -> None:
    turns = Turns(1)
    with trio.move_on_after(1) as scope:
        await turns.take()  # nobody gives turns yet
    assert scope.cancelled_caught
    async with trio.open_nursery() as nursery:
        await nursery.start(turns.run)
        await turns.take()
        nursery.cancel_scope.cancel()
