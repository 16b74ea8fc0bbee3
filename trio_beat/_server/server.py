"""The server: listeners, the way in, the way out.

::

    serve                     (outer nursery)
    ├── the metronome, the poller, the turns, and two that sum up lines of the log
    ├── the lifespan of the ASGI application
    └── peers                 (one task for each socket)
        ├── _serve_socket            reads the request: a connection, HTTP, or a refusal
        └── ...

Draining (`Server.drain`, and what the command does on a signal): listeners close, peers that are
still at the door are sent away, connections are closed with 1001 over the first half of the grace
time, HTTP requests under way are answered; whoever is left at the end of it is cancelled.
"""

from __future__ import annotations

import contextlib
import errno
import socket
import ssl
from collections import Counter
from collections.abc import Sequence
from typing import Final, Literal

import trio

from .._channels.grammar import ChannelError, below, parse_target
from .._channels.hub import Hub, HubConsumer
from .._checks import (
    check_kind,
    check_prefix,
    check_seconds,
    check_server_context,
    check_subprotocols,
)
from .._connection.consumer import Consumer
from .._connection.handler import Handler, HandlerConsumer, HandlerErrors
from .._connection.life import Life
from .._connection.shared import Shared
from .._exceptions import EndReason, split_unexpected
from .._heartbeat import Heartbeat
from .._log import get_logger
from .._metronome import Metronome
from .._protocol.handshake import Head, Refusal, accept
from .._summary import Summary
from .._text import without_queries
from .._transports.framing import ReadContext
from .._transports.kernel import set_up
from .._transports.polling import Poller
from .._transports.tls_session import Bios
from .._transports.unfinished import Unfinished
from .._turns import Turns
from .http import ASGIApp, HTTPFront
from .lifespan import Lifespan
from .limits import Limits, ServerStatistics
from .listeners import open_listeners
from .pending import PendingSocket, PendingTCP, PendingTLS, Request

_log = get_logger("trio_beat.server")

#: Sockets that are accepted before other tasks get a turn.
_ACCEPT_TURN: Final = 16
#: Seconds to wait when there is no file descriptor left for a new socket.
_EXHAUSTED_PAUSE: Final = 0.1
_GOING_AWAY: Final = "server is shutting down"
_EXHAUSTED: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})


def _full() -> Refusal:
    # A new one each time: an exception that is raised again keeps the frames of the first time.
    return Refusal(503, "server is full, try again later", {"Retry-After": "30"})


def _check_served(handler: object, hub: object, app: object) -> None:
    if (handler is None) == (hub is None):
        raise ValueError("exactly one of handler and hub is needed")
    if handler is not None and not callable(handler):
        raise TypeError(f"handler is {handler!r}; it must be an async function, or None")
    if app is not None and not callable(app):
        raise TypeError(f"app is {app!r}; it must be an ASGI application, or None")
    if hub is not None:
        check_kind("hub", hub, Hub, "a Hub as open_hub gives it, or None")


