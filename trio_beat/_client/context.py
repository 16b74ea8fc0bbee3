"""What `connect` and `reconnecting` have in common: their arguments, and a nursery.

The context raises what its block raised, unchanged (see `_plain`). A nursery would wrap it in a
group, so the context's nursery is never told of it.
"""

from __future__ import annotations

import ssl
from collections.abc import Sequence

import trio

from .._checks import check_trio
from .._connection.connection import Connection
from .._heartbeat import Heartbeat
from .._plain import Plain
from .._protocol.compression import Compression
from .destination import URL, Destination, RequestHeaders
from .options import Options
from .session import Session


class ClientContext:
    """A nursery, entered and left by hand.

    A generator with a ``yield`` in a nursery would be shorter, but fails where it is not run to
    its end (see `trio.open_nursery`). As with a nursery's own methods, a `KeyboardInterrupt` is
    raised only where they wait.

    Args:
        url, heartbeat, ssl_context, headers, subprotocols, connect_timeout, message_size, inbound,
            outbox, compression: see `connect`.
    """

    def __init__(
        self,
        url: URL,
        *,
        heartbeat: Heartbeat = Heartbeat(interval=5.0),  # noqa: B008 - immutable
        ssl_context: ssl.SSLContext | None = None,
        headers: RequestHeaders = (),
        subprotocols: Sequence[str] = (),
        connect_timeout: float = 10.0,
        message_size: int = 2**20,
        inbound: int = 16,
        outbox: int = 2**20,
        compression: Compression | None = None,
    ) -> None:
        self._options = Options(
            Destination(url, headers, subprotocols, ssl_context),
            heartbeat,
            connect_timeout,
            message_size,
            inbound,
            outbox,
            compression,
        )
        #: The open connection, or the last one; None before the first.
        self._session: Session | None = None
        self._entered = self._left = False

    async def _enter(self) -> None:
        if self._entered:
            raise RuntimeError("this context was entered before; make another one")
        check_trio()
        self._entered = True
        self._manager = trio.open_nursery()
        self._nursery = await self._manager.__aenter__()

    async def _open(self, session: Session) -> Connection:
        connection: Connection = await self._nursery.start(session.run, name="trio_beat client")
        # Not earlier: `start` may be cancelled although the connection is open.
        session.shield()
        self._session = session
        return connection

    async def _leave(self, exc: BaseException | None) -> None:
        self._left = True
        try:
            if self._session is not None:
                await self._session.close(exc)
        finally:
            self._nursery.cancel_scope.cancel()
            # Without `exc`: only a task of the nursery's own that failed is raised here.
            await Plain(self._manager).__aexit__(None, None, None)
