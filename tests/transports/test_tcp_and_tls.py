"""What holds for every socket of a server, without TLS and with each version of it."""

from __future__ import annotations

import gc
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked
from websockets.frames import Close, Frame, Opcode

from tests.support.harness import (
    FIRST_BEAT,
    HANGS,
    INTERVAL,
    Link,
    echo,
    idle,
    linked,
    take_all,
    tcp_pair,
)
from tests.support.peer import Peer, Trickle, socket_pair
from trio_beat import Closed, Connection, EndReason, SlowPolicy
from trio_beat._transports.tcp import TCPTransport
from trio_beat._transports.tls import TLSTransport
from trio_beat._transports.tls_session import Session

Way = bool | ssl.TLSVersion

ways = pytest.mark.parametrize(
    "way",
    [False, ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3],
    ids=["TCP", "TLS 1.2", "TLS 1.3"],
)


def trickle_pair() -> tuple[Peer, socket.socket]:
    """Like `socket_pair`; the peer's stream is a `Trickle` without TLS as well."""
    peer, sock = socket_pair()
    return Peer(Trickle(peer.plain)), sock


def trickle(peer: Peer) -> Trickle:
    stream = peer.stream
    lower = stream.transport_stream if isinstance(stream, trio.SSLStream) else stream
    assert isinstance(lower, Trickle)
    return lower


def frame(text: str) -> bytes:
    return Frame(Opcode.TEXT, text.encode()).serialize(mask=True)


class Taken:
    """A handler that keeps what comes."""

    def __init__(self) -> None:
        self.messages: list[str | bytes] = []

    async def __call__(self, connection: Connection) -> None:
        async for message in connection:
            self.messages.append(message)


@asynccontextmanager
async def opened(
    handler: Callable[[Connection], Awaitable[None]], way: Way, **options: object
) -> AsyncIterator[Link]:
    """A connection that runs, and whose peer has read what came behind a handshake."""
    async with linked(handler, secure=way, **options) as link:  # type: ignore[arg-type]
        await trio.sleep(0.01)
        yield link


@ways
class TestReading:
    async def test_a_message_in_many_records(self, way: Way, autojump_clock: MockClock) -> None:
        async with opened(echo, way) as link:
            for byte in frame("in many pieces"):
                await link.peer.send(bytes((byte,)))
            assert await link.peer.text() == "in many pieces"

    async def test_many_messages_in_one_record(self, way: Way, autojump_clock: MockClock) -> None:
        texts = [str(index) for index in range(500)]
        async with opened(echo, way, inbound=1) as link:
            await link.peer.send(b"".join(map(frame, texts)))
            assert [await link.peer.text() for _ in texts] == texts

    async def test_many_records_in_one_read(self, way: Way, autojump_clock: MockClock) -> None:
        taken = Taken()
        texts = [str(index) for index in range(500)]
        async with opened(taken, way) as link:
            for text in texts:
                await link.peer.send_text(text)
            await trio.sleep(1)
            assert taken.messages == texts
            assert link.running

    @pytest.mark.parametrize("size", [16383, 16384, 131072, 500_000])
    async def test_large_messages(self, size: int, way: Way, autojump_clock: MockClock) -> None:
        async with opened(echo, way) as link, trio.open_nursery() as nursery:
            nursery.start_soon(link.peer.send_text, "x" * size)
            assert await link.peer.text() == "x" * size

    async def test_a_message_that_trickles_in_is_life(
        self, way: Way, autojump_clock: MockClock
    ) -> None:
        taken = Taken()
        async with opened(taken, way, pair=trickle_pair, message_timeout=3600) as link:
            trickle(link.peer).pace = (100, INTERVAL)
            await link.peer.send_text("x" * 16_000)
            assert trio.current_time() > 160 * INTERVAL
            await trio.sleep(1)
            assert taken.messages == ["x" * 16_000]
            assert link.running

    async def test_a_message_that_trickles_no_more_is_silence(
        self, way: Way, autojump_clock: MockClock
    ) -> None:
        async with opened(idle, way, pair=trickle_pair) as link, trio.open_nursery() as nursery:
            trickle(link.peer).pace = (100, 10.0)
            nursery.start_soon(link.peer.send_text, "x" * 16_000)
            await trio.sleep(35)
            nursery.cancel_scope.cancel()
            assert (await link.ended()).by is EndReason.MISSED_BEATS
            assert link.ended_at is not None
            assert 30 + 3 * INTERVAL < link.ended_at <= 30 + 4 * INTERVAL


