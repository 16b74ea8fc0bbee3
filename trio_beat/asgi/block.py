"""The application side of a connection that a block of ``async with`` has."""

from __future__ import annotations

from collections.abc import Callable

from .._connection.beating import Engine
from .._connection.connection import Connection
from .._connection.handler import InboxConsumer
from .._exceptions import EndReason
from .._server.consumers import Admitted


class BlockConsumer(InboxConsumer):
    """Gives messages to the application's block, as those of a handler are given to it.

    Args:
        inbound_size: how many messages may wait for the block.
        admitted: what is known of the peer.
        started: called once the connection is open.
    """

    __slots__ = ("_engine", "_started")

    def __init__(
        self,
        inbound_size: int,
        admitted: Admitted,
        started: Callable[[tuple[Connection, BlockConsumer]], None],
    ) -> None:
        super().__init__(inbound_size, admitted.subprotocol, admitted.request, admitted.identity)
        self._engine: Engine | None = None
        self._started: Callable[[tuple[Connection, BlockConsumer]], None] | None = started

    async def opened(self, engine: Engine) -> None:
        await super().opened(engine)
        self._engine = engine
        started, self._started = self._started, None  # it refers back to this
        assert started is not None
        started((self.connection(engine), self))

    def end(self, code: int, reason: str) -> None:
        """The block is left: end the connection.

        Args:
            code: close code that the peer is told.
            reason: text that the peer is told.
        """
        engine, self._engine = self._engine, None
        if engine is not None:
            engine.end_nowait(EndReason.HANDLER, code, reason)
        self.returned()

    def closed(self, engine: Engine) -> None:
        self._engine = None
        super().closed(engine)
