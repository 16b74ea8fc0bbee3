"""Whom a connection serves where that is an application: a server's handler, a client's block."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable

import trio

from ._connection import Connection
from ._exceptions import ConnectionClosed, EndReason
from ._inbox import Inbox

_log = logging.getLogger("trio_beat.connection")

Handler = Callable[[Connection], Awaitable[object]]


class InboxConsumer:
    """Gives messages to the application's code, through a bounded buffer.

    Args:
        inbound_size: how many messages may wait for it before the reader stops reading.
    """

    __slots__ = (
        "_caught_up",
        "_dealt_with",
        "_given",
        "_inbox",
        "_readers",
        "_returned",
        "_running",
        "_taken",
    )

    def __init__(self, inbound_size: int) -> None:
        self._inbox = Inbox(inbound_size)
        self._running = False
        #: Set when the code has returned, and when it has caught up; None while nobody waits.
        self._returned: trio.Event | None = None
        self._caught_up: trio.Event | None = None
        #: Messages that came; that the code took; that it had taken when it asked for more.
        self._given = self._taken = self._dealt_with = 0
        #: Tasks that wait for a message.
        self._readers = 0

    async def opened(self, connection: Connection) -> None:
        self._running = True

    def returned(self) -> None:
        """The application's code is through with the connection."""
        self._running = False
        if self._returned is not None:
            self._returned.set()

    async def received(self, connection: Connection, message: str | bytes) -> None:
        self._given += 1
        await self._inbox.put(message)

    async def receive(self) -> str | bytes:
        self._dealt_with = self._taken
        if self._caught_up is not None and self._dealt_with == self._given:
            self._caught_up.set()
        self._readers += 1
        try:
            message = await self._inbox.get()
        finally:
            self._readers -= 1
        self._taken += 1
        return message

    async def caught_up(self) -> None:
        if self._dealt_with < self._given:
            self._caught_up = trio.Event()
            await self._caught_up.wait()

    async def finished(self, connection: Connection) -> None:
        self._inbox.close()
        if self._running and (self._readers or self._dealt_with < self._given):
            self._returned = trio.Event()
            await self._returned.wait()

    def closed(self, connection: Connection) -> None:
        self._inbox.discard()


class HandlerConsumer(InboxConsumer):
    """Runs a handler in the connection's nursery.

    Args:
        handler: called with the connection. When it returns the connection is closed with 1000.
            What it raises closes the connection with 1011 and is not caught, except for
            `ConnectionClosed`.
        inbound_size: how many messages may wait for it before the reader stops reading.
    """

    __slots__ = ("_handler",)

    def __init__(self, handler: Handler, inbound_size: int) -> None:
        super().__init__(inbound_size)
        self._handler = handler

    async def opened(self, connection: Connection) -> None:
        await super().opened(connection)
        connection.start_soon(self._run)

    async def _run(self, connection: Connection) -> None:
        try:
            await self._handler(connection)
            connection.end_nowait(EndReason.HANDLER, 1000, "")
        except* ConnectionClosed:
            # That a connection has ended is an everyday event, and must not end the server. Where
            # it is another than the handler's own, the handler could have known better.
            if connection.closed is None:
                _log.warning("%s handler failed", connection.peer, exc_info=True)
                connection.end_nowait(EndReason.HANDLER, 1011, "internal error")
        finally:
            self.returned()
