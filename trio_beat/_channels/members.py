"""Connections in a hub: their subscriptions end with them.

1. In the step in which a connection ends, whatever ends it, it leaves all channels of the hub. What
   still waits to subscribe it is cancelled, and one that has ended joins nothing any more.
2. This holds for what an application calls a `Connection`. Other subscribers have no end: what
   subscribes them also unsubscribes them.
3. A connection is remembered only while it has subscriptions.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import trio

from .._connection.connection import Connection, engine_of
from .registry import Registry
from .subscriptions import Channel, Subscriber


def check_open(subscriber: Subscriber) -> None:
    """Raise `ConnectionClosed` where the subscriber is a connection that has ended."""
    if isinstance(subscriber, Connection):
        engine_of(subscriber).check_open()


def is_open(subscriber: Subscriber) -> bool:
    """Whether a subscriber may still join something."""
    return not isinstance(subscriber, Connection) or subscriber.closed is None


@contextmanager
def cancelled_with(subscriber: Subscriber, scope: trio.CancelScope) -> Iterator[None]:
    """Cancel a scope when the subscriber ends, while the context lasts."""
    if not isinstance(subscriber, Connection):
        yield
        return
    engine = engine_of(subscriber)
    engine.at_end(scope.cancel)
    try:
        yield
    finally:
        engine.not_at_end(scope.cancel)


class _Member:
    """A connection with subscriptions."""

    __slots__ = ("_connection", "_members", "keys")

    def __init__(self, connection: Connection, members: Members) -> None:
        self._connection = connection
        self._members = members
        #: Of the channels that it is subscribed to, however often.
        self.keys: set[str] = set()

    def ended(self) -> None:
        self._members.ended(self._connection)

    def follow(self) -> None:
        engine_of(self._connection).at_end(self.ended)

    def let_go(self) -> None:
        engine_of(self._connection).not_at_end(self.ended)


class Members:
    """The connections in a hub.

    Args:
        registry: the hub's channels.
    """

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._members: dict[Connection, _Member] = {}

    def join(self, key: str, channel: Channel, subscriber: Subscriber, times: int) -> bool:
        """Subscribe one that `is_open`; returns whether it was not there before.

        Args:
            key: the channel's.
            channel: held for each of these subscriptions.
            subscriber: gets the channel's messages.
            times: how often.
        """
        first = channel.join(subscriber)
        for _ in range(times - 1):
            channel.join(subscriber)
        if first and isinstance(subscriber, Connection):
            member = self._members.get(subscriber)
            if member is None:
                member = self._members[subscriber] = _Member(subscriber, self)
                member.follow()
            member.keys.add(key)
        return first

    def leave(self, key: str, channel: Channel, subscriber: Subscriber) -> bool:
        """Undo one subscription, and hold the channel once less.

        Returns:
            False: there was none.
        """
        if not channel.leave(subscriber):
            return False
        self._registry.release(key, channel)
        if isinstance(subscriber, Connection) and subscriber not in channel.subscribers:
            member = self._members.get(subscriber)
            if member is None:  # the hub has ended
                return True
            member.keys.discard(key)
            if not member.keys:
                del self._members[subscriber]
                member.let_go()
        return True

    def ended(self, connection: Connection) -> None:
        """A connection has ended: undo all its subscriptions."""
        for key in self._members.pop(connection).keys:
            channel = self._registry.get(key)
            while channel is not None and channel.leave(connection):
                self._registry.release(key, channel)

    def clear(self) -> None:
        """The hub has ended: forget all."""
        for member in self._members.values():
            member.let_go()
        self._members.clear()
