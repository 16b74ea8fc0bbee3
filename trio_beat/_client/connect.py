"""`connect`: one connection to a server."""

from __future__ import annotations

from types import TracebackType

import trio

from .._connection.connection import Connection
from .._connection.ending import is_lost
from .._exceptions import ConnectionClosed, ConnectionLost
from .context import ClientContext
from .session import Session


class connect(ClientContext):  # noqa: N801 - is called like a function
    """Connect to a WebSocket server, and stay connected while the context lasts.

    The context gives an open `Connection` with the heartbeat of a server's. How it can end:

    - The connection is lost (the server falls silent, the socket fails, the server breaks the
      protocol): the block is cancelled, and `ConnectionLost` is raised in its place. Iteration may
      end just before. A server that broke the protocol or was too slow first gets up to 10 seconds
      for the closing handshake.
    - The server closes: the block is not cancelled. Iteration ends, and other operations raise
      `ConnectionClosed`.
    - The block is left: the connection is closed with 1000, within 5 seconds; with 1001 (cancelled)
      or 1011 (raised), within one. What the block raises comes through unchanged.

    Args:
        url: ``ws://host[:port]/path?query``, or ``wss://`` for TLS; a user and password in it are
            sent as a header (RFC 7617). Or an async callable without arguments that gives it, for
            example with a fresh token; each attempt to connect asks it.
        heartbeat: how often the connection beats, and when the server counts as dead. Its
            `message` is for servers that expect one: others take it for a message of yours.
        ssl_context: for ``wss://``, for example with a private authority; None: the system's
            authorities.
        headers: sent with the request, a mapping or pairs; or an async callable without arguments
            that gives them, likewise.
        subprotocols: names to offer, the preferred one first.
        connect_timeout: seconds for the callables, TCP, TLS and the opening handshake together;
            `math.inf`: no limit.
        message_size: the largest message to receive, in bytes; a larger one ends the connection.
        inbound: how many messages may wait for the block before the server feels back-pressure.
        outbox: bytes that may wait for the socket before the server counts as too slow.
        compression: offer to compress messages (permessage-deflate, RFC 7692); None: nothing is
            offered. Where the server does not take the offer, `Connection.compression` is None.

    Raises:
        TypeError: an argument is of another type; or what a callable gave, on entering the context.
        ValueError: an argument can never be right; or what a callable gave, likewise.
        Exception: what a callable raises, on entering the context.
        ConnectFailed: there is no connection, see its subclasses. On entering the context.
        ConnectionLost: the connection has been lost. On leaving the context.
    """

    @trio.lowlevel.enable_ki_protection
    async def __aenter__(self) -> Connection:
        await self._enter()
        self._block = trio.CancelScope()
        try:
            connection = await self._open(Session(self._options, on_lost=self._block.cancel))
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
    ) -> None:
        assert self._session is not None
        connection, remaining = self._session.connection, exc
        try:
            if self._block.__exit__(exc_type, exc, traceback):
                remaining = None
        except BaseException as rest:  # what a group holds beside our cancellation
            remaining = rest
        await self._leave(exc)
        closed = connection.closed
        assert closed is not None
        if is_lost(closed) and (remaining is None or _is_end_of(connection, remaining)):
            raise ConnectionLost(closed) from None
        # Nothing is swallowed: only a loss cancels the block, and that was raised. By the type of
        # what is returned, checkers know that the block's own `return` is the function's.
        if remaining is not exc and remaining is not None:
            raise remaining


def _is_end_of(connection: Connection, exc: BaseException) -> bool:
    """Whether an exception, or each of a group, only says that this connection has ended."""
    if isinstance(exc, BaseExceptionGroup):
        return all(_is_end_of(connection, inner) for inner in exc.exceptions)
    return isinstance(exc, ConnectionClosed) and exc.closed is connection.closed
