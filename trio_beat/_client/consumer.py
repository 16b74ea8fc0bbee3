"""The application side of a client's connection: the block of ``async with``."""

from __future__ import annotations

from collections.abc import Callable

import trio

from .._connection.beating import Engine
from .._connection.connection import Connection
from .._connection.ending import is_lost
from .._connection.handler import InboxConsumer


class BlockConsumer(InboxConsumer):
    """Passes messages to the application's block.

    Args:
        inbound_size: how many messages may wait for the block before the reader stops reading.
        started: called when the connection is open.
    """

    __slots__ = ("_opened_at", "_started", "lived")

    def __init__(self, inbound_size: int, started: Callable[[Connection], None]) -> None:
        super().__init__(inbound_size)
        self._started: Callable[[Connection], None] | None = started
        self._opened_at = 0.0
        #: Seconds for which the connection was open; None while it is.
        self.lived: float | None = None

    async def opened(self, engine: Engine) -> None:
        await super().opened(engine)
        self._opened_at = trio.current_time()
        assert self._started is not None
        self._started(self.connection(engine))

    def forget(self) -> None:
        """Drop the reference to `started`, which refers back to this."""
        self._started = None

    def _over(self) -> None:
        if self.lived is None:
            self.lived = trio.current_time() - self._opened_at

    async def finished(self, engine: Engine) -> None:
        self._over()
        # While it is open: the server broke the rules, and the block may still answer what came.
        # Lost: the block still gets what came before, until it is cancelled.
        if engine.closed is None or is_lost(engine.closed):
            await super().finished(engine)
        else:
            self._inbox.close()

    def closed(self, engine: Engine) -> None:
        self._over()
        # A slow block goes on taking the messages that came.
        self._inbox.close()
