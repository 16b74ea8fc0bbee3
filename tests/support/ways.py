"""The ways to a connection: each serves peers, and dials, so that one suite runs over all."""

from __future__ import annotations

import socket
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, ClassVar, Final

import trio
from hypercorn.config import Config
from hypercorn.trio import serve as hypercorn_serve
from trio_websocket import WebSocketServer

from tests.support.h2_stream import H2Connection, H2Stream
from tests.support.harness import HANGS, tls_contexts
from tests.support.peer import Declined, Peer, PeerStream, dial_over
from trio_beat import Heartbeat, Server, ServerStatistics, serve
from trio_beat.asgi import Application, application
from trio_beat.testing import open_pairs
from trio_beat.trio_websocket import TrioWebSocketService, open_service

#: Both a PING and a text at each beat, as each way can.
BEATS: Final = Heartbeat(4, 3, "--heartbeat--")


class Place(ABC):
    """A server that runs."""

    @abstractmethod
    async def stream(self) -> PeerStream:
        """Connect to it, without a handshake of WebSocket."""

    @abstractmethod
    def statistics(self) -> ServerStatistics:
        """The server at this moment."""

    @abstractmethod
    def drain(self) -> None:
        """Begin to shut down."""

    async def dial(self, target: str = "/ws/news?subscribe-broadcast", headers: str = "") -> Peer:
        """Open a connection.

        Raises:
            Declined: it is refused.
        """
        return await dial_over(await self.stream(), target, headers)


class Way(ABC):
    """A way to a connection.

    Attributes:
        name: in the table of the documentation.
        threshold: seconds of real time without an event after which a virtual clock may jump.
    """

    name: ClassVar[str]
    threshold: ClassVar[float] = 0.0

    @abstractmethod
    def serving(self, handler: Any, **options: Any) -> AbstractAsyncContextManager[Place]:
        """Serve while the context lasts; the options are those of `trio_beat.serve`."""

    def __str__(self) -> str:
        return self.name


class _ServerPlace(Place):
    """A server of `trio_beat.serve`."""

    def __init__(self, server: Server, connect: Callable[[], Awaitable[PeerStream]]) -> None:
        self._server = server
        self._connect = connect

    async def stream(self) -> PeerStream:
        return await self._connect()

    def statistics(self) -> ServerStatistics:
        return self._server.statistics()

    def drain(self) -> None:
        self._server.drain()


class _Served(Way):
    """A way to a server of `trio_beat.serve`."""

    @abstractmethod
    def listen(self, stack: AsyncExitStack) -> tuple[dict[str, Any], Callable[..., Any]]:
        """Where to listen.

        Returns:
            Options of `serve`; and a function that connects, given the server.
        """

    @asynccontextmanager
    async def serving(self, handler: Any, **options: Any) -> AsyncIterator[Place]:
        options = {"heartbeat": BEATS} | options
        async with AsyncExitStack() as stack:
            where, connect = self.listen(stack)
            with trio.fail_after(HANGS):
                async with trio.open_nursery() as nursery:
                    call = partial(serve, handler, **options, **where)
                    server = await nursery.start(call)
                    yield _ServerPlace(server, partial(connect, server))
                    nursery.cancel_scope.cancel()


class TCP(_Served):
    """Over TCP."""

    name = "TCP"
    threshold = 0.02

    def listen(self, stack: AsyncExitStack) -> tuple[dict[str, Any], Callable[..., Any]]:
        async def connect(server: Server) -> trio.SocketStream:
            return await trio.open_tcp_stream("127.0.0.1", server.port)

        return {"port": 0}, connect


class TLS(_Served):
    """Over TLS."""

    name = "TLS"
    threshold = 0.02

    def listen(self, stack: AsyncExitStack) -> tuple[dict[str, Any], Callable[..., Any]]:
        server_context, client_context = tls_contexts()

        async def connect(server: Server) -> trio.SSLStream[trio.SocketStream]:
            return trio.SSLStream(
                await trio.open_tcp_stream("127.0.0.1", server.port),
                client_context,
                server_hostname="localhost",
                https_compatible=True,
            )

        return {"port": 0, "ssl_context": server_context}, connect


class Unix(_Served):
    """Over a Unix socket: there, bytes arrive within the call that sends them."""

    name = "Unix socket"

    def listen(self, stack: AsyncExitStack) -> tuple[dict[str, Any], Callable[..., Any]]:
        folder = stack.enter_context(TemporaryDirectory())
        path = Path(folder) / "s"

        async def connect(server: Server) -> trio.SocketStream:
            return await trio.open_unix_socket(path)

        return {"uds": path}, connect


