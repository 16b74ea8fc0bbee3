"""trio-beat with a handler for idle connections too."""

from __future__ import annotations

import trio

from trio_beat import Connection

from ._server import parse
from .trio_beat import HANDLERS, main


async def idle(connection: Connection) -> None:
    async for _ in connection:
        pass


if __name__ == "__main__":
    trio.run(main, parse(), {**HANDLERS, "idle": idle})
