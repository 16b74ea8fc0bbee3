"""trio-beat over ASGI, under Hypercorn's Trio worker: its hub."""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable

import trio

from trio_beat import Connection, Heartbeat, Limits, open_hub
from trio_beat.asgi import application

from ._server import HEARTBEAT, Options, parse
from .hypercorn import serve_app


async def main(
    options: Options, handler: Callable[[Connection], Awaitable[None]] | None = None
) -> None:
    app = application(
        handler,
        hub=open_hub() if handler is None else None,
        heartbeat=Heartbeat(options.interval, options.misses, HEARTBEAT),
        limits=Limits(connections=2**20),
    )
    await serve_app(options, app, None)


def options(name: str) -> Options:
    """Take the arguments of a peer that only idles."""
    parsed = parse()
    if parsed.role != "idle":
        print(f"{name} knows the role idle only", file=sys.stderr)
        sys.exit(2)
    return parsed


if __name__ == "__main__":
    trio.run(main, options("trio_beat_asgi"))
