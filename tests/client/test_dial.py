"""How a client opens a WebSocket, and the type of each failure."""

from __future__ import annotations

import contextlib
import socket
import ssl
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

import pytest
import trio
import trustme
from trio.testing import MockClock

from tests.support.cancelling import CancelledAfter
from tests.support.fake_server import URL, FakeServer, answer_pings, fake_server
from tests.support.harness import echo, tls_contexts
from tests.support.names import local_names
from tests.support.peer import Peer
from tests.support.serving import serving
from trio_beat import (
    ConnectTimeout,
    HandshakeDeclined,
    HandshakeFailed,
    HandshakeRefused,
    ServerUnavailable,
    TLSFailed,
    Unreachable,
    connect,
)

__all__ = ["fake_server", "local_names"]  # fixtures

WRONG_KEY = (
    b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n"
    b"Connection: Upgrade\r\nSec-WebSocket-Accept: wrong\r\n\r\n"
)


async def entered(url: str = URL, **options: Any) -> None:
    async with connect(url, **options):
        pass


class TestRequest:
    async def test_has_the_arguments(
        self, fake_server: FakeServer, nursery: trio.Nursery, autojump_clock: MockClock
    ) -> None:
        async def serve() -> None:
            await answer_pings(await fake_server.accept("chat.v2"))

        nursery.start_soon(serve)
        async with connect(
            "ws://me:p%40ss@example.com:8080/ws/news?echo",
            headers={"Origin": "https://example.com", "X-E": "é"},
            subprotocols=["chat.v1", "chat.v2"],
        ) as connection:
            assert connection.subprotocol == "chat.v2"
        lines = fake_server.request.split("\r\n")
        assert lines[0] == "GET /ws/news?echo HTTP/1.1"
        for line in (
            "Host: example.com:8080",
            "Origin: https://example.com",
            "Sec-WebSocket-Protocol: chat.v1, chat.v2",
            "Authorization: Basic bWU6cEBzcw==",
            "X-E: é",
        ):
            assert line in lines

    @pytest.mark.parametrize(
        ("url", "host"),
        [
            ("ws://example.com", "example.com"),
            ("ws://example.com:80/", "example.com"),
            ("ws://[::1]:8000/", "[::1]:8000"),
            ("ws://b\u00fccher.example/\u00fc", "xn--bcher-kva.example"),
        ],
    )
    async def test_names_the_host(
        self,
        fake_server: FakeServer,
        nursery: trio.Nursery,
        autojump_clock: MockClock,
        url: str,
        host: str,
    ) -> None:
        async def serve() -> None:
            await answer_pings(await fake_server.accept())

        nursery.start_soon(serve)
        await entered(url)
        assert f"\r\nHost: {host}\r\n" in fake_server.request


