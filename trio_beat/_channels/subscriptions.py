"""A hub's channels: who subscribes to each, and its last message."""

from __future__ import annotations

import struct
from typing import Final, Protocol

import trio
from websockets.frames import Frame, Opcode

from .._exceptions import BackendError

#: What stands before a message in a backend: text or binary, the hub that published it, and its
#: number there. It is the message's id.
HEADER: Final = struct.Struct("!B8sQ")
#: Bytes of last messages that a hub keeps, and that one takes besides its frame.
_KEEP: Final = 64 * 2**20
_OVERHEAD: Final = 300


def frame_of(payload: bytes) -> bytes:
    """What subscribers get of what the backend carries."""
    return Frame(Opcode(payload[0]), payload[HEADER.size :]).serialize(mask=False)


class Subscriber(Protocol):
    """Whom a message can be delivered to."""

    def deliver_nowait(self, frame: bytes) -> None:
        """Send a frame without waiting and without raising."""


class Channel:
    """A channel that somebody here listens to, or is about to."""

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
        #: With the `latest_id` of when they joined: a fan-out passes over who joined during it.
        self.subscribers: dict[Subscriber, bytes] = {}
        #: How often more than once they have subscribed; None, as for most channels: nobody has.
        self.again: dict[Subscriber, int] | None = None
        #: Invariant: one for each subscription; those beyond them wait for `ready`.
        self.holders = 0
        self.ready = trio.Event()
        self.error: BackendError | None = None
        #: The last message that is to be kept, framed; None: there is none, or it was let go of,
        #: and its `kept_id` is what the backend's must have.
        self.latest: bytes | None = None
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
    """The last messages of a hub's channels, bounded in bytes; the oldest is let go of first.

    Args:
        keep: bytes of them that are kept.
    """

    def __init__(self, keep: int = _KEEP) -> None:
        self._keep = keep
        self._size = 0
        #: Invariant: those whose `latest` is not None, the oldest first.
        self._channels: dict[Channel, None] = {}

    def note(self, channel: Channel, payload: bytes, expires_in: float) -> bytes:
        """A message of a channel has come; gives its frame.

        Args:
            channel: whose it is.
            payload: as the backend carries it.
            expires_in: seconds for which it is kept; 0: what was kept before stays.
        """
        frame = frame_of(payload)
        channel.latest_id = payload[: HEADER.size]
        if expires_in > 0:
            self.drop(channel)
            channel.latest, channel.kept_id = frame, channel.latest_id
            channel.latest_expires = trio.current_time() + expires_in
            self._channels[channel] = None
            self._size += len(frame) + _OVERHEAD
            while self._size > self._keep:
                self.drop(next(iter(self._channels)))
        return frame

    def drop(self, channel: Channel) -> None:
        """Let go of a channel's, where it has one."""
        if channel.latest is not None:
            self._size -= len(channel.latest) + _OVERHEAD
            channel.latest = None
            del self._channels[channel]

    def clear(self) -> None:
        """Let go of all of them."""
        for channel in list(self._channels):
            self.drop(channel)
