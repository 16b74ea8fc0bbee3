"""trio-beat: its hub, as the bundled server runs it; for echo and detect a handler."""

from __future__ import annotations

import functools
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

import trio

from trio_beat import Compression, Connection, Heartbeat, Identity, Limits, Request, open_hub, serve

from ._server import Options, announce, nap, parse, report_end

Handler = Callable[[Connection], Awaitable[None]]
Admit = Callable[[Request], Awaitable[Identity | None]]


async def echo(connection: Connection) -> None:
    async for message in connection:
        await connection.send(message)


async def detect(connection: Connection) -> None:
    try:
        async for message in connection:
            await trio.sleep(nap(message))
    finally:
        report_end(connection.path)


LIMITS: Final = Limits(pending=4096, connections=2**20)
HANDLERS: Final[Mapping[str, Handler]] = {"echo": echo, "detect": detect}


async def main(
    options: Options, handlers: Mapping[str, Handler] = HANDLERS, admit: Admit | None = None
) -> None:
    handler = handlers.get(options.role)
    place: dict[str, Any] = {"port": 0, "host": options.host}
    if options.uds is not None:
        place = {"uds": options.uds}
    async with open_hub() as hub, trio.open_nursery() as nursery:
        server = await nursery.start(
            functools.partial(
                serve,
                handler,
                **place,
                heartbeat=Heartbeat(options.interval, options.misses),
                hub=hub if handler is None else None,
                admit=admit,
                compression=Compression() if options.deflate else None,
                ssl_context=options.ssl_context(),
                limits=LIMITS,
            )
        )
        announce(server.port if options.uds is None else 0)


if __name__ == "__main__":
    trio.run(main, parse())
