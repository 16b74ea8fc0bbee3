"""Names that are refused for a time.

1. The table is bounded: where it is full, the block that ends first makes room, with a warning.
2. A name is blocked until the latest of the times that were asked for it.
"""

from __future__ import annotations

import heapq
from typing import Final, NamedTuple

from .._channels.control import Disconnect, Kind
from .._log import get_logger

_log = get_logger("trio_beat.server")

#: Names that are blocked at one time.
MOST: Final = 10_000


class Block(NamedTuple):
    """A name is refused."""

    until: float  #: on Trio's clock
    disconnect: Disconnect  #: what asked for it


class Blocks:
    """The names that are blocked.

    Args:
        most: of them at one time.
    """

    def __init__(self, most: int = MOST) -> None:
        self._most = most
        self._names: dict[tuple[Kind, str], Block] = {}
        #: When blocks end. Invariant: has each one's time, and perhaps times that no longer hold.
        self._ends: list[tuple[float, Kind, str]] = []
        self._warned = False

    def __len__(self) -> int:
        return len(self._names)

    def add(self, disconnect: Disconnect, now: float) -> None:
        """Block a name for as long as is asked, from now on; 0 seconds do nothing.

        Args:
            disconnect: asks for it.
            now: seconds on Trio's clock.
        """
        until = now + disconnect.block
        if until <= now:
            return
        key = disconnect.kind, disconnect.name
        known = self._names.get(key)
        if known is not None and known.until >= until:
            return
        self._names[key] = Block(until, disconnect)
        heapq.heappush(self._ends, (until, *key))
        while self._ends[0][0] <= now:
            self._pop()
        while len(self._names) > self._most:
            if self._pop() and not self._warned:
                self._warned = True
                text = "more than %d names are blocked: those whose block ends first are let in"
                _log.warning(text, self._most)
        # Those whose block was made longer stand there twice.
        if len(self._ends) > 2 * self._most:
            self._ends = [(block.until, *key) for key, block in self._names.items()]
            heapq.heapify(self._ends)

    def get(self, kind: Kind, name: str, now: float) -> Block | None:
        """The block of a name; None: it is not blocked now."""
        block = self._names.get((kind, name))
        return None if block is None or block.until <= now else block

    def _pop(self) -> bool:
        """Take the time that comes first; returns whether a block ended by that."""
        until, kind, name = heapq.heappop(self._ends)
        block = self._names.get((kind, name))
        if block is None or block.until != until:
            return False
        del self._names[kind, name]
        return True
