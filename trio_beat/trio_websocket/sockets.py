"""The sockets of a service, taken out of the streams that Trio gives."""

from __future__ import annotations

import socket
import ssl
from typing import TypeAlias

import trio

from .._server.parts import Parts
from .._server.pending import FirstRequest, PendingTCP, PendingTLS
from .._transports.framing import ReadContext
from .._transports.polling import Poller
from .frames import Frames
from .watching import WatchedTCP, WatchedTLS, WatchedTransport

#: What a service can stand on.
ServedStream: TypeAlias = trio.SocketStream | trio.SSLStream[trio.SocketStream]


class Pending(PendingTCP):
    """A socket whose first request is read below trio-websocket."""

    #: The request, once it is read.
    first: FirstRequest | None = None

    def read_head_nowait(self) -> FirstRequest | None:
        return self.first

    def watched(
        self, reads: ReadContext, poller: Poller, received: bytes, frames: Frames
    ) -> WatchedTransport:
        """Make a transport that hands on what it reads.

        Args:
            reads: what the transports of a server share.
            poller: tells when the socket is readable.
            received: bytes that followed the handshake's request.
            frames: finds the frames in them.
        """
        transport = WatchedTCP(self.sock, reads, poller, received)
        transport.frames = frames
        return transport


class PendingOverTLS(PendingTLS, Pending):
    """The same with TLS."""

    def read_head_nowait(self) -> FirstRequest | None:
        return self.first

    def watched(
        self, reads: ReadContext, poller: Poller, received: bytes, frames: Frames
    ) -> WatchedTransport:
        assert self._session is not None
        transport = WatchedTLS(self.sock, self._session, reads, poller, received)
        transport.frames = frames
        return transport


def take_socket(stream: ServedStream, parts: Parts) -> Pending:
    """Take the socket out of a stream of Trio's, which is of no use from then on.

    Raises:
        TypeError: it is no stream over a socket.
        ValueError: it is a client's, or its TLS handshake has begun.
    """
    if isinstance(stream, trio.SSLStream):
        lower = stream.transport_stream
        if not isinstance(lower, trio.SocketStream):
            raise TypeError(f"stream is TLS over {lower!r}; it must be over a trio.SocketStream")
        context = stream.context
        assert isinstance(context, ssl.SSLContext)
        if not stream.server_side or not _fresh(stream):
            raise ValueError("stream must be a server's, whose TLS handshake has not begun")
        return PendingOverTLS(_detached(lower), context, parts.bios, parts.turns)
    if not isinstance(stream, trio.SocketStream):
        kind = type(stream).__name__
        text = "it must be a trio.SocketStream, or a trio.SSLStream over one"
        raise TypeError(f"stream is of type {kind}; {text}")
    return Pending(_detached(stream))


def _fresh(stream: trio.SSLStream[trio.SocketStream]) -> bool:
    try:
        stream.cipher()
    except trio.NeedHandshakeError:
        return True
    return False


def _detached(stream: trio.SocketStream) -> socket.socket:
    sock = socket.socket(fileno=stream.socket.detach())
    sock.setblocking(False)
    return sock
