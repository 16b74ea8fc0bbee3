"""The ends of identities: one task for all connections of a server.

1. The times are those of the wall clock, as in tokens. It may be set: it is read again at least
   every `LOOK` seconds.
2. A connection holds its deadline, and lets it go when it ends or is renewed. What was let go
   stays in the heap, as a number alone, until its time comes or half of the heap is like it.
"""

from __future__ import annotations

import heapq
import math
import time
from collections.abc import Callable
from typing import Final, Protocol

import trio

from .._exceptions import EndReason
from .._protocol.frames import UNAUTHORIZED

#: Seconds after which the wall clock is read again.
LOOK: Final = 60.0
#: Ends in a row before other tasks get a turn, and entries of a heap that is not cleaned up.
_TURN: Final = 64


class Ends(Protocol):
    """What can be ended."""

    def end_nowait(self, by: EndReason, code: int, reason: str) -> None:
        """End it, without waiting."""


class Deadline(float):
    """The time at which a connection's identity ends, in seconds since 1970."""

    __slots__ = ("connection",)

    #: None once it was let go.
    connection: Ends | None


class Expiry:
    """Ends connections when their identities do.

    Args:
        wall: gives the seconds since 1970; None: `time.time`.
    """

    def __init__(self, wall: Callable[[], float] | None = None) -> None:
        self._wall = time.time if wall is None else wall
        self._heap: list[Deadline] = []
        #: Deadlines in the heap that were let go.
        self._gone = 0
        self._sooner = trio.Event()

    def is_over(self, seconds: float | None) -> bool:
        """Whether a time of the wall clock has passed; None never does."""
        return seconds is not None and seconds <= self._wall()

    def add(self, connection: Ends, seconds: float) -> Deadline:
        """End a connection at a time of the wall clock, unless it is let go before."""
        deadline = Deadline(seconds)
        deadline.connection = connection
        heapq.heappush(self._heap, deadline)
        if self._heap[0] is deadline:
            self._sooner.set()
        return deadline

    def let_go(self, deadline: Deadline) -> None:
        """Do not end the connection of a deadline. Idempotent."""
        if deadline.connection is None:
            return
        deadline.connection = None
        self._gone += 1
        if self._gone > _TURN and 2 * self._gone > len(self._heap):
            self._heap = [other for other in self._heap if other.connection is not None]
            heapq.heapify(self._heap)
            self._gone = 0

    async def run(self) -> None:
        """End the connections whose time has come, until cancelled."""
        while True:
            self._sooner = trio.Event()
            for _ in range(_TURN):
                if not (self._heap and self.is_over(self._heap[0])):
                    break
                self._end(heapq.heappop(self._heap))
            else:
                await trio.lowlevel.checkpoint()
                continue
            pause = min(LOOK, self._heap[0] - self._wall()) if self._heap else math.inf
            with trio.move_on_after(max(pause, 0)):
                await self._sooner.wait()

    def _end(self, deadline: Deadline) -> None:
        connection, deadline.connection = deadline.connection, None
        if connection is None:
            self._gone -= 1
        else:
            connection.end_nowait(EndReason.EXPIRED, UNAUTHORIZED, "identity has expired")
