"""Whether a hub's backend can be used, and how long is waited for it.

1. An outage begins when the backend says that its broker is away, and ends when it says that it is
   back. For the grace time after its beginning, what needs the backend waits; later it fails at
   once, until the backend is back.
2. Each outage has a grace time of its own.
"""

from __future__ import annotations

from collections.abc import Callable

import trio

from .._exceptions import BackendError


class Availability:
    """Whether the backend can be used.

    Args:
        grace: seconds for which an outage is waited out; 0: not at all.

    Attributes:
        error: why it is away; None: it is not.
        outages: how often it was away.
    """

    def __init__(self, grace: float) -> None:
        self._grace = grace
        self.error: BackendError | None = None
        self.outages = 0
        self._began = trio.Event()
        self._returned = trio.Event()
        #: Set when the backend is back, and when the grace time is over.
        self._decided = trio.Event()

    def away(self, error: BackendError) -> None:
        """An outage begins."""
        self.error = error
        self.outages += 1
        self._returned = trio.Event()
        self._decided = trio.Event()
        self._began.set()

    def back(self) -> None:
        """The outage has ended."""
        self.error = None
        self._returned.set()
        self._decided.set()

    async def wait(self) -> None:
        """Wait for the backend, while the grace time lasts; not a checkpoint where it is there.

        Raises:
            BackendError: it is away for longer.
        """
        while self.error is not None:
            await self._decided.wait()
            if self.error is not None and self._decided.is_set():
                raise BackendError("the backend is away") from self.error

    async def returned(self) -> None:
        """Wait for the backend, however long; not a checkpoint where it is there."""
        while self.error is not None:
            await self._returned.wait()

    async def run(self, expired: Callable[[], None]) -> None:
        """Watch the grace times of outages, until cancelled.

        Args:
            expired: called when one is over and the backend still away.
        """
        while True:
            await self._began.wait()
            self._began = trio.Event()
            returned = self._returned
            with trio.move_on_after(self._grace) as scope:
                await returned.wait()
            # It may be back since the deadline, and even away again.
            if scope.cancelled_caught and not returned.is_set():
                self._decided.set()
                expired()
