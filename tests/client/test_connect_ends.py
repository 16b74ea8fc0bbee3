"""How a server ends a client's connection, and what the block sees of it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest
import trio
from trio.testing import MockClock
from websockets.frames import Close, Frame, Opcode

from tests.support.fake_server import URL, FakeServer, accept_handshake, answer_pings, fake_server
from tests.support.faults import metronome_fails
from tests.support.peer import Peer
from trio_beat import (
    Closed,
    Connection,
    ConnectionClosed,
    ConnectionLost,
    EndReason,
    Heartbeat,
    connect,
    reconnecting,
)

__all__ = ["fake_server"]  # a fixture


async def test_a_close_ends_the_iteration_and_not_the_block(
    fake_server: FakeServer, nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    async def serve(peer: Peer) -> None:
        await peer.send_text("one")
        await peer.send_text("two")
        await peer.send_close(1001, "bye")
        assert await peer.closed() == Close(1001, "bye")
        await peer.aclose()

    nursery.start_soon(fake_server.play, serve)
    async with connect(URL) as connection:
        assert [message async for message in connection] == ["one", "two"]
        assert connection.closed == Closed(EndReason.PEER, 1001, "bye")
        with pytest.raises(ConnectionClosed) as caught:
            await connection.send("too late")
        assert caught.type is ConnectionClosed
        with pytest.raises(ConnectionClosed):
            await connection.receive()
        await trio.sleep(100)


async def test_a_close_without_a_code(
    fake_server: FakeServer, nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    async def serve(peer: Peer) -> None:
        await peer.send_frame(Opcode.CLOSE)
        await peer.closed()
        await peer.aclose()

    nursery.start_soon(fake_server.play, serve)
    async with connect(URL) as connection:
        assert [message async for message in connection] == []
    assert connection.closed == Closed(EndReason.PEER, 1005, "")


async def test_a_close_right_behind_the_handshake(
    fake_server: FakeServer, nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    frame = Frame(Opcode.CLOSE, Close(4000, "no").serialize()).serialize(mask=False)

    async def serve() -> None:
        peer = await fake_server.accept(behind=frame)
        await peer.stream.send_eof()

    nursery.start_soon(serve)
    async with connect(URL) as connection:
        assert [message async for message in connection] == []
    assert connection.closed == Closed(EndReason.PEER, 4000, "no")


async def test_an_end_right_behind_the_handshake_is_a_loss(
    fake_server: FakeServer, nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    async def serve() -> None:
        peer = await fake_server.accept()
        await peer.stream.send_eof()

    nursery.start_soon(serve)
    with pytest.raises(ConnectionLost):
        async with connect(URL) as connection:
            async for _ in connection:
                pass


async def test_what_came_before_a_close_can_be_taken_slowly(
    fake_server: FakeServer, nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    async def serve(peer: Peer) -> None:
        for number in range(10):
            await peer.send_text(str(number))
        await peer.send_close()
        await peer.closed()
        await peer.aclose()

    nursery.start_soon(fake_server.play, serve)
    got = []
    async with connect(URL) as connection:
        async for message in connection:
            got.append(message)
            await trio.sleep(60)
    assert got == [str(number) for number in range(10)]


async def test_an_end_without_a_close_frame_is_a_loss(
    fake_server: FakeServer, nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    async def serve(peer: Peer) -> None:
        await peer.send_text("last words")
        await peer.aclose()

    nursery.start_soon(fake_server.play, serve)
    got = []
    with pytest.raises(ConnectionLost) as caught:
        async with connect(URL) as connection:
            async for message in connection:
                got.append(message)
    assert got == ["last words"]
    assert caught.value.closed == Closed(EndReason.PEER, 1006, "no close frame")
    assert trio.current_time() == 0


async def test_a_loss_cancels_a_block_that_does_not_read(
    fake_server: FakeServer, nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    async def serve(peer: Peer) -> None:
        await trio.sleep(3)
        await peer.aclose()

    nursery.start_soon(fake_server.play, serve)
    with pytest.raises(ConnectionLost):
        async with connect(URL):
            await trio.sleep_forever()
    assert trio.current_time() == 3


@pytest.mark.parametrize(
    ("sent", "code", "by"),
    [
        (Frame(Opcode.TEXT, b"x").serialize(mask=True), 1002, EndReason.PROTOCOL_ERROR),
        (b"\xff\xff\xff\xff", 1002, EndReason.PROTOCOL_ERROR),
        (Frame(Opcode.TEXT, b"\xff").serialize(mask=False), 1007, EndReason.PROTOCOL_ERROR),
        (Frame(Opcode.BINARY, b"x" * 1001).serialize(mask=False), 1009, EndReason.TOO_BIG),
    ],
    ids=["masked", "garbage", "not UTF-8", "too big"],
)
async def test_a_server_that_breaks_the_rules_gets_a_close_code(
    fake_server: FakeServer,
    nursery: trio.Nursery,
    autojump_clock: MockClock,
    sent: bytes,
    code: int,
    by: EndReason,
) -> None:
    codes = []

    async def serve(peer: Peer) -> None:
        await peer.send(sent)
        close = await peer.closed()
        assert close is not None
        codes.append(close.code)
        await peer.aclose()

    nursery.start_soon(fake_server.play, serve)
    with pytest.raises(ConnectionLost) as caught:
        async with connect(URL, message_size=1000) as connection:
            await trio.sleep_forever()
    assert caught.value.closed.by is by
    assert caught.value.closed.code == code
    assert connection.closed == caught.value.closed
    assert codes == [code]
    assert trio.current_time() == 0


async def test_a_message_that_is_too_big_counts_though_a_close_is_behind_it(
    fake_server: FakeServer, nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    both = Frame(Opcode.TEXT, b"x" * 20).serialize(mask=False)
    both += Frame(Opcode.CLOSE, Close(1000, "").serialize()).serialize(mask=False)

    async def serve(peer: Peer) -> None:
        await peer.send(both)
        await peer.closed()
        await peer.aclose()

    nursery.start_soon(fake_server.play, serve)
    with pytest.raises(ConnectionLost) as caught:
        async with connect(URL, message_size=10) as connection:
            async for _ in connection:
                pass
    assert caught.value.closed.by is EndReason.TOO_BIG


async def test_what_came_before_a_message_that_is_too_big_is_given(
    fake_server: FakeServer, nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    frames = [Frame(Opcode.TEXT, b"x").serialize(mask=False)] * 10
    frames.append(Frame(Opcode.TEXT, b"x" * 20).serialize(mask=False))

    async def serve(peer: Peer) -> None:
        await peer.send(b"".join(frames))
        await peer.closed()
        await peer.aclose()

    nursery.start_soon(fake_server.play, serve)
    got = []
    with pytest.raises(ConnectionLost):
        async with connect(URL, message_size=10, inbound=2) as connection:
            async for message in connection:
                got.append(message)
                await trio.sleep(0.1)
    assert got == ["x"] * 10


async def test_sending_and_receiving_at_once_is_not_blocked_by_a_ping(
    fake_server: FakeServer, nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    """The server reads only when its echoes are taken, and sends PINGs in between."""

    async def serve(peer: Peer) -> None:
        for _ in range(20):
            await peer.send_frame(Opcode.PING, b"x")
            while (frame := await peer.frame()) is not None:
                if frame.opcode is Opcode.BINARY:
                    break
            assert frame is not None
            await peer.send_frame(Opcode.BINARY, bytes(frame.data))
        await answer_pings(peer)

    async def send(connection: Connection) -> None:
        for _ in range(20):
            await connection.send(b"\0" * 1_000_000)

    nursery.start_soon(fake_server.play, serve)
    with trio.fail_after(100):
        async with connect(URL) as connection:
            nursery.start_soon(send, connection)
            for _ in range(20):
                assert len(await connection.receive()) == 1_000_000


@pytest.mark.slow
async def test_a_flood_of_pings_does_not_pile_up(
    fake_server: FakeServer, nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    pongs = 0

    async def serve(peer: Peer) -> None:
        nonlocal pongs
        for _ in range(20_000):
            await peer.send_frame(Opcode.PING, b"x" * 100)
        while (frame := await peer.frame()) is not None and frame.opcode is not Opcode.CLOSE:
            pongs += frame.opcode is Opcode.PONG
        await peer.send_close()
        await peer.aclose()

    nursery.start_soon(fake_server.play, serve)
    async with connect(URL) as connection:
        await trio.sleep(1)
    assert connection.closed == Closed(EndReason.HANDLER, 1000, "")
    assert 64 <= pongs < 20_000


async def test_a_message_at_the_limit_is_not_too_big(
    fake_server: FakeServer, nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    async def serve(peer: Peer) -> None:
        await peer.send_text("x" * 1000)
        await answer_pings(peer)

    nursery.start_soon(fake_server.play, serve)
    async with connect(URL, message_size=1000) as connection:
        assert await connection.receive() == "x" * 1000


async def test_a_server_that_closes_with_1009_is_not_taken_for_our_own_end(
    fake_server: FakeServer, nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    async def serve(peer: Peer) -> None:
        # The reason that trio-websocket's server gives.
        await peer.send_close(1009, "Exceeded maximum message size: 10 bytes")
        await peer.closed()
        await peer.aclose()

    nursery.start_soon(fake_server.play, serve)
    async with connect(URL) as connection:
        assert [message async for message in connection] == []
    assert connection.closed == Closed(
        EndReason.PEER, 1009, "Exceeded maximum message size: 10 bytes"
    )


async def test_a_server_that_takes_nothing_is_too_slow(
    fake_server: FakeServer, nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    nursery.start_soon(fake_server.accept)
    with pytest.raises(ConnectionLost) as caught:
        async with connect(URL, outbox=10_000) as connection:
            while True:
                connection.send_nowait(b"\0" * 100_000)
                await trio.sleep(0.01)
    assert caught.value.closed == Closed(EndReason.SLOW, 1013, "too slow, outbox full")


async def test_sending_waits_for_a_server_that_is_slow(
    fake_server: FakeServer, nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    async def serve(peer: Peer) -> None:
        await trio.sleep(7)
        await answer_pings(peer)

    nursery.start_soon(fake_server.play, serve)
    async with connect(URL) as connection:
        await connection.send(b"\0" * 900_000)
        assert trio.current_time() == 7


async def test_cancelled_sending_breaks_nothing(
    fake_server: FakeServer, nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    got = []

    async def serve(peer: Peer) -> None:
        await trio.sleep(7)
        while (frame := await peer.frame()) is not None and frame.opcode is Opcode.BINARY:
            got.append(len(frame.data))
        await peer.send_close()
        await peer.aclose()

    nursery.start_soon(fake_server.play, serve)
    async with connect(URL, heartbeat=Heartbeat(100)) as connection:
        with trio.move_on_after(1):
            await connection.send(b"\0" * 900_000)
        await connection.send(b"\0")
    assert got == [900_000, 1]
    assert connection.closed == Closed(EndReason.HANDLER, 1000, "")


async def test_a_socket_that_fails_is_a_loss(
    nursery: trio.Nursery, patient_clock: MockClock
) -> None:
    async def serve(stream: trio.SocketStream) -> None:
        peer = await accept_handshake(stream)
        await peer.reset()

    listeners = await nursery.start(serve_one, serve)
    with pytest.raises(ConnectionLost) as caught:
        async with connect(f"ws://127.0.0.1:{listeners}/"):
            await trio.sleep_forever()
    assert caught.value.closed.by is EndReason.LOST
    assert "reset" in caught.value.closed.reason


async def serve_one(
    play: Callable[[trio.SocketStream], Awaitable[object]],
    *,
    task_status: trio.TaskStatus[int],
) -> None:
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    async with listener:
        task_status.started(listener.socket.getsockname()[1])
        stream = await listener.accept()
        try:
            await play(stream)
        finally:
            await trio.aclose_forcefully(stream)


@pytest.mark.slow
async def test_a_write_that_fails_does_not_hide_what_came_before(
    nursery: trio.Nursery, patient_clock: MockClock
) -> None:
    async def serve(stream: trio.SocketStream) -> None:
        peer = await accept_handshake(stream)
        for number in range(200):
            await peer.send_text(str(number))
        await peer.send_close(4001, "away")
        await trio.sleep(3)
        # What it has not read makes its kernel answer with a reset.

    port = await nursery.start(serve_one, serve)
    got = []
    async with connect(f"ws://127.0.0.1:{port}/", heartbeat=Heartbeat(1)) as connection:
        async for message in connection:
            got.append(message)
            await trio.sleep(0.1)
    assert got == [str(number) for number in range(200)]
    assert connection.closed == Closed(EndReason.PEER, 4001, "away")


class Crash(Exception):  # noqa: N818 - an unexpected exception of the package
    pass


@pytest.mark.parametrize("context", [connect, reconnecting])
async def test_a_task_of_its_own_that_fails_cancels_the_block_and_comes_out_plainly(
    fake_server: FakeServer,
    nursery: trio.Nursery,
    autojump_clock: MockClock,
    monkeypatch: pytest.MonkeyPatch,
    context: type[connect] | type[reconnecting],
) -> None:
    metronome_fails(monkeypatch, Crash, after=3)
    nursery.start_soon(fake_server.play, answer_pings)
    with pytest.raises(Crash):
        async with context(URL) as opened:
            if isinstance(opened, reconnecting):
                await anext(opened)
            await trio.sleep_forever()
    assert trio.current_time() == 3
