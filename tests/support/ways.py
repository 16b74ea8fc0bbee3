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

from tests.support.harness import HANGS, tls_contexts
from tests.support.peer import Peer, PeerStream, dial_over
from trio_beat import Heartbeat, Server, ServerStatistics, serve
from trio_beat.testing import open_pairs

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


WAYS: Final = (TCP(), TLS(), Pair())
