"""The server: its nurseries, from the listeners to the end of the grace time.

::

    serve                     (outer nursery)
    ├── the poller, and the turns
    ├── what connections need (`Service`): the metronome, ends of identities, ...
    ├── the lifespan of the ASGI application
    └── peers                 (one task for each socket, `Peers`)
        ├── a pending socket         its request is read: a connection, HTTP, or a refusal
        └── ...

Draining (`Server.drain`, and what the command does on a signal): listeners close, handshakes under
way are refused, connections are closed with 1001 over the first half of the grace time, HTTP
requests under way are answered; what is left at the end of it is cancelled.
"""

from __future__ import annotations

import contextlib
import os
import socket
import ssl
from collections.abc import Awaitable, Callable, Sequence
from typing import Literal

import trio

from .._channels.hub import Hub
from .._channels.permissions import Permissions
from .._checks import (
    check_prefix,
    check_seconds,
    check_server_context,
    check_subprotocols,
    check_trio,
)
from .._connection.handler import Handler
from .._heartbeat import Heartbeat
from .._identity import Identity
from .._observer import Observer
from .._protocol.compression import Compression
from .._protocol.request import Request
from .._transports.kernel import set_up
from .accepting import accept_forever
from .admission import Admission
from .endpoints import LOOPBACK, open_endpoints
from .gate import Admit, RefuseBy
from .given import is_tcp, unix_name
from .lifespan import ASGIApp, Lifespan
from .limits import Limits, ServerStatistics
from .origins import Origins
from .parts import Parts
from .peers import Peers
from .proxies import Proxies
from .service import Service


class Server:
    """A running server; `serve` makes it.

    Attributes:
        addresses: where it listens over TCP.
        paths: where it listens over Unix sockets; ``@`` and a name for one without a path.
    """

    addresses: list[tuple[str, int]]
    paths: list[str]

    def __init__(
        self,
        *,
        handler: Handler | None,
        handler_errors: Literal["raise", "close"],
        hub: Hub | None,
        admit: Admit | None = None,
        permissions: Permissions | None = None,
        refuse_by: RefuseBy = "status",
        origins: Origins | None = None,
        app: ASGIApp | None,
        path_prefix: str | None,
        heartbeat: Heartbeat,
        limits: Limits,
        subprotocols: Sequence[str],
        compression: Compression | None = None,
        ssl_context: ssl.SSLContext | None,
        trusted_proxies: Sequence[str] = (),
        forwarded_host: bool = False,
        grace: float,
        observer: Observer | None = None,
    ) -> None:
        if path_prefix is not None:
            check_prefix(path_prefix)
        elif app is None:
            raise ValueError("without path_prefix there is an app, and no handler, hub and admit")
        if app is not None and not callable(app):
            raise TypeError(f"app is {app!r}; it must be an ASGI application, or None")
        if refuse_by not in ("status", "close"):
            raise ValueError(f"refuse_by is {refuse_by!r}; it must be 'status' or 'close'")
        if ssl_context is not None:
            check_server_context(ssl_context, "an ssl.SSLContext, or None")
        check_seconds("grace", grace, zero=True)
        proxies = Proxies(trusted_proxies, forwarded_host=forwarded_host)
        self._grace = grace
        self._service = service = Service(
            handler=handler,
            handler_errors=handler_errors,
            hub=hub,
            admit=admit,
            permissions=permissions,
            origins=origins,
            path_prefix=path_prefix,
            heartbeat=heartbeat,
            limits=limits,
            observer=observer,
        )
        self._parts = parts = Parts(limits, ssl_context)
        self._http = self._lifespan = None
        if app is not None:
            # Here, so that Hypercorn is loaded only where there is something for it to serve.
            from .http import HTTPFront

            self._lifespan = Lifespan(app)
            timeout = limits.handshake_timeout
            self._http = HTTPFront(app, parts.turns, timeout, self._lifespan.state, proxies)
        self._admission = Admission(
            parts,
            service,
            proxies,
            check_subprotocols(subprotocols),
            compression=compression,
            refuse_by=refuse_by,
            http_prefix=None if app is None else path_prefix,
            http_only=path_prefix is None,
        )
        #: Where peers are served; None: it does not run.
        self._tasks: trio.Nursery | None = None
        self._peers = Peers(parts, service, self._admission, self._http)

    @property
    def port(self) -> int:
        """The TCP port, the same on all addresses; sockets that were given may have others.

        Raises:
            RuntimeError: there is none.
        """
        if not self.addresses:
            raise RuntimeError(f"the server has no TCP port; it listens on {self.paths}")
        return self.addresses[0][1]

    @property
    def draining(self) -> bool:
        """Whether it is shutting down."""
        return self._service.draining.is_set()

    def statistics(self) -> ServerStatistics:
        """The server at this moment."""
        return self._service.statistics(
            pending=self._peers.pending,
            http=0 if self._http is None else self._http.connections,
            unfinished=self._parts.unfinished.held,
            compression=self._admission.compression,
        )

    def drain(self) -> None:
        """Begin to shut down; `serve` returns when all peers are gone or the grace time is over."""
        self._service.draining.set()

    def take(self, sock: socket.socket) -> None:
        """Serve a socket that is connected already, like one that a listener accepted.

        Args:
            sock: a stream, of TCP or a Unix socket; the server's from now on.

        Raises:
            RuntimeError: the server does not run; the socket is still the caller's.
        """
        if self._tasks is None:
            raise RuntimeError("the server does not run")
        self._peers.start_soon(sock, self._tasks)

    def replace_ssl_context(self, ssl_context: ssl.SSLContext) -> None:
        """Use another certificate from the next handshake on; open connections keep theirs.

        Args:
            ssl_context: a new one, like that which `serve` was given.

        Raises:
            TypeError: it is none.
            ValueError: it is a client's, or the server does not speak TLS.
        """
        check_server_context(ssl_context, "an ssl.SSLContext")
        if self._parts.ssl_context is None:
            raise ValueError("the server does not speak TLS, and cannot begin to")
        self._parts.ssl_context = ssl_context

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
        self.addresses = [it.getsockname()[:2] for it in listeners if is_tcp(it)]
        self.paths = [unix_name(it) for it in listeners if not is_tcp(it)]
        with self._parts.poller, contextlib.ExitStack() as listening:
            for listener in listeners:
                set_up(listener, self._service.shared.heartbeat.patience)
                listening.enter_context(listener)
            try:
                await self._run(listening, listeners, task_status)
            finally:
                self._service.tell()

    async def _run(
        self,
        listening: contextlib.ExitStack,
        listeners: Sequence[socket.socket],
        task_status: trio.TaskStatus[Server],
    ) -> None:
        failure = None
        async with trio.open_nursery() as nursery:
            await nursery.start(self._parts.poller.run)
            await nursery.start(self._parts.turns.run)
            await self._service.start(nursery)
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
            self._tasks = peers
            try:
                async with trio.open_nursery() as accepting:
                    for listener in listeners:
                        accepting.start_soon(accept_forever, listener, self.take)
                    task_status.started(self)
                    await self._service.draining.wait()
                    accepting.cancel_scope.cancel()
            finally:
                listening.close()
            until = peers.cancel_scope.deadline = trio.current_time() + self._grace
            await self._peers.drain(self._grace)
            # The nursery may end from here on.
            self._tasks = None
        return until


