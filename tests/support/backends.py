"""A backend that keeps the contract and hides nothing, for tests that make it break it; sizes."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Self
from urllib.parse import SplitResult

import trio

from trio_beat import BackendError, Message
from trio_beat._protocol.messages import bytes_held
from trio_beat.backends import Backend, Deliver, Last


def bytes_of(message: Message) -> int:
    """Bytes that a message counts for in the memory of a backend."""
    return bytes_held(message)


class OpenBackend(Backend):
    """Like `MemoryBackend`, without bounds; all of it may be changed from outside.

    Attributes:
        deliver: the hub's; None while it is not running.
        subscribed: channels that are heard.
        kept: last messages, and when each expires, on Trio's clock.
    """

    def __init__(self) -> None:
        self.deliver: Deliver | None = None
        self.subscribed: set[str] = set()
        self.kept: dict[str, tuple[Message, float]] = {}
        self._lock = trio.StrictFIFOLock()

    @classmethod
    def from_url(cls, url: SplitResult) -> Self:
        return cls()

    @asynccontextmanager
    async def running(self, deliver: Deliver) -> AsyncIterator[None]:
        self.deliver = deliver
        try:
            yield
        finally:
            self.deliver = None
            self.subscribed.clear()

    async def publish(self, channel: str, message: Message, *, expire: float) -> None:
        async with self._lock:
            if self.deliver is None:
                raise BackendError("the backend is not running")
            if expire > 0:
                self.kept[channel] = (message, trio.current_time() + expire)
            if channel in self.subscribed:
                await self.deliver(channel, message)

    async def subscribe(self, channel: str) -> None:
        await trio.lowlevel.checkpoint()
        self.subscribed.add(channel)

    async def unsubscribe(self, channel: str) -> None:
        await trio.lowlevel.checkpoint()
        self.subscribed.discard(channel)

    async def last(self, channel: str) -> Last | None:
        await trio.lowlevel.checkpoint()
        if channel in self.kept:
            message, expires = self.kept[channel]
            if expires > trio.current_time():
                return Last(message, expires - trio.current_time())
        return None
