"""What a program sends beside `keep_alive`."""

from __future__ import annotations

import pytest
import trio
import trio.testing
from trio_websocket import ConnectionClosed

from tests.support.kept import over_streams, tcp_pair, unix_pair
from trio_beat import EndReason


class StreamOver(trio.abc.Stream):
    """A stream that does not show what it stands on.

    Args:
        stream: that.
    """

    def __init__(self, stream: trio.abc.Stream) -> None:
        self._stream = stream

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await self._stream.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        await self._stream.wait_send_all_might_not_block()

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        return await self._stream.receive_some(max_bytes)

    async def aclose(self) -> None:
        await self._stream.aclose()


async def pair(way: str) -> tuple[trio.abc.Stream, trio.SocketStream]:
    """Two ends: of TCP, of a Unix socket, or of a stream of which nothing is known."""
    if way == "tcp":
        return await tcp_pair(65536)
    ours, theirs = unix_pair()
    return ours if way == "unix" else StreamOver(ours), theirs


@pytest.mark.parametrize("way", ["tcp", "unix", "other"])
async def test_one_that_takes_a_large_message_slowly_lives(
    way: str, patient_clock: trio.testing.MockClock
) -> None:
    # The PING waits for trio-websocket's lock until all of it is sent, so that there is no PONG.
    # What the kernel holds of it is read several times between two beats.
    size = 3_000_000
    ours, theirs = await pair(way)
    async with over_streams(ours, theirs) as (one, _), trio.open_nursery() as nursery:
        nursery.start_soon(one.ws.send_message, b"z" * size)
        begin, got = trio.current_time(), 0
        while got < size and one.closed is None:
            got += len(await theirs.receive_some(2**20))
            await trio.sleep_until(begin + got / 400_000)
        assert one.closed is None
        assert trio.current_time() - begin > 7
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("way", ["tcp", "unix", "other"])
async def test_one_that_takes_no_more_of_it_is_dead(
    way: str, patient_clock: trio.testing.MockClock
) -> None:
    ours, theirs = await pair(way)
    async with over_streams(ours, theirs) as (one, _):
        with trio.fail_after(60), pytest.raises(ConnectionClosed):
            await one.ws.send_message(b"z" * 20_000_000)
        await one.over.wait()
        assert one.closed is not None
        assert one.closed.by in (EndReason.MISSED_BEATS, EndReason.LOST)
