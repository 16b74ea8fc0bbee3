"""trio-beat over ASGI, under Hypercorn's Trio worker, with a handler."""

from __future__ import annotations

import trio

from .trio_beat_asgi import main, options
from .trio_beat_handler import idle

if __name__ == "__main__":
    trio.run(main, options("trio_beat_asgi_handler"), idle)
