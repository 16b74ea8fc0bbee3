"""A hub's channels: the subscribers of each, and its last message."""

from __future__ import annotations

from typing import Final, Protocol

import trio

from .._exceptions import BackendError
from .._protocol.messages import Message, bytes_held

#: Bytes of last messages that a hub keeps, and that one takes besides the message.
_KEEP: Final = 64 * 2**20
_OVERHEAD: Final = 178


class Subscriber(Protocol):
    """What messages can be delivered to."""

    def deliver_nowait(self, message: Message) -> None:
        """Send a message without waiting and without raising."""


class Channel:
    """A channel that has subscribers here, or is about to."""

    __slots__ = (
        "again",
        "error",
        "holders",
        "kept_id",
        "latest",
        "latest_expires",
        "latest_id",
        "ready",
        "subscribers",
    )

    def __init__(self) -> None:
        #: With the `latest_id` of when they joined: a fan-out skips those that joined during it.
        self.subscribers: dict[Subscriber, bytes] = {}
        #: How often more than once they have subscribed; None, as for most channels: none has.
        self.again: dict[Subscriber, int] | None = None
        #: Invariant: one for each subscription; those beyond them wait for `ready`.
        self.holders = 0
        self.ready = trio.Event()
        self.error: BackendError | None = None
        #: The last message that is to be kept; None: there is none, or it was dropped, and the
        #: backend's must have `kept_id`.
        self.latest: Message | None = None
        self.kept_id = b""
        self.latest_id = b""
        self.latest_expires = 0.0

    @property
    def forgotten(self) -> bool:
        """Whether there is a last message that only the backend knows."""
        return self.latest is None and bool(self.kept_id)

    def join(self, subscriber: Subscriber) -> bool:
        """Count a subscription; returns whether it is the subscriber's first."""
        if subscriber not in self.subscribers:
            self.subscribers[subscriber] = self.latest_id
            return True
        if self.again is None:
            self.again = {}
        self.again[subscriber] = self.again.get(subscriber, 0) + 1
        return False

    def leave(self, subscriber: Subscriber) -> bool:
        """Count one subscription less; returns whether there was one."""
        if subscriber not in self.subscribers:
            return False
        if self.again is None or subscriber not in self.again:
            del self.subscribers[subscriber]
            return True
        self.again[subscriber] -= 1
        if not self.again[subscriber]:
            del self.again[subscriber]
        self.again = self.again or None
        return True


class LastMessages:
    """The last messages of a hub's channels, bounded in bytes; the oldest is dropped first.

    Args:
        keep: bytes of them that are kept.
    """

    def __init__(self, keep: int = _KEEP) -> None:
        self._keep = keep
        self._size = 0
        #: What each takes. Invariant: those whose `latest` is not None, the oldest first.
        self._channels: dict[Channel, int] = {}

    def note(self, channel: Channel, message: Message, expires_in: float) -> None:
        """A message of a channel has come.

        Args:
            channel: where it came.
            message: the message, with its id.
            expires_in: seconds for which it is kept; 0: what was kept before stays.
        """
        channel.latest_id = message.id
        if expires_in > 0:
            self.drop(channel)
            channel.latest, channel.kept_id = message, message.id
            channel.latest_expires = trio.current_time() + expires_in
            self._channels[channel] = size = bytes_held(message) + _OVERHEAD
            self._size += size
            while self._size > self._keep:
                self.drop(next(iter(self._channels)))

    def drop(self, channel: Channel) -> None:
        """Drop a channel's, where it has one."""
        if channel.latest is not None:
            self._size -= self._channels.pop(channel)
            channel.latest = None

    def clear(self) -> None:
        """Drop all of them."""
        for channel in list(self._channels):
            self.drop(channel)