async def serve(
    handler: Handler | None,
    port: int | None = None,
    *,
    host: str | Sequence[str] | None = LOOPBACK,
    uds: str | os.PathLike[str] | None = None,
    uds_mode: int = 0o660,
    sockets: Sequence[socket.socket] = (),
    handler_errors: Literal["raise", "close"] = "raise",
    heartbeat: Heartbeat = Heartbeat(),  # noqa: B008 - immutable
    hub: Hub | None = None,
    admit: Callable[[Request], Awaitable[Identity | None]] | None = None,
    permissions: Permissions | None = None,
    refuse_by: Literal["status", "close"] = "status",
    allowed_origins: Sequence[str] = (),
    app: ASGIApp | None = None,
    path_prefix: str = "/ws/",
    subprotocols: Sequence[str] = (),
    compression: Compression | None = None,
    ssl_context: ssl.SSLContext | None = None,
    trusted_proxies: Sequence[str] = (),
    forwarded_host: bool = False,
    limits: Limits = Limits(),  # noqa: B008 - immutable
    grace: float = 8.0,
    observer: Observer | None = None,
    task_status: trio.TaskStatus[Server] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve WebSockets, until cancelled or drained.

    It listens on a TCP port, at a path (unix(7)), with sockets that are open already, or all of
    them. Each connection is a task with a nursery inside. `handler` runs in that nursery, and is
    cancelled when the connection ends. An exception that it raises closes its connection with 1011
    and propagates out of here, as with `trio.serve_tcp`, unless `handler_errors` says otherwise.
    `ConnectionClosed` does not propagate: the end of one connection must not end the server. An
    exception that this package does not expect ends its own connection only, with 1011 and the
    reason ``internal-error``; its traceback is logged.

    Args:
        handler: an async function, called with each `Connection`; when it returns the connection
            is closed with 1000. None: connections do what their URLs ask for of `hub`.
        port: TCP port; 0: the system chooses one, which `Server.port` tells. None: there is no TCP
            but that of `sockets`.
        host: name or address to listen on, or several; None, or an empty one: all addresses, of
            IPv4 and IPv6; ``::`` likewise, where the system must have IPv6.
        uds: path of a Unix socket. One that an ended server has left is replaced. It is removed
            when the server drains or ends, where it is still this one. None: there is none.
        uds_mode: mode of its file (chmod(2)), 0o660 unless given; who may write to it, may connect.
        sockets: those that listen already, or are bound: of TCP, or Unix sockets. The server takes
            them over, and closes them when it drains or ends; a path of theirs stays.
        handler_errors: ``raise``: what a handler raises propagates. ``close``: it is logged with
            its traceback, counted, and ends its own connection only.
        heartbeat: how connections beat, and when they count as dead.
        hub: where connections subscribe and publish, as their URLs ask for. Beside a handler URLs
            ask for nothing: there it is for `Hub.disconnect` alone, which needs an `admit`. With
            both, handshakes wait while its backend is away. None: there is none.
        admit: an async function, called with the `Request` of each WebSocket before it is opened.
            It returns who the peer is, an `Identity`, or None for an anonymous one; it raises
            `Refused` to give another answer. A connection whose identity has expired is closed with
            3000. Any other exception is logged with its traceback and answered with 500. It has
            what is left of ``limits.handshake_timeout`` and is cancelled then (408), or when the
            server drains (503). It is not called for a request that is refused anyway, nor for one
            that goes to `app`. None: all requests are admitted.
        permissions: what peers may do of what their URLs ask for. None: the default of
            `Permissions`. Not beside a handler, which decides by itself.
        refuse_by: how a peer is told that it is not who it should be (401), or may not do what it
            asks for (403). ``status``: by that HTTP status. ``close``: the WebSocket is opened and
            closed with 3000 or 4003, since pages cannot see a status.
        allowed_origins: pages that may connect beside those of the server's own origin, whose host
            and port are those of the header Host; others get 403, and requests without an Origin
            are no page's. Each is an origin, ``https://example.com:8443`` for example; without
            a scheme it is http and https, without a port the scheme's. ``*.example.com`` is every
            subdomain, and not the domain; ``null`` is what pages share that have no origin of their
            own. ``["*"]`` switches the check off: never with a cookie by which `admit` knows
            a peer.
        app: an ASGI 3 application for every request that is not below `path_prefix`, over
            HTTP/1.1; None: every request is taken for a WebSocket handshake. It is told of start
            and end (ASGI lifespan 2.0): it has 60 seconds to start before the server accepts, and
            what is left of `grace`, or 1 second, to shut down after the last peer. A request of
            which it neither takes nor gives anything for 30 seconds is ended, with 500 where it is
            not answered: a stream or a long poll must send something within that time. So is a
            WebSocket of its own on which nothing moves.
        path_prefix: what the path of a WebSocket begins with, where there is an `app` or a `hub`.
        subprotocols: names that the server speaks, the preferred one first.
        compression: compress messages for peers that offer it (permessage-deflate, RFC 7692); None:
            for none. Not where a peer can see the size of a message that has both a secret and what
            an attacker chose.
        ssl_context: speak TLS; where its ALPN protocols are set, to ``http/1.1`` alone: a client
            that is offered ``h2`` and speaks it gets 505. Options are added to it: no
            renegotiation, and a FIN without close_notify is no error. None: plain.
        trusted_proxies: addresses and networks of proxies, or ``unix`` for all peers over a Unix
            socket. Only from them X-Forwarded-For and X-Forwarded-Proto are believed: a peer's
            address is then that of the client.
        forwarded_host: believe the X-Forwarded-Host of trusted proxies, too: it takes the place of
            Host. Only for proxies that set it, or append to it.
        limits: what the server holds at most.
        grace: seconds that draining may take; 8 are less than the 10 that ``docker stop`` waits.
        observer: is told what happens to sockets and connections; None: it is only counted.
        task_status: gets the `Server` once it accepts.

    Raises:
        OSError: an address cannot be listened on; its ``filename`` says which. For a path in use,
            or one that is no socket, see `uds`: it is left alone. Or another process has shut down
            one of `sockets`.
        StartupFailed: `app` says that it did not start, or took too long.
        TypeError: an argument is of another type.
        ValueError: an argument can never be right, there is neither `handler` nor `hub`, there are
            `permissions` beside a handler, or there is nowhere to listen.
    """
    check_trio()
    check_prefix(path_prefix)
    server = Server(
        handler=handler,
        handler_errors=handler_errors,
        hub=hub,
        admit=admit,
        permissions=permissions,
        refuse_by=refuse_by,
        origins=Origins(allowed_origins),
        app=app,
        path_prefix=path_prefix,
        heartbeat=heartbeat,
        limits=limits,
        subprotocols=subprotocols,
        compression=compression,
        ssl_context=ssl_context,
        trusted_proxies=trusted_proxies,
        forwarded_host=forwarded_host,
        grace=grace,
        observer=observer,
    )
    listeners = await open_endpoints(port, host, uds, uds_mode, sockets)
    await server.run(listeners, task_status=task_status)