class Pair(Way):
    """Over a socket pair, with `trio_beat.testing`."""

    name = "open_pair"

    @asynccontextmanager
    async def serving(self, handler: Any, **options: Any) -> AsyncIterator[Place]:
        async def connect() -> trio.SocketStream:
            ours, theirs = socket.socketpair()
            ours.setblocking(False)
            pairs.server.take(theirs)
            return trio.SocketStream(trio.socket.from_stdlib_socket(ours))

        with trio.fail_after(HANGS):
            async with open_pairs(handler, **{"heartbeat": BEATS, **options}) as pairs:
                yield _ServerPlace(pairs.server, connect)


class _ServicePlace(Place):
    """A service over trio-websocket."""

    def __init__(self, service: TrioWebSocketService, port: int, nursery: trio.Nursery) -> None:
        self._service = service
        self._port = port
        self._nursery = nursery

    async def stream(self) -> trio.SocketStream:
        return await trio.open_tcp_stream("127.0.0.1", self._port)

    def statistics(self) -> ServerStatistics:
        return self._service.statistics()

    def drain(self) -> None:
        self._nursery.start_soon(self._service.drain)


class TrioWebSocket(Way):
    """Over streams below trio-websocket."""

    name = "trio-websocket"
    threshold = 0.02

    @asynccontextmanager
    async def serving(self, handler: Any, **options: Any) -> AsyncIterator[Place]:
        with trio.fail_after(HANGS):
            async with open_service(handler, **{"heartbeat": BEATS, **options}) as service:
                listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
                port = listeners[0].socket.getsockname()[1]
                server = WebSocketServer(service.handle_request, service.listeners(listeners))
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(server.run)
                    yield _ServicePlace(service, port, nursery)
                    nursery.cancel_scope.cancel()


class _HypercornPlace(Place):
    """Hypercorn, with an application of `trio_beat.asgi`."""

    def __init__(self, app: Application, path: Path, stop: trio.Event) -> None:
        self._app = app
        self._stop = stop
        self.path = path

    async def stream(self) -> trio.SocketStream:
        return await trio.open_unix_socket(self.path)

    def statistics(self) -> ServerStatistics:
        return self._app.statistics()

    def drain(self) -> None:
        self._stop.set()


class ASGI(Way):
    """Over an ASGI server, by HTTP/1.1; and over a Unix socket, where bytes arrive at once."""

    name = "ASGI"
    place: ClassVar[type[_HypercornPlace]] = _HypercornPlace

    @asynccontextmanager
    async def serving(self, handler: Any, **options: Any) -> AsyncIterator[Place]:
        app = application(handler, **{"heartbeat": BEATS, **options})
        config, stop = Config(), trio.Event()
        config.graceful_timeout = 8.0
        with TemporaryDirectory() as folder, trio.fail_after(HANGS):
            config.bind = [f"unix:{folder}/s"]
            async with trio.open_nursery() as nursery:
                # Hypercorn's types are those of its own.
                run: Any = partial(
                    hypercorn_serve, app, config, shutdown_trigger=stop.wait, mode="asgi"
                )
                await nursery.start(run)
                yield self.place(app, Path(folder) / "s", stop)
                nursery.cancel_scope.cancel()


class _H2Place(_HypercornPlace):
    async def dial(self, target: str = "/ws/news?subscribe-broadcast", headers: str = "") -> Peer:
        connection = H2Connection(await self.stream())
        try:
            await connection.open()
            stream = H2Stream(connection)
            lines = [line.partition(": ") for line in headers.splitlines()]
            status = await stream.connect(target, [(name, value) for name, _, value in lines])
            fields = b"".join(b"%b: %b\r\n" % pair for pair in stream.headers)
            if status != 200:
                while data := await stream.receive_some(4096):
                    fields += data
                raise Declined(b"HTTP/2 %d \r\n" % status + fields)
        except BaseException:
            await trio.aclose_forcefully(connection.stream)
            raise
        return Peer(stream, head=fields)


class ASGI2(ASGI):
    """Over an ASGI server, by HTTP/2 (RFC 8441)."""

    name = "ASGI, HTTP/2"
    place = _H2Place


WAYS: Final = (TCP(), TLS(), Unix(), Pair(), TrioWebSocket(), ASGI(), ASGI2())
