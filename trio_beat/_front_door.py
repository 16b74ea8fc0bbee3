"""A new socket: read its first request, and find out whose it is.

The same for plain sockets and TLS: the request is read once, and what was read is handed on with
the socket. (To look at it with ``MSG_PEEK`` would do for plain sockets only, and would have to
wait for more bytes while those at hand keep the socket readable.)
"""

from __future__ import annotations

import contextlib
import socket
import ssl
from abc import ABC, abstractmethod
from typing import Final, NamedTuple

import trio

from ._handshake import Head, Refusal, find_head
from .transports import Transport
from .transports._framing import Wire
from .transports._kernel import peer_name
from .transports._poller import Poller
from .transports.native import NativeTransport
from .transports.tls import TLSStream, TLSTransport, tls_stream

_CHUNK: Final = 16384
#: Seconds that a refused peer has to read its answer.
LINGER: Final = 2.0


class Request(NamedTuple):
    """What a visitor asks for."""

    head: Head
    behind: bytes  #: what came behind the head


class Visitor(ABC):
    """A connected socket that is not yet anybody's."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self._received = bytearray()

    @property
    def peer(self) -> str:
        """The peer's address, for people."""
        return peer_name(self.sock)

    def read_head_nowait(self) -> Request | None:
        """The first request, where all of it is there already: then no time limit is needed.

        Raises:
            Refusal: it cannot be HTTP.
            OSError: the socket failed.
        """
        return None

    async def read_head(self) -> Request | None:
        """Read the first request's line and headers.

        Returns:
            The request; None when the peer left before its end.

        Raises:
            Refusal: it cannot be HTTP.
            OSError: the socket failed.
        """
        while chunk := await self.receive_some():
            request = self._received_some(chunk)
            if request is not None:
                return request
        if self._received:
            raise Refusal(400, "request ended before its header block did")
        return None

    def _received_some(self, chunk: bytes) -> Request | None:
        self._received += chunk
        # An empty line before a request is passed over (RFC 9112, section 2.2).
        while self._received.startswith(b"\r\n"):
            del self._received[:2]
        if not self._received:
            return None
        head = find_head(self._received)
        return None if head is None else Request(head, bytes(self._received[len(head.raw) :]))

    async def refuse(self, refusal: Refusal) -> None:
        """Tell the peer that it is not let in."""
        with contextlib.suppress(OSError, trio.BrokenResourceError, trio.ClosedResourceError):
            with trio.move_on_after(LINGER):
                await self.send_all(refusal.response())
                self.end_output()
                while await self.receive_some():
                    pass

    def end_output(self) -> None:
        """Tell the peer that no more bytes come. Idempotent."""
        with contextlib.suppress(OSError):
            self.sock.shutdown(socket.SHUT_WR)

    def refuse_nowait(self, refusal: Refusal) -> None:
        """Tell the peer that it is not let in, as far as that needs no waiting, and close."""
        self.abort()

    @abstractmethod
    async def greet(self) -> None:
        """Whatever comes before the first byte of the request; raises `OSError`."""

    @abstractmethod
    async def receive_some(self) -> bytes:
        """Wait for bytes; empty at the end of the stream. Raises `OSError`."""

    @abstractmethod
    async def send_all(self, data: bytes) -> None:
        """Send bytes. Raises `OSError`."""

    @abstractmethod
    def transport(self, wire: Wire, poller: Poller, received: bytes) -> Transport:
        """What a connection uses from now on.

        Args:
            wire: what the transports of a server share.
            poller: tells when a plain socket has something to read.
            received: bytes that came behind the handshake's request.
        """

    @abstractmethod
    def abort(self) -> None:
        """Close the socket at once. Idempotent."""

    #: The protocol that TLS agreed on (RFC 7301); None where there is no TLS.
    alpn: str | None = None
    secure = False


class PlainVisitor(Visitor):
    """A visitor without TLS."""

    async def greet(self) -> None:
        pass

    def read_head_nowait(self) -> Request | None:
        try:
            chunk = self.sock.recv(_CHUNK)
        except BlockingIOError:
            return None
        # An end of stream is told again.
        return self._received_some(chunk) if chunk else None

    def refuse_nowait(self, refusal: Refusal) -> None:
        with contextlib.suppress(OSError):
            self.sock.send(refusal.response())
        self.abort()

    async def receive_some(self) -> bytes:
        while True:
            await trio.lowlevel.wait_readable(self.sock)
            try:
                return self.sock.recv(_CHUNK)
            except BlockingIOError:
                continue

    async def send_all(self, data: bytes) -> None:
        while data:
            try:
                data = data[self.sock.send(data) :]
            except BlockingIOError:
                await trio.lowlevel.wait_writable(self.sock)

    def transport(self, wire: Wire, poller: Poller, received: bytes) -> Transport:
        return NativeTransport(self.sock, wire, poller, received)

    def abort(self) -> None:
        if self.sock.fileno() != -1:
            trio.lowlevel.notify_closing(self.sock)
            self.sock.close()


class TLSVisitor(Visitor):
    """A visitor behind TLS."""

    secure = True

    def __init__(self, sock: socket.socket, context: ssl.SSLContext) -> None:
        super().__init__(sock)
        self._stream: TLSStream = tls_stream(sock, context)

    async def greet(self) -> None:
        try:
            await self._stream.do_handshake()
        except (trio.BrokenResourceError, trio.ClosedResourceError) as exc:
            raise ConnectionResetError(f"TLS handshake failed: {exc.__cause__ or exc}") from exc
        self.alpn = self._stream.selected_alpn_protocol()

    async def receive_some(self) -> bytes:
        try:
            return bytes(await self._stream.receive_some(_CHUNK))
        except (trio.BrokenResourceError, trio.ClosedResourceError) as exc:
            raise ConnectionResetError("TLS connection lost") from exc

    async def send_all(self, data: bytes) -> None:
        try:
            await self._stream.send_all(data)
        except (trio.BrokenResourceError, trio.ClosedResourceError) as exc:
            raise ConnectionResetError("TLS connection lost") from exc

    def transport(self, wire: Wire, poller: Poller, received: bytes) -> Transport:
        return TLSTransport(self._stream, wire, received)

    def abort(self) -> None:
        self._stream.transport_stream.abort()
