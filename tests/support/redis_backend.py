"""A backend for Redis and Valkey at a real broker, and what comes of it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from tests.support.broker import Broker
from tests.support.receivers import Recorder
from trio_beat import Message
from trio_beat.backends.redis import RedisBackend

LOGGER = "trio_beat.backends.redis"


@asynccontextmanager
async def running(
    broker: Broker, query: str = "", backend: RedisBackend | None = None
) -> AsyncIterator[tuple[RedisBackend, Recorder]]:
    made = backend or RedisBackend(f"{broker.url}/0{query}")
    told = Recorder()
    async with made.running(told):
        yield made, told


async def last(backend: RedisBackend, *channels: str) -> dict[str, object]:
    found: dict[str, object] = {}

    def told(channel: str, message: Message | None) -> None:
        assert channel not in found
        found[channel] = message and message.payload

    assert await backend.last(channels, told) == {}
    return found


def lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name == LOGGER]
