from __future__ import annotations

import logging

import pytest
import trio
import trio.testing
import trio_websocket
from trio_websocket import ConnectionClosed, WebSocketRequest

from tests.support.peer import HANDSHAKE, dial
from tests.support.serving import ask, status
from tests.support.trio_websocket import ProgramHandler, accepted, running, whole
from trio_beat import Closed, Connection, EndReason, Identity, Limits, Refused, open_hub
from trio_beat import Request as PeerRequest
from trio_beat.trio_websocket import TrioWebSocketService, open_service

REQUEST = HANDSHAKE.format(target="/ws/news", headers="").encode()


async def echo(connection: Connection) -> None:
    async for message in connection:
        await connection.send(message)


async def only_alice(request: PeerRequest) -> Identity:
    if request.headers.get("authorization") != "Bearer alice":
        raise Refused(401, "who are you?")
    return Identity(user="alice")


async def test_requests_are_admitted_or_refused(patient_clock: trio.testing.MockClock) -> None:
    async def greet(connection: Connection) -> None:
        assert connection.identity is not None
        await connection.send(f"hello, {connection.identity.user}")

    alice = "Authorization: Bearer alice\r\n"
    async with running(whole, handler=greet, admit=only_alice) as running_one:
        peer = await dial(running_one.port, headers=alice)
        assert await peer.text() == "hello, alice"
        await peer.aclose()
        for headers, code in (("", 401), (alice + "Origin: https://example.com\r\n", 403)):
            request = HANDSHAKE.format(target="/", headers=headers).encode()
            assert status(await ask(running_one.port, request)) == code
        # What is no handshake, trio-websocket itself refuses.
        answer = await ask(running_one.port, b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        assert answer.startswith(b"HTTP/1.1 400 ")
        assert running_one.service.statistics().refused == {401: 1, 403: 1}


async def test_one_that_was_accepted_is_refused_by_a_close_code(
    patient_clock: trio.testing.MockClock,
) -> None:
    async with running(accepted, handler=echo, admit=only_alice) as running_one:
        for headers, code in (("", 3000), ("Origin: https://example.com\r\n", 4003)):
            peer = await dial(running_one.port, headers=headers)
            close = await peer.closed()
            assert close is not None
            assert close.code == code
            await peer.aclose()
        peer = await dial(running_one.port, headers="Authorization: Bearer alice\r\n")
        await peer.send_text("hello")
        assert await peer.text() == "hello"
        await peer.aclose()
        assert running_one.service.statistics().refused == {401: 1, 403: 1}


@pytest.mark.parametrize("program", [whole, accepted])
async def test_what_is_no_request_is_refused(
    program: ProgramHandler, patient_clock: trio.testing.MockClock
) -> None:
    limits = Limits(handshake_timeout=3)
    async with running(program, handler=echo, limits=limits) as running_one:
        assert status(await ask(running_one.port, b"\x16\x03\x01 TLS\r\n\r\n")) == 400
        assert status(await ask(running_one.port, b"GET / HTTP/1.1\r\n")) == 408
        await trio.sleep(0.1)
        assert running_one.service.statistics().pending == 0


async def test_too_many_pending_are_refused(patient_clock: trio.testing.MockClock) -> None:
    async with running(whole, handler=echo, limits=Limits(pending=1)) as running_one:
        async with await trio.open_tcp_stream("127.0.0.1", running_one.port) as waits:
            await trio.sleep(0.1)
            assert status(await ask(running_one.port, b"")) == 503
            await waits.send_all(HANDSHAKE.format(target="/", headers="").encode())
            assert bytes(await waits.receive_some()).startswith(b"HTTP/1.1 101 ")


async def test_one_that_is_accepted_and_not_served_is_closed(
    patient_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    closed: list[Closed | None] = []
    over = trio.Event()

    async def forget(service: TrioWebSocketService, request: WebSocketRequest) -> None:
        ws = await request.accept()
        with pytest.raises(ConnectionClosed):
            await ws.get_message()
        # It is no mistake to be late: a program may have asked its database meanwhile.
        closed.append(await service.run(ws))
        async with service.watched(ws) as watched:
            closed.append(watched.closed)
            with pytest.raises(ConnectionClosed):
                await ws.get_message()
        over.set()

    with caplog.at_level(logging.ERROR):
        async with running(forget, handler=echo) as running_one:
            peer = await dial(running_one.port)
            assert await peer.closed() is None
            with trio.fail_after(60):
                await over.wait()
            await peer.aclose()
    assert closed == [Closed(EndReason.LOST, 1006, "")] * 2
    assert "neither run nor watched" in caplog.text


async def test_a_program_may_reject(patient_clock: trio.testing.MockClock) -> None:
    async def reject(service: TrioWebSocketService, request: WebSocketRequest) -> None:
        await request.reject(418, body=b"a teapot\n")

    async with running(reject, handler=echo) as running_one:
        answer = await ask(running_one.port, REQUEST)
        assert answer.startswith(b"HTTP/1.1 418 ")
        assert answer.endswith(b"a teapot\n")


async def test_one_that_leaves_before_its_request_is_forgotten(
    patient_clock: trio.testing.MockClock,
) -> None:
    async with running(whole, handler=echo) as running_one:
        for data in (b"", b"GET / HT"):
            async with await trio.open_tcp_stream("127.0.0.1", running_one.port) as stream:
                if data:
                    await stream.send_all(data)
        await trio.sleep(5)
        assert running_one.service.statistics().pending == 0


async def test_a_service_has_a_websocket_once(patient_clock: trio.testing.MockClock) -> None:
    async def twice(service: TrioWebSocketService, request: WebSocketRequest) -> None:
        async with service.watched(await request.accept()):
            with pytest.raises(RuntimeError, match="has it already"):
                await service.handle_request(request)

    async with running(twice, handler=echo) as running_one:
        peer = await dial(running_one.port)
        close = await peer.closed()
        assert close is not None
        assert close.code == 1000
        await peer.aclose()


async def test_a_websocket_must_be_accepted_first(patient_clock: trio.testing.MockClock) -> None:
    async with open_service(echo) as service, trio.open_nursery() as nursery:
        (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
        async with listener:
            client = await trio.testing.open_stream_to_socket_listener(listener)
            stream = service.stream(await listener.accept())
        async with client, stream:
            await client.send_all(REQUEST)
            request = await trio_websocket.wrap_server_stream(nursery, stream)
            with pytest.raises(RuntimeError, match="not accepted"):
                await service.run(request._connection)


async def test_a_user_is_disconnected(patient_clock: trio.testing.MockClock) -> None:
    async def admit(_: PeerRequest) -> Identity:
        return Identity(user="alice")

    for program in (whole, accepted):
        async with open_hub() as hub, running(program, hub=hub, admit=admit) as running_one:
            peer = await dial(running_one.port)
            await peer.send_text("hello")
            await trio.sleep(0.1)
            await hub.disconnect(user="alice", code=4001)
            close = await peer.closed()
            assert close is not None
            assert close.code == 4001
            await peer.aclose()
            await trio.sleep(0.1)
            assert running_one.service.statistics().ended[EndReason.DISCONNECTED] == 1