class Server:
    """A running server; `serve` makes it.

    Attributes:
        addresses: where it listens.
    """

    addresses: list[tuple[str, int]]

    def __init__(
        self,
        *,
        handler: Handler | None,
        handler_errors: Literal["raise", "close"],
        hub: Hub | None,
        app: ASGIApp | None,
        path_prefix: str,
        heartbeat: Heartbeat,
        limits: Limits,
        subprotocols: Sequence[str],
        ssl_context: ssl.SSLContext | None,
        grace: float,
    ) -> None:
        _check_served(handler, hub, app)
        check_prefix(path_prefix)
        check_kind("heartbeat", heartbeat, Heartbeat, "a Heartbeat")
        check_kind("limits", limits, Limits, "a Limits")
        if ssl_context is not None:
            check_server_context(ssl_context, "an ssl.SSLContext, or None")
        check_seconds("grace", grace, zero=True)
        self._handler = handler
        self._handler_errors = HandlerErrors(handler_errors)
        self._hub = hub
        self._turns = Turns()
        self._http = self._lifespan = None
        if app is not None:
            self._lifespan = Lifespan(app)
            timeout = limits.handshake_timeout
            self._http = HTTPFront(app, self._turns, timeout, self._lifespan.state)
        self._prefix = path_prefix
        self._limits = limits
        self._subprotocols = check_subprotocols(subprotocols)
        self._ssl_context = ssl_context
        self._bios = Bios()
        self._grace = grace
        self._metronome = Metronome(heartbeat.interval)
        self._terms = Shared(heartbeat, self._metronome, limits.outbox, limits.slow_policy)
        self._unfinished = Unfinished(limits.message_timeout, limits.unfinished)
        self._reads = ReadContext(limits.message_size, self._turns, self._unfinished)
        self._poller = Poller(self._turns)
        self._connections: set[Life] = set()
        self._handshakes: set[trio.CancelScope] = set()
        self._pending = 0
        self._accepted = 0
        self._refused: Counter[int] = Counter()
        self._refusals = Summary(_log, "peers refused")
        self._draining = trio.Event()

    @property
    def port(self) -> int:
        """The TCP port; `serve` listens on the same one on all addresses."""
        return self.addresses[0][1]

    @property
    def draining(self) -> bool:
        """Whether it is shutting down."""
        return self._draining.is_set()

    def statistics(self) -> ServerStatistics:
        """The server at this moment."""
        return ServerStatistics(
            len(self._connections),
            self._pending,
            0 if self._http is None else self._http.connections,
            self._accepted,
            self._terms.ended.copy(),
            dict(self._refused),
            self._terms.dropped,
            self._handler_errors.count,
            self._unfinished.held,
        )

    def drain(self) -> None:
        """Begin to shut down; `serve` returns when everybody is gone or the grace time is over."""
        self._draining.set()

    def replace_ssl_context(self, ssl_context: ssl.SSLContext) -> None:
        """Use another certificate from the next handshake on; who is connected stays so.

        Args:
            ssl_context: a new one, like that which `serve` was given.

        Raises:
            TypeError: it is none.
            ValueError: it is a client's, or the server does not speak TLS.
        """
        check_server_context(ssl_context, "an ssl.SSLContext")
        if self._ssl_context is None:
            raise ValueError("the server does not speak TLS, and cannot begin to")
        self._ssl_context = ssl_context

    async def run(
        self,
        listeners: Sequence[socket.socket],
        *,
        task_status: trio.TaskStatus[Server] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Serve until drained.

        Args:
            listeners: sockets that listen, non-blocking; they are closed on the way out.
            task_status: gets this server once it accepts.
        """
        self.addresses = [listener.getsockname()[:2] for listener in listeners]
        with self._poller, contextlib.ExitStack() as listening:
            for listener in listeners:
                set_up(listener, self._terms.heartbeat.patience)
                listening.enter_context(listener)
            try:
                await self._run(listening, listeners, task_status)
            finally:
                self._refusals.tell()
                self._terms.ends.tell()

    async def _run(
        self,
        listening: contextlib.ExitStack,
        listeners: Sequence[socket.socket],
        task_status: trio.TaskStatus[Server],
    ) -> None:
        failure = None
        async with trio.open_nursery() as nursery:
            await nursery.start(self._metronome.run)
            await nursery.start(self._poller.run)
            await nursery.start(self._turns.run)
            nursery.start_soon(self._refusals.run)
            nursery.start_soon(self._terms.ends.run)
            if self._lifespan is not None:
                nursery.start_soon(self._lifespan.run)
                failure = await self._lifespan.start()
            if failure is None:
                until = await self._serve_peers(listening, listeners, task_status)
                if self._lifespan is not None:
                    await self._lifespan.stop(until)
            nursery.cancel_scope.cancel()
        if failure is not None:
            raise failure

    async def _serve_peers(
        self,
        listening: contextlib.ExitStack,
        listeners: Sequence[socket.socket],
        task_status: trio.TaskStatus[Server],
    ) -> float:
        """Returns when the grace time is over."""
        async with trio.open_nursery() as peers:
            try:
                async with trio.open_nursery() as accepting:
                    for listener in listeners:
                        accepting.start_soon(self._accept, listener, peers)
                    task_status.started(self)
                    await self._draining.wait()
                    accepting.cancel_scope.cancel()
            finally:
                listening.close()
            until = peers.cancel_scope.deadline = trio.current_time() + self._grace
            await self._drain_peers()
        return until

    async def _accept(self, listener: socket.socket, peers: trio.Nursery) -> None:
        exhausted = False
        while True:
            await trio.lowlevel.wait_readable(listener)
            try:
                for _ in range(_ACCEPT_TURN):
                    sock, _ = listener.accept()
                    exhausted = False
                    self._take(sock, peers)
            except BlockingIOError:
                continue
            except OSError as exc:
                # Anything else: the peer left before it was accepted (accept(2), "Error handling").
                if exc.errno in _EXHAUSTED:
                    if not exhausted:
                        _log.error("cannot accept: %s; trying again until it works", exc)
                    exhausted = True
                    await trio.sleep(_EXHAUSTED_PAUSE)

    def _take(self, sock: socket.socket, peers: trio.Nursery) -> None:
        sock.setblocking(False)
        context = self._ssl_context
        pending: PendingSocket = (
            PendingTCP(sock)
            if context is None
            else PendingTLS(sock, context, self._bios, self._turns)
        )
        if self._pending >= self._limits.pending:
            self._refuse_nowait(pending, _full())
            return
        self._pending += 1
        peers.start_soon(self._serve_socket, pending, name="trio_beat connection")

    async def _serve_socket(self, pending: PendingSocket) -> None:
        admitted = None
        try:
            try:
                admitted = await self._admit(pending)
            finally:
                self._pending -= 1
                if admitted is None:
                    pending.abort()
            if isinstance(admitted, Life):
                del pending
                self._accepted += 1
                self._connections.add(admitted)
                try:
                    await admitted.run()
                finally:
                    self._connections.discard(admitted)
            elif admitted is not None:
                await self._serve_http(pending, admitted)
        except BaseException as exc:
            rest = self._contain(exc, admitted)
            if rest is exc:
                raise
            if rest is not None:
                raise rest from rest.__cause__

    def _contain(self, exc: BaseException, admitted: Life | Request | None) -> BaseException | None:
        """Let what nothing expects end one peer and not the server: here, and nowhere else.

        Returns:
            What is the server's to raise: what a handler raised, a cancellation, or an exit.
        """
        connection = admitted if isinstance(admitted, Life) else None
        failure = None if connection is None else connection.failure
        unexpected, rest = split_unexpected(exc, failure)
        if unexpected is not None:
            _log.error("a connection failed", exc_info=unexpected)
            if connection is None:
                self._terms.ended[EndReason.INTERNAL_ERROR] += 1
        return rest

    async def _serve_http(self, pending: PendingSocket, request: Request) -> None:
        assert self._http is not None
        try:
            if self._http.connections >= self._limits.pending:
                self._refuse_nowait(pending, _full())
            else:
                await self._http.serve(pending, request.head.raw + request.behind)
        except OSError as exc:
            _log.debug("%s left: %s", pending.peer, exc)
        finally:
            pending.abort()

    async def _admit(self, pending: PendingSocket) -> Life | Request | None:
        try:
            request = pending.read_head_nowait() or await self._read_request(pending)
            if request is None:
                return None
            path = request.head.target.partition("?")[0]
            if self._http is not None and below(path, self._prefix) is None:
                return request
            return self._make_connection(pending, *request)
        except Refusal as refusal:
            self._note(pending, refusal)
            await pending.refuse(refusal, self._turns)
        except OSError as exc:
            _log.debug("%s left: %s", pending.peer, exc)
        return None

    def _refuse_nowait(self, pending: PendingSocket, refusal: Refusal) -> None:
        self._note(pending, refusal)
        pending.refuse_nowait(refusal)

    def _note(self, pending: PendingSocket, refusal: Refusal) -> None:
        self._refused[refusal.status] += 1
        if not self._refusals.alone(str(refusal.status), trio.current_time()):
            return
        # Some texts quote the request.
        text = without_queries(refusal.logged)
        fields = {"peer": pending.peer, "status": refusal.status}
        _log.info("%s refused: %d %s", pending.peer, refusal.status, text, extra=fields)

    async def _read_request(self, pending: PendingSocket) -> Request | None:
        with trio.move_on_after(self._limits.handshake_timeout) as scope:
            self._handshakes.add(scope)
            try:
                await pending.begin()
                return await pending.read_head(self._turns)
            finally:
                self._handshakes.discard(scope)
        if self.draining:
            raise Refusal(503, _GOING_AWAY)
        raise Refusal(408, f"no request within {self._limits.handshake_timeout:g} s")

    def _make_connection(self, pending: PendingSocket, head: Head, behind: bytes) -> Life:
        if self.draining:
            raise Refusal(503, _GOING_AWAY)
        response, subprotocol = accept(head, self._subprotocols)
        consumer: Consumer
        if self._hub is not None:
            try:
                consumer = HubConsumer(self._hub, parse_target(head.target, self._prefix))
            except ChannelError as exc:
                logged = "channels that are not there, or not allowed"
                raise Refusal(exc.status, str(exc), logged=logged) from None
        else:
            assert self._handler is not None
            consumer = HandlerConsumer(
                self._handler, self._limits.inbound, self._handler_errors, subprotocol
            )
        if len(self._connections) >= self._limits.connections:
            raise _full()
        return Life(
            pending.transport(self._reads, self._poller, behind),
            self._terms,
            consumer,
            path=head.target,
            response=response,
        )

    async def _drain_peers(self) -> None:
        for scope in self._handshakes:
            scope.cancel()
        if self._http is not None:
            await self._http.drain()
        connections = list(self._connections)
        _log.info("draining within %g s, open connections: %d", self._grace, len(connections))
        begin = trio.current_time()
        for index, connection in enumerate(connections):
            await trio.sleep_until(begin + self._grace / 2 * index / len(connections))
            connection.end_nowait(EndReason.SHUTDOWN, 1001, _GOING_AWAY)


async def serve(
    handler: Handler | None,
    port: int,
    *,
    handler_errors: Literal["raise", "close"] = "raise",
    host: str | Sequence[str] | None = "127.0.0.1",
    heartbeat: Heartbeat = Heartbeat(),  # noqa: B008 - immutable
    hub: Hub | None = None,
    app: ASGIApp | None = None,
    path_prefix: str = "/ws/",
    subprotocols: Sequence[str] = (),
    ssl_context: ssl.SSLContext | None = None,
    limits: Limits = Limits(),  # noqa: B008 - immutable
    grace: float = 8.0,
    task_status: trio.TaskStatus[Server] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve WebSockets on a TCP port, until cancelled or drained.

    Each connection is a task of its own with a nursery inside; `handler` runs in that nursery and
    is cancelled when the connection ends, whatever ends it. What it raises closes its connection
    with 1011, and is not caught but propagates out of here, as with `trio.serve_tcp`, unless
    `handler_errors` says otherwise; except for `ConnectionClosed`, since no peer's end may end the
    server. An exception of this package's own that nothing expects ends its connection only: with
    1011 and the reason ``internal-error``, and its traceback is logged.

    Args:
        handler: an async function that is called with each `Connection`, which is closed with
            1000 when it returns; or None, with `hub` given.
        port: TCP port; 0: the system chooses one, which `Server.port` tells.
        handler_errors: ``raise``: what a handler raises propagates. ``close``: it is logged with
            its traceback, counted, and ends its own connection only.
        host: name or address to listen on, or several; None, or an empty one: all addresses, of
            IPv4 and IPv6; ``::`` likewise, where the system must have IPv6.
        heartbeat: how connections beat, and when they count as dead.
        hub: where handler is None, connections subscribe and publish here as their URLs ask for.
        app: an ASGI 3 application for every request that is not below `path_prefix`, over
            HTTP/1.1; None: every request is taken for a WebSocket handshake. It hears of start
            and end (ASGI lifespan 2.0): it has 60 seconds to start before the server accepts, and
            what is left of `grace`, or 1 second, to shut down behind the last peer. A request of
            which it neither takes nor gives anything for 30 seconds is ended, with 500 where it is
            not answered: a stream, or who polls long, must send something within that time. So is
            a WebSocket of its own on which nothing moves.
        path_prefix: what the path of a WebSocket begins with, where there is an `app` or a `hub`.
        subprotocols: names that the server speaks, the preferred one first.
        ssl_context: speak TLS; where its ALPN protocols are set, to ``http/1.1`` alone, since
            who is offered ``h2`` and speaks it gets 505. Options are added to it: no
            renegotiation, and a FIN without close_notify is no error. None: plain.
        limits: what the server holds at most.
        grace: seconds that draining may take; 8 are less than the 10 that ``docker stop`` waits.
        task_status: gets the `Server` once it accepts.

    Raises:
        OSError: an address cannot be listened on; its ``filename`` says which.
        StartupFailed: `app` says that it did not start, or took too long.
        TypeError: an argument is of another type.
        ValueError: an argument can never be right, or neither or both of `handler` and `hub` are
            given.
    """
    server = Server(
        handler=handler,
        handler_errors=handler_errors,
        hub=hub,
        app=app,
        path_prefix=path_prefix,
        heartbeat=heartbeat,
        limits=limits,
        subprotocols=subprotocols,
        ssl_context=ssl_context,
        grace=grace,
    )
    listeners = await open_listeners(port, host)
    await server.run(listeners, task_status=task_status)
