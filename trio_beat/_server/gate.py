"""Whether a peer becomes a connection, and what that is for: from its request to a consumer.

1. One time limit covers a handshake (`Gate.in_time`), with the application's `admit`. Where there
   is nothing to wait for (`Gate.waits`), no limit is set.
2. `admit` is called only for a request that could be admitted: for a valid target, while there is
   room, and from no page of a foreign origin. It tells who the peer is; then it is decided what
   that one may do. Whether there is room is checked again after both.
3. While a hub's backend is away, handshakes wait for it, within the hub's grace time and their own.
   `admit` is called once it is heard who is to be disconnected (`disconnects`).
4. Draining ends all handshakes: their peers get 503.
5. A place of the peer's address is taken before the application is asked, one of its user as soon
   as that is known (`places`).
6. Anything wrong with a request is a `Refused`. Who has read the request sends it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection
from functools import partial
from typing import Literal, Protocol, TypeVar

import trio
from websockets import datastructures

from .._channels.hub import Hub
from .._checks import check_async
from .._connection.consumer import Consumer
from .._connection.expiry import Expiry
from .._connection.life import Life
from .._exceptions import BackendError, Refused, split
from .._identity import Identity
from .._log import get_logger
from .._plain import plain
from .._protocol.refusal import unauthorized
from .._protocol.request import Request
from .consumers import Admitted, Consumers
from .disconnects import Disconnects
from .limits import Limits
from .origins import Origins
from .places import Place, Places
from .proxies import Client
from .refusals import GOING_AWAY, backend_away, full

_log = get_logger("trio_beat.server")

_T = TypeVar("_T")


class Admit(Protocol):
    """An application's decision about a request, see `serve`: an async function, or the like."""

    def __call__(self, request: Request, /) -> Awaitable[Identity | None]:
        """Tell who a peer is; None: it is anonymous.

        Args:
            request: what it asks with.

        Raises:
            Refused: it is not admitted.
        """


#: How a peer is told that it is not who it should be, or may not do what it asks for.
RefuseBy = Literal["status", "close"]


class TimeLimit:
    """The time limit of a handshake.

    Args:
        late: makes the answer to a peer whose handshake takes too long.
    """

    __slots__ = ("late", "scope")

    def __init__(self, late: Callable[[], Refused], scope: trio.CancelScope) -> None:
        self.late = late
        self.scope = scope


