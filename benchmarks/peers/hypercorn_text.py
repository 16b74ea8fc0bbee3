"""Hypercorn's Trio worker, with an application that sends text heartbeats and counts the answers.

ASGI shows no PONG, so this is how an application can tell there whether its peer is alive. One task
does it all: a second one for the heartbeat would make a connection a tenth larger.
"""

from __future__ import annotations

import trio

from ._asgi import App, Event, Receive, Send, accept
from ._server import HEARTBEAT, Options, parse
from .hypercorn import serve_app


def application(options: Options) -> App:
    async def idle(scope: Event, receive: Receive, send: Send) -> None:
        await accept(scope, receive, send)
        missed, due = 0, trio.current_time()
        while missed < options.misses:
            missed += 1
            await send({"type": "websocket.send", "text": HEARTBEAT})
            due += options.interval
            with trio.move_on_at(due):
                while (await receive())["type"] == "websocket.receive":
                    missed = 0
                return

    return idle


async def main(options: Options) -> None:
    await serve_app(options, application(options), None)


if __name__ == "__main__":
    trio.run(main, parse("idle"))
