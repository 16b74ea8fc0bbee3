"""websockets on uvloop."""

from __future__ import annotations

import uvloop

from ._server import parse
from .websockets import main

if __name__ == "__main__":
    uvloop.run(main(parse()))
