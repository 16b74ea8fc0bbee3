"""A server whose hub has a backend: ``python -m benchmarks._hub_server --backend URL``.

It prints ``port <number>`` once it listens. For each line ``<count> <text>`` of its standard input
it publishes the text to as many channels, ``broadcast:c0`` and so on, and answers ``true``.
"""

from __future__ import annotations

import argparse
import functools
import json
import logging
import sys
from typing import Final

import trio

from trio_beat import BackendLost, Heartbeat, Hub, Limits, open_hub, serve

from .peers._server import BACKLOG, announce

#: Tasks that publish at a time.
_TASKS: Final = 100


async def _publish(hub: Hub, count: int, text: str) -> None:
    async def some(first: int) -> None:
        for number in range(first, count, _TASKS):
            await hub.publish(f"broadcast:c{number}", text)

    async with trio.open_nursery() as nursery:
        for first in range(_TASKS):
            nursery.start_soon(some, first)


async def _answer(hub: Hub) -> None:
    rest = b""
    async for chunk in trio.lowlevel.FdStream(sys.stdin.fileno()):
        *lines, rest = (rest + bytes(chunk)).split(b"\n")
        for line in lines:
            count, _, text = line.decode().partition(" ")
            await _publish(hub, int(count), text)
            print(json.dumps(True), flush=True)


async def _main() -> None:
    logging.disable()
    parser = argparse.ArgumentParser()
    parser.add_argument("--backend", required=True, help="its URL")
    parser.add_argument("--interval", type=float, required=True, help="seconds between pings")
    options = parser.parse_args()
    async with (
        open_hub(options.backend, backend_lost=BackendLost.KEEP) as hub,
        trio.open_nursery() as nursery,
    ):
        server = await nursery.start(
            functools.partial(
                serve,
                None,
                0,
                hub=hub,
                heartbeat=Heartbeat(options.interval),
                limits=Limits(pending=BACKLOG, connections=2**20),
            )
        )
        announce(server.port)
        await _answer(hub)
        nursery.cancel_scope.cancel()


if __name__ == "__main__":
    trio.run(_main)
