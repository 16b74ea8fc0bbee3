"""Serves connections, wherever they come from: the server's sockets, or another server.

::

    Service.start             (the caller's nursery)
    ├── the metronome, and two that sum up lines of the log
    ├── the ends of identities (`Expiry`), and of those that are disconnected (`Disconnects`)
    ├── what forgets addresses that have been quiet (`Places`)
    └── what tells of an observer that fails

A peer comes in two steps, with nothing between them: `admit` (or the gate itself) decides about
its request, and `run` runs its connection, in a task of the caller's.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, NamedTuple

import trio
from websockets import datastructures

from .._channels.hub import Hub
from .._channels.permissions import Permissions
from .._checks import check_kind
from .._connection.consumer import Consumer
from .._connection.handler import Handler, HandlerErrors
from .._connection.life import Life
from .._connection.pacing import Pacing
from .._connection.shared import Shared
from .._exceptions import EndReason, split_unexpected
from .._heartbeat import Heartbeat
from .._identity import Identity
from .._log import get_logger
from .._metronome import Metronome
from .._observer import FailedSocket, Notifier, Observer
from .._protocol.compression import CompressionStatistics
from .._protocol.request import Request
from .._transports import Transport
from .consumers import Admitted, Consumers, HandlerConsumers, HubConsumers, NoConsumers
from .disconnects import Disconnects
from .gate import Admit, Gate, TimeLimit
from .limits import Limits, ServerStatistics
from .origins import Origins
from .places import Place, Places
from .proxies import Client
from .refusals import GOING_AWAY, Refusals

_log = get_logger("trio_beat.server")


class Entry(NamedTuple):
    """A peer that was admitted: `Service.run` comes next, at once."""

    target: str
    consumer: Consumer
    subprotocol: str | None  #: what the handshake agrees on
    identity: Identity | None
    place: Place | None


class Service:
    """Serves connections.

    Args:
        handler: see `serve`, as all that follows.
        handler_errors: what happens to exceptions of handlers.
        hub: where connections subscribe.
        admit: asked who a peer is.
        permissions: what peers may do.
        origins: which pages may connect.
        path_prefix: of the hub's targets; None: there are no connections.
        heartbeat: how connections beat.
        limits: what is held at most.
        observer: is told what happens.

    Attributes:
        connections: those that are open.
        shared: what they share.
        places: what addresses and users take.
        gate: decides about requests.
        refusals: where refusals are noted.
        notify: is told what happens.
        draining: set when it begins to shut down.
    """

    def __init__(
        self,
        *,
        handler: Handler | None,
        handler_errors: Literal["raise", "close"] = "raise",
        hub: Hub | None,
        admit: Admit | None = None,
        permissions: Permissions | None = None,
        origins: Origins | None = None,
        path_prefix: str | None,
        heartbeat: Heartbeat,
        limits: Limits,
        observer: Observer | None = None,
    ) -> None:
        check_kind("heartbeat", heartbeat, Heartbeat, "a Heartbeat")
        check_kind("limits", limits, Limits, "a Limits")
        _check_served(handler, hub, admit, permissions, nothing=path_prefix is None)
        self.limits = limits
        self.notify = notify = Notifier(observer)
        self.shared = Shared(
            heartbeat, Metronome(heartbeat.interval), limits.outbox, limits.slow_policy, notify
        )
        if limits.message_rate or limits.byte_rate:
            self.shared.pacing = Pacing(limits.message_rate, limits.byte_rate, limits.rate_policy)
        self.places = Places(limits)
        self.refusals = Refusals(notify)
        self.connections: set[Life] = set()
        self.draining = trio.Event()
        consumers: Consumers
        errors = HandlerErrors(handler_errors)
        if path_prefix is None:
            consumers = NoConsumers()
        elif handler is None:
            assert hub is not None
            permissions = permissions or Permissions()
            consumers = HubConsumers(hub, path_prefix, permissions, limits.channels)
        else:
            consumers = HandlerConsumers(handler, limits.inbound, errors)
        # Where nobody asks who they are, there is no name to disconnect them by.
        control = None if hub is None or admit is None else hub.control
        self._disconnects = Disconnects(self.connections, control)
        self.gate = Gate(
            limits=limits,
            connections=self.connections,
            consumers=consumers,
            disconnects=self._disconnects,
            places=self.places,
            expiry=self.shared.expiry,
            draining=self.draining,
            admit=admit,
            origins=origins or Origins(),
            # What a handler needs of a hub, it says itself.
            hub=hub if handler is None else None,
        )

    async def start(self, nursery: trio.Nursery) -> None:
        """Start the tasks that connections need; they run until cancelled."""
        await nursery.start(self.shared.metronome.run)
        nursery.start_soon(self.refusals.lines.run)
        nursery.start_soon(self.shared.ends.run)
        nursery.start_soon(self.shared.expiry.run)
        await nursery.start(self._disconnects.run)
        nursery.start_soon(self.places.run)
        nursery.start_soon(self.notify.failures.run)

    def tell(self) -> None:
        """Log what has been summed up and not logged yet, at the end."""
        self.refusals.lines.tell()
        self.shared.ends.tell()
        self.notify.failures.tell()

    async def admit(
        self,
        request: Request,
        client: Client,
        subprotocol: str | None = None,
        consumer: Callable[[Admitted], Consumer] | None = None,
    ) -> Entry:
        """Decide about a request that another server has read.

        Args:
            request: it.
            client: who asks.
            subprotocol: what the handshake would agree on.
            consumer: makes the connection's consumer; None: handler or hub do.

        Raises:
            Refused: the peer is refused; the caller notes it (`Refusals.note`) and answers.
        """
        gate = self.gate
        gate.check_arrival(client)
        # What a target means, one that makes the consumer knows.
        place = gate.enter(request.target if consumer is None else None, client)
        try:
            gate.check_origin(client, datastructures.Headers(request.headers.pairs()))
            seen = request if gate.wants_requests or consumer is not None else None
            asked = Admitted(request.target, subprotocol, seen, None)
            if consumer is None and not gate.waits:
                return Entry(request.target, gate.admit_nowait(asked), subprotocol, None, place)

            async def call(limit: TimeLimit) -> tuple[Consumer, Identity | None]:
                return await gate.admit(asked, place, limit, consumer)

            made, identity = await gate.in_time(call)
            return Entry(request.target, made, subprotocol, identity, place)
        except BaseException:
            self.places.leave(place)
            raise

    async def run(self, entry: Entry, transport: Transport, response: bytes = b"") -> None:
        """Run the connection of a peer that was admitted, until it has ended.

        It counts from the call on, before anything is waited for.

        Args:
            entry: as `admit` returned it, just now.
            transport: reaches the peer.
            response: the handshake's, to be sent once the peer is subscribed.

        Raises:
            Exception: what a handler raised. And `trio.Cancelled`.
        """
        life = Life(transport, self.shared, entry.consumer, path=entry.target, response=response)
        life.expire_at(None if entry.identity is None else entry.identity.expires_at)
        consumer, place = entry.consumer, entry.place
        del entry, transport
        # Not by `run_connection`, of which each quiet connection would keep a frame.
        self.connections.add(life)
        try:
            await life.run()
        except BaseException as exc:
            rest = self.contain(exc, life)
            try:
                if rest is exc:
                    raise
                if rest is not None:
                    raise rest from rest.__cause__
            finally:
                # Their tracebacks refer to this frame, and by it to the consumer.
                del rest
                consumer.forget_failure()
        finally:
            self.connections.discard(life)
            self.places.leave(place)

    async def run_connection(self, life: Life, place: Place | None) -> None:
        """Run a connection that counts meanwhile; what it raises is not contained yet."""
        self.connections.add(life)
        try:
            await life.run()
        finally:
            self.connections.discard(life)
            self.places.leave(place)

    def contain(
        self, exc: BaseException, connection: Life | None, peer: str | None = None
    ) -> BaseException | None:
        """Make an unexpected exception end one peer, not the server; no other place does that.

        Args:
            exc: what was raised.
            connection: whose it is; None: none has come of the peer.
            peer: the address of one of which nothing has come; None: it is not that of a
                WebSocket.

        Returns:
            What is the server's to raise: what a handler raised, a cancellation, or an exit.
        """
        failure = None if connection is None else connection.failure
        unexpected, rest = split_unexpected(exc, failure)
        if unexpected is not None:
            _log.error("a connection failed", exc_info=unexpected)
            if peer is not None and (tell := self.notify.ended) is not None:
                failed = FailedSocket(peer)
                tell(failed, failed.closed)
        return rest

    async def drain(self, grace: float) -> None:
        """Close the connections with 1001; `draining` is set, and handshakes are interrupted.

        Args:
            grace: seconds; the connections are closed evenly over the first half of them, so that
                their clients do not all come back at once.
        """
        connections = list(self.connections)
        _log.info("draining within %g s, open connections: %d", grace, len(connections))
        begin = trio.current_time()
        for index, connection in enumerate(connections):
            await trio.sleep_until(begin + grace / 2 * index / len(connections))
            connection.end_nowait(EndReason.SHUTDOWN, 1001, GOING_AWAY)

    def statistics(
        self,
        *,
        pending: int = 0,
        http: int = 0,
        unfinished: int = 0,
        compression: CompressionStatistics | None = None,
    ) -> ServerStatistics:
        """The server at this moment.

        Args:
            pending: handshakes under way.
            http: sockets that speak plain HTTP.
            unfinished: bytes of messages of which not all has come.
            compression: what was compressed; None: it is off.
        """
        counters = self.notify.counters
        return ServerStatistics(
            len(self.connections),
            pending,
            http,
            counters.opened_count,
            counters.ended_by.copy(),
            dict(counters.refused_with),
            counters.dropped_count,
            counters.handler_errors,
            unfinished,
            counters.limited_by.copy(),
            compression,
        )


def _check_served(
    handler: object, hub: object, admit: object, permissions: object, *, nothing: bool
) -> None:
    if nothing and any(part is not None for part in (handler, hub, admit)):
        raise ValueError("without path_prefix there is an app, and no handler, hub and admit")
    if not nothing and handler is None and hub is None:
        raise ValueError("a handler or a hub is needed")
    if handler is not None and not callable(handler):
        raise TypeError(f"handler is {handler!r}; it must be an async function, or None with a hub")
    if admit is not None and not callable(admit):
        raise TypeError(f"admit is {admit!r}; it must be an async function, or None")
    if hub is not None:
        check_kind("hub", hub, Hub, "a Hub, as `async with open_hub()` gives it, or None")
    if permissions is not None:
        check_kind("permissions", permissions, Permissions, "a Permissions, or None")
        if handler is not None or hub is None:
            raise ValueError("permissions are of no use without a hub, or beside a handler")