class TestAnswer:
    async def test_refuses(
        self, fake_server: FakeServer, nursery: trio.Nursery, autojump_clock: MockClock
    ) -> None:
        nursery.start_soon(fake_server.refuse, 403, "not you\n")
        with pytest.raises(HandshakeRefused) as caught:
            await entered()
        assert str(caught.value) == "the server refuses the WebSocket: 403 Forbidden: not you"
        assert caught.value.status == 403
        assert caught.value.body == b"not you\n"
        assert ("content-length", "8") in caught.value.headers

    @pytest.mark.parametrize("status", [502, 503, 504])
    async def test_of_a_proxy_without_a_server(
        self, fake_server: FakeServer, nursery: trio.Nursery, autojump_clock: MockClock, status: int
    ) -> None:
        nursery.start_soon(fake_server.refuse, status)
        with pytest.raises(ServerUnavailable) as caught:
            await entered()
        assert caught.value.status == status

    @pytest.mark.parametrize(
        ("answer", "failure", "status"),
        [
            (b"HTTP/1.1 403 No\r\nContent-Length: 99\r\n\r\ncut off", HandshakeRefused, 403),
            (b"HTTP/1.0 403 No\r\n\r\nno length", HandshakeRefused, 403),
            (b"HTTP/1.1 502 No\r\n\r\n" + b"x" * 100_000, ServerUnavailable, 502),
            (b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 404 No\r\n\r\n", HandshakeRefused, 404),
        ],
        ids=["cut off", "HTTP/1.0", "large", "continued"],
    )
    async def test_refuses_without_coming_to_an_end(
        self,
        fake_server: FakeServer,
        nursery: trio.Nursery,
        autojump_clock: MockClock,
        answer: bytes,
        failure: type[HandshakeDeclined],
        status: int,
    ) -> None:
        async def serve() -> None:
            peer = await fake_server.receive_request()
            with contextlib.suppress(trio.BrokenResourceError):
                await peer.send(answer)
            await peer.aclose()

        nursery.start_soon(serve)
        with pytest.raises(failure) as caught:
            await entered()
        assert caught.value.status == status

    async def test_refuses_and_stalls(
        self, fake_server: FakeServer, nursery: trio.Nursery, autojump_clock: MockClock
    ) -> None:
        async def serve() -> None:
            peer = await fake_server.receive_request()
            await peer.send(b"HTTP/1.1 403 No\r\nContent-Length: 99\r\n\r\nwell")

        nursery.start_soon(serve)
        with pytest.raises(HandshakeRefused, match="403 Forbidden: well"):
            await entered(connect_timeout=3)
        assert trio.current_time() == 3

    async def test_of_a_page(
        self, fake_server: FakeServer, nursery: trio.Nursery, autojump_clock: MockClock
    ) -> None:
        nursery.start_soon(fake_server.refuse, 404, "<!DOCTYPE html>")
        with pytest.raises(HandshakeRefused) as caught:
            await entered()
        assert str(caught.value) == "the server refuses the WebSocket: 404 Not Found"
        nursery.start_soon(fake_server.refuse, 200, "<!DOCTYPE html>")
        with pytest.raises(HandshakeFailed) as failed:
            await entered()
        assert str(failed.value) == "there is no WebSocket at this address: the answer is 200 OK"

    async def test_with_a_status_that_is_not_registered(
        self, fake_server: FakeServer, nursery: trio.Nursery, autojump_clock: MockClock
    ) -> None:
        nursery.start_soon(fake_server.refuse, 499)
        with pytest.raises(HandshakeRefused, match="499"):
            await entered()

    @pytest.mark.parametrize(
        ("answer", "text"),
        [
            (b"SSH-2.0-OpenSSH_9.2\r\n\r\n", "illegal status line"),
            (b"HTTP/1.1 101 Switching Protocols\r\n\r\n", "missing Connection header"),
            (WRONG_KEY, "invalid Sec-WebSocket-Accept header: wrong"),
            (b"HTTP/1.1 403 Forbidden\r\nContent-Le", "ended the connection, after 'HTTP/1.1 4"),
            (b"", "the server ended the connection during the handshake"),
            (b"HTTP/1.1 200 OK\r\n" + b"A: x\r\n" * 15_000, "."),
        ],
        ids=["not HTTP", "no upgrade", "wrong key", "cut off", "nothing", "endless"],
    )
    async def test_is_no_handshake(
        self,
        fake_server: FakeServer,
        nursery: trio.Nursery,
        autojump_clock: MockClock,
        answer: bytes,
        text: str,
    ) -> None:
        async def serve() -> None:
            peer = await fake_server.receive_request()
            try:
                await peer.send(answer)
                await peer.stream.send_eof()
                await peer.stream.receive_some(1)
            except trio.BrokenResourceError:
                pass
            await peer.aclose()

        nursery.start_soon(serve)
        with pytest.raises(HandshakeFailed, match=text):
            await entered()
        assert trio.current_time() == 0

    async def test_picks_a_subprotocol_that_was_not_offered(
        self, fake_server: FakeServer, nursery: trio.Nursery, autojump_clock: MockClock
    ) -> None:
        async def serve() -> None:
            peer = await fake_server.accept(header="Sec-WebSocket-Protocol: chat")
            await peer.aclose()

        nursery.start_soon(serve)
        with pytest.raises(HandshakeFailed, match="no subprotocols supported"):
            await entered()

    async def test_does_not_come(
        self, fake_server: FakeServer, nursery: trio.Nursery, autojump_clock: MockClock
    ) -> None:
        nursery.start_soon(fake_server.receive_request)
        with pytest.raises(ConnectTimeout, match=r"localhost:80 did not answer within 7 s"):
            await entered(connect_timeout=7)
        assert trio.current_time() == 7


class TestTCP:
    async def test_without_a_listener(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            port = listener.getsockname()[1]
        with pytest.raises(Unreachable) as caught:
            await entered(f"ws://127.0.0.1:{port}/")
        assert str(caught.value) == f"cannot reach 127.0.0.1:{port}: Connection refused"
        assert isinstance(caught.value.__cause__, OSError)

    async def test_unknown_name(self) -> None:
        with pytest.raises(Unreachable, match=r"cannot reach nowhere\.invalid:80: "):
            await entered("ws://nowhere.invalid/")

    async def test_name_that_is_not_valid(self) -> None:
        with pytest.raises(Unreachable):
            await entered(f"ws://{'x' * 70}.example/")

    async def test_full_backlog(self, patient_clock: MockClock) -> None:
        with socket.create_server(("127.0.0.1", 0), backlog=1) as listener:
            with pytest.raises(ConnectTimeout):
                await entered(f"ws://127.0.0.1:{listener.getsockname()[1]}/", connect_timeout=3)
        assert trio.current_time() == 3

    async def test_resets_during_the_handshake(
        self, nursery: trio.Nursery, patient_clock: MockClock
    ) -> None:
        async def serve(stream: trio.SocketStream) -> None:
            await stream.receive_some()
            await Peer(stream).reset()

        port = await start_listener(nursery, serve)
        with pytest.raises(HandshakeFailed, match=r"the connection was lost: .*reset"):
            await entered(f"ws://127.0.0.1:{port}/")


async def start_listener(
    nursery: trio.Nursery, play: Callable[[trio.SocketStream], Awaitable[object]]
) -> int:
    listeners = await nursery.start(partial(trio.serve_tcp, play, 0, host="127.0.0.1"))
    port: int = listeners[0].socket.getsockname()[1]
    return port


class TestTLS:
    async def test_with_a_private_authority(
        self, patient_clock: MockClock, local_names: None
    ) -> None:
        server, client = tls_contexts()
        async with serving(echo, ssl_context=server) as running:
            url = f"wss://localhost:{running.port}/ws/x"
            async with connect(url, ssl_context=client) as connection:
                await connection.send("x" * 300_000)
                assert await connection.receive() == "x" * 300_000

    async def test_cancelled_at_any_step_leaves_no_socket_open(
        self, patient_clock: MockClock, local_names: None
    ) -> None:
        """That each descriptor is closed is checked behind each test."""
        server, client = tls_contexts()
        ends = []
        async with serving(echo, ssl_context=server) as running:
            url = f"wss://localhost:{running.port}/ws/x"
            for steps in range(1, 200, 2):
                ends.append("not open")
                with CancelledAfter(steps):
                    async with connect(url, ssl_context=client) as connection:
                        ends[-1] = "open"
                        await connection.send("x" * 300_000)
                        await connection.receive()
                    ends[-1] = "closed"
        assert set(ends) == {"not open", "open", "closed"}

    async def test_with_an_untrusted_server(
        self, patient_clock: MockClock, local_names: None
    ) -> None:
        server, _ = tls_contexts()
        async with serving(echo, ssl_context=server) as running:
            with pytest.raises(TLSFailed, match=r"no TLS with localhost: .*certificate") as caught:
                await entered(f"wss://localhost:{running.port}/ws/x")
            assert caught.value.untrusted

    async def test_with_the_certificate_of_another_name(
        self, patient_clock: MockClock, local_names: None
    ) -> None:
        authority = trustme.CA()
        server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        authority.issue_cert("other.example").configure_cert(server)
        client = ssl.create_default_context()
        authority.configure_trust(client)
        async with serving(echo, ssl_context=server) as running:
            with pytest.raises(TLSFailed, match=r"[Hh]ostname mismatch") as caught:
                await entered(f"wss://localhost:{running.port}/ws/x", ssl_context=client)
            assert caught.value.untrusted

    async def test_with_a_server_without_tls(
        self, nursery: trio.Nursery, patient_clock: MockClock, local_names: None
    ) -> None:
        async def serve(stream: trio.SocketStream) -> None:
            await stream.receive_some()
            await stream.send_all(b"HTTP/1.1 400 Bad Request\r\n\r\n")

        port = await start_listener(nursery, serve)
        with pytest.raises(TLSFailed, match="the server does not speak TLS here") as caught:
            await entered(f"wss://localhost:{port}/")
        assert not caught.value.untrusted
