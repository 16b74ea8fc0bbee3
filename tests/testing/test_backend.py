from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator, Callable, Collection, Mapping
from contextlib import asynccontextmanager

import pytest
import trio
import trio.testing

from tests.support.backends import OpenBackend, OpenBroker
from tests.support.conformance import check_with
from trio_beat import BackendError, Message
from trio_beat.backends import Receiver, Told
from trio_beat.testing import check_backend


async def test_accepts_backends_that_share_a_broker(
    autojump_clock: trio.testing.MockClock,
) -> None:
    await check_with(OpenBackend)


async def test_accepts_a_backend_that_is_alone(autojump_clock: trio.testing.MockClock) -> None:
    await check_backend(OpenBackend)


class Distant(OpenBackend):
    """What comes from the broker comes late, and in order; `publish` does not wait for it."""

    LATENCY = 0.03

    def __init__(self, broker: OpenBroker) -> None:
        super().__init__(broker)
        self.coming: deque[tuple[float, Callable[[], object]]] = deque()
        self.some = trio.Event()
        self.delivery: tuple[str, Message, object | None] | None = None

    @asynccontextmanager
    async def running(self, receiver: Receiver) -> AsyncIterator[None]:
        async with super().running(receiver), trio.open_nursery() as nursery:
            nursery.start_soon(self.receive)
            try:
                yield
            finally:
                nursery.cancel_scope.cancel()

    async def receive(self) -> None:
        while True:
            while self.coming:
                at, come = self.coming.popleft()
                await trio.sleep_until(at)
                come()
                if self.delivery is not None:
                    delivery, self.delivery = self.delivery, None
                    await super().hear(*delivery)
            self.some = trio.Event()
            await self.some.wait()

    def later(self, come: Callable[[], object]) -> None:
        self.coming.append((trio.current_time() + self.LATENCY, come))
        self.some.set()

    async def hear(self, channel: str, message: Message, sender: object | None) -> None:
        self.later(lambda: setattr(self, "delivery", (channel, message, sender)))

    def went_away(self) -> None:
        self.coming.clear()
        super().went_away()

    async def last(self, channels: Collection[str], told: Told) -> Mapping[str, BackendError]:
        self.check_there()
        answered, here = trio.Event(), True

        def tell() -> None:
            answered.set()
            for channel, message in found.items():
                if here:
                    told(channel, message)

        async with self.broker.lock:
            self.check_there()
            found = {channel: self.last_of(channel) for channel in channels}
            self.later(tell)
        try:
            with trio.move_on_after(1):
                await answered.wait()
                return {}
            raise self.error()
        finally:
            here = False


async def test_accepts_messages_that_come_after_publishing(
    autojump_clock: trio.testing.MockClock,
) -> None:
    await check_with(Distant)


class Silent(OpenBackend):
    """Notices that its broker is away when it has waited for it."""

    PATIENCE = 4.0

    def went_away(self) -> None:
        pass

    def come_to_know(self) -> None:
        if not self.broker.here and not self.knows and self.receiver is not None:
            self.knows = True
            super().went_away()

    knows = False

    def came_back(self) -> None:
        if self.knows:
            self.knows = False
            super().came_back()

    @asynccontextmanager
    async def running(self, receiver: Receiver) -> AsyncIterator[None]:
        self.knows = not self.broker.here
        async with super().running(receiver):
            yield

    async def wait(self) -> None:
        if not self.broker.here and not self.knows:
            await trio.sleep(self.PATIENCE)
            self.come_to_know()

    async def publish(
        self, channel: str, message: Message, *, expire: float, sender: object | None = None
    ) -> None:
        await self.wait()
        await super().publish(channel, message, expire=expire, sender=sender)

    async def subscribe(self, channels: Collection[str]) -> Mapping[str, BackendError]:
        await self.wait()
        return await super().subscribe(channels)

    async def last(self, channels: Collection[str], told: Told) -> Mapping[str, BackendError]:
        await self.wait()
        return await super().last(channels, told)


async def test_accepts_an_outage_that_is_noticed_late(
    autojump_clock: trio.testing.MockClock,
) -> None:
    await check_with(Silent)


@pytest.mark.parametrize("method", ["publish", "subscribe", "last"])
async def test_raises_plainly_what_a_backend_raises(
    autojump_clock: trio.testing.MockClock, method: str
) -> None:
    """Also where the backend has tasks, whose nursery would wrap it in a group."""

    class Failing(OpenBackend):
        @asynccontextmanager
        async def running(self, receiver: Receiver) -> AsyncIterator[None]:
            async with super().running(receiver), trio.open_nursery() as nursery:
                nursery.start_soon(trio.sleep_forever)
                yield
                nursery.cancel_scope.cancel()

    async def fail(*_: object, **__: object) -> None:
        raise BackendError("no broker")

    setattr(Failing, method, fail)
    with pytest.raises(BackendError, match="no broker"):
        await check_backend(Failing)
