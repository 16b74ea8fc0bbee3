"""A hub's channels, and the subscribers of each."""

from __future__ import annotations

from typing import Protocol

import trio

from .._connection.connection import Connection, engine_of
from .._exceptions import BackendError
from .._protocol.deflate import Deflate
from .._protocol.messages import Message


class Subscriber(Protocol):
    """What messages can be delivered to."""

    def deliver_nowait(self, message: Message) -> None:
        """Send a message without waiting and without raising."""

    def gap_nowait(self) -> None:
        """Messages of its channels may have been lost; without waiting and without raising."""


def check_subscriber(subscriber: Subscriber) -> None:
    """Raise TypeError where nothing could be delivered: a fan-out has no place for an error."""
    for name in ("deliver_nowait", "gap_nowait"):
        if not callable(getattr(subscriber, name, None)):
            allowed = "a Connection, or an object that has deliver_nowait and gap_nowait"
            raise TypeError(f"subscriber is {subscriber!r}; it must be {allowed}")
    try:
        hash(subscriber)
    except TypeError as exc:
        text = f"subscriber is of {type(subscriber).__name__}; it must be hashable"
        raise TypeError(text) from exc


def deflate_of(subscriber: Subscriber) -> Deflate | None:
    """How messages to a subscriber are compressed, which does not change; None: they are not."""
    if isinstance(subscriber, Connection):
        return engine_of(subscriber).deflate
    deflate: Deflate | None = getattr(subscriber, "deflate", None)
    return deflate


class Channel:
    """A channel that has subscribers here, or is about to."""

    __slots__ = (
        "_changed",
        "again",
        "count",
        "deflates",
        "error",
        "gap",
        "holders",
        "subscribed",
        "subscribers",
        "told",
    )

    def __init__(self) -> None:
        #: Messages and losses so far.
        self.count = 0
        #: With the `count` of when they joined: a fan-out skips those that joined during it.
        self.subscribers: dict[Subscriber, int] = {}
        #: How often more than once they have subscribed; None, as for most channels: none has.
        self.again: dict[Subscriber, int] | None = None
        #: How messages are compressed for them, and for how many; None, as for most: for none.
        self.deflates: dict[Deflate, int] | None = None
        #: Invariant: one for each subscription; those beyond them wait until it is subscribed.
        self.holders = 0
        #: Whether the backend delivers it.
        self.subscribed = False
        #: Why the backend refuses it.
        self.error: BackendError | None = None
        #: The `count` at the last loss, and at the last one that was told; -1: there was none.
        self.gap = self.told = -1
        self._changed: trio.Event | None = None

    def join(self, subscriber: Subscriber) -> bool:
        """Count a subscription; returns whether it is the subscriber's first."""
        if subscriber not in self.subscribers:
            self.subscribers[subscriber] = self.count
            if (deflate := deflate_of(subscriber)) is not None:
                self.deflates = self.deflates or {}
                self.deflates[deflate] = self.deflates.get(deflate, 0) + 1
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
            if self.deflates is not None:
                self._leave_deflate(self.deflates, deflate_of(subscriber))
            return True
        self.again[subscriber] -= 1
        if not self.again[subscriber]:
            del self.again[subscriber]
        self.again = self.again or None
        return True

    def _leave_deflate(self, deflates: dict[Deflate, int], deflate: Deflate | None) -> None:
        if deflate is not None:
            deflates[deflate] -= 1
            if not deflates[deflate]:
                del deflates[deflate]
            self.deflates = deflates or None

    def lose(self) -> None:
        """The backend delivers it no more, and messages may have been lost."""
        self.subscribed = False
        self.gap = self.count
        self.count += 1

    def has_missed(self, subscriber: Subscriber) -> bool:
        """Whether a subscriber is still there that was there at the last loss."""
        return self.subscribers.get(subscriber, self.count) <= self.gap

    async def change(self) -> None:
        """Wait until `wake` is called."""
        if self._changed is None:
            self._changed = trio.Event()
        await self._changed.wait()

    def wake(self) -> None:
        """Wake those that wait for a change."""
        if self._changed is not None:
            self._changed.set()
            self._changed = None
