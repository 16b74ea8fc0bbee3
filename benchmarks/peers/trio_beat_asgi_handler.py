"""trio-beat over ASGI, under Hypercorn's Trio worker, with a handler."""

from __future__ import annotations

import trio

from ._server import parse
from .trio_beat_asgi import main
from .trio_beat_handler import idle

if __name__ == "__main__":
    trio.run(main, parse("idle"), idle)
