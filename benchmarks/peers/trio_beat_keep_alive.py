"""trio-websocket, with trio-beat's `keep_alive` for the recipe's heartbeat."""

from __future__ import annotations

import trio
from trio_websocket import WebSocketConnection

from trio_beat import Heartbeat
from trio_beat.trio_websocket import keep_alive

from ._server import Options, parse
from .trio_websocket import main


async def beat(connection: WebSocketConnection, options: Options) -> None:
    heartbeat = Heartbeat(options.interval, options.misses)
    await keep_alive(connection, heartbeat=heartbeat)


if __name__ == "__main__":
    trio.run(main, parse("idle"), beat)
