"""What a program does with a WebSocket before the service's connection has begun."""

from __future__ import annotations

import logging
import socket
from collections.abc import Awaitable, Callable

import pytest
import trio
import trio.testing
from trio_websocket import ConnectionClosed, WebSocketConnection, WebSocketRequest
from websockets.frames import Opcode

from tests.support.peer import dial
from tests.support.trio_websocket import running
from trio_beat import Closed, Connection, EndReason, Heartbeat, Limits
from trio_beat import Request as PeerRequest
from trio_beat.trio_websocket import TrioWebSocketService

#: More than the sockets take.
MUCH = b"z" * 20_000_000


async def echo(connection: Connection) -> None:
    async for message in connection:
        await connection.send(message)


class Program:
    """Accepts, and has the WebSocket served; does something when `admit` is asked.

    Args:
        meanwhile: done beside, with the WebSocket.
    """

    def __init__(self, meanwhile: Callable[[WebSocketConnection], Awaitable[object]]) -> None:
        self._meanwhile = meanwhile
        self.asked = trio.Event()
        self.answered = trio.Event()
        self.closed: list[Closed] = []

    async def admit(self, _: PeerRequest) -> None:
        self.asked.set()
        await self.answered.wait()

    async def __call__(self, service: TrioWebSocketService, request: WebSocketRequest) -> None:
        ws = await request.accept()

        async def run() -> None:
            self.closed.append(await service.run(ws))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(run)
            await self.asked.wait()
            await self._meanwhile(ws)


async def test_what_is_sent_meanwhile_waits(patient_clock: trio.testing.MockClock) -> None:
    program = Program(lambda ws: ws.send_message("early"))
    async with running(program, handler=echo, admit=program.admit) as running_one:
        peer = await dial(running_one.port)
        await program.asked.wait()
        await trio.testing.wait_all_tasks_blocked()
        program.answered.set()
        assert await peer.text() == "early"
        await peer.send_text("hello")
        assert await peer.text() == "hello"
        await peer.send_close(1000)
        await peer.closed()
        await peer.aclose()


async def test_a_close_meanwhile_is_not_forgotten(patient_clock: trio.testing.MockClock) -> None:
    program = Program(lambda ws: ws.aclose(4005, "no"))
    async with running(program, handler=echo, admit=program.admit) as running_one:
        peer = await dial(running_one.port)
        await program.asked.wait()
        await trio.testing.wait_all_tasks_blocked()
        program.answered.set()
        close = await peer.closed()
        assert close is not None
        assert (close.code, close.reason) == (4005, "no")
        await peer.send_close(4005)
        with trio.fail_after(60):
            while not program.closed:  # noqa: ASYNC110 - another task's
                await trio.sleep(0.25)
        assert program.closed == [Closed(EndReason.HANDLER, 4005, "no")]
        await peer.aclose()


async def test_a_close_meanwhile_that_is_cancelled(patient_clock: trio.testing.MockClock) -> None:
    async def close(ws: WebSocketConnection) -> None:
        with trio.move_on_after(1):
            await ws.aclose()
        program.answered.set()

    program = Program(close)
    async with running(program, handler=echo, admit=program.admit) as running_one:
        peer = await dial(running_one.port)
        with trio.fail_after(60):
            assert await peer.closed() is None
            while not program.closed:  # noqa: ASYNC110 - another task's
                await trio.sleep(0.25)
        assert program.closed == [Closed(EndReason.HANDLER, 1000, "")]
        assert running_one.service.statistics().connections == 0
        await peer.aclose()


