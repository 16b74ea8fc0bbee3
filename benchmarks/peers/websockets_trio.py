"""websockets on Trio: its keepalive. Its broadcast would wait for the slowest subscriber."""

from __future__ import annotations

import functools

import trio
from websockets.trio.server import ServerConnection, serve

from ._server import BACKLOG, Options, announce, nap, parse, part, report_end
from ._trio_fanout import Fanout

_fanout = Fanout()


def target(connection: ServerConnection) -> str:
    assert connection.request is not None
    return connection.request.path


async def idle(connection: ServerConnection) -> None:
    async for _ in connection:
        pass


async def fanout(connection: ServerConnection) -> None:
    subscribes, publishes = part(target(connection))
    if subscribes:
        async with _fanout.subscribed(connection, connection.send):
            await publish(connection, publishes)
        # Who was too slow would not take a close frame either.
        await trio.aclose_forcefully(connection.stream)
    else:
        await publish(connection, publishes)


async def publish(connection: ServerConnection, publishes: bool) -> None:
    async for message in connection:
        if publishes:
            _fanout.publish(message, connection)


async def echo(connection: ServerConnection) -> None:
    async for message in connection:
        await connection.send(message)


async def detect(connection: ServerConnection) -> None:
    try:
        async for message in connection:
            await trio.sleep(nap(message))
    finally:
        report_end(target(connection))


HANDLERS = {"idle": idle, "fanout": fanout, "echo": echo, "detect": detect}


async def main(options: Options) -> None:
    async with trio.open_nursery() as nursery:
        server = await nursery.start(
            functools.partial(
                serve,
                HANDLERS[options.role],
                0,
                host=options.host,
                backlog=BACKLOG,
                ssl=options.ssl_context(),
                compression=None,
                ping_interval=options.interval,
                ping_timeout=options.patience,
                # It waits for so long for the farewell of a peer that it has given up.
                close_timeout=options.interval / 10,
            )
        )
        announce(server.listeners[0].socket.getsockname()[1])


if __name__ == "__main__":
    trio.run(main, parse())
