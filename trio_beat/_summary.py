"""Log lines for events that may come faster than a person can read.

1. The first events of a second have a line each. The rest are counted by kind, and summed up in one
   line when the second is over.
2. No task wakes while events are few, and an event without a line of its own is not rendered.
"""

from __future__ import annotations

import logging
import math
from collections import Counter
from typing import Final

import trio

#: Seconds that one line sums up, and how many events in them have a line of their own.
PERIOD: Final = 1.0
ALONE: Final = 20


class Summary:
    """Decides which of many events have a line of their own, and sums up the rest.

    Args:
        log: gets the line that sums up.
        what: what happened, in the plural.
    """

    def __init__(self, log: logging.Logger, what: str) -> None:
        self._log = log
        self._what = what
        self._end = -math.inf
        self._alone = 0
        self._rest: Counter[str] = Counter()
        self._overflow = trio.Event()

    def alone(self, kind: str, now: float) -> bool:
        """Count an event.

        Args:
            kind: what the event is counted by where it has no line of its own.
            now: seconds on Trio's clock.

        Returns:
            Whether it has a line of its own, which the caller then writes.
        """
        if now >= self._end:
            self.tell()
            self._end, self._alone = now + PERIOD, 0
        if self._alone < ALONE:
            self._alone += 1
            return True
        self._rest[kind] += 1
        self._overflow.set()
        return False

    def tell(self) -> None:
        """Write the line that sums up, where there is something to sum up."""
        if not self._rest:
            return
        kinds = ", ".join(f"{kind} {count:,}" for kind, count in self._rest.most_common())
        fields = {"counts": dict(self._rest)}
        self._log.info("%s %s: %s", f"{self._rest.total():,}", self._what, kinds, extra=fields)
        self._rest.clear()

    async def run(self) -> None:
        """Sum up each second when it is over, even where no event follows; until cancelled."""
        while True:
            await self._overflow.wait()
            self._overflow = trio.Event()
            await trio.sleep_until(self._end)
            self.tell()
