"""The peers of a server: one task for each socket, from its acceptance to its end."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

import trio

from .._connection.life import Life
from .._log import get_logger
from .admission import Admission
from .parts import Parts
from .pending import FirstRequest, PendingSocket, PendingTCP, PendingTLS
from .refusals import full
from .service import Service

if TYPE_CHECKING:  # loaded only where there is an application to serve
    from .http import HTTPFront

_log = get_logger("trio_beat.server")


class Peers:
    """Serves the sockets of a server.

    Args:
        parts: what the server's sockets share.
        service: serves the connections.
        admission: makes a pending socket a connection.
        http: serves the requests that are HTTP; None: there are none.
    """

    def __init__(
        self,
        parts: Parts,
        service: Service,
        admission: Admission,
        http: HTTPFront | None,
    ) -> None:
        self._parts = parts
        self._service = service
        self._admission = admission
        self._http = http
        self.pending = 0

    def start_soon(self, sock: socket.socket, nursery: trio.Nursery) -> None:
        """Serve a new socket in a task of its own, or refuse it where too many are pending."""
        sock.setblocking(False)
        context = self._parts.ssl_context
        pending: PendingSocket = (
            PendingTCP(sock)
            if context is None
            else PendingTLS(sock, context, self._parts.bios, self._parts.turns)
        )
        if self.pending >= self._service.limits.pending:
            self._service.refusals.refuse_nowait(pending, full())
            return
        self.pending += 1
        nursery.start_soon(self._serve, pending, name="trio_beat connection")

    async def _serve(self, pending: PendingSocket) -> None:
        admitted, peer = None, ""
        try:
            try:
                admitted = await self._admission.admit(pending)
            except Exception:
                peer = pending.peer  # as long as the socket knows it
                raise
            finally:
                self.pending -= 1
                if admitted is None:
                    self._service.places.leave(pending.place)
                    pending.abort()
            if isinstance(admitted, Life):
                place = pending.place
                del pending
                await self._service.run_connection(admitted, place)
            elif admitted is not None:
                await self._serve_http(pending, admitted)
        except BaseException as exc:
            connection = admitted if isinstance(admitted, Life) else None
            rest = self._service.contain(exc, connection, None if connection else peer)
            if rest is exc:
                raise
            if rest is not None:
                raise rest from rest.__cause__

    async def _serve_http(self, pending: PendingSocket, request: FirstRequest) -> None:
        assert self._http is not None
        try:
            if self._http.connections >= self._service.limits.pending:
                self._http.proxies.identify(pending, request.head)
                self._service.refusals.refuse_nowait(pending, full())
            else:
                await self._http.serve(pending, request.head.raw + request.behind)
        except OSError as exc:
            _log.debug("%s left: %s", pending.peer, exc)
        finally:
            pending.abort()

    async def drain(self, grace: float) -> None:
        """Refuse handshakes, let HTTP be answered, and close the connections with 1001.

        Args:
            grace: seconds, see `Service.drain`.
        """
        self._service.gate.interrupt()
        if self._http is not None:
            await self._http.drain()
        await self._service.drain(grace)
