"""Many tasks that publish, in a process of its own: ``python -m benchmarks._publishers WAY URL``.

The ways are our backend (``backend``), and coredis with the same commands: in a transaction
(``coredis``), and our own script (``coredis_script``). Every message is kept as its channel's last.
It prints one line of JSON.
"""

from __future__ import annotations

import argparse
import json
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Final
from urllib.parse import urlsplit

import trio

from trio_beat import BackendError, Message
from trio_beat.backends import Receiver, backend_from_url

_EXPIRE: Final = 3600
_TEXT: Final = "x" * 100
#: Share of the time for which is published before it counts.
_WARM_UP: Final = 0.2

Publish = Callable[[str], Awaitable[object]]


class _Deaf(Receiver):
    """Nothing is subscribed; an outage would spoil the figures, and fails what is published."""

    async def deliver(self, channel: str, message: Message, sender: object | None) -> None:
        pass

    def lost(self, channels: Collection[str]) -> None:
        pass

    def away(self, error: BackendError) -> None:
        pass

    def back(self) -> None:
        pass


@asynccontextmanager
async def _backend(url: str) -> AsyncIterator[Publish]:
    backend = backend_from_url(url)
    async with backend.running(_Deaf()):
        yield lambda channel: backend.publish(channel, Message(_TEXT), expire=_EXPIRE)


@asynccontextmanager
async def _coredis(url: str) -> AsyncIterator[Publish]:
    from coredis import Redis

    parts = urlsplit(url)
    assert parts.hostname is not None
    assert parts.port is not None
    async with Redis(parts.hostname, parts.port) as client:

        async def publish(channel: str) -> None:
            async with client.pipeline(transaction=True) as pipe:
                pipe.set(channel, _TEXT, px=1000 * _EXPIRE)
                pipe.publish(channel, _TEXT)

        yield publish


@asynccontextmanager
async def _coredis_script(url: str) -> AsyncIterator[Publish]:
    from coredis import Redis

    from trio_beat.backends.redis.pubsub import SCRIPT

    parts = urlsplit(url)
    assert parts.hostname is not None
    assert parts.port is not None
    async with Redis(parts.hostname, parts.port) as client:
        yield lambda channel: client.eval(SCRIPT, [channel], [_TEXT, 1000 * _EXPIRE])


WAYS: Final[Mapping[str, Callable[[str], AbstractAsyncContextManager[Publish]]]] = {
    "backend": _backend,
    "coredis": _coredis,
    "coredis_script": _coredis_script,
}


async def _publish_for(publish: Publish, tasks: int, seconds: float) -> int:
    """Have tasks publish, each to a channel of its own; returns how many were confirmed."""
    count, end = 0, time.monotonic() + seconds

    async def go_on(channel: str) -> None:
        nonlocal count
        while time.monotonic() < end:
            await publish(channel)
            count += 1

    async with trio.open_nursery() as nursery:
        for number in range(tasks):
            nursery.start_soon(go_on, f"broadcast:p{number}")
    return count


async def _main() -> None:
    logging.disable()
    parser = argparse.ArgumentParser()
    parser.add_argument("way", choices=WAYS)
    parser.add_argument("url")
    parser.add_argument("--tasks", type=int, required=True)
    parser.add_argument("--seconds", type=float, required=True)
    options = parser.parse_args()
    async with WAYS[options.way](options.url) as publish:
        await _publish_for(publish, options.tasks, _WARM_UP * options.seconds)
        begun, cpu = time.monotonic(), time.process_time()
        count = await _publish_for(publish, options.tasks, options.seconds)
        told = {
            "confirmed": count,
            "seconds": time.monotonic() - begun,
            "cpu": time.process_time() - cpu,
        }
    print(json.dumps(told), flush=True)


if __name__ == "__main__":
    trio.run(_main)
