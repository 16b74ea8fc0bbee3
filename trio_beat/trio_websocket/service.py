"""Serves the WebSockets of programs that use trio-websocket.

They run in the tasks of the program: of its `WebSocketServer`, or of its handlers.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any
from weakref import WeakSet, WeakValueDictionary

import trio
from trio_websocket import WebSocketConnection, WebSocketRequest

from .._connection.life import Life
from .._exceptions import Closed, EndReason, Refused
from .._log import get_logger
from .._plain import Plain
from .._protocol.frames import MOST_CONTROL, UNAUTHORIZED
from .._protocol.head import fields
from .._protocol.messages import make_close
from .._protocol.request import Request, release
from .._server.admission import Admission
from .._server.limits import ServerStatistics
from .._server.parts import Parts
from .._server.pending import FirstRequest
from .._server.places import Place
from .._server.proxies import Proxies
from .._server.refusals import Refusals, full
from .._server.service import Service
from .._transports import Transport
from .._turns import Turns
from .frames import Frames
from .lent import LentConsumer
from .listeners import ServedListener, ServiceListener
from .sockets import Pending, ServedStream, take_socket
from .stream import ServiceStream
from .watching import Watched, WatchedConsumer

_log = get_logger("trio_beat.trio_websocket")

#: How a WebSocket that was accepted already is closed, by the status with which its handshake would
#: have been refused: those of `refuse_by`, and "Try Again Later"; any other one is 1008.
_CODES = {401: UNAUTHORIZED, 403: 4003, 408: 1013, 429: 1013, 503: 1013}


class TrioWebSocketService:
    """Serves WebSockets over streams below trio-websocket. Made by `open_service`."""

    def __init__(
        self,
        service: Service,
        parts: Parts,
        proxies: Proxies,
        admission: Admission,
        grace: float,
        *,
        serves: bool,
    ) -> None:
        self._service = service
        self._serves = serves
        self._parts = parts
        self._proxies = proxies
        self._admission = admission
        self._grace = grace
        #: Those that wait for what becomes of them, by their names; a program may forget one.
        self._streams: WeakValueDictionary[str, ServiceStream] = WeakValueDictionary()
        #: Those of them whose request has not come yet.
        self._unread: WeakSet[ServiceStream] = WeakSet()
        #: Set when the last connection has ended, once it drains.
        self._gone = trio.Event()

    # What a stream needs of it.

    @property
    def turns(self) -> Turns:
        """For the work that a peer can cause much of."""
        return self._parts.turns

    @property
    def refusals(self) -> Refusals:
        """Where refusals are noted."""
        return self._service.refusals

    @property
    def timeout(self) -> float:
        """Seconds for a handshake."""
        return self._service.limits.handshake_timeout

    def read(self, stream: ServiceStream) -> None:
        """A stream's request was read, or nothing will come of it."""
        self._unread.discard(stream)

    def forget(self, stream: ServiceStream) -> None:
        """The service has taken a stream."""
        self._streams.pop(stream.name, None)

    # What a program calls.

    def listeners(self, listeners: Sequence[ServedListener]) -> list[Any]:
        """Make listeners for `trio_websocket.WebSocketServer` whose streams are the service's.

        (It takes any listener, but its types name two of Trio's only: so these have none.)

        Args:
            listeners: of Trio, as `trio.open_tcp_listeners` and `trio.open_ssl_over_tcp_listeners`
                give them. The new ones close them.

        Raises:
            TypeError: there are others among them.
        """
        patience = self._service.shared.heartbeat.patience
        return [ServiceListener(listener, self._take, patience) for listener in listeners]

    def stream(self, stream: ServedStream) -> ServiceStream:
        """Make a stream for `trio_websocket.wrap_server_stream` that is the service's.

        Args:
            stream: a server's, of which nothing was read yet. It is of no use from then on: the
                new one has its socket.

        Raises:
            TypeError: it is neither a `trio.SocketStream` nor TLS over one.
            ValueError: its TLS handshake has begun, or it is a client's.
        """
        made = ServiceStream(take_socket(stream, self._parts), self)
        self._streams[made.name] = made
        self._unread.add(made)
        return made

    def _take(self, stream: ServedStream) -> ServiceStream | None:
        if len(self._unread) < self._service.limits.pending:
            return self.stream(stream)
        self._service.refusals.refuse_nowait(take_socket(stream, self._parts), full())
        return None

    async def handle_request(self, request: WebSocketRequest) -> None:
        """Serve a peer with the service's handler or hub; a handler for trio-websocket.

        Its request is admitted or refused as `trio_beat.serve` does it. It is not accepted by
        trio-websocket, whose reader ends: the connection is the service's alone.

        Args:
            request: over a stream of this service.

        Raises:
            RuntimeError: it is not over such a stream, or was answered already; or the service has
                neither handler nor hub.
            Exception: what the handler raised, see ``handler_errors`` of `open_service`.
        """
        self._check_serves()
        stream = self._find(request.remote)
        pending, _ = stream.take()
        stream.owned_by(pending.abort)
        life, place = None, None
        try:
            try:
                admitted = await self._admission.admit(pending)
                life = admitted if isinstance(admitted, Life) else None
            finally:
                place = pending.place
                if life is None:
                    self._service.places.leave(place)
                    pending.abort()
            del pending
            if life is not None:
                stream.owned_by(life.abort)
                await self._live(life, place)
        except BaseException as exc:
            self._contain(exc, life, stream)

    async def run(self, ws: WebSocketConnection) -> Closed:
        """Serve a WebSocket that was accepted with the service's handler or hub, until it ends.

        The peer is admitted as by `handle_request`; one that is refused is closed with 3000 (401),
        4003 (403), 1013 (408, 429 and 503) or 1008. Messages go to handler or hub, and none to
        `ws`; what is sent by `ws` goes between the connection's own messages. In the end ``ws`` is
        closed with the connection's code.

        Args:
            ws: over a stream of this service.

        Returns:
            How it ended; at once where it had ended before.

        Raises:
            RuntimeError: it is not over such a stream, or the service has it already; or has
                neither handler nor hub.
            Exception: what the handler raised, see ``handler_errors`` of `open_service`.
        """
        self._check_serves()
        stream = self._find(ws.remote)
        if (before := stream.closed_before(ws)) is not None:
            return before
        pending, first = stream.lend(ws)
        stream.owned_by(pending.abort)
        life, place = None, None
        try:
            try:
                if await stream.settled():
                    life, place = await self._admit(pending, first, ws.subprotocol, stream)
                if life is None:
                    return stream.left()
            except Refused as refusal:
                return await self._refuse(pending, refusal, stream)
            finally:
                if life is None:
                    pending.abort()
                    stream.end()
            del pending, first
            stream.owned_by(life.abort)
            await self._live(life, place)
        except BaseException as exc:
            self._contain(exc, life, stream)
        return _ended(life)

    async def keep_alive(
        self,
        ws: WebSocketConnection,
        *,
        task_status: trio.TaskStatus[Watched] = trio.TASK_STATUS_IGNORED,
    ) -> Closed:
        """Watch the peer of a WebSocket that was accepted, until that has ended.

        The messages are the application's, by ``ws.get_message`` and ``ws.send_message``. A dead
        peer, and each other end, closes ``ws``. Nobody is refused here; draining, and the limits of
        what waits and of rates, apply: a read counts as one message. Where this is cancelled the
        peer is told 1001.

        Args:
            ws: over a stream of this service.
            task_status: gets what is known of the peer, once messages are read; or once it has
                ended, where no message was.

        Returns:
            How it ended; at once where it had ended before.

        Raises:
            RuntimeError: it is not over such a stream, or the service has it already.
        """
        stream = self._find(ws.remote)
        if (before := stream.closed_before(ws)) is not None:
            task_status.started(Watched(before))
            return before
        pending, first = stream.lend(ws)
        stream.owned_by(pending.abort)
        life = None
        try:
            try:
                if not await stream.settled():
                    left = stream.left()
                    task_status.started(Watched(left))
                    return left
                life = self._watch(pending, first, stream)
            finally:
                if life is None:
                    pending.abort()
                    stream.end()
            del pending, first
            stream.owned_by(life.abort)
            task_status.started(Watched(life))
            await self._live(life, None)
        except BaseException as exc:
            self._contain(exc, life, stream)
        return _ended(life)

    def watched(self, ws: WebSocketConnection) -> AbstractAsyncContextManager[Watched]:
        """Watch the peer of a WebSocket while a block lasts, see `keep_alive`.

        When the block is left, the WebSocket is closed with 1000, as by a handler that returns.
        The block runs also where the WebSocket has ended before, or its peer did not take what was
        being sent: there ``ws`` raises `trio_websocket.ConnectionClosed`, as it does later.

        Args:
            ws: over a stream of this service.

        Raises:
            RuntimeError: it is not over such a stream, or the service has it already. On entering
                the context.
        """
        return Plain(self._watched(ws))

    @asynccontextmanager
    async def _watched(self, ws: WebSocketConnection) -> AsyncIterator[Watched]:
        stream = self._find(ws.remote)
        async with trio.open_nursery() as nursery:
            watched = await nursery.start(self.keep_alive, ws)
            assert isinstance(watched, Watched)
            yield watched
            life = watched._watched  # noqa: SLF001 - of this package
            if isinstance(life, Life):
                life.end_nowait(*stream.why())

    def _watch(self, pending: Pending, first: FirstRequest, stream: ServiceStream) -> Life:
        shared, parts = self._service.shared, self._parts
        frames = Frames(shared.heartbeat.message)
        transport = pending.watched(parts.reads, parts.poller, first.behind, frames)
        consumer = WatchedConsumer(stream, frames, self._service.draining)
        return Life(transport, shared, consumer, path=first.head.target, response=b"")

    async def drain(self) -> None:
        """Shut down: refuse handshakes, close connections with 1001, wait for the grace time.

        Listeners go on accepting, and each peer is refused with 503: the program cancels its server
        when this returns.
        """
        service = self._service
        service.draining.set()
        with trio.move_on_after(self._grace):
            service.gate.interrupt()
            await service.drain(self._grace)
            if service.connections:
                await self._gone.wait()

    def statistics(self) -> ServerStatistics:
        """The service at this moment."""
        return self._service.statistics(
            pending=len(self._unread),
            unfinished=self._parts.unfinished.held,
            compression=self._admission.compression,
        )

    async def _live(self, life: Life, place: Place | None) -> None:
        try:
            await self._service.run_connection(life, place)
        finally:
            if self._service.draining.is_set() and not self._service.connections:
                self._gone.set()

    def _check_serves(self) -> None:
        if not self._serves:
            raise RuntimeError(
                "open_service got neither a handler nor a hub: this service can only watch"
            )

    def _find(self, remote: object) -> ServiceStream:
        # For a stream that is none of Trio's own, trio-websocket documents its `repr` here.
        stream = self._streams.get(remote) if isinstance(remote, str) else None
        if stream is None:
            raise RuntimeError(
                "this is not over a stream of the service, or the service has it already; give "
                "trio-websocket service.listeners(...), or service.stream(...)"
            )
        return stream

    async def _admit(
        self, pending: Pending, first: FirstRequest, subprotocol: str | None, stream: ServiceStream
    ) -> tuple[Life | None, Place | None]:
        parsed = fields(first.head.raw)
        client = self._proxies.client(pending, parsed)
        pending.client_name = client.peer
        request = Request(first.head, client.peer, secure=client.scheme == "https", parsed=parsed)
        entry = await self._service.admit(request, client, subprotocol)
        # From here on nothing is waited for until it counts.
        if stream.over:  # the program has closed it meanwhile
            self._service.places.leave(entry.place)
            return None, None
        transport: Transport = pending.transport(
            self._parts.reads, self._parts.poller, first.behind
        )
        release(request, transport.peer)
        consumer = LentConsumer(entry.consumer, stream)
        life = Life(transport, self._service.shared, consumer, path=entry.target, response=b"")
        life.expire_at(None if entry.identity is None else entry.identity.expires_at)
        return life, entry.place

    async def _refuse(self, pending: Pending, refusal: Refused, stream: ServiceStream) -> Closed:
        refusal.__traceback__ = refusal.__context__ = None
        self._service.refusals.note(pending.peer, refusal)
        reason = refusal.text.encode()[: MOST_CONTROL - 2].decode(errors="ignore")
        closed = Closed(EndReason.REFUSED, _CODES.get(refusal.status, 1008), reason)
        await pending.answer(make_close(closed.code, reason).frame, self._parts.turns)
        stream.conclude(closed, between=True)
        return closed

    def _contain(self, exc: BaseException, life: Life | None, stream: ServiceStream) -> None:
        """Raise what is the program's to know; what only one peer met is logged."""
        rest = self._service.contain(exc, life, None if life else stream.name)
        if rest is exc:
            raise exc
        if rest is not None:
            raise rest from rest.__cause__


def _ended(life: Life | None) -> Closed:
    closed = None if life is None else life.closed
    return closed or Closed(EndReason.INTERNAL_ERROR, 1011, "internal error")
