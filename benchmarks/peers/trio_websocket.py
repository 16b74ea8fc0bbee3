"""trio-websocket, with the heartbeat from the recipes of its documentation."""

from __future__ import annotations

import functools
from collections.abc import Awaitable, Callable

import trio
from trio_websocket import (
    ConnectionClosed,
    WebSocketConnection,
    WebSocketRequest,
    serve_websocket,
)

from ._server import Options, announce, nap, parse, part, report_end
from ._trio_fanout import Fanout

Beat = Callable[[WebSocketConnection, Options], Awaitable[object]]

_fanout = Fanout()


async def heartbeat(connection: WebSocketConnection, options: Options) -> None:
    while True:
        with trio.fail_after(options.patience):
            await connection.ping()
        await trio.sleep(options.interval)


async def idle(connection: WebSocketConnection) -> None:
    while True:
        await connection.get_message()


async def fanout(connection: WebSocketConnection) -> None:
    assert connection.path is not None
    subscribes, publishes = part(connection.path)
    if subscribes:
        async with _fanout.subscribed(connection, connection.send_message):
            await publish(connection, publishes)
    else:
        await publish(connection, publishes)


async def publish(connection: WebSocketConnection, publishes: bool) -> None:
    while True:
        message = await connection.get_message()
        if publishes:
            _fanout.publish(message, connection)


async def echo(connection: WebSocketConnection) -> None:
    while True:
        await connection.send_message(await connection.get_message())


async def detect(connection: WebSocketConnection) -> None:
    assert connection.path is not None
    try:
        while True:
            message = await connection.get_message()
            await trio.sleep(nap(message))
    finally:
        report_end(connection.path)


HANDLERS = {"idle": idle, "fanout": fanout, "echo": echo, "detect": detect}


async def main(options: Options, beat: Beat = heartbeat) -> None:
    run_role = HANDLERS[options.role]

    async def handler(request: WebSocketRequest) -> None:
        try:
            connection = await request.accept()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(beat, connection, options)
                await run_role(connection)
                nursery.cancel_scope.cancel()
        except* (ConnectionClosed, trio.TooSlowError):
            pass

    async with trio.open_nursery() as nursery:
        server = await nursery.start(
            functools.partial(
                serve_websocket,
                handler,
                options.host,
                0,
                options.ssl_context(),
                # As with websockets; the sooner it is full, the sooner a pong waits behind data.
                message_queue_size=16,
                # As much as there is: its default of 4 KiB takes twice as long for large messages.
                receive_buffer_size=None,
                # It waits for so long for the farewell of a peer that it has given up.
                disconnect_timeout=options.interval / 10,
            )
        )
        announce(server.port)


if __name__ == "__main__":
    trio.run(main, parse())
