"""trio-beat over ASGI, under Hypercorn's Trio worker: its hub."""

from __future__ import annotations

import trio

from trio_beat import Handler, Heartbeat, open_hub
from trio_beat.asgi import application

from ._server import HEARTBEAT, Options, parse
from .hypercorn import serve_app
from .trio_beat import LIMITS


async def main(options: Options, handler: Handler | None = None) -> None:
    app = application(
        handler,
        hub=open_hub() if handler is None else None,
        heartbeat=Heartbeat(options.interval, options.misses, HEARTBEAT),
        limits=LIMITS,
    )
    await serve_app(options, app, None)


if __name__ == "__main__":
    trio.run(main, parse("idle"))
