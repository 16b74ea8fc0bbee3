"""The client's end of a socket pair: its bound, and what a close frame does to it."""

from __future__ import annotations

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from tests.support.harness import idle, take_all
from trio_beat import Connection
from trio_beat.testing import client_end, open_pair


async def test_what_is_not_received_has_a_bound(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: MockClock
) -> None:
    monkeypatch.setattr(client_end, "_MOST_KEPT", 1000)

    async def flood(connection: Connection) -> None:
        while True:
            await connection.send("x" * 100)
            await trio.sleep(1)

    with pytest.raises(RuntimeError, match=r"^messages of more than 1000 bytes wait"):
        async with open_pair(flood) as peer:
            for _ in range(30):
                await peer.receive()
            await trio.sleep_forever()
    assert trio.current_time() == 40  # what was received does not count


async def test_an_answer_goes_out_behind_what_was_begun(autojump_clock: MockClock) -> None:
    """The close frame of the server comes while a message waits for its socket."""

    async def handler(connection: Connection) -> None:
        await trio.sleep(1)
        await connection.aclose(4000)

    async with open_pair(handler) as peer:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(peer.send, b"x" * 1_000_000)
            assert await peer.wait_closed() == (4000, "")
        assert trio.current_time() == 1


async def test_a_pong_waits_for_a_socket_that_takes_nothing(autojump_clock: MockClock) -> None:
    gate = trio.Event()

    async def handler(connection: Connection) -> None:
        await gate.wait()
        await take_all(connection)

    async with open_pair(handler) as peer:
        async with trio.open_nursery() as nursery:
            for _ in range(30):
                nursery.start_soon(peer.send, b"x" * 100_000)
            await trio.sleep(60)
            assert peer.pings == 15
            assert peer.closed is None
            gate.set()
        await trio.sleep(60)
        assert peer.closed is None


@pytest.mark.parametrize("grace", [0.0, 8.0])
async def test_a_server_that_is_cancelled_says_so(grace: float, autojump_clock: MockClock) -> None:
    with trio.CancelScope() as scope:
        async with open_pair(idle, grace=grace) as peer:
            scope.cancel()
            await trio.sleep_forever()
    assert scope.cancelled_caught
    await wait_all_tasks_blocked()
    assert peer.connection.closed is not None
    assert trio.current_time() == 0
