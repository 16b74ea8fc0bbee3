"""Connections to a handler or a hub without a network, for tests.

The server is a whole one that has no listener. Each connection is a socket pair of the kernel, one
end of which the server serves as a socket that it has accepted: with the real handshake, real
frames, and its own poller. What one end sends has arrived at the other within the call, so that a
virtual clock has nothing to jump over.
"""

from __future__ import annotations

import contextvars
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import TYPE_CHECKING, Final, Literal, TypedDict, Unpack

import trio

from .._channels.hub import Hub
from .._channels.permissions import Permissions
from .._checks import check_prefix, check_trio
from .._connection.connection import Connection
from .._connection.handler import Handler
from .._exceptions import HandshakeFailed
from .._heartbeat import Heartbeat
from .._identity import Identity
from .._observer import Observer
from .._plain import Plain, leaves
from .._protocol.compression import Compression
from .._protocol.request import Request
from .._server.limits import Limits
from .._server.origins import Origins
from .._server.server import Server
from .client_end import ClientEnd
from .peer import Peer, PeerClosed

if TYPE_CHECKING:  # it loads h11, which a server does not need
    from .._client.address import Headers


class ServeOptions(TypedDict, total=False):
    """The options of `trio_beat.serve` that make sense without a network."""

    hub: Hub | None
    handler_errors: Literal["raise", "close"]
    heartbeat: Heartbeat
    admit: Callable[[Request], Awaitable[Identity | None]] | None
    permissions: Permissions | None
    refuse_by: Literal["status", "close"]
    allowed_origins: Sequence[str]
    path_prefix: str
    subprotocols: Sequence[str]
    compression: Compression | None
    trusted_proxies: Sequence[str]
    forwarded_host: bool
    limits: Limits
    grace: float
    observer: Observer | None


_CLOSED: Final = "has closed"
#: Which connection the handler's task is for.
_connecting: Final[contextvars.ContextVar[ClientEnd]] = contextvars.ContextVar("_connecting")


class Pairs:
    """A server without a network; `open_pairs` makes it.

    Attributes:
        server: for its statistics, or to drain it.
    """

    def __init__(
        self, server: Server, nursery: trio.Nursery, *, handled: bool, options: ServeOptions
    ) -> None:
        self.server = server
        self._nursery = nursery
        self._handled = handled
        self._heartbeat = options.get("heartbeat", Heartbeat()).message
        self._subprotocols = options.get("subprotocols", ())
        self._compresses = options.get("compression") is not None
        self._ends: set[ClientEnd] = set()

    async def connect(
        self,
        target: str = "/",
        *,
        headers: Headers = (),
        offered: Sequence[str] | None = None,
        compress: bool | None = None,
        echo_heartbeats: bool = False,
    ) -> Peer:
        """Open another connection; it is closed, with 1000, when the context is left.

        Where there is a handler, it has begun when this returns, unless the server has closed.

        Args:
            target: path and query of the request; the host is ``localhost``.
            headers: of the request beside the handshake's own, a mapping or pairs.
            offered: subprotocols to offer, the preferred one first; None: those of the server.
            compress: offer compression, and compress each message where that is agreed on; None:
                if the server has it.
            echo_heartbeats: the peer answers text heartbeats by the same text.

        Returns:
            The client's end.

        Raises:
            HandshakeDeclined: the server answers with an HTTP status: ``status``, ``body``.
            HandshakeFailed: it has ended the connection.
            RuntimeError: the server has been drained to its end, or the context was left.
            TypeError: an argument is of another type.
            ValueError: an argument can never be right.
        """
        # Loads h11, which `import trio_beat.testing` should not.
        from .._client.address import make_address

        if not isinstance(target, str) or not target.startswith("/"):
            # Not quoted: its query may be secret.
            raise ValueError("target must be a text that begins with /")
        names = self._subprotocols if offered is None else offered
        address = make_address(f"ws://localhost{target}", headers, names, None)
        compresses = self._compresses if compress is None else compress
        handshake = address.handshake(Compression() if compresses else None)
        ours, theirs = socket.socketpair()
        end = ClientEnd(
            ours,
            theirs,
            handshake,
            handled=self._handled,
            heartbeat=self._heartbeat,
            echoes=echo_heartbeats,
        )
        try:
            self._serve(end, theirs)
            await end.opened.wait()
            end.check_opened()
        except BaseException:
            end.close_socket(_CLOSED)
            raise
        return Peer(end)

    def _serve(self, end: ClientEnd, server_end: socket.socket) -> None:
        # The handler's task inherits it, and so knows its client's end.
        context = contextvars.copy_context()
        context.run(_connecting.set, end)
        try:
            context.run(self.server.take, server_end)
        except BaseException:
            server_end.close()
            raise
        self._ends.add(end)
        self._nursery.start_soon(self._run, end, name="trio_beat peer")

    async def _run(self, end: ClientEnd) -> None:
        try:
            await end.run()
        finally:
            self._ends.discard(end)

    async def close(self) -> None:
        """Close all connections with 1000, and wait until the server has closed them.

        One whose peer would not take part is closed without a word.
        """
        async with trio.open_nursery() as nursery:
            for end in list(self._ends):
                if end.silent or not end.reads or not end.opened.is_set():
                    end.close_socket(_CLOSED)
                else:
                    nursery.start_soon(Peer(end).close)

    def abandon(self) -> None:
        """Close all sockets at once."""
        for end in list(self._ends):
            end.close_socket(_CLOSED)


