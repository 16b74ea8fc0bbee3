"""The backend of a single process."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final, Self
from urllib.parse import SplitResult, parse_qsl

import trio

from .._exceptions import BackendError
from . import Backend, Deliver, Last

#: Bytes of last messages that are kept.
KEEP: Final = 64 * 2**20
#: Bytes that one takes besides its channel's name and its payload.
OVERHEAD: Final = 300


def _size(channel: str, payload: bytes) -> int:
    return OVERHEAD + len(channel) * _width(channel) + len(payload)


def _width(text: str) -> int:
    """Bytes that CPython keeps for each character of a text: as many as for its widest.

    (`sys.getsizeof` would also tell of a copy in UTF-8, which may come and go.)
    """
    if text.isascii():
        return 1
    # Characters beyond the Basic Multilingual Plane take two units of UTF-16.
    return 2 if len(text.encode("utf-16-le", "surrogatepass")) == 2 * len(text) else 4


class _Kept:
    """Last messages, by channel, bounded in bytes; the one that was set longest ago goes first."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._size = 0
        self._messages: dict[str, tuple[bytes, float]] = {}

    def put(self, channel: str, payload: bytes, expires: float) -> None:
        self.drop(channel)
        size = _size(channel, payload)
        if size > self._limit:
            return
        self._messages[channel] = (payload, expires)
        self._size += size
        while self._size > self._limit:
            self.drop(next(iter(self._messages)))

    def drop(self, channel: str) -> None:
        message = self._messages.pop(channel, None)
        if message is not None:
            self._size -= _size(channel, message[0])

    def get(self, channel: str) -> Last | None:
        payload, expires = self._messages.get(channel, (b"", 0.0))
        left = expires - trio.current_time()
        if left > 0:
            return Last(payload, left)
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

    async def publish(self, channel: str, payload: bytes, *, expire: float) -> None:
        self._check_running()
        await trio.lowlevel.checkpoint()
        lock = self._publishing.setdefault(channel, trio.StrictFIFOLock())
        try:
            async with lock:
                deliver = self._check_running()
                if expire > 0:
                    self._kept.put(channel, payload, trio.current_time() + expire)
                if channel in self._subscribed:
                    await deliver(channel, payload)
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
