"""Receiving loses no message, whenever a scope of Trio's cancels it."""

from __future__ import annotations

from functools import partial
from itertools import cycle

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st
from trio.testing import MockClock, wait_all_tasks_blocked
from websockets.frames import Frame, Opcode

from tests.support.harness import linked
from trio_beat import Connection, ConnectionClosed
from trio_beat.testing.cancelling import cancelled_at

#: More than the inbox holds, so that its reader is held back, too.
MESSAGES = 40


def _frames(first: int, count: int) -> bytes:
    numbers = range(first, first + count)
    return b"".join(Frame(Opcode.TEXT, b"%d" % it).serialize(mask=True) for it in numbers)


@pytest.mark.parametrize("iterating", [False, True])
@pytest.mark.parametrize("waiting", [False, True])
async def test_cancelled_at_every_await(
    waiting: bool, iterating: bool, autojump_clock: MockClock
) -> None:
    """A message waits already, or comes while it is waited for."""
    for step in range(4):
        async with linked() as link, trio.open_nursery() as nursery:
            receive = link.connection.__anext__ if iterating else link.connection.receive
            got: list[str | bytes] = []

            async def take() -> None:
                got.append(await receive())  # noqa: B023

            if waiting:
                await link.peer.send(_frames(0, 2))
                await wait_all_tasks_blocked()
            else:
                nursery.start_soon(link.peer.send, _frames(0, 2))
            cancelled = await cancelled_at(step, take)
            assert cancelled == (not got)
            while len(got) < 2:
                await take()
            assert got == ["0", "1"]
    assert not cancelled  # the last step is beyond all of them


async def test_a_scope_without_time_takes_nothing(autojump_clock: MockClock) -> None:
    """It is cancelled as it begins, as with any other call of Trio's."""
    async with linked() as link:
        await link.peer.send(_frames(0, 3))
        await wait_all_tasks_blocked()
        for _ in range(5):
            with trio.move_on_after(0) as scope:
                await link.connection.receive()
            assert scope.cancelled_caught
        assert [await link.connection.receive() for _ in range(3)] == ["0", "1", "2"]


async def _take(connection: Connection, got: list[str | bytes], pauses: list[float]) -> None:
    """Receive for a short time, again and again, until the peer has closed."""
    for seconds in cycle([*pauses, 0.001]):
        with trio.move_on_after(seconds):
            try:
                got.append(await connection.receive())
            except ConnectionClosed:
                return


async def _play(tasks: list[list[float]], bursts: list[tuple[int, float]]) -> None:
    got: list[str | bytes] = []

    async def handler(connection: Connection) -> None:
        async with trio.open_nursery() as nursery:
            for pauses in tasks:
                nursery.start_soon(_take, connection, got, pauses)

    sent = 0
    async with linked(handler, inbound=4) as link:
        for count, pause in bursts:
            await link.peer.send(_frames(sent, count))
            sent += count
            await trio.sleep(pause)
        await link.peer.send_close()
        await link.peer.closed()
        await link.peer.aclose()
        await link.ended()
    assert sorted(map(int, got)) == list(range(sent))
    if len(tasks) == 1:
        assert got == [str(number) for number in range(sent)]


@settings(deadline=None)
@given(
    st.lists(
        st.lists(st.sampled_from([0.0, 0.001, 0.01, 1.0]), max_size=5), min_size=1, max_size=8
    ),
    st.lists(
        st.tuples(st.integers(0, MESSAGES), st.sampled_from([0.0, 0.001, 0.01, 0.5])), max_size=8
    ),
)
def test_many_tasks_with_little_time_get_each_message_once(
    tasks: list[list[float]], bursts: list[tuple[int, float]]
) -> None:
    trio.run(partial(_play, tasks, bursts), clock=MockClock(autojump_threshold=0))
