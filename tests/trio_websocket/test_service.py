from __future__ import annotations

import contextlib
import ssl
from collections.abc import Awaitable, Callable
from typing import Any, cast

import pytest
import trio
import trio.testing
import trio_websocket
from trio_websocket import ConnectionClosed, WebSocketRequest
from websockets.frames import Frame, Opcode

from tests.support.harness import tls_contexts
from tests.support.hub import reached
from tests.support.peer import HANDSHAKE, Peer, dial
from tests.support.serving import ask, status
from tests.support.trio_websocket import (
    Program,
    ProgramHandler,
    accepted,
    running,
    watched,
    whole,
)
from trio_beat import Closed, Connection, EndReason, Heartbeat, Limits, Permissions, open_hub
from trio_beat import Request as PeerRequest
from trio_beat.testing import cancelled_at
from trio_beat.trio_websocket import TrioWebSocketService, open_service

BEATS = Heartbeat(1.0, 2)


async def echo(connection: Connection) -> None:
    async for message in connection:
        await connection.send(message)


ALL = pytest.mark.parametrize(
    "program", [whole, accepted, watched], ids=["whole", "accepted", "watched"]
)


async def ended(program: Program, by: EndReason, count: int = 1) -> None:
    """Wait until connections have ended so."""
    with trio.fail_after(60):
        while program.service.statistics().ended[by] < count:  # noqa: ASYNC110 - no event
            await trio.sleep(0.25)


@ALL
@pytest.mark.parametrize("tls", [False, True])
async def test_echo(
    program: ProgramHandler, tls: bool, patient_clock: trio.testing.MockClock
) -> None:
    for_server, for_client = tls_contexts() if tls else (None, None)
    async with running(program, handler=echo, context=for_server) as running_one:
        peer = await dial(running_one.port, ssl_context=for_client)
        for text in ("hello", "x" * 200, "y" * 100_000):
            await peer.send_text(text)
            assert await peer.text() == text
        await peer.send_frame(Opcode.PING, b"are you there?")
        frame = await peer.frame()
        assert frame is not None
        assert (frame.opcode, bytes(frame.data)) == (Opcode.PONG, b"are you there?")
        await peer.send_close(4000, "enough")
        close = await peer.closed()
        assert close is not None
        assert (close.code, close.reason) == (4000, "enough")
        await ended(running_one, EndReason.PEER)
        await peer.aclose()


@ALL
async def test_messages_behind_the_request_are_not_lost(
    program: ProgramHandler, patient_clock: trio.testing.MockClock
) -> None:
    behind = b"".join(Frame(Opcode.TEXT, text).serialize(mask=True) for text in (b"one", b"two"))
    async with running(program, handler=echo) as running_one:
        request = HANDSHAKE.format(target="/", headers="").encode()
        async with await trio.open_tcp_stream("127.0.0.1", running_one.port) as stream:
            await stream.send_all(request + behind)
            answer = bytearray()
            while not answer.endswith(b"\x81\x03one\x81\x03two"):
                answer += await stream.receive_some()
            assert answer.startswith(b"HTTP/1.1 101 ")


@ALL
async def test_a_dead_peer_is_noticed(
    program: ProgramHandler, patient_clock: trio.testing.MockClock
) -> None:
    async with running(program, handler=echo, heartbeat=BEATS) as running_one:
        peer, alive = await dial(running_one.port), await dial(running_one.port)
        begin = trio.current_time()

        async def answer() -> None:
            while (frame := await alive.frame()) is not None:
                if frame.opcode is Opcode.PING:
                    await alive.pong(frame)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(answer)
            assert await peer.closed() is None  # it is aborted
            assert trio.current_time() - begin <= BEATS.patience + 1
            await trio.sleep(10)
            assert running_one.service.statistics().connections == 1
            nursery.cancel_scope.cancel()
        assert running_one.service.statistics().ended[EndReason.MISSED_BEATS] == 1
        await peer.aclose()
        await alive.aclose()


