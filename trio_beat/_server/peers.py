"""The peers of a server: one task for each socket, from its acceptance to its end."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

import trio

from .._connection.life import Life
from .._exceptions import EndReason, split_unexpected
from .._log import get_logger
from .._observer import FailedSocket
from .admission import Admission
from .parts import Parts
from .pending import FirstRequest, PendingSocket, PendingTCP, PendingTLS
from .refusals import GOING_AWAY, Refusals, full

if TYPE_CHECKING:  # loaded only where there is an application to serve
    from .http import HTTPFront

_log = get_logger("trio_beat.server")


class Peers:
    """Serves the sockets of a server.

    Args:
        parts: what the server's connections share.
        admission: makes a pending socket a connection.
        refusals: where refusals are noted.
        connections: those that are open; this adds to them and takes from them.
        http: serves the requests that are HTTP; None: there are none.
    """

    def __init__(
        self,
        parts: Parts,
        admission: Admission,
        refusals: Refusals,
        connections: set[Life],
        http: HTTPFront | None,
    ) -> None:
        self._parts = parts
        self._admission = admission
        self._refusals = refusals
        self._connections = connections
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
        if self.pending >= self._parts.limits.pending:
            self._refusals.refuse_nowait(pending, full())
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
                    self._parts.places.leave(pending.place)
                    pending.abort()
            if isinstance(admitted, Life):
                place = pending.place
                del pending
                self._connections.add(admitted)
                try:
                    await admitted.run()
                finally:
                    self._connections.discard(admitted)
                    self._parts.places.leave(place)
            elif admitted is not None:
                await self._serve_http(pending, admitted)
        except BaseException as exc:
            rest = self._contain(exc, admitted, peer)
            if rest is exc:
                raise
            if rest is not None:
                raise rest from rest.__cause__

    def _contain(
        self, exc: BaseException, admitted: Life | FirstRequest | None, peer: str
    ) -> BaseException | None:
        """Make an unexpected exception end one peer, not the server; no other place does that.

        Args:
            exc: what was raised.
            admitted: what has become of the socket; None: nothing.
            peer: its address, where nothing has become of it.

        Returns:
            What is the server's to raise: what a handler raised, a cancellation, or an exit.
        """
        connection = admitted if isinstance(admitted, Life) else None
        failure = None if connection is None else connection.failure
        unexpected, rest = split_unexpected(exc, failure)
        if unexpected is not None:
            _log.error("a connection failed", exc_info=unexpected)
            if connection is None and (tell := self._parts.shared.notify.ended) is not None:
                failed = FailedSocket(peer)
                tell(failed, failed.closed)
        return rest

    async def _serve_http(self, pending: PendingSocket, request: FirstRequest) -> None:
        assert self._http is not None
        try:
            if self._http.connections >= self._parts.limits.pending:
                self._http.proxies.identify(pending, request.head)
                self._refusals.refuse_nowait(pending, full())
            else:
                await self._http.serve(pending, request.head.raw + request.behind)
        except OSError as exc:
            _log.debug("%s left: %s", pending.peer, exc)
        finally:
            pending.abort()

    async def drain(self, grace: float) -> None:
        """Refuse handshakes, let HTTP be answered, and close the connections with 1001.

        Args:
            grace: seconds; the connections are closed evenly over the first half of them, so that
                their clients do not all come back at once.
        """
        self._admission.interrupt()
        if self._http is not None:
            await self._http.drain()
        connections = list(self._connections)
        _log.info("draining within %g s, open connections: %d", grace, len(connections))
        begin = trio.current_time()
        for index, connection in enumerate(connections):
            await trio.sleep_until(begin + grace / 2 * index / len(connections))
            connection.end_nowait(EndReason.SHUTDOWN, 1001, GOING_AWAY)
