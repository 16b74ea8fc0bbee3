"""From a pending socket to a connection, to HTTP, or to a refusal.

1. One time limit covers the first request and the application's `admit`. If the request has come
   with its socket and there is no `admit`, nothing is waited for, and no limit is set.
2. `admit` is called only for a request that could be admitted: a valid handshake for a valid
   target, while there is room, and from no page of a foreign origin. It tells who the peer is; then
   it is decided what that one may do. Whether there is room is checked again after both.
3. Nothing is read while the application is asked. If the peer leaves meanwhile, its connection ends
   at once after it; its socket is pending no longer than the time limit.
4. While a hub's backend is away, handshakes wait for it, within the hub's grace time and their own.
   `admit` is called once it is heard who is to be disconnected (`disconnects`).
5. Draining ends all handshakes: their peers get 503.
6. A place of the peer's address is taken before the application is asked, one of its user as soon
   as that is known (`places`). A peer of too many handshakes is refused before anything else, and
   its socket is closed at once.
7. Anything wrong with a request is a `Refused`, which is sent here and nowhere else.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Literal, NamedTuple, TypeVar

import trio

from .._channels.grammar import below
from .._channels.hub import Hub
from .._connection.consumer import Consumer
from .._connection.life import Life
from .._exceptions import BackendError, Refused, split
from .._identity import Identity
from .._log import get_logger
from .._plain import plain
from .._protocol.handshake import accept
from .._protocol.head import Head, fields
from .._protocol.refusal import closing_response, refusal_response, unauthorized
from .._protocol.request import Request, release
from .consumers import Admitted, Consumers
from .disconnects import Disconnects
from .limited import Limited
from .origins import Origins
from .parts import Parts
from .pending import FirstRequest, PendingSocket
from .proxies import Proxies, asked_for
from .refusals import GOING_AWAY, Refusals, backend_away, full

_log = get_logger("trio_beat.server")

_T = TypeVar("_T")

#: An application's decision about a request: it tells who the peer is, or raises `Refused`.
Admit = Callable[[Request], Awaitable[Identity | None]]

#: How a peer is told that it is not who it should be, or may not do what it asks for.
RefuseBy = Literal["status", "close"]


class _Handshake(NamedTuple):
    """A request that may become a connection."""

    request: Request | None  #: None: the application will not see it
    subprotocol: str | None
    response: bytes


class _Attempt:
    """A socket that wants to become a connection."""

    __slots__ = ("handshake", "pending")

    def __init__(self, pending: PendingSocket) -> None:
        self.pending = pending
        #: None until it is seen that the request is one for a target that is there.
        self.handshake: _Handshake | None = None


class Admission:
    """Decides what becomes of pending sockets.

    Args:
        parts: what the server's connections share.
        refusals: where refusals are noted.
        connections: those that are open, for their limit.
        consumers: makes the connections' consumers.
        disconnects: knows who was disconnected.
        proxies: tell who the client is.
        subprotocols: that the server speaks, the preferred one first.
        admit: asked for each handshake; None: nothing is asked.
        refuse_by: how a peer is refused with 401 or 403.
        origins: which pages may connect.
        hub: where connections subscribe; None: they do not.
        http_prefix: a request whose path does not begin with it is HTTP; None: no request is.
        http_only: each request is HTTP.
    """

    def __init__(
        self,
        parts: Parts,
        refusals: Refusals,
        connections: set[Life],
        consumers: Consumers,
        disconnects: Disconnects,
        proxies: Proxies,
        subprotocols: Sequence[str],
        *,
        admit: Admit | None,
        refuse_by: RefuseBy,
        origins: Origins,
        hub: Hub | None,
        http_prefix: str | None,
        http_only: bool = False,
    ) -> None:
        self._parts = parts
        self._refusals = refusals
        self._connections = connections
        self._consumers = consumers
        self._disconnects = disconnects
        self._proxies = proxies
        self._subprotocols = subprotocols
        self._ask = admit
        self._asks = admit is not None or consumers.waits
        self._refuse_by = refuse_by
        self._origins = origins
        self._hub = hub
        self._http_prefix = http_prefix
        self._http_only = http_only
        #: The time limits of the handshakes under way.
        self._waiting: set[trio.CancelScope] = set()

    async def admit(self, pending: PendingSocket) -> Life | FirstRequest | None:
        """Read a pending socket's first request, and act on it.

        Args:
            pending: the socket; the caller closes it where nothing came of it.

        Returns:
            A connection that is to be run, a request that is HTTP, or None.
        """
        attempt = _Attempt(pending)
        try:
            first = pending.read_head_nowait()
            if first is not None and self._is_http(first.head):
                return first
            if first is None or self._asks or self._is_away():
                return await self._admit_in_time(attempt, first)
            handshake = self._check(attempt, first.head)
            consumer = self._consumers.make_nowait(_admitted(first, handshake, None))
            return self._connection(pending, handshake, consumer, first)
        except Refused as refusal:
            # An application may raise one object again and again.
            refusal.__traceback__ = refusal.__context__ = None
            self._parts.places.leave(pending.place)
            if isinstance(refusal, Limited) and refusal.limit == "handshake_rate":
                self._refusals.refuse_nowait(pending, refusal)  # many come: none is lingered for
                return None
            self._refusals.note(pending, refusal)
            await pending.answer(self._answer(refusal, attempt.handshake), self._parts.turns)
        except OSError as exc:
            _log.debug("%s left: %s", pending.peer, exc)
        return None

    def interrupt(self) -> None:
        """End the handshakes under way, once the server is draining: they are refused."""
        for scope in self._waiting:
            scope.cancel()

    def _answer(self, refusal: Refused, handshake: _Handshake | None) -> bytes:
        if self._refuse_by == "close" and handshake is not None and refusal.status in (401, 403):
            return handshake.response + closing_response(refusal)
        return refusal_response(refusal)

    async def _admit_in_time(
        self, attempt: _Attempt, first: FirstRequest | None
    ) -> Life | FirstRequest | None:
        pending = attempt.pending
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
                handshake = self._check(attempt, first.head)
                if self._asks:
                    late = backend_away
                    await _wait_for(self._disconnects.wait_ready)
                    late = partial(Refused, 408, f"not admitted within {timeout:g} s")
                with self._disconnects.admitting() as admitting:
                    identity = await self._identify(handshake.request)
                    admitting.check(identity)
                    self._parts.places.identified(pending.place, identity)
                    consumer = await self._make_consumer(_admitted(first, handshake, identity))
                    if self._asks and scope.cancel_called:  # the application has ignored its end
                        raise late()
                    if self._hub is not None and self._is_away():
                        late = backend_away
                        await _wait_for(self._hub.wait_available)
                    # Meanwhile draining may have begun, and others may have taken the last place.
                    self._check_draining()
                    self._check_room()
                    self._check_current(identity)
                    admitting.check(identity)
                    life = self._connection(pending, handshake, consumer, first)
                    life.expire_at(None if identity is None else identity.expires_at)
                    return life
            finally:
                self._waiting.discard(scope)
        if self._parts.draining.is_set():
            raise Refused(503, GOING_AWAY)
        raise late()

    def _is_away(self) -> bool:
        return self._hub is not None and not self._hub.available

    def _is_http(self, head: Head) -> bool:
        if self._http_prefix is None:
            return self._http_only
        return below(head.target.partition("?")[0], self._http_prefix) is None

    async def _identify(self, request: Request | None) -> Identity | None:
        """Ask the application who the peer is."""
        if self._ask is None or request is None:
            return None
        admit = self._ask

        async def call() -> Identity | None:
            identity = await admit(request)
            if identity is not None and not isinstance(identity, Identity):
                kind = type(identity).__name__
                raise TypeError(f"admit returned an object of type {kind}; it must be an Identity")
            return identity

        identity = await asked(call, "admit", request.peer)
        self._check_current(identity)
        return identity

    async def _make_consumer(self, admitted: Admitted) -> Consumer:
        if not self._consumers.waits:
            return self._consumers.make_nowait(admitted)
        assert admitted.request is not None
        call = partial(self._consumers.make, admitted)
        return await asked(call, "decide", admitted.request.peer)

    def _check(self, attempt: _Attempt, head: Head) -> _Handshake:
        """See that a request is a handshake for a target that is there, and that there is room."""
        pending, parsed = attempt.pending, fields(head.raw)
        client = self._proxies.client(pending, parsed)
        pending.client_name = client.peer
        self._check_draining()
        # First what costs least: of these there may be many.
        self._parts.places.check_rate(client.address)
        response, subprotocol = accept(head, self._subprotocols, parsed)
        self._consumers.check(head.target)
        self._check_room()
        pending.place = self._parts.places.enter(client.address)
        request = None
        if self._asks or self._consumers.keeps_requests:
            head, parsed = asked_for(head, parsed, client.host)
            request = Request(head, client.peer, secure=client.scheme == "https", parsed=parsed)
        attempt.handshake = _Handshake(request, subprotocol, response)
        self._origins.check(client, parsed)
        return attempt.handshake

    def _check_current(self, identity: Identity | None) -> None:
        if identity is not None and self._parts.shared.expiry.is_over(identity.expires_at):
            raise unauthorized("identity has expired", error="invalid_token")

    def _check_draining(self) -> None:
        if self._parts.draining.is_set():
            raise Refused(503, GOING_AWAY)

    def _check_room(self) -> None:
        if len(self._connections) >= self._parts.limits.connections:
            raise full()

    def _connection(
        self,
        pending: PendingSocket,
        handshake: _Handshake,
        consumer: Consumer,
        first: FirstRequest,
    ) -> Life:
        transport = pending.transport(self._parts.reads, self._parts.poller, first.behind)
        if handshake.request is not None:
            release(handshake.request, transport.peer)
        return Life(
            transport,
            self._parts.shared,
            consumer,
            path=first.head.target,
            response=handshake.response,
        )


async def _wait_for(backend: Callable[[], Awaitable[None]]) -> None:
    """Wait for a hub's backend, while the grace time lasts."""
    try:
        await backend()
    except BackendError as exc:
        raise backend_away() from exc


def _admitted(first: FirstRequest, handshake: _Handshake, identity: Identity | None) -> Admitted:
    return Admitted(first.head.target, handshake.subprotocol, handshake.request, identity)


async def asked(call: Callable[[], Awaitable[_T]], function: str, peer: str) -> _T:
    """Ask the application about a peer.

    Args:
        call: does it.
        function: which of its functions that is, for the log.
        peer: the peer's address, for people.

    Raises:
        Refused: the peer is refused, also where that comes alone in a nursery's group; 500 for any
            other exception, which is logged.
    """
    try:
        return await call()
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
            _log.error("%s %s failed", peer, function, exc_info=failed)
            answer = Refused(500, "internal error") if leaving is None else leaving
            del failed, leaving
        try:
            raise answer from None
        finally:
            del answer  # its traceback has this frame
