"""trio-beat with its hub, over a Unix socket."""

from __future__ import annotations

import trio

from ._server import parse
from .trio_beat import main

if __name__ == "__main__":
    trio.run(main, parse("idle"))
