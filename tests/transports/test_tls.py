"""The transport over TLS: real handshakes and records, over a socket pair."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import NamedTuple

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked
from websockets.frames import Close, Frame, Opcode

from tests.harness import FIRST_BEAT, HANGS, INTERVAL, echo, linked, tls_pair
from tests.peer import Peer
from trio_beat._exceptions import EndReason
from trio_beat._outbox import Outbox
from trio_beat.transports import END_OF_STREAM, Event, Transport
from trio_beat.transports._framing import Wire, message_frame
from trio_beat.transports.tls import TLSTransport


class Pair(NamedTuple):
    peer: Peer
    transport: TLSTransport

    async def receive(self) -> list[Event]:
        await self.transport.wait_readable()
        return list(self.transport.receive_nowait())

    @property
    def plain(self) -> trio.SocketStream:
        """What the peer's TLS runs over."""
        assert isinstance(self.peer.stream, trio.SSLStream)
        return self.peer.stream.transport_stream

    def shrink(self) -> None:
        """Make the socket smaller than one record."""
        sock = self.transport._stream.transport_stream.raw
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)


@asynccontextmanager
async def paired(received: bytes = b"") -> AsyncIterator[Pair]:
    peer, transport = await tls_pair(Wire(10**6), received)
    try:
        with trio.fail_after(HANGS):
            yield Pair(peer, transport)
    finally:
        transport.abort()
        with trio.CancelScope(shield=True):
            await peer.aclose()


async def drain(transport: Transport, outbox: Outbox) -> None:
    while outbox.size:
        await transport.drain(outbox)


async def test_both_directions(autojump_clock: MockClock) -> None:
    async with paired() as pair:
        await pair.peer.send_text("in")
        assert await pair.receive() == ["in"]
        await drain(pair.transport, Outbox(message_frame("out")))
        assert await pair.peer.text() == "out"


@pytest.mark.parametrize("size", [16383, 16384, 16385, 500_000])
async def test_big_messages(size: int, autojump_clock: MockClock) -> None:
    async with linked(echo, secure=True) as link, trio.open_nursery() as nursery:
        nursery.start_soon(link.peer.send_text, "x" * size)
        assert await link.peer.text() == "x" * size


async def test_what_came_with_the_request_is_first(autojump_clock: MockClock) -> None:
    early = Frame(Opcode.TEXT, b"early").serialize(mask=True)
    async with paired(early) as pair:
        await pair.peer.send_text("late")
        assert await pair.receive() == ["early"]
        assert await pair.receive() == ["late"]


async def test_a_wait_that_is_cancelled_loses_nothing(autojump_clock: MockClock) -> None:
    async with paired() as pair:
        with trio.move_on_after(1):
            await pair.transport.wait_readable()
        assert list(pair.transport.receive_nowait()) == []
        await pair.peer.send_text("x")
        await pair.transport.wait_readable()
        with trio.CancelScope() as scope:
            scope.cancel()
            await pair.transport.wait_readable()
        assert list(pair.transport.receive_nowait()) == ["x"]


async def test_nothing_is_written_without_waiting(autojump_clock: MockClock) -> None:
    async with paired() as pair:
        assert pair.transport.write_nowait(b"abc") == 0


async def test_a_drain_cancelled_halfway_leaves_a_stream_that_can_be_used(
    autojump_clock: MockClock,
) -> None:
    async with paired() as pair, trio.open_nursery() as nursery:
        pair.shrink()
        frames = [message_frame(str(index) * 5000) for index in range(10)]
        outbox = Outbox(b"".join(frames))
        scope = trio.CancelScope()

        async def draining() -> None:
            with scope:
                await drain(pair.transport, outbox)

        nursery.start_soon(draining)
        await wait_all_tasks_blocked()
        assert 0 < outbox.size < sum(map(len, frames))
        scope.cancel()
        await trio.sleep(1)
        assert not scope.cancelled_caught  # it waits for the record that it has begun
        texts = [await pair.peer.text()]
        await wait_all_tasks_blocked()
        assert scope.cancelled_caught
        nursery.start_soon(drain, pair.transport, outbox)
        texts += [await pair.peer.text() for _ in frames[1:]]
        assert texts == [str(index) * 5000 for index in range(10)]


async def test_a_record_that_is_not_taken_in_time_is_an_os_error(
    autojump_clock: MockClock,
) -> None:
    async with paired() as pair:
        pair.shrink()
        with pytest.raises(TimeoutError, match="within 10"):
            await drain(pair.transport, Outbox(b"x" * 100_000))
        assert trio.current_time() == 10


