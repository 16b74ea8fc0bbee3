"""`connect`: one connection to a server."""

from __future__ import annotations

from types import TracebackType

import trio

from .._connection.connection import Connection
from .._exceptions import ConnectionClosed, ConnectionLost
from .consumer import is_lost
from .context import ClientContext
from .session import Session


class connect(ClientContext):  # noqa: N801 - is called like a function
    """Connect to a WebSocket server, and stay connected while the context lasts.

    The context gives an open `Connection` that beats like a server's. When neither end wanted it
    to end (the server fell silent, its socket failed, it broke the protocol) the block is
    cancelled, and `ConnectionLost` raised in its place; iterating over it may end just before. (At
    once; but a server that broke the protocol, or was too slow, is first given up to 10 seconds for
    its goodbye.) When the server closes, the block is not
    cancelled: iterating ends, and other operations raise `ConnectionClosed`. When the block is
    left, the connection is closed: with 1000 and within 5 seconds, or with 1001 (cancelled) or 1011
    (raised) and within one. What the block raises comes through as it is.

    Args:
        url: ``ws://host[:port]/path?query``, or ``wss://`` for TLS; a user and password in it are
            sent as a header (RFC 7617).
        heartbeat: how the connection beats, and when the server counts as dead. Its `message` is
            for servers that expect one: others take it for a message of yours.
        ssl_context: for ``wss://``, for example with a private authority; None: the system's
            authorities.
        headers: that go with the request.
        subprotocols: names that are offered, the preferred one first.
        connect_timeout: seconds for TCP, TLS and the handshake together; `math.inf`: no limit.
        message_size: bytes of a message that the server sends, characters where it is text; beyond
            that the connection ends.
        inbound: messages that wait for the block before the server feels back-pressure.
        outbox: bytes that wait for the socket before the server counts as too slow.

    Raises:
        TypeError: an argument is of another type.
        ValueError: an argument can never be right.
        ConnectFailed: there is no connection, see its subclasses. On entering the context.
        ConnectionLost: the connection has been lost. On leaving the context.
    """

    @trio.lowlevel.enable_ki_protection
    async def __aenter__(self) -> Connection:
        await self._enter()
        self._block = trio.CancelScope()
        try:
            connection = await self._open(Session(self._options, lost=self._block.cancel))
        except BaseException:
            await self._leave(None)
            raise
        self._block.__enter__()
        return connection

    @trio.lowlevel.enable_ki_protection
    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool:
        assert self._session is not None
        connection, left = self._session.connection, exc
        try:
            if self._block.__exit__(exc_type, exc, traceback):
                left = None
        except BaseException as rest:  # what a group holds beside our cancellation
            left = rest
        await self._leave(exc)
        if is_lost(connection) and (left is None or _is_about(left, connection)):
            assert connection.closed is not None
            raise ConnectionLost(connection.closed) from None
        if left is not exc and left is not None:
            raise left
        return left is None


def _is_about(exc: BaseException, connection: Connection) -> bool:
    """Whether a group tells of nothing but the end of this connection."""
    if isinstance(exc, BaseExceptionGroup):
        return all(_is_about(inner, connection) for inner in exc.exceptions)
    return isinstance(exc, ConnectionClosed) and exc.closed is connection.closed
