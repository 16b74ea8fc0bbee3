"""Turns: few in a pass, in their order, and given up where a task is cancelled."""

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

    async def work(task: int) -> None:
        for _ in range(4):
            await turns.take()
            taken.append((passes.count, task))

    trio.lowlevel.add_instrument(passes)
    async with trio.open_nursery() as nursery:
        await nursery.start(turns.run)
        async with trio.open_nursery() as workers:
            for task in range(10):
                workers.start_soon(work, task)
        nursery.cancel_scope.cancel()
    trio.lowlevel.remove_instrument(passes)
    for number in {number for number, _ in taken}:
        assert sum(other == number for other, _ in taken) <= 3
    # No task gets a second turn before the pass in which each has had its first.
    passes_of = [[number for number, other in taken if other == task] for task in range(10)]
    assert max(first for first, *_ in passes_of) <= min(second for _, second, *_ in passes_of)
    assert len(taken) == 40


async def test_a_lone_taker_waits_no_longer_than_a_checkpoint(
    autojump_clock: trio.testing.MockClock,
) -> None:
    turns, passes = Turns(3), Passes()
    async with trio.open_nursery() as nursery:
        await nursery.start(turns.run)
        await trio.testing.wait_all_tasks_blocked()
        trio.lowlevel.add_instrument(passes)
        before = passes.count
        for _ in range(10):
            await turns.take()
        assert passes.count - before == 10
        trio.lowlevel.remove_instrument(passes)
        nursery.cancel_scope.cancel()


async def test_cancelled_while_waiting(autojump_clock: trio.testing.MockClock) -> None:
    turns = Turns(1)
    with trio.move_on_after(1) as scope:
        await turns.take()  # no turns are given yet
    assert scope.cancelled_caught
    async with trio.open_nursery() as nursery:
        await nursery.start(turns.run)
        await turns.take()
        nursery.cancel_scope.cancel()
