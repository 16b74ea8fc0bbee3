"""What `connect` and `reconnecting` have in common: their arguments, and a nursery."""

from __future__ import annotations

import ssl
from collections.abc import Iterable, Mapping, Sequence

import trio

from .._connection.connection import Connection
from .._heartbeat import Heartbeat
from .._plain import Plain
from .address import make_address
from .options import Options
from .session import Session


class ClientContext:
    """What both contexts have in common: a nursery, entered and left by hand.

    A generator with a ``yield`` inside of a nursery would do it in fewer lines, and break where it
    is not run to its end (`trio.open_nursery`). As with a nursery's own, an interrupt at the
    keyboard does not come in between, except where something is waited for.
    """

    def __init__(
        self,
        url: str,
        *,
        heartbeat: Heartbeat = Heartbeat(interval=5.0),  # noqa: B008 - immutable
        ssl_context: ssl.SSLContext | None = None,
        headers: Mapping[str, str] | Iterable[tuple[str, str]] = (),
        subprotocols: Sequence[str] = (),
        connect_timeout: float = 10.0,
        message_size: int = 2**20,
        inbound: int = 16,
        outbox: int = 2**20,
    ) -> None:
        address = make_address(url, headers, subprotocols, ssl_context)
        self._options = Options(address, heartbeat, connect_timeout, message_size, inbound, outbox)
        self._session: Session | None = None
        self._entered = self._left = False

    async def _enter(self) -> None:
        if self._entered:
            raise RuntimeError("this context was entered before; make another one")
        self._entered = True
        self._manager = trio.open_nursery()
        self._nursery = await self._manager.__aenter__()

    async def _open(self, session: Session) -> Connection:
        connection: Connection = await self._nursery.start(session.run, name="trio_beat client")
        # Not earlier: this may be cancelled although the connection is open.
        session.shelter()
        self._session = session
        return connection

    async def _leave(self, exc: BaseException | None) -> None:
        self._left = True
        try:
            if self._session is not None:
                await self._session.leave(exc)
        finally:
            self._nursery.cancel_scope.cancel()
            # Not what the block has raised: this has nothing to tell but of a task that failed.
            await Plain(self._manager).__aexit__(None, None, None)
