"""A client's connection: receiving that is cancelled loses nothing, and others wait for the end."""

from __future__ import annotations

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from tests.support.fake_server import URL, FakeServer, answer_pings, fake_server
from tests.support.peer import Peer
from trio_beat import Closed, Connection, ConnectionClosed, ConnectionLost, EndReason, connect

__all__ = ["fake_server"]  # a fixture

MESSAGES = 100


async def test_tasks_with_little_time_get_each_message_once(
    fake_server: FakeServer, nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    got: list[str | bytes] = []

    async def serve(peer: Peer) -> None:
        for number in range(MESSAGES):
            await peer.send_text(str(number))
            if number % 10 == 9:
                await trio.sleep(0.01)
        await peer.send_close()
        await peer.closed()
        await peer.aclose()

    async def take(connection: Connection, seconds: float) -> None:
        while connection.closed is None:
            with trio.move_on_after(seconds):
                try:
                    got.append(await connection.receive())
                except ConnectionClosed:
                    break
        async for message in connection:
            got.append(message)

    nursery.start_soon(fake_server.play, serve)
    async with connect(URL, inbound=4) as connection, trio.open_nursery() as tasks:
        for seconds in (0.001, 0.001, 0.01, 0.1):
            tasks.start_soon(take, connection, seconds)
    assert sorted(map(int, got)) == list(range(MESSAGES))


async def test_a_task_beside_the_block_waits_for_the_end(
    fake_server: FakeServer, nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    told: list[Closed] = []

    async def wait(connection: Connection) -> None:
        told.append(await connection.wait_closed())

    nursery.start_soon(fake_server.play, answer_pings)
    async with connect(URL) as connection:
        nursery.start_soon(wait, connection)
        await wait_all_tasks_blocked()
        assert not told
    await wait_all_tasks_blocked()
    assert told == [connection.closed] == [Closed(EndReason.HANDLER, 1000, "")]


async def test_a_lost_server_is_told(
    fake_server: FakeServer, nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    told: list[Closed] = []

    async def wait(connection: Connection) -> None:
        told.append(await connection.wait_closed())

    nursery.start_soon(fake_server.accept)
    with pytest.raises(ConnectionLost):
        async with connect(URL) as connection:
            nursery.start_soon(wait, connection)
            await trio.sleep_forever()
    assert [closed.by for closed in told] == [EndReason.MISSED_BEATS]


async def test_the_block_may_wait_for_a_server_that_closes(
    fake_server: FakeServer, nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    async def serve(peer: Peer) -> None:
        await peer.send_close(4001, "bye")
        await peer.closed()
        await peer.aclose()

    nursery.start_soon(fake_server.play, serve)
    async with connect(URL) as connection:
        assert await connection.wait_closed() == Closed(EndReason.PEER, 4001, "bye")