async def test_the_latency_is_known_and_an_answer_wakes_nobody(
    patient_clock: trio.testing.MockClock,
) -> None:
    seen: list[float | None] = []
    reads = 0

    async def look(service: TrioWebSocketService, request: WebSocketRequest) -> None:
        ws = await request.accept()
        async with service.watched(ws) as watched:
            assert watched.closed is None
            await ws.get_message()
            seen.append(watched.latency)
            assert watched.missed_beats == 0

    async with running(look, heartbeat=BEATS) as running_one:
        peer = await dial(running_one.port)
        for _ in range(3):
            frame = await peer.frame()
            assert frame is not None
            await peer.pong(frame)
            reads += 1
        await trio.sleep(0.3)
        await peer.send_text("now")
        close = await peer.closed()
        assert close is not None
        assert close.code == 1000
        await peer.aclose()
    assert reads == 3
    assert seen[0] is not None
    assert 0 <= seen[0] < 1


async def test_a_hub_fans_out_over_whole_and_accepted(
    patient_clock: trio.testing.MockClock,
) -> None:
    for program in (whole, accepted):
        async with open_hub() as hub, running(program, hub=hub) as running_one:
            one, two = await dial(running_one.port), await dial(running_one.port)
            await one.send_text("hello")
            assert await two.text() == "hello"
            assert await reached(hub, "broadcast:news", "from the program") == 2
            for peer in (one, two):
                assert await peer.text() == "from the program"
            for peer in (one, two):
                await peer.aclose()
            await ended(running_one, EndReason.PEER, 2)
            assert hub.statistics()[:2] == (0, 0)


async def test_what_the_websocket_sends_goes_between_messages(
    patient_clock: trio.testing.MockClock,
) -> None:
    async def both(service: TrioWebSocketService, request: WebSocketRequest) -> None:
        ws = await request.accept()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(service.run, ws)
            await trio.testing.wait_all_tasks_blocked()
            await ws.send_message("from the WebSocket")

    async with running(both, handler=echo) as running_one:
        peer = await dial(running_one.port)
        assert await peer.text() == "from the WebSocket"
        await peer.send_text("to the handler")
        assert await peer.text() == "to the handler"
        await peer.aclose()
        await ended(running_one, EndReason.PEER)


@pytest.mark.parametrize("program", [accepted, watched])
async def test_the_websocket_can_be_closed(
    program: ProgramHandler, patient_clock: trio.testing.MockClock
) -> None:
    reasons: list[object] = []

    async def close(service: TrioWebSocketService, request: WebSocketRequest) -> None:
        ws = await request.accept()
        async with trio.open_nursery() as nursery:

            async def serve() -> None:
                call = service.run if program is accepted else service.keep_alive
                reasons.append(await call(ws))

            nursery.start_soon(serve)
            await trio.testing.wait_all_tasks_blocked()
            await ws.aclose(4002, "done")
            reasons.append(ws.closed)

    async with running(close, handler=echo) as running_one:
        peer = await dial(running_one.port)
        told = await peer.closed()
        assert told is not None
        assert (told.code, told.reason) == (4002, "done")
        await peer.send_close(4002, "done")
        await ended(running_one, EndReason.HANDLER)
        await peer.aclose()
    assert Closed(EndReason.HANDLER, 4002, "done") in reasons


@pytest.mark.parametrize("call", ["run", "keep_alive"])
async def test_the_websocket_learns_how_it_ended(
    call: str, patient_clock: trio.testing.MockClock
) -> None:
    closed: list[object] = []

    async def tell(service: TrioWebSocketService, request: WebSocketRequest) -> None:
        ws = await request.accept()
        closed.append(await getattr(service, call)(ws))
        with pytest.raises(ConnectionClosed):
            await ws.get_message()
        assert ws.closed is not None
        closed.append((ws.closed.code, ws.closed.reason))
        with pytest.raises(ConnectionClosed):
            await ws.send_message("too late")

    async with running(tell, handler=echo) as running_one:
        peer = await dial(running_one.port)
        await peer.send_close(4003, "bye")
        await peer.closed()
        await ended(running_one, EndReason.PEER)
        await peer.aclose()
        await trio.testing.wait_all_tasks_blocked()
    assert closed == [Closed(EndReason.PEER, 4003, "bye"), (4003, "bye")]


