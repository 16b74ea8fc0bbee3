"""From a pending socket to a connection, to HTTP, or to a refusal.

1. The first request is read within the handshake's time limit. A request that has come whole with
   its socket needs none: no cancel scope is made for it.
2. Draining ends all handshakes: their peers get 503.
3. Whatever is wrong is a `Refused`, sent here and nowhere else.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import trio

from .._channels.grammar import below
from .._connection.consumer import Consumer
from .._connection.life import Life
from .._exceptions import Refused
from .._log import get_logger
from .._protocol.handshake import accept
from .._protocol.head import Head
from .._protocol.request import Request
from .parts import Parts
from .pending import FirstRequest, PendingSocket
from .refusals import GOING_AWAY, Refusals, full

_log = get_logger("trio_beat.server")


class Admission:
    """Decides what becomes of pending sockets.

    Args:
        parts: what the server's connections share.
        refusals: where refusals are noted.
        connections: those that are open, for their limit.
        consume: makes a connection's consumer from its target, its subprotocol, and its request
            where that is kept; raises `Refused`.
        subprotocols: that the server speaks, the preferred one first.
        keep_requests: consumers are given the requests.
        http_prefix: a request whose path does not begin with it is HTTP; None: no request is.
    """

    def __init__(
        self,
        parts: Parts,
        refusals: Refusals,
        connections: set[Life],
        consume: Callable[[str, str | None, Request | None], Consumer],
        subprotocols: Sequence[str],
        *,
        keep_requests: bool,
        http_prefix: str | None,
    ) -> None:
        self._parts = parts
        self._refusals = refusals
        self._connections = connections
        self._consume = consume
        self._subprotocols = subprotocols
        self._keep_requests = keep_requests
        self._http_prefix = http_prefix
        #: Those of the handshakes that wait for something.
        self._waiting: set[trio.CancelScope] = set()

    async def admit(self, pending: PendingSocket) -> Life | FirstRequest | None:
        """Read a pending socket's first request, and act on it.

        Args:
            pending: the socket; the caller closes it where nothing came of it.

        Returns:
            A connection that is to be run, a request that is HTTP, or None.
        """
        try:
            request = pending.read_head_nowait() or await self._read_request(pending)
            if request is None:
                return None
            if self._is_http(request.head):
                return request
            return self._make_connection(pending, *request)
        except Refused as refusal:
            self._refusals.note(pending, refusal)
            await pending.refuse(refusal, self._parts.turns)
        except OSError as exc:
            _log.debug("%s left: %s", pending.peer, exc)
        return None

    def interrupt(self) -> None:
        """End the handshakes under way, once the server is draining: they are refused."""
        for scope in self._waiting:
            scope.cancel()

    async def _read_request(self, pending: PendingSocket) -> FirstRequest | None:
        timeout = self._parts.limits.handshake_timeout
        with trio.move_on_after(timeout) as scope:
            self._waiting.add(scope)
            try:
                await pending.begin()
                return await pending.read_head(self._parts.turns)
            finally:
                self._waiting.discard(scope)
        if self._parts.draining.is_set():
            raise Refused(503, GOING_AWAY)
        raise Refused(408, f"no request within {timeout:g} s")

    def _is_http(self, head: Head) -> bool:
        if self._http_prefix is None:
            return False
        return below(head.target.partition("?")[0], self._http_prefix) is None

    def _make_connection(self, pending: PendingSocket, head: Head, behind: bytes) -> Life:
        if self._parts.draining.is_set():
            raise Refused(503, GOING_AWAY)
        response, subprotocol = accept(head, self._subprotocols)
        request = None
        if self._keep_requests:
            request = Request(head, pending.peer, secure=pending.secure)
        consumer = self._consume(head.target, subprotocol, request)
        if len(self._connections) >= self._parts.limits.connections:
            raise full()
        return Life(
            pending.transport(self._parts.reads, self._parts.poller, behind),
            self._parts.shared,
            consumer,
            path=head.target,
            response=response,
        )