@ways
class TestBeats:
    async def test_a_silent_peer_is_dead_at_the_exact_beat(
        self, way: Way, autojump_clock: MockClock
    ) -> None:
        async with linked(secure=way) as link:
            assert (await link.ended()).by is EndReason.MISSED_BEATS
            assert link.ended_at == FIRST_BEAT + 3 * INTERVAL

    async def test_a_peer_that_answers_lives(self, way: Way, autojump_clock: MockClock) -> None:
        async with linked(secure=way) as link, trio.open_nursery() as nursery:
            nursery.start_soon(link.answer, 0.5)
            await trio.sleep(20 * INTERVAL)
            assert link.running
            assert link.connection.latency == 0.5
            nursery.cancel_scope.cancel()


@ways
class TestEndOfStream:
    async def test_what_came_before_it_reaches_the_handler(
        self, way: Way, autojump_clock: MockClock
    ) -> None:
        taken = Taken()
        async with opened(taken, way) as link:
            for index in range(10):
                await link.peer.send_text(str(index))
            await link.peer.plain.send_eof()
            assert await link.ended() == Closed(EndReason.PEER, 1006, "no close frame")
            assert taken.messages == [str(index) for index in range(10)]

    async def test_a_close_frame_before_it(self, way: Way, autojump_clock: MockClock) -> None:
        taken = Taken()
        async with opened(taken, way) as link:
            await link.peer.send_text("last")
            await link.peer.send_close(4001, "done")
            await link.peer.plain.send_eof()
            assert await link.peer.closed() == Close(4001, "done")
            assert await link.ended() == Closed(EndReason.PEER, 4001, "done")
            assert taken.messages == ["last"]

    @pytest.mark.parametrize("cut", [1, 4, 20, 1000, 20_000])
    async def test_in_the_middle_of_a_message(
        self, cut: int, way: Way, autojump_clock: MockClock
    ) -> None:
        taken = Taken()
        async with opened(taken, way, pair=trickle_pair, message_timeout=3600) as link:
            await link.peer.send_text("whole")
            trickle(link.peer).pace = (cut, 10.0)
            with trio.move_on_after(5):
                await link.peer.send_text("x" * 30_000)
            await link.peer.plain.send_eof()
            assert (await link.ended()).by is EndReason.PEER
            assert taken.messages == ["whole"]

    async def test_a_reset_is_a_loss(self, way: Way, patient_clock: MockClock) -> None:
        async with opened(take_all, way, pair=tcp_pair) as link:
            await link.peer.send(frame("x" * 1000)[:500])
            await trio.sleep(0.1)
            await link.peer.reset()
            assert (await link.ended()).by is EndReason.LOST
            assert link.error is None

    async def test_what_came_before_a_reset_is_read(
        self, way: Way, patient_clock: MockClock
    ) -> None:
        taken = Taken()
        async with opened(taken, way, pair=tcp_pair) as link:
            await link.peer.send_text("last")
            await link.peer.reset()
            assert (await link.ended()).by is EndReason.LOST
            assert link.error is None


async def flood(link: Link, count: int, size: int = 7000) -> None:
    for index in range(count):
        link.connection.send_nowait(f"{index} ".ljust(size, "x"))


