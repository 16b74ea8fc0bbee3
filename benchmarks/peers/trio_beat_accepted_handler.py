"""trio-beat with a handler, over WebSockets that trio-websocket has accepted."""

from __future__ import annotations

import trio

from ._server import parse
from .trio_beat_accepted import serve
from .trio_beat_handler import idle
from .trio_beat_trio_websocket import main

if __name__ == "__main__":
    trio.run(main, parse("idle"), idle, serve)
