"""Hypercorn's Trio worker. It sends pings, but does not look at what answers them."""

from __future__ import annotations

import asyncio
import functools
import ssl

import trio
from hypercorn.config import Config
from hypercorn.trio import serve

from ._asgi import App, Event, application
from ._server import BACKLOG, Options, announce, parse


class Queue:
    """A memory channel with the methods of asyncio's queue."""

    def __init__(self, size: int) -> None:
        self._send, receive = trio.open_memory_channel[Event](size)
        self.get = receive.receive

    def put_nowait(self, item: Event, /) -> None:
        try:
            self._send.send_nowait(item)
        except trio.WouldBlock:
            raise asyncio.QueueFull from None


class SameConfig(Config):
    """With the TLS context that all other peers have."""

    context: ssl.SSLContext | None = None

    def create_ssl_context(self) -> ssl.SSLContext | None:
        return self.context


async def serve_app(options: Options, app: App, ping_interval: float | None) -> None:
    """Serve an application.

    Args:
        options: of the process.
        app: the application.
        ping_interval: seconds between PINGs; None: it sends none.
    """
    config = SameConfig()
    config.context = options.ssl_context()
    config.bind = f"{options.host}:0"
    config.backlog = BACKLOG
    config.certfile = options.cert
    config.keyfile = options.key
    config.errorlog = None
    config.websocket_ping_interval = ping_interval
    async with trio.open_nursery() as nursery:
        urls = await nursery.start(functools.partial(serve, app, config, mode="asgi"))
        announce(int(urls[0].rpartition(":")[2]))


async def main(options: Options) -> None:
    await serve_app(options, application(options, Queue), options.interval)


if __name__ == "__main__":
    trio.run(main, parse())