async def test_a_full_queue_hides_no_dead_peer_and_kills_no_live_one(
    patient_clock: trio.testing.MockClock,
) -> None:
    taken: list[str | bytes] = []
    take = trio.Event()

    async def slow(service: TrioWebSocketService, request: WebSocketRequest) -> None:
        ws = await request.accept()
        async with service.watched(ws):
            await take.wait()
            try:
                while True:
                    taken.append(await ws.get_message())
            except ConnectionClosed:
                pass

    server = {"message_queue_size": 1}
    async with running(slow, heartbeat=BEATS, server=server) as running_one:
        peer = await dial(running_one.port)
        for number in range(6):
            await peer.send_text(f"{number}")
            await trio.sleep(1)  # each is a read of its own
        await trio.sleep(60)  # it answers nothing: its messages wait, and so may its PONGs
        assert running_one.service.statistics().connections == 1
        take.set()
        await ended(running_one, EndReason.MISSED_BEATS)
        assert taken == [f"{number}" for number in range(6)]
        await peer.aclose()


async def test_a_frame_that_trickles_in_proves_life(
    patient_clock: trio.testing.MockClock,
) -> None:
    async with running(watched, heartbeat=BEATS) as running_one:
        peer = await dial(running_one.port)
        data = Frame(Opcode.TEXT, b"x" * 80_000).serialize(mask=True)
        for begin in range(0, len(data), 8000):
            await peer.send(data[begin : begin + 8000])
            await trio.sleep(0.9)
        assert await peer.text() == "x" * 80_000
        await peer.aclose()


@pytest.mark.parametrize(
    ("data", "by", "code"),
    [
        (b"\x83\x80\0\0\0\0", EndReason.PROTOCOL_ERROR, 1002),
        (b"\x81\x81\0\0\0\0\xff", EndReason.PROTOCOL_ERROR, 1007),
        (Frame(Opcode.TEXT, b"x" * 2000).serialize(mask=True), EndReason.TOO_BIG, 1009),
        (b"\x88\x81\0\0\0\0x", EndReason.PROTOCOL_ERROR, 1002),
    ],
)
@ALL
async def test_who_breaks_the_rules_is_told(
    program: ProgramHandler,
    data: bytes,
    by: EndReason,
    code: int,
    patient_clock: trio.testing.MockClock,
) -> None:
    limits, server = Limits(message_size=1000), {"max_message_size": 1000}
    async with running(program, handler=echo, limits=limits, server=server) as running_one:
        peer = await dial(running_one.port)
        await peer.send(data)
        close = await peer.closed()
        assert close is not None
        assert close.code == code
        await peer.aclose()
        await ended(running_one, by)


@ALL
async def test_draining_closes_with_1001(
    program: ProgramHandler, patient_clock: trio.testing.MockClock
) -> None:
    async with running(program, handler=echo) as running_one:
        peer = await dial(running_one.port)
        await peer.send_text("hello")
        assert await peer.text() == "hello"

        async def answer() -> None:
            close = await peer.closed()
            assert close is not None
            assert close.code == 1001
            await peer.send_close(1001)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(answer)
            await running_one.service.drain()
        assert running_one.service.statistics().connections == 0
        assert running_one.service.statistics().ended[EndReason.SHUTDOWN] == 1
        await peer.aclose()
        if program is whole:
            request = HANDSHAKE.format(target="/", headers="").encode()
            assert status(await ask(running_one.port, request)) == 503


@ALL
async def test_cancelled_it_says_1001_and_leaves_nothing(
    program: ProgramHandler, patient_clock: trio.testing.MockClock
) -> None:
    peers: list[Peer] = []
    async with running(program, handler=echo) as running_one:
        peers.append(await dial(running_one.port))
        await peers[0].send_text("hello")
        assert await peers[0].text() == "hello"
    close = await peers[0].closed()
    assert close is not None
    assert close.code == 1001
    await peers[0].aclose()


async def test_over_wrap_server_stream(patient_clock: trio.testing.MockClock) -> None:
    async with open_service(echo) as service, trio.open_nursery() as nursery:

        async def handle(stream: trio.SocketStream) -> None:
            async with trio.open_nursery() as inner:
                below = service.stream(stream)
                await service.handle_request(await trio_websocket.wrap_server_stream(inner, below))

        listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
        await nursery.start(trio.serve_listeners, handle, listeners)
        peer = await dial(listeners[0].socket.getsockname()[1])
        await peer.send_text("hello")
        assert await peer.text() == "hello"
        await peer.aclose()
        nursery.cancel_scope.cancel()


