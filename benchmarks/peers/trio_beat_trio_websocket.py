"""trio-beat with its hub, below trio-websocket."""

from __future__ import annotations

import functools
from collections.abc import Awaitable, Callable

import trio
from trio_websocket import WebSocketRequest, WebSocketServer

from trio_beat import Handler, Heartbeat, open_hub
from trio_beat.trio_websocket import TrioWebSocketService, open_service

from ._server import BACKLOG, Options, announce, parse
from .trio_beat import LIMITS

Serve = Callable[[TrioWebSocketService, WebSocketRequest], Awaitable[None]]


async def main(
    options: Options,
    handler: Handler | None = None,
    serve: Serve = TrioWebSocketService.handle_request,
) -> None:
    """Serve.

    Args:
        options: of the process.
        handler: of the service; None: it has a hub.
        serve: what is done with a request.
    """
    heartbeat = Heartbeat(options.interval, options.misses)
    async with (
        open_hub() as hub,
        open_service(
            handler, hub=None if handler else hub, heartbeat=heartbeat, limits=LIMITS
        ) as service,
    ):
        listeners = await trio.open_tcp_listeners(0, host=options.host, backlog=BACKLOG)
        handle = functools.partial(serve, service)
        server = WebSocketServer(handle, service.listeners(listeners))
        announce(listeners[0].socket.getsockname()[1])
        await server.run()


if __name__ == "__main__":
    trio.run(main, parse("idle"))
