"""From a pending socket to a connection, to HTTP, or to a refusal.

1. One time limit covers the first request and the application's `admit`. If the request has come
   with its socket and there is no `admit`, nothing is waited for, and no limit is set.
2. `admit` is called only for a request that could be admitted: a valid handshake for a valid
   target, while there is room. Whether there is room is checked again after it.
3. Nothing is read while `admit` runs. If the peer leaves meanwhile, its connection ends at once
   after it; its socket is pending no longer than the time limit.
4. While a hub's backend is away, handshakes wait for it, within the hub's grace time and their own.
5. Draining ends all handshakes: their peers get 503.
6. Anything wrong with a request is a `Refused`, which is sent here and nowhere else.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import NamedTuple

import trio

from .._channels.grammar import below
from .._channels.hub import Hub
from .._connection.consumer import Consumer
from .._connection.life import Life
from .._exceptions import BackendError, Refused, split
from .._log import get_logger
from .._plain import plain
from .._protocol.handshake import accept
from .._protocol.head import Head, fields
from .._protocol.request import Request, release
from .parts import Parts
from .pending import FirstRequest, PendingSocket
from .refusals import GOING_AWAY, Refusals, backend_away, full

_log = get_logger("trio_beat.server")

#: An application's decision about a request: it returns, or raises `Refused`.
Admit = Callable[[Request], Awaitable[None]]


class _Handshake(NamedTuple):
    """A request that may become a connection."""

    request: Request | None  #: None: neither `admit` nor a handler will see it
    consumer: Consumer
    response: bytes


class Admission:
    """Decides what becomes of pending sockets.

    Args:
        parts: what the server's connections share.
        refusals: where refusals are noted.
        connections: those that are open, for their limit.
        consume: makes a connection's consumer from its target, its subprotocol, and its request
            where that is kept; raises `Refused`.
        subprotocols: that the server speaks, the preferred one first.
        admit: asked for each handshake; None: nothing is asked.
        hub: where connections subscribe; None: they do not.
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
        admit: Admit | None,
        hub: Hub | None,
        keep_requests: bool,
        http_prefix: str | None,
    ) -> None:
        self._parts = parts
        self._refusals = refusals
        self._connections = connections
        self._consume = consume
        self._subprotocols = subprotocols
        self._ask = admit
        self._hub = hub
        self._keep_requests = keep_requests
        self._http_prefix = http_prefix
        #: The time limits of the handshakes under way.
        self._waiting: set[trio.CancelScope] = set()

    async def admit(self, pending: PendingSocket) -> Life | FirstRequest | None:
        """Read a pending socket's first request, and act on it.

        Args:
            pending: the socket; the caller closes it where nothing came of it.

        Returns:
            A connection that is to be run, a request that is HTTP, or None.
        """
        try:
            first = pending.read_head_nowait()
            if first is not None and self._is_http(first.head):
                return first
            if first is None or self._ask is not None or self._is_away():
                return await self._admit_in_time(pending, first)
            return self._connection(pending, self._check(pending, first.head), first)
        except Refused as refusal:
            # An application may raise one object again and again.
            refusal.__traceback__ = refusal.__context__ = None
            self._refusals.note(pending, refusal)
            await pending.refuse(refusal, self._parts.turns)
        except OSError as exc:
            _log.debug("%s left: %s", pending.peer, exc)
        return None

    def interrupt(self) -> None:
        """End the handshakes under way, once the server is draining: they are refused."""
        for scope in self._waiting:
            scope.cancel()

    async def _admit_in_time(
        self, pending: PendingSocket, first: FirstRequest | None
    ) -> Life | FirstRequest | None:
        timeout = self._parts.limits.handshake_timeout
        late: Callable[[], Refused] = partial(Refused, 408, f"no request within {timeout:g} s")
        with trio.move_on_after(timeout) as scope:
            self._waiting.add(scope)
            try:
                if first is None:
                    await pending.begin()
                    first = await pending.read_head(self._parts.turns)
                if first is None or self._is_http(first.head):
                    return first
                handshake = self._check(pending, first.head)
                if self._ask is not None and handshake.request is not None:
                    late = partial(Refused, 408, f"not admitted within {timeout:g} s")
                    await ask(self._ask, handshake.request)
                    if scope.cancel_called:  # it has ignored its end
                        raise late()
                if self._hub is not None and self._is_away():
                    late = backend_away
                    await _wait_for(self._hub)
                # Meanwhile draining may have begun, and others may have taken the last place.
                self._check_draining()
                self._check_room()
                return self._connection(pending, handshake, first)
            finally:
                self._waiting.discard(scope)
        if self._parts.draining.is_set():
            raise Refused(503, GOING_AWAY)
        raise late()

    def _is_away(self) -> bool:
        return self._hub is not None and not self._hub.available

    def _is_http(self, head: Head) -> bool:
        if self._http_prefix is None:
            return False
        return below(head.target.partition("?")[0], self._http_prefix) is None

    def _check(self, pending: PendingSocket, head: Head) -> _Handshake:
        """See that a request is a handshake for a target that is there, and that there is room."""
        self._check_draining()
        parsed = fields(head.raw)
        response, subprotocol = accept(head, self._subprotocols, parsed)
        request = None
        if self._keep_requests or self._ask is not None:
            request = Request(head, pending.peer, secure=pending.secure, parsed=parsed)
        kept = request if self._keep_requests else None
        consumer = self._consume(head.target, subprotocol, kept)
        self._check_room()
        return _Handshake(request, consumer, response)

    def _check_draining(self) -> None:
        if self._parts.draining.is_set():
            raise Refused(503, GOING_AWAY)

    def _check_room(self) -> None:
        if len(self._connections) >= self._parts.limits.connections:
            raise full()

    def _connection(
        self, pending: PendingSocket, handshake: _Handshake, first: FirstRequest
    ) -> Life:
        transport = pending.transport(self._parts.reads, self._parts.poller, first.behind)
        if handshake.request is not None:
            release(handshake.request, transport.peer)
        return Life(
            transport,
            self._parts.shared,
            handshake.consumer,
            path=first.head.target,
            response=handshake.response,
        )


async def _wait_for(hub: Hub) -> None:
    """Wait for a hub's backend, while the grace time lasts."""
    try:
        await hub.wait_available()
    except BackendError as exc:
        raise backend_away() from exc


async def ask(admit: Admit, request: Request) -> None:
    """Ask the application whether a request is admitted.

    Raises:
        Refused: it is not, also where that comes alone in a nursery's group; 500 for any other
            exception, which is logged.
    """
    try:
        await admit(request)
    except Refused:
        raise
    except (Exception, BaseExceptionGroup) as exc:
        answer = plain(exc)
        if not isinstance(answer, Refused):
            leaving, failed = split(
                exc, lambda e: not isinstance(e, Exception | BaseExceptionGroup)
            )
            if failed is None:
                raise
            _log.error("%s admit failed", request.peer, exc_info=failed)
            answer = Refused(500, "internal error") if leaving is None else leaving
            del failed, leaving
        try:
            raise answer from None
        finally:
            del answer  # its traceback has this frame