@ways
class TestClogged:
    @pytest.mark.parametrize("size", [100, 7000, 100_000])
    async def test_drop_oldest_never_tears_a_frame(
        self, size: int, way: Way, autojump_clock: MockClock
    ) -> None:
        policy = SlowPolicy.DROP_OLDEST
        async with opened(idle, way, outbox=50_000, slow_policy=policy) as link:
            numbers, count = [], 0
            for _ in range(5):
                before = link.connection.statistics().dropped
                while link.connection.statistics().dropped < before + 20:
                    await flood(link, 1, size)
                    count += 1
                # A little room, so that what waits goes on in the middle.
                numbers.append(await link.peer.text())
                await wait_all_tasks_blocked()
            link.connection.send_nowait("the end")
            while (text := await link.peer.text()) != "the end":
                numbers.append(text)
            assert all(len(text) == size for text in numbers)
            assert link.connection.statistics().dropped >= 100
            assert len(numbers) + link.connection.statistics().dropped >= count

    @pytest.mark.parametrize(
        ("end", "code"),
        [
            (lambda link: link.engine.end_nowait(EndReason.SLOW, 1013, ""), 1013),
            (lambda link: link.engine.end_nowait(EndReason.SHUTDOWN, 1001, ""), 1001),
            (lambda link: link.engine.end_nowait(EndReason.HANDLER, 1000, ""), 1000),
            (lambda link: link.scope.cancel(), 1001),
        ],
        ids=["slow", "shutdown", "handler", "cancelled"],
    )
    async def test_every_end_leaves_whole_frames(
        self, end: object, code: int, way: Way, autojump_clock: MockClock
    ) -> None:
        async with opened(idle, way) as link:
            await flood(link, 100)
            await wait_all_tasks_blocked()
            assert link.connection.statistics().outbox > 0
            assert callable(end)
            end(link)
            received = 0
            while (event := await link.peer.frame()) is not None:
                if event.opcode is Opcode.CLOSE:
                    assert Close.parse(bytes(event.data)).code == code
                    break
                assert len(event.data) == 7000
                received += 1
            else:
                pytest.fail("no close frame")
            assert received > 0
            # A stream that ends without a close_notify fails here.
            assert await link.peer.frame() is None
            await link.peer.aclose()
            await link.ended()

    async def test_a_peer_that_closes_leaves_whole_frames(
        self, way: Way, autojump_clock: MockClock
    ) -> None:
        async with opened(take_all, way) as link:
            await flood(link, 100)
            await wait_all_tasks_blocked()
            await link.peer.send_close(4000)
            assert await link.peer.closed() == Close(4000, "")
            assert await link.peer.frame() is None
            await link.peer.aclose()
            assert (await link.ended()).by is EndReason.PEER

    async def test_a_peer_that_takes_nothing_is_dead_at_its_beat(
        self, way: Way, autojump_clock: MockClock
    ) -> None:
        async with opened(idle, way) as link:
            await flood(link, 100)
            assert (await link.ended()).by is EndReason.MISSED_BEATS
            assert link.ended_at is not None
            assert link.ended_at <= 4 * INTERVAL


@ways
class TestClosing:
    async def test_by_us(self, way: Way, autojump_clock: MockClock) -> None:
        async with opened(idle, way) as link:
            link.connection.send_nowait("last")
            await link.connection.aclose(4000, "enough")
            assert await link.peer.text() == "last"
            assert await link.peer.closed() == Close(4000, "enough")
            await link.peer.send_close(4000)
            assert await link.peer.frame() is None
            await link.peer.stream.aclose()
            await link.ended()
            assert trio.current_time() == 0.01

    async def test_by_the_peer(self, way: Way, autojump_clock: MockClock) -> None:
        async with opened(take_all, way) as link:
            await link.peer.send_close(4000, "enough")
            assert await link.peer.closed() == Close(4000, "enough")
            assert await link.peer.frame() is None
            await link.peer.stream.aclose()
            assert await link.ended() == Closed(EndReason.PEER, 4000, "enough")
            assert trio.current_time() == 0.01

    async def test_a_peer_that_still_sends_gets_the_close_frame(
        self, way: Way, patient_clock: MockClock
    ) -> None:
        """Over TCP: to close a socket with unread bytes resets it, and the frame is lost."""
        async with opened(idle, way, pair=tcp_pair) as link, trio.open_nursery() as nursery:
            sending = nursery.start_soon
            sending(partial(link.peer.send_text, "x" * 300_000))
            await link.connection.aclose(4000)
            await trio.sleep(1)
            assert await link.peer.closed() == Close(4000, "")
            await link.peer.send_close(4000)
            assert await link.peer.frame() is None
            await link.peer.aclose()
            await link.ended()


@pytest.mark.slow
@ways
@pytest.mark.parametrize("end", ["peer", "reset", "missed-beats", "handler", "clogged"])
async def test_no_end_leaves_anything_to_the_cyclic_collector(
    end: str, way: Way, patient_clock: MockClock
) -> None:
    def left() -> int:
        kinds = (TCPTransport, TLSTransport, Connection, Session)
        things = gc.get_objects()
        tls = sum(isinstance(thing, ssl.SSLObject) and thing.server_side for thing in things)
        return tls + sum(type(thing) in kinds for thing in things)

    async def one() -> None:
        async with AsyncExitStack() as stack:
            options = {"pair": tcp_pair, "outbox": 2**24}
            link = await stack.enter_async_context(opened(take_all, way, **options))
            await link.peer.send_text("something")
            if end == "peer":
                await link.peer.plain.send_eof()
            elif end == "reset":
                await link.peer.reset()
            elif end == "handler":
                await link.connection.aclose()
            elif end == "clogged":
                await flood(link, 200)
                await trio.sleep(0.1)
                link.scope.cancel()
            with trio.fail_after(HANGS):
                await link.ended()

    gc.collect()
    gc.disable()
    try:
        before = left()
        await one()
        assert left() == before
    finally:
        gc.enable()