class Gate:
    """Decides about requests.

    Args:
        limits: what there is room for.
        connections: those that are open.
        consumers: makes the connections' consumers.
        disconnects: knows who was disconnected.
        places: what addresses and users take.
        expiry: knows which identities have expired.
        draining: set when the server begins to shut down.
        admit: asked for each handshake; None: nothing is asked.
        origins: which pages may connect.
        hub: where connections subscribe; None: they do not.
    """

    def __init__(
        self,
        *,
        limits: Limits,
        connections: Collection[Life],
        consumers: Consumers,
        disconnects: Disconnects,
        places: Places,
        expiry: Expiry,
        draining: trio.Event,
        admit: Admit | None,
        origins: Origins,
        hub: Hub | None,
    ) -> None:
        self._limits = limits
        self._connections = connections
        self._consumers = consumers
        self._disconnects = disconnects
        self._places = places
        self._expiry = expiry
        self._draining = draining
        self._ask = admit
        self._asks = admit is not None or consumers.waits
        self._origins = origins
        self._hub = hub
        #: The time limits of the handshakes under way.
        self._waiting: set[trio.CancelScope] = set()

    @property
    def waits(self) -> bool:
        """Whether a decision may take time now."""
        return self._asks or self._is_away()

    @property
    def wants_requests(self) -> bool:
        """Whether the application, or a consumer, sees requests."""
        return self._asks or self._consumers.keeps_requests

    def check_arrival(self, client: Client) -> None:
        """Check what costs least, since of such peers there may be many.

        Raises:
            Refused: the server drains, or the client's address sends too many handshakes.
        """
        self._check_draining()
        self._places.check_rate(client.address)

    def enter(self, target: str | None, client: Client) -> Place | None:
        """See that there is room at a target, and take a place of the client's address.

        Args:
            target: path and query, as they were sent; None: any will do.
            client: who asks.

        Returns:
            The place, which the caller gives back (`Places.leave`); None: nothing counts.

        Raises:
            Refused: there is no such target, or no room.
        """
        if target is not None:
            self._consumers.check(target)
        self._check_room()
        return self._places.enter(client.address)

    def check_origin(self, client: Client, headers: datastructures.Headers) -> None:
        """Raise `Refused` where a request comes from a page that may not connect."""
        self._origins.check(client, headers)

    async def in_time(self, call: Callable[[TimeLimit], Awaitable[_T]]) -> _T:
        """Do something that waits for a handshake, within its time limit, and until draining.

        Args:
            call: does it; it may say for what the peer is late from then on.

        Raises:
            Refused: the time was over, or the server drains. And what `call` raises.
        """
        timeout = self._limits.handshake_timeout
        with trio.move_on_after(timeout) as scope:
            limit = TimeLimit(partial(Refused, 408, f"no request within {timeout:g} s"), scope)
            self._waiting.add(scope)
            try:
                return await call(limit)
            finally:
                self._waiting.discard(scope)
        if self._draining.is_set():
            raise Refused(503, GOING_AWAY)
        raise limit.late()

    def interrupt(self) -> None:
        """End the handshakes under way, once the server is draining: they are refused."""
        for scope in self._waiting:
            scope.cancel()

    def admit_nowait(self, asked: Admitted) -> Consumer:
        """Decide where there is nothing to wait for (`waits`); raises `Refused`."""
        return self._consumers.make_nowait(asked)

    async def admit(
        self,
        asked: Admitted,
        place: Place | None,
        limit: TimeLimit,
        consumer: Callable[[Admitted], Consumer] | None = None,
    ) -> tuple[Consumer, Identity | None]:
        """Decide about a request; the caller opens the connection before anything else happens.

        Args:
            asked: what is known already: all but the identity.
            place: the peer's.
            limit: of the handshake.
            consumer: makes the connection's consumer; None: as those of the server are made.

        Returns:
            The consumer, and who the peer is.

        Raises:
            Refused: the peer is refused.
        """
        if self._asks:
            limit.late = backend_away
            await _wait_for(self._disconnects.wait_ready)
            timeout = self._limits.handshake_timeout
            limit.late = partial(Refused, 408, f"not admitted within {timeout:g} s")
        with self._disconnects.admitting() as admitting:
            identity = await self._identify(asked.request)
            admitting.check(identity)
            self._places.identified(place, identity)
            asked = asked._replace(identity=identity)
            made = await self._make_consumer(asked) if consumer is None else consumer(asked)
            if self._asks and limit.scope.cancel_called:  # the application has ignored its end
                raise limit.late()
            if self._hub is not None and self._is_away():
                limit.late = backend_away
                await _wait_for(self._hub.wait_available)
            # Meanwhile draining may have begun, and others may have taken the last place.
            self._check_draining()
            self._check_room()
            self._check_current(identity)
            admitting.check(identity)
            return made, identity

    def _is_away(self) -> bool:
        return self._hub is not None and not self._hub.available

    async def _identify(self, request: Request | None) -> Identity | None:
        """Ask the application who the peer is."""
        if self._ask is None or request is None:
            return None
        admit = self._ask

        async def call() -> Identity | None:
            identity = await check_async("admit", admit(request))
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

    def _check_current(self, identity: Identity | None) -> None:
        if identity is not None and self._expiry.is_over(identity.expires_at):
            raise unauthorized("identity has expired", error="invalid_token")

    def _check_draining(self) -> None:
        if self._draining.is_set():
            raise Refused(503, GOING_AWAY)

    def _check_room(self) -> None:
        if len(self._connections) >= self._limits.connections:
            raise full()


async def _wait_for(backend: Callable[[], Awaitable[None]]) -> None:
    """Wait for a hub's backend, while the grace time lasts."""
    try:
        await backend()
    except BackendError as exc:
        raise backend_away() from exc


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