async def test_abort_wakes_the_reader_with_an_os_error(autojump_clock: MockClock) -> None:
    async with paired() as pair, trio.open_nursery() as nursery:

        async def read() -> None:
            with pytest.raises(ConnectionResetError):
                await pair.receive()

        nursery.start_soon(read)
        await wait_all_tasks_blocked()
        pair.transport.abort()


async def test_abort_wakes_who_drains_with_an_os_error(autojump_clock: MockClock) -> None:
    async with paired() as pair, trio.open_nursery() as nursery:
        pair.shrink()

        async def write() -> None:
            with pytest.raises(ConnectionResetError):
                await drain(pair.transport, Outbox(b"x" * 100_000))

        nursery.start_soon(write)
        await wait_all_tasks_blocked()
        pair.transport.abort()
        pair.transport.abort()


async def test_after_abort_everything_is_an_os_error(autojump_clock: MockClock) -> None:
    async with paired() as pair:
        pair.transport.abort()
        with pytest.raises(ConnectionResetError):
            await pair.receive()
        with pytest.raises(ConnectionResetError):
            await pair.transport.drain(Outbox(b"x"))


async def test_the_peer_s_close_notify_is_the_end_of_the_stream(
    autojump_clock: MockClock,
) -> None:
    async with paired() as pair, trio.open_nursery() as nursery:
        nursery.start_soon(pair.peer.stream.aclose)
        assert await pair.receive() == [END_OF_STREAM]
        pair.transport.abort()


async def test_an_end_without_close_notify_is_an_os_error(autojump_clock: MockClock) -> None:
    async with paired() as pair:
        await pair.plain.send_eof()
        with pytest.raises(ConnectionResetError):
            await pair.receive()


async def test_finish_says_goodbye_in_both_layers(autojump_clock: MockClock) -> None:
    async with paired() as pair, trio.open_nursery() as nursery:
        await drain(pair.transport, Outbox(pair.transport.close_frame(1001, "bye")))

        async def answer() -> None:
            assert await pair.peer.closed() == Close(1001, "bye")
            await trio.sleep(1)
            await pair.peer.send_close(1001)
            # An end without a close_notify would be an error here.
            assert await pair.peer.frame() is None
            await trio.sleep(1)
            await pair.peer.stream.aclose()

        nursery.start_soon(answer)
        await pair.transport.finish(answered=False)
        assert trio.current_time() == 2


async def test_finish_bears_with_a_peer_that_leaves_without_close_notify(
    autojump_clock: MockClock,
) -> None:
    async with paired() as pair, trio.open_nursery() as nursery:
        await pair.plain.send_eof()
        nursery.start_soon(pair.peer.closed)
        await pair.transport.finish(answered=True)


async def test_bytes_in_the_kernel_are_stirring(autojump_clock: MockClock) -> None:
    async with paired() as pair:
        with trio.move_on_after(1):  # what the handshake left: session tickets
            await pair.peer.frame()
        assert not pair.transport.stirring(0)
        await pair.peer.send_text("x")
        assert pair.transport.stirring(0)
        await pair.receive()
        assert not pair.transport.stirring(0)


class TestConnection:
    async def test_a_silent_peer_is_dead_at_the_exact_beat(self, autojump_clock: MockClock) -> None:
        async with linked(secure=True) as link:
            assert (await link.ended()).by is EndReason.MISSED_BEATS
            assert link.ended_at == FIRST_BEAT + 3 * INTERVAL

    async def test_a_peer_that_answers_lives(self, autojump_clock: MockClock) -> None:
        async with linked(secure=True) as link, trio.open_nursery() as nursery:
            nursery.start_soon(link.answer, 0.5)
            await trio.sleep(20 * INTERVAL)
            assert link.running
            assert link.connection.latency == 0.5
            nursery.cancel_scope.cancel()

    async def test_a_silent_peer_that_reads_nothing_is_aborted(
        self, autojump_clock: MockClock
    ) -> None:
        async with linked(secure=True) as link:
            await trio.sleep(0.01)
            link.connection.send_nowait(b"\0" * 500_000)
            assert (await link.ended()).by in (EndReason.MISSED_BEATS, EndReason.LOST)
            assert link.error is None
            assert link.ended_at is not None
            assert link.ended_at <= FIRST_BEAT + 3 * INTERVAL

    async def test_closing(self, autojump_clock: MockClock) -> None:
        async with linked(secure=True) as link:
            await trio.sleep(0.01)
            link.connection.send_nowait("last")
            await link.connection.aclose(4000, "enough")
            assert await link.peer.text() == "last"
            assert await link.peer.closed() == Close(4000, "enough")
            await link.peer.send_close(4000)
            assert await link.peer.frame() is None
            await link.peer.stream.aclose()
            await link.ended()
            assert trio.current_time() == 0.01
