"""websockets on asyncio: its keepalive and its broadcast."""

from __future__ import annotations

import asyncio

from websockets.asyncio.server import ServerConnection, broadcast, serve

from ._server import BACKLOG, Options, announce, nap, parse, part, report_end

_subscribers: set[ServerConnection] = set()


def target(connection: ServerConnection) -> str:
    assert connection.request is not None
    return connection.request.path


async def idle(connection: ServerConnection) -> None:
    async for _ in connection:
        pass


async def fanout(connection: ServerConnection) -> None:
    subscribes, publishes = part(target(connection))
    if subscribes:
        _subscribers.add(connection)
    try:
        async for message in connection:
            if publishes:
                broadcast(_subscribers - {connection} if subscribes else _subscribers, message)
    finally:
        _subscribers.discard(connection)


async def echo(connection: ServerConnection) -> None:
    async for message in connection:
        await connection.send(message)


async def detect(connection: ServerConnection) -> None:
    try:
        async for message in connection:
            await asyncio.sleep(nap(message))
    finally:
        report_end(target(connection))


HANDLERS = {"idle": idle, "fanout": fanout, "echo": echo, "detect": detect}


async def main(options: Options) -> None:
    async with serve(
        HANDLERS[options.role],
        options.host,
        0,
        ssl=options.ssl_context(),
        compression="deflate" if options.deflate else None,
        ping_interval=options.interval,
        ping_timeout=options.patience,
        # It waits for so long for the farewell of a peer that it has given up.
        close_timeout=options.interval / 10,
        backlog=BACKLOG,
    ) as server:
        announce(next(iter(server.sockets)).getsockname()[1])
        await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main(parse()))
