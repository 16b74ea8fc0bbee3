"""The application side of a client's connection: the block of ``async with``."""

from __future__ import annotations

from collections.abc import Callable

import trio

from .._connection.beating import Beating
from .._connection.connection import Connection
from .._connection.handler import InboxConsumer
from .._exceptions import ConnectionLost, ended


def is_lost(connection: Connection | Beating) -> bool:
    """Whether a connection that has ended was lost: neither end closed it."""
    assert connection.closed is not None
    return isinstance(ended(connection.closed), ConnectionLost)


class BlockConsumer(InboxConsumer):
    """The connection's consumer is the application's block."""

    __slots__ = ("_opened_at", "_started", "lived")

    def __init__(self, inbound_size: int, started: Callable[[Connection], None]) -> None:
        super().__init__(inbound_size)
        self._started: Callable[[Connection], None] | None = started
        self._opened_at = 0.0
        #: Seconds for which the connection was open; None while it is.
        self.lived: float | None = None

    async def opened(self, engine: Beating) -> None:
        await super().opened(engine)
        self._opened_at = trio.current_time()
        assert self._started is not None
        self._started(Connection(engine, self))

    def forget(self) -> None:
        """Let go of what was to be told, and knows this."""
        self._started = None

    def _over(self) -> None:
        if self.lived is None:
            self.lived = trio.current_time() - self._opened_at

    async def finished(self, engine: Beating) -> None:
        self._over()
        if engine.closed is None or is_lost(engine):
            # The block will be cancelled, and what came before the loss is still its.
            await super().finished(engine)
        else:
            self._inbox.close()

    def closed(self, engine: Beating) -> None:
        self._over()
        # The block may be slow, and go on taking what came.
        self._inbox.close()
