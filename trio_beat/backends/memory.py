"""The backend of a single process."""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Mapping
from contextlib import asynccontextmanager
from typing import Final, NamedTuple, Self
from urllib.parse import SplitResult, parse_qsl

import trio

from .._exceptions import BackendError
from .._protocol.messages import Message, bytes_held, is_compressed
from .._text import character_width
from . import Backend, Receiver, Told

#: Bytes of last messages that are kept.
KEEP: Final = 64 * 2**20
#: Bytes that one takes besides its channel's name and the message.
OVERHEAD: Final = 272


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
        self._bound()

    def grown(self, channel: str, message: Message) -> None:
        """A message was delivered, and may keep what it was compressed to."""
        if not is_compressed(message):
            return
        entry = self._messages.get(channel)
        if entry is not None and entry.message is message:
            size = OVERHEAD + len(channel) * character_width(channel) + bytes_held(message)
            self._messages[channel] = entry._replace(size=size)
            self._size += size - entry.size
            self._bound()

    def _bound(self) -> None:
        while self._size > self._limit:
            self.drop(next(iter(self._messages)))

    def drop(self, channel: str) -> None:
        entry = self._messages.pop(channel, None)
        if entry is not None:
            self._size -= entry.size

    def get(self, channel: str) -> Message | None:
        entry = self._messages.get(channel)
        if entry is None:
            return None
        if trio.current_time() < entry.expires:
            return entry.message
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
        self._receiver: Receiver | None = None

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
    async def running(self, receiver: Receiver) -> AsyncIterator[None]:
        self._receiver = receiver
        try:
            yield
        finally:
            self._receiver = None
            self._subscribed.clear()

    def _check_running(self) -> Receiver:
        if self._receiver is None:
            raise BackendError("the backend is not running")
        return self._receiver

    async def publish(
        self, channel: str, message: Message, *, expire: float, sender: object | None = None
    ) -> None:
        self._check_running()
        await trio.lowlevel.checkpoint()
        lock = self._publishing.setdefault(channel, trio.StrictFIFOLock())
        try:
            async with lock:
                receiver = self._check_running()
                if expire > 0:
                    self._kept.put(channel, message, trio.current_time() + expire)
                if channel in self._subscribed:
                    await receiver.deliver(channel, message, sender)
                    self._kept.grown(channel, message)
        finally:
            if not lock.statistics().tasks_waiting and not lock.locked():
                self._publishing.pop(channel, None)

    async def subscribe(self, channels: Collection[str]) -> Mapping[str, BackendError]:
        await trio.lowlevel.checkpoint()
        self._check_running()
        self._subscribed.update(channels)
        return {}

    async def unsubscribe(self, channels: Collection[str]) -> None:
        await trio.lowlevel.checkpoint()
        self._subscribed.difference_update(channels)

    async def last(self, channels: Collection[str], told: Told) -> Mapping[str, BackendError]:
        await trio.lowlevel.checkpoint()
        self._check_running()
        for channel in channels:
            told(channel, self._kept.get(channel))
        return {}
