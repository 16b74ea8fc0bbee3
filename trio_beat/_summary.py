"""Lines of a log for events that may come faster than anybody reads.

1. The first events of a second have a line each; the rest of them are counted by kind, and told in
   one line when the second is over.
2. Nothing wakes while events are few, and what is not told is not rendered.
"""

from __future__ import annotations

import logging
import math
from collections import Counter
from typing import Final

import trio

#: Seconds that one line sums up, and events in them that have a line of their own.
PERIOD: Final = 1.0
ALONE: Final = 20


class Summary:
    """Decides which of many like events have a line of their own, and tells the rest.

    Args:
        log: where the rest is told.
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
        """Count an event; returns whether it has a line of its own, which the caller then writes.

        Args:
            kind: what the rest is counted by.
            now: seconds on Trio's clock.
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
        """Write the line that sums up, where there is something to tell."""
        if not self._rest:
            return
        kinds = ", ".join(f"{kind} {count:,}" for kind, count in self._rest.most_common())
        fields = {"counts": dict(self._rest)}
        self._log.info("%s %s: %s", f"{self._rest.total():,}", self._what, kinds, extra=fields)
        self._rest.clear()

    async def run(self) -> None:
        """Tell the rest of each second when it is over; nobody else may need to come for it."""
        while True:
            await self._overflow.wait()
            self._overflow = trio.Event()
            await trio.sleep_until(self._end)
            self.tell()
