"""The backend keeps the contract over real brokers, also while they are away."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import pytest

from tests.support.broker import Broker, Kind, open_broker
from trio_beat.backends.redis import RedisBackend
from trio_beat.testing import check_backend

pytestmark = [pytest.mark.real, pytest.mark.slow]

#: The user may not use it; all channels of the suite begin otherwise.
REFUSED = "refused"
USER = "user bob on >x resetchannels &[^r]* ~* +@all"
#: Seconds after which the backend takes a silent broker for one that is away.
TIMEOUT = 1


@asynccontextmanager
async def killed(broker: Broker) -> AsyncIterator[None]:
    broker.kill()
    yield
    await broker.start()


@asynccontextmanager
async def stopped(broker: Broker) -> AsyncIterator[None]:
    broker.stop()
    try:
        yield
    finally:
        broker.go_on()


@pytest.mark.parametrize(("kind", "outage"), [("valkey", killed), ("redis", stopped)])
async def test_keeps_the_contract(
    kind: Kind, outage: Callable[[Broker], AbstractAsyncContextManager[None]]
) -> None:
    async with open_broker(kind, config=[USER]) as broker:
        address = f"{kind}://bob:x@{broker.host}:{broker.port}/0?timeout={TIMEOUT}"

        async def foreign(channel: str, data: bytes) -> None:
            await broker.ask("PUBLISH", channel, data)

        await check_backend(
            lambda: RedisBackend(address),
            shared=True,
            foreign=foreign,
            refused=REFUSED,
            outage=lambda: outage(broker),
            within=3 * TIMEOUT,
        )
