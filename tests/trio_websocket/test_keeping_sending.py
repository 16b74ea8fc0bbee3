"""What a program sends beside `keep_alive`: large messages, and PINGs of its own."""

from __future__ import annotations

import struct

import pytest
import trio
import trio.testing
from trio_websocket import ConnectionClosed
from websockets.frames import Frame, Opcode

from tests.support.kept import answer, in_memory, kept, over_streams, tcp_pair, unix_pair
from tests.support.peer import Peer
from trio_beat import EndReason, Heartbeat


async def ping_of(peer: Peer) -> Frame:
    """The next PING; what comes before it is passed over."""
    while (frame := await peer.frame()) is not None:
        if frame.opcode is Opcode.PING:
            return frame
    raise AssertionError("the peer's stream has ended")


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


async def test_a_long_text_heartbeat_kills_nobody(patient_clock: trio.testing.MockClock) -> None:
    # More than the socket's buffer takes at once.
    long = Heartbeat(1.0, 2, "b" * 8_000_000)
    async with kept(heartbeat=long) as (one, peer), trio.open_nursery() as nursery:
        nursery.start_soon(answer, peer)
        await trio.sleep(10)
        assert one.closed is None
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("way", ["tcp", "memory"])
async def test_pings_of_the_program_are_told_apart(
    way: str, patient_clock: trio.testing.MockClock
) -> None:
    # It counts them from one on, as many do; each is answered late.
    async with in_memory() if way == "memory" else kept() as (one, peer):

        async def answer_late() -> None:
            while (frame := await peer.frame()) is not None:
                if frame.opcode is Opcode.PING:
                    await trio.sleep(0.3)
                    await peer.pong(frame)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(answer_late)
            with trio.fail_after(60):
                for number in range(1, 20):
                    await one.ws.ping(struct.pack("!I", number))
            nursery.cancel_scope.cancel()
        assert one.closed is None


async def test_a_number_that_the_program_waits_for_is_passed_over(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with in_memory() as (one, peer), trio.open_nursery() as nursery:
        first = await ping_of(peer)
        following = ((int.from_bytes(first.data, "big") + 1) % 2**32).to_bytes(4, "big")
        nursery.start_soon(one.ws.ping, following)
        assert (await ping_of(peer)).data == following  # the program's
        assert (await ping_of(peer)).data not in (first.data, following)
        await peer.pong(Frame(Opcode.PING, following))


@pytest.mark.parametrize("way", ["tcp", "memory"])
async def test_a_peer_may_answer_the_last_ping_only(
    way: str, patient_clock: trio.testing.MockClock
) -> None:
    # RFC 6455, section 5.5.3.
    async with in_memory() if way == "memory" else kept() as (one, peer):
        with trio.fail_after(60):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(one.ws.ping, b"the program's")
                while (await ping_of(peer)).data != b"the program's":
                    pass
                await peer.pong(await ping_of(peer))
        assert one.closed is None
        assert not vars(one.ws)["_pings"]
