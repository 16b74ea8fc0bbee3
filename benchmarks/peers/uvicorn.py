"""Uvicorn on uvloop and httptools, as its extra "standard" installs it."""

from __future__ import annotations

import asyncio
import signal
import socket
import ssl

import uvicorn

from ._asgi import application
from ._server import BACKLOG, Options, announce, parse


class Server(uvicorn.Server):
    """Says when it accepts, and leaves at once when it is told to, as the other peers do."""

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        announce(self.servers[0].sockets[0].getsockname()[1])


def main(options: Options) -> None:
    context = options.ssl_context()

    def make_context(*_: object) -> ssl.SSLContext:
        assert context is not None
        return context

    config = uvicorn.Config(
        application(options, asyncio.Queue),
        host=options.host,
        port=0,
        loop="uvloop",
        http="httptools",
        # Its default. Of the three it is the lightest: the parser of websockets without that
        # library's tasks for each connection, which "websockets" has; "wsproto" parses slower.
        ws="websockets-sansio",
        ws_ping_interval=options.interval,
        ws_ping_timeout=options.patience,
        ws_per_message_deflate=options.deflate,
        lifespan="off",
        log_config=None,
        access_log=False,
        interface="asgi3",
        proxy_headers=False,
        backlog=BACKLOG,
        # The same context as all other peers have.
        ssl_context_factory=make_context if context is not None else None,
    )
    Server(config).run()


if __name__ == "__main__":
    main(parse())
