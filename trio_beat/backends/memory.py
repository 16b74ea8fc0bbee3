"""The backend of a single process."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final, NamedTuple, Self
from urllib.parse import SplitResult, parse_qsl

import trio

from .._exceptions import BackendError
from .._protocol.messages import Message, bytes_held
from .._text import character_width
from . import Backend, Deliver, Last

#: Bytes of last messages that are kept.
KEEP: Final = 64 * 2**20
#: Bytes that one takes besides its channel's name and the message.
OVERHEAD: Final = 240


class _Entry(NamedTuple):
    message: Message
    expires: float  #: of Trio's clock
    size: int  #: bytes


class _Kept:
    """Last messages, by channel, bounded in bytes; the one that was set longest ago goes first."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._size = 0
        self._messages: dict[str, _Entry] = {}

    def put(self, channel: str, message: Message, expires: float) -> None:
        self.drop(channel)
        size = OVERHEAD + len(channel) * character_width(channel) + bytes_held(message)
        if size > self._limit:
            return
        self._messages[channel] = _Entry(message, expires, size)
        self._size += size
        while self._size > self._limit:
            self.drop(next(iter(self._messages)))

    def drop(self, channel: str) -> None:
        entry = self._messages.pop(channel, None)
        if entry is not None:
            self._size -= entry.size

    def get(self, channel: str) -> Last | None:
        entry = self._messages.get(channel)
        if entry is None:
            return None
        left = entry.expires - trio.current_time()
        if left > 0:
            return Last(entry.message, left)
        self.drop(channel)
        return None


class MemoryBackend(Backend):
    """Carries messages within one hub.

    Args:
        keep: bytes of last messages that are kept, over all channels; beyond that, the channel
            whose last message is the oldest loses it.
    """

    def __init__(self, keep: int = KEEP) -> None:
        self._kept = _Kept(keep)
        self._subscribed: set[str] = set()
        self._publishing: dict[str, trio.StrictFIFOLock] = {}
        self._deliver: Deliver | None = None

    @classmethod
    def from_url(cls, url: SplitResult) -> Self:
        if url.netloc or url.path not in ("", "/"):
            raise ValueError("only memory:// with an optional ?keep=BYTES is allowed")
        keep = KEEP
        for name, value in parse_qsl(url.query, keep_blank_values=True):
            if name != "keep":
                raise ValueError(f"unknown parameter {name!r}, allowed is keep=BYTES")
            if not value.isdecimal():
                raise ValueError(f"keep is {value!r}, expected a number of bytes")
            keep = int(value)
        return cls(keep)

    @asynccontextmanager
    async def running(self, deliver: Deliver) -> AsyncIterator[None]:
        self._deliver = deliver
        try:
            yield
        finally:
            self._deliver = None
            self._subscribed.clear()

    def _check_running(self) -> Deliver:
        if self._deliver is None:
            raise BackendError("the backend is not running")
        return self._deliver

    async def publish(self, channel: str, message: Message, *, expire: float) -> None:
        self._check_running()
        await trio.lowlevel.checkpoint()
        lock = self._publishing.setdefault(channel, trio.StrictFIFOLock())
        try:
            async with lock:
                deliver = self._check_running()
                if expire > 0:
                    self._kept.put(channel, message, trio.current_time() + expire)
                if channel in self._subscribed:
                    await deliver(channel, message)
        finally:
            if not lock.statistics().tasks_waiting and not lock.locked():
                self._publishing.pop(channel, None)

    async def subscribe(self, channel: str) -> None:
        await trio.lowlevel.checkpoint()
        self._check_running()
        self._subscribed.add(channel)

    async def unsubscribe(self, channel: str) -> None:
        await trio.lowlevel.checkpoint()
        self._subscribed.discard(channel)

    async def last(self, channel: str) -> Last | None:
        await trio.lowlevel.checkpoint()
        self._check_running()
        return self._kept.get(channel)