async def test_what_a_handler_raises_leaves_the_program(
    patient_clock: trio.testing.MockClock,
) -> None:
    async def fail(connection: Connection) -> None:
        raise LookupError("a bug")

    with pytest.RaisesGroup(LookupError, flatten_subgroups=True):
        async with running(whole, handler=fail) as running_one:
            peer = await dial(running_one.port)
            close = await peer.closed()
            await peer.aclose()
            await trio.sleep_forever()
    assert close is not None
    assert close.code == 1011


async def with_plain_stream(
    misuse: Callable[[TrioWebSocketService, WebSocketRequest], Awaitable[object]],
) -> None:
    async with open_service() as service, trio.open_nursery() as nursery:

        async def handle(request: WebSocketRequest) -> None:
            with pytest.raises(RuntimeError, match=r"only watch|over a stream of the service"):
                await misuse(service, request)
            nursery.cancel_scope.cancel()

        listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
        server = trio_websocket.WebSocketServer(handle, listeners)
        await nursery.start(server.run)
        async with await trio.open_tcp_stream("127.0.0.1", server.port) as stream:
            await stream.send_all(HANDSHAKE.format(target="/", headers="").encode())
            await trio.sleep_forever()


async def test_other_streams_are_named() -> None:
    async def run_accepted(service: TrioWebSocketService, request: WebSocketRequest) -> None:
        await service.keep_alive(await request.accept())

    await with_plain_stream(run_accepted)
    await with_plain_stream(whole)


async def test_misuse_is_named() -> None:
    async with open_service() as service:
        with pytest.raises(TypeError, match="StapledStream"):
            service.stream(trio.testing.memory_stream_pair()[0])  # type: ignore[arg-type]
        with pytest.raises(TypeError, match="listener"):
            service.listeners([object()])  # type: ignore[list-item]
        a, b = await _tcp_pair()
        async with a, b:
            client = trio.SSLStream(a, ssl.create_default_context(), server_hostname="localhost")
            with pytest.raises(ValueError, match="server's"):
                service.stream(client)
    for handler in (None, print):
        with pytest.raises(ValueError, match="are of no use without a hub, or beside a handler"):
            open_service(cast("Any", handler), permissions=Permissions())
    with pytest.raises(ValueError, match="refuse_by"):
        open_service(echo, refuse_by="no")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="prefix"):
        open_service(echo, path_prefix="no")
    with pytest.raises(TypeError, match="heartbeat"):
        open_service(echo, heartbeat=4)  # type: ignore[arg-type]


async def _tcp_pair() -> tuple[trio.SocketStream, trio.SocketStream]:
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    async with listener:
        one = await trio.testing.open_stream_to_socket_listener(listener)
        return one, await listener.accept()


@ALL
async def test_it_can_be_cancelled_at_each_await(
    program: ProgramHandler, patient_clock: trio.testing.MockClock
) -> None:
    steps = iter(range(30))
    finished = trio.Event()

    async def call(service: TrioWebSocketService, request: WebSocketRequest) -> None:
        ws = None if program is whole else await request.accept()

        async def serve() -> None:
            if ws is None:
                await service.handle_request(request)
            elif program is accepted:
                await service.run(ws)
            else:
                await service.keep_alive(ws)

        if not await cancelled_at(next(steps), serve):
            finished.set()
        if ws is not None:
            with pytest.raises(ConnectionClosed):
                await ws.get_message()

    async def admit(_: PeerRequest) -> None:
        await trio.sleep(0)  # noqa: ASYNC115 - one more await

    async with running(call, handler=echo, admit=admit) as running_one:
        while not finished.is_set():
            async with await trio.open_tcp_stream("127.0.0.1", running_one.port) as stream:
                await stream.send_all(HANDSHAKE.format(target="/", headers="").encode())
                await trio.sleep(0.1)
                with contextlib.suppress(trio.BrokenResourceError):
                    close = Frame(Opcode.CLOSE, b"\x03\xe8").serialize(mask=True)
                    await stream.send_all(close)
                    with trio.fail_after(30):
                        async for _ in stream:
                            pass
            await trio.sleep(0.1)
            assert running_one.service.statistics().connections == 0
    assert next(steps) > 3
