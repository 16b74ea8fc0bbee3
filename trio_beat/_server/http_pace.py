"""How fast HTTP may go: it must not keep beats and messages waiting.

1. Each step (reading bytes, a piece of a body, an event of the application) takes one of the
   server's turns: one pass of the scheduler has few of them.
2. All steps of a server share a token bucket: HTTP gets a share of the processor, not the rest.
3. Each connection has a bucket for its requests, and one for the bytes that it sends.

A connection whose bucket is empty is read from later; nothing is refused.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

import trio

from .._turns import Turns

#: Requests a second that are read from a connection, and how many at once after a rest.
REQUESTS: Final = (100.0, 100.0)
#: Bytes a second that are read from a connection, and how many at once after a rest.
BYTES: Final = (4.0 * 2**20, 2.0**20)
#: Steps a second of all connections of a server, and how many at once after a rest. A request
#: with a small answer takes five.
STEPS: Final = (4000.0, 400.0)

#: Seconds that a peer may keep the server waiting within a request, or within an answer ...
PATIENCE: Final = 30.0
#: ... and that many bytes earn a second back.
SLOWEST: Final = 4096.0

T = TypeVar("T")


class Bucket:
    """A token bucket, which may be overdrawn by what is taken from it.

    Args:
        rate: tokens a second.
        burst: tokens that it holds; it begins full.
    """

    __slots__ = ("_at", "_burst", "_level", "_rate")

    def __init__(self, rate: float, burst: float) -> None:
        self._rate = rate
        self._burst = self._level = burst
        self._at = -float("inf")

    def take(self, count: float, now: float) -> float:
        """Take tokens; returns the seconds to wait until all of them are there."""
        self._level = min(self._burst, self._level + (now - self._at) * self._rate) - count
        self._at = now
        return max(0.0, -self._level / self._rate)


class Pace:
    """The steps of all connections of a server.

    Args:
        turns: those of the server.
    """

    def __init__(self, turns: Turns) -> None:
        self._turns = turns
        self._steps = Bucket(*STEPS)

    async def step(self) -> None:
        """Wait until the next step may be done."""
        await pay(self._steps, 1)
        await self._turns.take()


async def pay(bucket: Bucket, count: float) -> None:
    """Take tokens, and wait until they are there. Not a checkpoint where there is no wait."""
    wait = bucket.take(count, trio.current_time())
    if wait:
        await trio.sleep(wait)


class Patience:
    """The time for which a peer may still keep the server waiting.

    It grows with the number of bytes that move: a byte now and then does not extend it.
    """

    __slots__ = ("_left",)

    def __init__(self) -> None:
        self._left = PATIENCE

    async def wait(self, function: Callable[..., Awaitable[T]], *args: object) -> T:
        """Call an async function that waits for the peer.

        Raises:
            trio.TooSlowError: the time is used up.
        """
        begun = trio.current_time()
        try:
            with trio.fail_after(max(0.0, self._left)):
                return await function(*args)
        finally:
            self._left -= trio.current_time() - begun

    def earn(self, count: int) -> None:
        """Some bytes have moved."""
        self._left = min(PATIENCE, self._left + count / SLOWEST)
