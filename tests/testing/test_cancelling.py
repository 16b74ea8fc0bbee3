from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial

import trio

from trio_beat.testing import cancelled_at


async def test_cancels_at_each_await_in_turn() -> None:
    async def wait_three_times(log: list[int]) -> None:
        for number in range(3):
            await trio.lowlevel.checkpoint()
            log.append(number)

    ends = []
    for step in range(6):
        log: list[int] = []
        call: Callable[[], Awaitable[None]] = partial(wait_three_times, log)
        ends.append((await cancelled_at(step, call), log))
    everything = [0, 1, 2]
    assert ends == [
        (True, []),
        (True, []),
        (True, [0]),
        (True, [0, 1]),
        (False, everything),
        (False, everything),
    ]
