"""What the connections of all clients of a Trio run share."""

from __future__ import annotations

import trio
from trio.testing import MockClock

from trio_beat._client.parts import Parts, parts


async def found() -> tuple[Parts, Parts]:
    return parts(), parts()


def test_a_run_has_one() -> None:
    first, again = trio.run(found)
    assert first is again


def test_another_run_has_another() -> None:
    assert trio.run(found)[0] is not trio.run(found)[0]


async def test_connections_have_limits_of_their_own_and_one_buffer() -> None:
    small, large = parts().reads(10), parts().reads(10**6)
    assert (small.max_message_size, large.max_message_size) == (10, 10**6)
    assert small.buffer is large.buffer


async def test_a_message_may_take_any_time(autojump_clock: MockClock) -> None:
    class Holder:
        def give_up(self, reason: str) -> None:
            raise AssertionError(reason)

    unfinished, holder = parts().reads(10).unfinished, Holder()
    unfinished.holds(holder, 2**40)
    await trio.sleep(10**9)
    unfinished.look_at(holder, listening=True)
    unfinished.finished(holder)
    assert unfinished.held == 0
