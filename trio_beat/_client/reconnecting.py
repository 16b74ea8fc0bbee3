"""`reconnecting`: connections to a server, one after the other."""

from __future__ import annotations

from types import TracebackType
from typing import Final, Self

import trio

from .._connection.connection import Connection
from .._connection.ending import ended
from .._exceptions import Closed, ConnectFailed, EndReason, HandshakeRefused, TLSFailed
from .._log import get_logger
from .._protocol.frames import forbids
from .._text import printable
from .backoff import UNAUTHORIZED_STATUS, Backoff, Credentials
from .context import ClientContext
from .session import Session

_log = get_logger("trio_beat.client")

#: Statuses of a refusal that says nothing about the next attempt (RFC 9110, RFC 6585).
_TRANSIENT: Final = frozenset({408, 425, 429})


class reconnecting(ClientContext):  # noqa: N801 - is called like a function
    """Connect to a WebSocket server again and again, while the context lasts.

    Iterate over the context: each iteration gives a live `Connection`, as soon as there is one, and
    first closes the previous one where it is still open. When a connection is lost the body of the
    loop is not cancelled: its iteration over the messages ends, and other operations raise
    `ConnectionClosed`. Leaving the loop leaves the last connection open until the context is left.

    Between two attempts there is a random pause of 1 to 4 seconds at first, and of up to 30 later.
    It becomes short again only after a connection has lived for one interval, and is at least 8
    seconds where the server asks to come later (close codes 1012 and 1013, HTTP statuses 429 and
    503).

    Where `url` or `headers` is an async callable, the client comes back with fresh credentials. It
    does so also after a 401 (RFC 9110, section 15.5.2), and after a close with 3000 before the
    connection has lived for one interval: three times in a row at most. Without a callable each of
    these is the end. After a close with 3000 later on it comes back in either case.

    Args:
        url, heartbeat, ssl_context, headers, subprotocols, connect_timeout, message_size, inbound,
            outbox, compression: see `connect`.

    Raises:
        TypeError: an argument is of another type, or what a callable gave. Of a callable: on the
            next iteration.
        ValueError: an argument can never be right, or what a callable gave. Likewise.
        ConnectionClosed: the server has closed with 1008, or 4000 to 4099, and so forbids to
            reconnect; or with 3000, as above. On the next iteration.
        HandshakeRefused: the server refuses this client. On the next iteration.
        TLSFailed: the server's certificate is not trusted. On the next iteration.
        Exception: what a callable raises, on the next iteration; a `ConnectFailed` is as one of
            the attempt's own.
    """

    @trio.lowlevel.enable_ki_protection
    async def __aenter__(self) -> Self:
        await self._enter()
        interval = self._options.heartbeat.interval
        self._backoff = Backoff(interval)
        fresh = bool(self._options.destination.asked)
        self._credentials = Credentials(interval, fresh=fresh)
        #: Of the task that waits for the next connection, cancelled when the context is left;
        #: None: no task waits.
        self._iterating: trio.CancelScope | None = None
        self._not_before = trio.current_time()
        return self

    @trio.lowlevel.enable_ki_protection
    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._iterating is not None:
            # A task outside of the block: it must not delay leaving.
            self._iterating.cancel()
        await self._leave(exc)

    def __aiter__(self) -> Self:
        return self

    @trio.lowlevel.enable_ki_protection
    async def __anext__(self) -> Connection:
        if not self._entered or self._left:
            raise RuntimeError("this is for inside: async with reconnecting(...) as connections")
        if self._iterating is not None:
            raise RuntimeError("another task is iterating already")
        self._iterating = trio.CancelScope()
        try:
            with self._iterating:
                return await self._next_connection()
        finally:
            self._iterating = None
        raise RuntimeError("the context of reconnecting was left meanwhile")

    async def _next_connection(self) -> Connection:
        if (session := self._session) is not None:
            await session.close(None)
            self._session = None
            self._consider(session)
        while True:
            # A time, not a duration: an iteration that is cancelled does not shorten the pause.
            await trio.sleep_until(self._not_before)
            session = Session(self._options)
            try:
                return await self._open(session)
            except ConnectFailed as exc:
                if self._is_final(exc):
                    raise
                self._put_off(exc, getattr(exc, "status", 1006), session.place)

    def _consider(self, session: Session) -> None:
        """Decide what follows from the end of a connection: a pause, or that it was the last."""
        closed, lived = session.connection.closed, session.lived
        assert closed is not None
        code = closed.code if closed.by is EndReason.PEER else 1006
        if not self._credentials.ended(code, lived) or forbids(code):
            raise ended(closed)
        self._put_off(closed, code, session.place, lived)

    def _put_off(
        self, why: Closed | ConnectFailed, code: int, place: str | None, lived: float = 0.0
    ) -> None:
        pause = self._backoff.pause(code, lived=lived)
        text = printable(str(why))  # it may be the application's own
        where = "" if place is None or place in text else f"{place}: "
        _log.info("%s%s; again in %.1f s", where, text, pause)
        self._not_before = trio.current_time() + pause

    def _is_final(self, exc: ConnectFailed) -> bool:
        """Whether another attempt would fail in the same way."""
        if isinstance(exc, HandshakeRefused):
            if exc.status == UNAUTHORIZED_STATUS:
                return not self._credentials.rejected()
            return exc.status < 500 and exc.status not in _TRANSIENT
        return isinstance(exc, TLSFailed) and exc.untrusted
