"""A backend that keeps the contract and hides nothing, for tests that make it break it; sizes."""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Iterable, Mapping
from contextlib import asynccontextmanager
from typing import Self
from urllib.parse import SplitResult

import trio

from trio_beat import BackendError, Message
from trio_beat._protocol.messages import bytes_held
from trio_beat.backends import Backend, Receiver, Told

#: What every `OpenBroker` refuses.
REFUSED = "refused"


def bytes_of(message: Message) -> int:
    """Bytes that a message counts for in the memory of a backend."""
    return bytes_held(message)


class OpenBroker:
    """Lets several backends hear each other, and may be away: what a broker outside would do.

    Attributes:
        here: whether it answers.
        hubs: the backends that are running.
        kept: last messages, and when each expires, on Trio's clock.
        lock: held while a message goes to all.
    """

    def __init__(self) -> None:
        self.here = True
        self._returned = trio.Event()
        self.hubs: list[OpenBackend] = []
        self.kept: dict[str, tuple[Message, float]] = {}
        self.lock = trio.StrictFIFOLock()

    @asynccontextmanager
    async def outage(self) -> AsyncIterator[None]:
        """Be away."""
        self.here, self._returned = False, trio.Event()
        for hub in self.hubs:
            hub.went_away()
        try:
            yield
        finally:
            self.here = True
            self._returned.set()
            for hub in self.hubs:
                hub.came_back()

    async def until_here(self) -> None:
        """Wait while it is away."""
        if not self.here:
            await self._returned.wait()

    async def foreign(self, channel: str, data: bytes) -> None:
        """Publish bytes, as others do."""
        async with self.lock:
            for hub in self.hubs:
                await hub.hear_foreign(channel, data)


class OpenBackend(Backend):
    """A backend without bounds; all of it may be changed from outside.

    Args:
        broker: what it shares with others; None: it has one of its own.

    Attributes:
        broker: the same.
        receiver: the hub's; None while it is not running.
        subscribed: channels that are heard.
    """

    def __init__(self, broker: OpenBroker | None = None) -> None:
        self.broker = broker or OpenBroker()
        self.receiver: Receiver | None = None
        self.subscribed: set[str] = set()

    @classmethod
    def from_url(cls, url: SplitResult) -> Self:
        return cls()

    @asynccontextmanager
    async def running(self, receiver: Receiver) -> AsyncIterator[None]:
        self.receiver = receiver
        self.broker.hubs.append(self)
        if not self.broker.here:
            receiver.away(self.error())
        try:
            yield
        finally:
            self.broker.hubs.remove(self)
            self.receiver = None
            self.subscribed.clear()

    # What the broker does

    def error(self) -> BackendError:
        return BackendError("the broker is away")

    def went_away(self) -> None:
        assert self.receiver is not None
        self.tell_lost(self.subscribed.copy())
        self.receiver.away(self.error())

    def tell_lost(self, channels: Collection[str]) -> None:
        assert self.receiver is not None
        self.receiver.lost(channels)
        self.subscribed.clear()

    def came_back(self) -> None:
        assert self.receiver is not None
        self.receiver.back()

    async def hear(self, channel: str, message: Message, sender: object | None) -> None:
        if channel in self.subscribed:
            assert self.receiver is not None
            await self.receiver.deliver(channel, message, sender)

    async def hear_foreign(self, channel: str, data: bytes) -> None:
        try:
            payload: str | bytes = data.decode()
        except UnicodeDecodeError:
            payload = data
        await self.hear(channel, Message(payload), None)

    # What the hub does

    def check_there(self) -> None:
        if self.receiver is None:
            raise BackendError("the backend is not running")
        if not self.broker.here:
            raise self.error()

    async def publish(
        self, channel: str, message: Message, *, expire: float, sender: object | None = None
    ) -> None:
        async with self.broker.lock:
            self.check_there()
            if expire > 0:
                self.keep(channel, message, expire)
            await self.hand_out(channel, message, sender)

    def keep(self, channel: str, message: Message, expire: float) -> None:
        self.broker.kept[channel] = (message, trio.current_time() + expire)

    async def hand_out(self, channel: str, message: Message, sender: object | None) -> None:
        for hub in self.order():
            await hub.hear(channel, message, sender if hub is self else None)

    def order(self) -> Iterable[OpenBackend]:
        return list(self.broker.hubs)

    async def subscribe(self, channels: Collection[str]) -> Mapping[str, BackendError]:
        await trio.lowlevel.checkpoint()
        self.check_there()
        self.subscribed |= {channel for channel in channels if channel != REFUSED}
        return {REFUSED: BackendError("not allowed")} if REFUSED in channels else {}

    async def unsubscribe(self, channels: Collection[str]) -> None:
        await trio.lowlevel.checkpoint()
        self.subscribed.difference_update(channels)

    async def last(self, channels: Collection[str], told: Told) -> Mapping[str, BackendError]:
        async with self.broker.lock:
            self.check_there()
            for channel in channels:
                told(channel, self.last_of(channel))
            return {}

    def last_of(self, channel: str) -> Message | None:
        if channel in self.broker.kept:
            message, expires = self.broker.kept[channel]
            if expires > trio.current_time():
                return message
        return None