def open_pairs(
    handler: Handler | None = None, **options: Unpack[ServeOptions]
) -> AbstractAsyncContextManager[Pairs]:
    """Make a server without a network, to which a test opens connections.

    As `open_pair`, for several of them::

        async with open_pairs(chat) as pairs:
            alice = await pairs.connect("/room?name=alice")
            bob = await pairs.connect("/room?name=bob")

    When the context is left, the connections are closed and the server is drained. Where the block
    raised, all of them are cut off.

    Args:
        handler: called with each `Connection`; None: there is a hub.
        options: those of `trio_beat.serve` that are not about a network: see `ServeOptions`.

    Raises:
        TypeError, ValueError: as `trio_beat.serve` does.
        Exception: what a handler raises comes out of the context, as it comes out of
            `trio_beat.serve`: as it is, unless there are several. It comes in place of a
            `PeerClosed` or `HandshakeFailed` that the block raises, as the consequence of it.
    """
    return Plain(_open_pairs(handler, options))


@asynccontextmanager
async def _open_pairs(handler: Handler | None, options: ServeOptions) -> AsyncIterator[Pairs]:
    check_trio()
    server = _make_server(handler, options)
    ended: BaseException | None = None
    try:
        async with trio.open_nursery(strict_exception_groups=True) as nursery:
            await nursery.start(server.run, [])
            pairs = Pairs(server, nursery, handled=handler is not None, options=options)
            try:
                yield pairs
                await pairs.close()
            except (Exception, BaseExceptionGroup) as exc:
                if not all(isinstance(leaf, PeerClosed | HandshakeFailed) for leaf in leaves(exc)):
                    raise
                # It may be the consequence of what the server raises, which is on its way.
                ended = exc
                nursery.cancel_scope.cancel()
            finally:
                pairs.abandon()
            server.drain()
        if ended is not None:
            raise ended
    finally:
        del ended  # its traceback holds this frame


def open_pair(
    handler: Handler | None = None,
    target: str = "/",
    *,
    headers: Headers = (),
    offered: Sequence[str] | None = None,
    compress: bool | None = None,
    echo_heartbeats: bool = False,
    **options: Unpack[ServeOptions],
) -> AbstractAsyncContextManager[Peer]:
    """Make a connection to a handler, or to a hub, without a network: gives the client's end.

    It goes the way of any connection: a handshake, frames, beats, and a socket of the kernel, with
    which a virtual clock stays exact. For example, with pytest-trio::

        async def test_it_answers(autojump_clock):
            async with open_pair(echo) as peer:
                await peer.send("hello")
                assert await peer.receive() == "hello"

    When the context is left, the connection is closed with 1000, and the handler has ended. Where
    the block raised, it is cut off.

    Args:
        handler: called with the `Connection`; None: there is a hub.
        target: path and query of the request; the host is ``localhost``.
        headers: of the request beside the handshake's own, a mapping or pairs.
        offered: subprotocols to offer, the preferred one first; None: those of the server.
        compress: offer compression, and compress each message where that is agreed on; None: if
            the server has it.
        echo_heartbeats: the peer answers text heartbeats by the same text.
        options: those of `trio_beat.serve` that are not about a network: see `ServeOptions`.

    Raises:
        HandshakeDeclined: the server answers with an HTTP status: ``status``, ``body``.
        TypeError, ValueError: an argument can never be right.
        Exception: what the handler raises, as `open_pairs` tells.
    """
    return _open_pair(handler, target, headers, offered, compress, echo_heartbeats, options)


@asynccontextmanager
async def _open_pair(
    handler: Handler | None,
    target: str,
    headers: Headers,
    offered: Sequence[str] | None,
    compress: bool | None,
    echo_heartbeats: bool,
    options: ServeOptions,
) -> AsyncIterator[Peer]:
    async with open_pairs(handler, **options) as pairs:
        yield await pairs.connect(
            target,
            headers=headers,
            offered=offered,
            compress=compress,
            echo_heartbeats=echo_heartbeats,
        )


def _make_server(handler: Handler | None, options: ServeOptions) -> Server:
    unknown = sorted(options.keys() - ServeOptions.__annotations__.keys())
    if unknown:
        known = ", ".join(ServeOptions.__annotations__)
        raise TypeError(f"{unknown[0]} is no option without a network; there are {known}")
    prefix = options.get("path_prefix", "/ws/")
    check_prefix(prefix)
    return Server(
        handler=None if handler is None else _known(handler),
        handler_errors=options.get("handler_errors", "raise"),
        hub=options.get("hub"),
        admit=options.get("admit"),
        permissions=options.get("permissions"),
        refuse_by=options.get("refuse_by", "status"),
        origins=Origins(options.get("allowed_origins", ())),
        app=None,
        path_prefix=prefix,
        heartbeat=options.get("heartbeat", Heartbeat()),
        limits=options.get("limits", Limits()),
        subprotocols=options.get("subprotocols", ()),
        compression=options.get("compression"),
        ssl_context=None,
        trusted_proxies=options.get("trusted_proxies", ()),
        forwarded_host=options.get("forwarded_host", False),
        grace=options.get("grace", 8.0),
        observer=options.get("observer"),
    )


def _known(handler: Handler) -> Handler:
    """Tell the client's end when its handler begins."""
    if not callable(handler):
        return handler  # the server says what is wrong

    def run(connection: Connection) -> Awaitable[object]:
        # None: the socket was given to the server by somebody else.
        if (end := _connecting.get(None)) is not None:
            end.handled_by(connection)
        return handler(connection)

    return run
