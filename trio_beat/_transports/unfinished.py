"""Bounds for messages of which not all has come.

A peer may announce a message, send most of it, and stop. So such a message has a time limit, and
the bytes that all of a server's hold have a bound; the oldest is given up first. Time counts while
the reader waits for the rest, and is checked at the beats: no message has a timer.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Protocol

import trio

#: Bytes a second that a message may always come at: each takes so much longer than the limit as
#: its size asks for.
SLOWEST: Final = 1024


class Holder(Protocol):
    """A transport, as seen from here."""

    def give_up(self, reason: str) -> None:
        """Drop the message that is not finished, and fail with close code 1013."""


class _Message:
    __slots__ = ("held", "looked_at", "waited")

    def __init__(self, now: float) -> None:
        self.held = 0
        self.waited = 0.0
        self.looked_at = now


class Unfinished:
    """The messages of one server that are not finished.

    Args:
        timeout: seconds that a message may take from its first byte to its last, and one more for
            each KiB of it that has come.
        most: bytes that all of them may hold.
        clock: tells the time, in seconds.
    """

    def __init__(
        self, timeout: float, most: int, clock: Callable[[], float] = trio.current_time
    ) -> None:
        self._clock = clock
        self._timeout = timeout
        self._most = most
        #: In the order in which they began.
        self._messages: dict[Holder, _Message] = {}
        #: Bytes that they hold.
        self.held = 0

    def holds(self, holder: Holder, size: int) -> None:
        """A message that is not finished holds so many bytes now."""
        message = self._messages.get(holder)
        if message is None:
            message = self._messages[holder] = _Message(self._clock())
        self.held += size - message.held
        message.held = size
        while self.held > self._most:
            oldest = next(iter(self._messages))
            self.finished(oldest)
            oldest.give_up("too many unfinished messages")

    def finished(self, holder: Holder) -> None:
        """There is none any more; may be called at any time."""
        message = self._messages.pop(holder, None)
        if message is not None:
            self.held -= message.held

    def look_at(self, holder: Holder, *, listening: bool) -> None:
        """A beat has passed.

        Args:
            listening: the holder could read all the time.
        """
        message, now = self._messages[holder], self._clock()
        if listening:
            message.waited += now - message.looked_at
        message.looked_at = now
        if message.waited > self._timeout + message.held / SLOWEST:
            self.finished(holder)
            holder.give_up("message took too long")
