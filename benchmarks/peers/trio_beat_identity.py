"""trio-beat with its hub, where each peer has an identity of its own that expires."""

from __future__ import annotations

import itertools
import time

import trio

from trio_beat import Identity, Request

from ._server import parse
from .trio_beat import main

_numbers = itertools.count()


async def admit(_: Request) -> Identity:
    # Later than any run ends, and not all at once.
    number = next(_numbers)
    return Identity(user=f"user-{number}", expires_at=time.time() + 86_400 + number / 7)


if __name__ == "__main__":
    trio.run(main, parse(), {}, admit)