@pytest.mark.parametrize("call", ["run", "keep_alive"])
async def test_a_frame_that_is_being_sent_is_not_torn(
    call: str, patient_clock: trio.testing.MockClock
) -> None:
    async def send_much(service: TrioWebSocketService, request: WebSocketRequest) -> None:
        ws = await request.accept()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ws.send_message, MUCH)
            await trio.testing.wait_all_tasks_blocked(0.1)
            nursery.start_soon(getattr(service, call), ws)
            await trio.testing.wait_all_tasks_blocked()
            await ws.send_message("behind it")

    limits = Limits(handshake_timeout=600)
    async with running(
        send_much, handler=echo, heartbeat=Heartbeat(1.0, 50), limits=limits
    ) as running_one:
        peer = await dial(running_one.port)
        await trio.sleep(3)  # beats are due
        frame = await peer.frame()
        assert frame is not None
        assert frame.data == MUCH
        while (frame := await peer.frame()) is not None and frame.opcode is Opcode.PING:
            pass
        assert frame is not None
        assert frame.data == b"behind it"
        await peer.aclose()


@pytest.mark.parametrize("call", ["run", "keep_alive", "watched"])
async def test_a_peer_that_does_not_take_it_is_aborted(
    call: str, patient_clock: trio.testing.MockClock
) -> None:
    closed: list[Closed] = []

    async def watch(service: TrioWebSocketService, ws: WebSocketConnection) -> Closed:
        async with service.watched(ws) as watched:
            assert (watched.latency, watched.missed_beats) == (None, 0)
            with pytest.raises(ConnectionClosed):
                await ws.get_message()
            assert watched.closed is not None
        return watched.closed

    async def send_much(service: TrioWebSocketService, request: WebSocketRequest) -> None:
        ws = await request.accept()
        async with trio.open_nursery() as nursery:

            async def send() -> None:
                with pytest.raises(ConnectionClosed):
                    await ws.send_message(MUCH)

            nursery.start_soon(send)
            await trio.testing.wait_all_tasks_blocked(0.1)
            if call == "watched":
                closed.append(await watch(service, ws))
            else:
                closed.append(await getattr(service, call)(ws))

    limits = Limits(handshake_timeout=2)
    async with running(send_much, handler=echo, limits=limits) as running_one:
        peer = await dial(running_one.port)
        with trio.fail_after(60):
            while not closed:  # noqa: ASYNC110 - another task's
                await trio.sleep(0.25)
        assert closed[0][:2] == (EndReason.LOST, 1006)
        await peer.aclose()


async def test_a_frame_that_was_cut_off_ends_the_stream(
    patient_clock: trio.testing.MockClock,
) -> None:
    closed: list[Closed] = []

    async def cut(service: TrioWebSocketService, request: WebSocketRequest) -> None:
        ws = await request.accept()
        with trio.move_on_after(1):
            await ws.send_message(MUCH)
        closed.append(await service.run(ws))
        with pytest.raises(ConnectionClosed):
            await ws.get_message()

    async with running(cut, handler=echo) as running_one:
        peer = await dial(running_one.port)
        with trio.fail_after(60):
            while not closed:  # noqa: ASYNC110 - another task's
                await trio.sleep(0.25)
        await peer.aclose()
    assert closed[0][:2] == (EndReason.LOST, 1006)


async def test_one_that_is_closed_without_the_service_waits_for_none(
    patient_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    took: list[float] = []

    async def close(service: TrioWebSocketService, request: WebSocketRequest) -> None:
        ws = await request.accept()
        begin = trio.current_time()
        await ws.aclose(4001, "not you")
        took.append(trio.current_time() - begin)
        with pytest.raises(RuntimeError, match="closed"):
            await service.handle_request(request)
        assert (await service.keep_alive(ws)).by is EndReason.HANDLER

    limits = Limits(handshake_timeout=300)
    with caplog.at_level(logging.ERROR):
        async with running(close, handler=echo, limits=limits) as running_one:
            peer = await dial(running_one.port)
            close_frame = await peer.closed()
            assert close_frame is not None
            assert (close_frame.code, close_frame.reason) == (4001, "not you")
            await peer.send_close(4001)
            assert isinstance(peer.stream, trio.SocketStream)
            peer.stream.socket.shutdown(socket.SHUT_WR)
            with trio.fail_after(60):
                while not took:  # noqa: ASYNC110 - another task's
                    await trio.sleep(0.25)
            await peer.aclose()
    assert took[0] < 60
    assert not caplog.records
