"""A server without WebSockets: each request is HTTP."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import pytest
import trio

from tests.support.peer import HANDSHAKE
from tests.support.serving import ask
from trio_beat import Connection, Heartbeat, Limits, Server


async def app(scope: Any, receive: Any, send: Any) -> None:
    """Answers with the path and the peer."""
    if scope["type"] == "http":
        body = f"{scope['path']} {scope['client'] is not None}".encode()
        await send({"type": "http.response.start", "status": 200})
        await send({"type": "http.response.body", "body": body})


def made(**options: Any) -> Server:
    given = {
        "handler": None,
        "handler_errors": "raise",
        "hub": None,
        "app": app,
        "path_prefix": None,
        "heartbeat": Heartbeat(3600),
        "limits": Limits(),
        "subprotocols": (),
        "ssl_context": None,
        "grace": 1.0,
    }
    return Server(**{**given, **options})


async def test_each_path_is_the_applications() -> None:
    server = made()
    listener = socket.create_server(("127.0.0.1", 0))
    listener.setblocking(False)
    async with trio.open_nursery() as nursery:
        await nursery.start(server.run, [listener])
        for path in ("/", "/ws/", "/ws/news"):
            request = f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
            assert f"{path} True\r\n".encode() in await ask(server.port, request.encode())
        # The application takes no WebSocket.
        answer = await ask(server.port, HANDSHAKE.format(target="/ws/news", headers="").encode())
        assert not answer.startswith(b"HTTP/1.1 101")
        server.drain()


async def test_a_unix_socket_has_no_address(tmp_path: Path) -> None:
    server = made()
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(tmp_path / "x"))
    listener.listen()
    listener.setblocking(False)
    async with trio.open_nursery() as nursery:
        await nursery.start(server.run, [listener])
        assert server.addresses == []
        async with await trio.open_unix_socket(str(tmp_path / "x")) as stream:
            await stream.send_all(b"GET /a HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            answer = b"".join([bytes(data) async for data in stream])
        assert b"/a False\r\n" in answer
        server.drain()
    assert server.statistics().http == 0


async def handler(connection: Connection) -> None:
    """Is never called."""


@pytest.mark.parametrize("options", [{"app": None}, {"handler": handler}, {"admit": handler}])
def test_there_is_an_application_and_nothing_else(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="without path_prefix there is an app, and no handler"):
        made(**options)
