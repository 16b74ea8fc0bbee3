"""A program that uses trio-websocket, with a service below it."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, NamedTuple

import trio
import trio_websocket

from tests.support.serving import RARELY
from trio_beat.trio_websocket import TrioWebSocketService, open_service

ProgramHandler = Callable[[TrioWebSocketService, trio_websocket.WebSocketRequest], Awaitable[None]]


class Program(NamedTuple):
    """What runs."""

    port: int
    service: TrioWebSocketService


async def whole(service: TrioWebSocketService, request: trio_websocket.WebSocketRequest) -> None:
    """The program's handler that gives everything to the service."""
    await service.handle_request(request)


async def accepted(service: TrioWebSocketService, request: trio_websocket.WebSocketRequest) -> None:
    """The program's handler that accepts, and then gives the WebSocket to the service."""
    await service.run(await request.accept())


async def watched(service: TrioWebSocketService, request: trio_websocket.WebSocketRequest) -> None:
    """The program's own loop, watched: an echo."""
    ws = await request.accept()
    async with service.watched(ws):
        try:
            while True:
                await ws.send_message(await ws.get_message())
        except trio_websocket.ConnectionClosed:
            pass


@asynccontextmanager
async def running(
    program: ProgramHandler = whole,
    *,
    context: ssl.SSLContext | None = None,
    server: dict[str, Any] | None = None,
    **options: Any,
) -> AsyncIterator[Program]:
    """Run a program while the context lasts.

    Args:
        program: handles its requests.
        context: for TLS; None: there is none.
        server: options of its `WebSocketServer`.
        options: those of `open_service`; the heartbeat is a slow one where none is given.
    """
    options.setdefault("heartbeat", RARELY)
    async with open_service(**options) as service, trio.open_nursery() as nursery:
        below: Any
        if context is None:
            below = await trio.open_tcp_listeners(0, host="127.0.0.1")
        else:
            below = await trio.open_ssl_over_tcp_listeners(0, context, host="127.0.0.1")
        lower = below[0] if context is None else below[0].transport_listener
        port = lower.socket.getsockname()[1]
        made = trio_websocket.WebSocketServer(
            partial(program, service), service.listeners(below), **server or {}
        )
        await nursery.start(made.run)
        yield Program(port, service)
        nursery.cancel_scope.cancel()
