"""The client against servers of other projects, and against this one's, over TCP."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any, cast

import hypercorn.trio
import pytest
import trio
import trustme
from hypercorn.config import Config
from starlette.applications import Starlette
from starlette.routing import WebSocketRoute
from starlette.websockets import WebSocket
from trio.testing import MockClock

from tests.support.command import command
from tests.support.fake_server import accept_handshake
from tests.support.harness import echo, tls_contexts
from tests.support.names import local_names
from tests.support.peer import Trickle
from tests.support.serving import serving
from trio_beat import (
    Closed,
    Connection,
    ConnectionLost,
    EndReason,
    HandshakeRefused,
    Heartbeat,
    connect,
    reconnecting,
)

__all__ = ["local_names"]  # a fixture

CHAT = ["chat"]
BRISK = Heartbeat(0.2, misses=3)

_WEBSOCKETS = """
import asyncio, http, ssl, sys
from websockets.asyncio.server import serve

async def handler(connection):
    async for message in connection:
        if message == "close":
            await connection.close(4000, "as you wish")
        await connection.send(message)

def check(connection, request):
    if request.path == "/secret":
        return connection.respond(http.HTTPStatus.FORBIDDEN, "not you\\n")

async def main():
    context = None
    if len(sys.argv) > 1:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(sys.argv[1])
    async with serve(handler, "127.0.0.1", 0, process_request=check, ping_interval=0.1,
                     subprotocols=["chat"], ssl=context, max_size=None) as server:
        print(server.sockets[0].getsockname()[1], flush=True)
        await server.serve_forever()

asyncio.run(main())
"""


@asynccontextmanager
async def websockets_server(*arguments: str) -> AsyncIterator[int]:
    """An echo server by websockets, on asyncio and in a process of its own; gives its port."""
    process = subprocess.Popen(
        [sys.executable, "-c", _WEBSOCKETS, *arguments], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    try:
        yield int(await trio.to_thread.run_sync(process.stdout.readline))
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


async def check_echo(connection: Connection) -> None:
    for message in ("é", b"\xff" * 10, "x" * 900_000):
        await connection.send(message)
        assert await connection.receive() == message


@pytest.mark.real
class TestWebsockets:
    async def test_echoes(self) -> None:
        async with (
            websockets_server() as port,
            connect(f"ws://127.0.0.1:{port}/", heartbeat=BRISK, subprotocols=["x", *CHAT]) as link,
        ):
            assert link.subprotocol == "chat"
            await check_echo(link)
        assert link.closed == Closed(EndReason.HANDLER, 1000, "")

    async def test_answers_pings_and_has_its_own_answered(self) -> None:
        async with (
            websockets_server() as port,
            connect(f"ws://127.0.0.1:{port}/", heartbeat=BRISK, subprotocols=CHAT) as connection,
        ):
            await trio.sleep(2)
            assert connection.latency is not None
            assert 0 < connection.latency < 1
            await check_echo(connection)

    async def test_closes(self) -> None:
        async with (
            websockets_server() as port,
            connect(f"ws://127.0.0.1:{port}/", subprotocols=CHAT) as connection,
        ):
            await connection.send("close")
            assert [message async for message in connection] == []
            assert connection.closed == Closed(EndReason.PEER, 4000, "as you wish")

    async def test_refuses(self) -> None:
        async with websockets_server() as port:
            with pytest.raises(HandshakeRefused, match="403 Forbidden: not you"):
                async with connect(f"ws://127.0.0.1:{port}/secret"):
                    pass

    async def test_over_tls(self, tmp_path: Path) -> None:
        authority = trustme.CA()
        chain = tmp_path / "chain.pem"
        authority.issue_cert("localhost").private_key_and_cert_chain_pem.write_to_path(chain)
        _, client = tls_contexts()
        authority.configure_trust(client)
        async with (
            websockets_server(str(chain)) as port,
            connect(
                f"wss://localhost:{port}/", ssl_context=client, heartbeat=BRISK, subprotocols=CHAT
            ) as connection,
        ):
            await check_echo(connection)
            await trio.sleep(1)
            assert connection.latency is not None


@asynccontextmanager
async def hypercorn_server() -> AsyncIterator[int]:
    """An echo server by Starlette, on Hypercorn."""

    async def endpoint(websocket: WebSocket) -> None:
        await websocket.accept()
        while (event := await websocket.receive())["type"] == "websocket.receive":
            await websocket.send({**event, "type": "websocket.send"})

    app = Starlette(routes=[WebSocketRoute("/echo", endpoint)])
    config = Config()
    config.bind = ["127.0.0.1:0"]
    config.websocket_max_message_size = 2**21
    config.errorlog = None
    shutdown = trio.Event()
    async with trio.open_nursery() as nursery:
        serve = partial(
            hypercorn.trio.serve, cast("Any", app), config, shutdown_trigger=shutdown.wait
        )
        (bind,) = await nursery.start(serve)
        yield int(bind.rpartition(":")[2])
        shutdown.set()


@pytest.mark.real
class TestHypercorn:
    async def test_echoes_and_answers_pings(self) -> None:
        async with hypercorn_server() as port:
            async with connect(f"ws://127.0.0.1:{port}/echo", heartbeat=BRISK) as connection:
                await check_echo(connection)
                await trio.sleep(1)
                assert connection.latency is not None
        assert connection.closed == Closed(EndReason.HANDLER, 1000, "")

    async def test_refuses(self) -> None:
        async with hypercorn_server() as port:
            with pytest.raises(HandshakeRefused) as caught:
                async with connect(f"ws://127.0.0.1:{port}/nothing"):
                    pass
            assert caught.value.status in (403, 404)


class TestOurs:
    @pytest.mark.slow
    async def test_both_beat(self, patient_clock: MockClock) -> None:
        heartbeat = Heartbeat(2.0, misses=1, message="--heartbeat--")
        async with serving(echo, heartbeat=heartbeat) as server:
            url = f"ws://127.0.0.1:{server.port}/ws/x"
            async with connect(url, heartbeat=heartbeat) as connection:
                await trio.sleep(30)
                await check_echo(connection)
            assert connection.closed == Closed(EndReason.HANDLER, 1000, "")

    async def test_a_server_that_drains_closes_the_connection(
        self, patient_clock: MockClock
    ) -> None:
        async with (
            serving(echo) as first,
            reconnecting(
                f"ws://127.0.0.1:{first.port}/ws/x", heartbeat=Heartbeat(60)
            ) as connections,
        ):
            async for connection in connections:
                first.drain()
                async for _ in connection:
                    pass
                assert connection.closed == Closed(EndReason.PEER, 1001, "server is shutting down")
                break

    @pytest.mark.real
    async def test_a_frozen_server_is_noticed(self, tmp_path: Path) -> None:
        with command(tmp_path, "--interval=0.2") as running:
            begin = 0.0
            with pytest.raises(ConnectionLost) as caught:
                async with connect(running.websocket("news"), heartbeat=BRISK):
                    await trio.sleep(1)
                    with running.frozen():
                        begin = trio.current_time()
                        await trio.sleep(20)
            # Silence began with the last byte, up to a beat before. The verdict may be late, but
            # never early.
            assert trio.current_time() - begin >= 2 * BRISK.interval
            assert caught.value.closed == Closed(EndReason.MISSED_BEATS, 1006, "3 in a row")

    @pytest.mark.real
    async def test_a_killed_server_is_found_again(self, tmp_path: Path) -> None:
        with contextlib.ExitStack() as servers:
            running = servers.enter_context(command(tmp_path))
            url = running.websocket("news?subscribe-broadcast&publish-broadcast&echo")
            async with reconnecting(url, heartbeat=BRISK) as connections:
                first = await anext(connections)
                await first.send("hello")
                assert await first.receive() == "hello"
                running.process.kill()
                assert [message async for message in first] == []
                servers.enter_context(command(tmp_path, port=running.port))
                second = await anext(connections)
                await second.send("again")
                assert await second.receive() == "again"


#: Bytes that a slow server takes in a second.
_A_SECOND = 2**18


class TestSlowness:
    """Over TCP: only the kernel knows that a slow server takes something."""

    @pytest.mark.slow
    @pytest.mark.parametrize("secure", [False, True], ids=["plain", "TLS"])
    async def test_of_a_server_that_takes_a_large_message_is_no_silence(
        self, nursery: trio.Nursery, patient_clock: MockClock, local_names: None, secure: bool
    ) -> None:
        got = 0
        server, client = tls_contexts()

        async def serve(plain: trio.SocketStream) -> None:
            nonlocal got
            plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2**18)
            stream: trio.SocketStream | trio.SSLStream[trio.SocketStream] = plain
            if secure:
                stream = trio.SSLStream(plain, server, server_side=True, https_compatible=True)
            await accept_handshake(stream)
            with contextlib.suppress(trio.BrokenResourceError):
                while data := await stream.receive_some(2**19):
                    before, got = got, got + len(data)
                    if before // _A_SECOND != got // _A_SECOND:
                        await trio.sleep(1)

        listeners = await nursery.start(partial(trio.serve_tcp, serve, 0, host="127.0.0.1"))
        port = listeners[0].socket.getsockname()[1]
        url = f"ws{'s' * secure}://localhost:{port}/"
        heartbeat = Heartbeat(2.0, misses=3)
        with trio.move_on_after(1000):
            async with connect(
                url, heartbeat=heartbeat, ssl_context=client if secure else None
            ) as connection:
                await connection.send(b"\0" * 12_000_000)
                sent = trio.current_time()
                assert got > 6_000_000
                with pytest.raises(trio.TooSlowError), trio.fail_after(1):
                    await connection.receive()
                nursery.cancel_scope.cancel()
        assert sent > 20

    @pytest.mark.slow
    @pytest.mark.parametrize("secure", [False, True], ids=["plain", "TLS"])
    async def test_of_a_server_whose_message_trickles_in_is_no_silence(
        self, nursery: trio.Nursery, patient_clock: MockClock, local_names: None, secure: bool
    ) -> None:
        """One TLS record: half of it gives nothing to read, but proves life."""
        server, client = tls_contexts()

        async def serve(plain: trio.SocketStream) -> None:
            trickle = Trickle(plain)
            stream: Trickle | trio.SSLStream[Trickle] = trickle
            if secure:
                stream = trio.SSLStream(trickle, server, server_side=True, https_compatible=True)
            peer = await accept_handshake(stream)
            trickle.pace = (400, 3.0)
            await peer.send_text("x" * 16_000)
            await peer.closed()

        listeners = await nursery.start(partial(trio.serve_tcp, serve, 0, host="127.0.0.1"))
        port = listeners[0].socket.getsockname()[1]
        url = f"ws{'s' * secure}://localhost:{port}/"
        async with connect(
            url, heartbeat=Heartbeat(4.0), ssl_context=client if secure else None
        ) as connection:
            assert await connection.receive() == "x" * 16_000
            assert trio.current_time() > 100
        nursery.cancel_scope.cancel()

    @pytest.mark.parametrize("secure", [False, True], ids=["plain", "TLS"])
    async def test_an_end_without_close_notify_hides_nothing_that_came_before(
        self, nursery: trio.Nursery, patient_clock: MockClock, local_names: None, secure: bool
    ) -> None:
        server, client = tls_contexts()

        async def serve(plain: trio.SocketStream) -> None:
            stream: trio.SocketStream | trio.SSLStream[trio.SocketStream] = plain
            if secure:
                stream = trio.SSLStream(plain, server, server_side=True, https_compatible=True)
            peer = await accept_handshake(stream)
            for number in range(100):
                await peer.send_text(str(number))
            await plain.send_eof()
            await trio.sleep(60)

        listeners = await nursery.start(partial(trio.serve_tcp, serve, 0, host="127.0.0.1"))
        port = listeners[0].socket.getsockname()[1]
        url = f"ws{'s' * secure}://localhost:{port}/"
        got = []
        with pytest.raises(ConnectionLost) as caught:
            async with connect(url, ssl_context=client if secure else None) as connection:
                async for message in connection:
                    got.append(message)
        assert got == [str(number) for number in range(100)]
        assert caught.value.closed == Closed(EndReason.PEER, 1006, "no close frame")
        nursery.cancel_scope.cancel()
