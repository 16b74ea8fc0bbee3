"""A new socket whose first request has yet to be read.

TCP and TLS work alike: the request is read once, and the bytes are handed on with the socket.
(``MSG_PEEK`` would serve plain sockets only, and could not wait for more bytes: those that are
there keep the socket readable.)
"""

from __future__ import annotations

import contextlib
import socket
import ssl
from abc import ABC, abstractmethod
from typing import Final, Literal, NamedTuple

import trio

from .._exceptions import Refused
from .._protocol.deflate import Deflate
from .._protocol.head import Head, find_head
from .._protocol.refusal import refusal_response
from .._transports import Transport
from .._transports.framing import ReadContext
from .._transports.kernel import peer_name
from .._transports.polling import Poller
from .._transports.tcp import TCPTransport
from .._transports.tls import TLSTransport
from .._transports.tls_session import RECORD, Bios, Session
from .._turns import Turns
from .places import Place

_CHUNK: Final = 16384
#: Empty lines that may stand before a request.
_EMPTY_LINES: Final = 8
#: Seconds that a peer has to read its last answer, and bytes that it may still send meanwhile.
LINGER: Final = 2.0
LINGER_BYTES: Final = 2**20


class FirstRequest(NamedTuple):
    """The first request of a socket."""

    head: Head
    behind: bytes  #: what came behind the head


class PendingSocket(ABC):
    """A connected socket whose first request is not answered yet."""

    #: Whether it speaks TLS.
    secure = False

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        #: The client's address, for people, once a proxy has told it.
        self.client_name: str | None = None
        self._received = bytearray()
        self._empty_lines = 0
        #: What it takes of its address and its user; None: nothing that counts.
        self.place: Place | None = None

    @property
    def peer(self) -> str:
        """The address of the peer, or of the client behind it, for people."""
        return self.name if self.client_name is None else self.client_name

    @property
    def name(self) -> str:
        """The address at the other end of the socket, for people."""
        return peer_name(self.sock)

    @property
    def scheme(self) -> Literal["https"] | None:
        """By which scheme the peer speaks; None: without TLS, it may have been another before."""
        return "https" if self.secure else None

    def read_head_nowait(self) -> FirstRequest | None:
        """Read the first request where all of it is there already: this needs no time limit.

        Raises:
            Refused: it cannot be HTTP.
            OSError: the socket failed.
        """
        return None

    async def read_head(self, turns: Turns) -> FirstRequest | None:
        """Read the first request's line and headers.

        Args:
            turns: one is taken for each piece.

        Returns:
            The request; None when the peer left without one.

        Raises:
            Refused: it cannot be HTTP.
            OSError: the socket failed.
        """
        while chunk := await self.receive_some():
            await turns.take()
            request = self._received_some(chunk)
            if request is not None:
                return request
        if self._received:
            raise Refused(400, "request ended before its header block did")
        return None

    def _received_some(self, chunk: bytes) -> FirstRequest | None:
        self._received += chunk
        # An empty line before a request is skipped (RFC 9112, section 2.2), but a flood of them
        # would be work without a bound.
        while self._received.startswith(b"\r\n"):
            del self._received[:2]
            self._empty_lines += 1
            if self._empty_lines > _EMPTY_LINES:
                raise Refused(400, "not HTTP: expected a request, not empty lines")
        if not self._received or self._received == b"\r":
            return None
        head = find_head(self._received)
        return None if head is None else FirstRequest(head, bytes(self._received[len(head.raw) :]))

    async def answer(self, data: bytes, turns: Turns) -> None:
        """Send the peer its last answer.

        Args:
            data: the answer.
            turns: one is taken for each piece that the peer still sends.
        """
        until = trio.current_time() + LINGER
        with contextlib.suppress(OSError), trio.move_on_at(until):
            await self.send_all(data)
            self.end_output()
            await self.linger(turns, until)

    async def linger(self, turns: Turns, until: float) -> None:
        """Give the peer time to read its last answer, which a reset would destroy.

        What the peer still sends is read and dropped, up to `LINGER_BYTES`.

        Args:
            turns: one is taken for each piece.
            until: when that time is over.
        """
        left = LINGER_BYTES
        with trio.move_on_at(until):
            while left > 0 and (chunk := await self.receive_some()):
                left -= len(chunk)
                await turns.take()

    def end_output(self) -> None:
        """End our side of the stream. Idempotent."""
        with contextlib.suppress(OSError):
            self.sock.shutdown(socket.SHUT_WR)

    def refuse_nowait(self, refusal: Refused) -> None:
        """Send the peer its refusal, as far as that needs no waiting, and close."""
        self.abort()

    @abstractmethod
    async def begin(self) -> None:
        """Do what comes before the first byte of the request. Raises `OSError`."""

    @abstractmethod
    async def receive_some(self) -> bytes:
        """Wait for bytes; empty at the end of the stream. Raises `OSError`."""

    @abstractmethod
    async def send_all(self, data: bytes) -> None:
        """Send bytes. Raises `OSError`."""

    @abstractmethod
    def transport(
        self, reads: ReadContext, poller: Poller, received: bytes, deflate: Deflate | None = None
    ) -> Transport:
        """Make the transport of a connection, which owns the socket from now on.

        Args:
            reads: what the transports of a server share.
            poller: tells when a socket is readable.
            received: bytes that followed the handshake's request.
            deflate: what the handshake agreed on; None: nothing is compressed.
        """

    @abstractmethod
    def abort(self) -> None:
        """Close the socket at once. Idempotent."""


class PendingTCP(PendingSocket):
    """A pending socket without TLS."""

    async def begin(self) -> None:
        pass

    def read_head_nowait(self) -> FirstRequest | None:
        try:
            chunk = self.sock.recv(_CHUNK)
        except BlockingIOError:
            return None
        # An end of stream is read again later.
        return self._received_some(chunk) if chunk else None

    def refuse_nowait(self, refusal: Refused) -> None:
        with contextlib.suppress(OSError):
            self.sock.send(refusal_response(refusal))
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

    def transport(
        self, reads: ReadContext, poller: Poller, received: bytes, deflate: Deflate | None = None
    ) -> Transport:
        return self._named(TCPTransport(self.sock, reads, poller, received, deflate))

    def _named(self, transport: TCPTransport) -> TCPTransport:
        if self.client_name is not None:
            transport.peer = self.client_name
        return transport

    def abort(self) -> None:
        if self.sock.fileno() != -1:
            trio.lowlevel.notify_closing(self.sock)
            self.sock.close()


class PendingTLS(PendingTCP):
    """A pending socket with TLS; a plain one until the TLS handshake begins."""

    secure = True

    def __init__(
        self, sock: socket.socket, context: ssl.SSLContext, bios: Bios, turns: Turns
    ) -> None:
        super().__init__(sock)
        self._context = context
        self._bios = bios
        self._turns = turns
        #: Set from the end of the TLS handshake until our side of TLS ends.
        self._session: Session | None = None
        #: Whether an answer can be sent: in plain text, or encrypted.
        self._answerable = False
        #: An answer is being sent, or was cut off: another one would be taken for the rest of it.
        self._sending = False
        #: The close_notify waits for the socket.
        self._notifying = False

    async def begin(self) -> None:
        await trio.lowlevel.wait_readable(self.sock)
        with contextlib.suppress(BlockingIOError):
            # Every HTTP method begins with a letter, and no TLS record does.
            self._answerable = self.sock.recv(1, socket.MSG_PEEK).isalpha()
        if self._answerable:
            raise Refused(400, "this port speaks TLS: use https:// or wss://")
        # A step of a TLS handshake takes as long as dozens of messages, and thousands of peers may
        # connect at once.
        await self._turns.take()
        session = Session(self._context, self._bios)
        while not await self._shake_hands(session):
            await trio.lowlevel.wait_readable(self.sock)
            await self._turns.take()
        self._session, self._answerable = session, True

    async def _shake_hands(self, session: Session) -> bool:
        """Take a step of the TLS handshake; returns whether it was the last one."""
        try:
            data = self.sock.recv(_CHUNK)
        except BlockingIOError:
            return False
        if not data:
            raise ConnectionResetError("TLS handshake failed: the peer left")
        try:
            done = session.handshake(data)
        except ssl.SSLError as exc:
            with contextlib.suppress(OSError):
                session.send(self.sock)  # the alert
            raise ConnectionResetError(f"TLS handshake failed: {exc}") from exc
        while not session.send(self.sock):
            await trio.lowlevel.wait_writable(self.sock)
        return done

    def read_head_nowait(self) -> FirstRequest | None:
        return None

    async def answer(self, data: bytes, turns: Turns) -> None:
        if self._answerable:
            await super().answer(data, turns)

    def refuse_nowait(self, refusal: Refused) -> None:
        if self._session is not None and not self._sending:
            with contextlib.suppress(OSError):
                self._session.encrypt(refusal_response(refusal))
        self.abort()

    async def receive_some(self) -> bytes:
        while (session := self._session) is not None:
            if self._notifying:
                await trio.lowlevel.wait_writable(self.sock)
                self.end_output()
                continue
            if not session.waiting:
                await trio.lowlevel.wait_readable(self.sock)
            try:
                count = session.receive(self.sock, self._bios.view)
            except BlockingIOError:
                continue
            if count is None:
                return b""
            if count:
                return bytes(self._bios.view[:count])
            await self._turns.take()
        return await super().receive_some()

    async def send_all(self, data: bytes) -> None:
        if self._session is None:
            await super().send_all(data)
            return
        if self._sending:
            raise ConnectionAbortedError("an answer was cut off")
        self._sending = True
        view = memoryview(data)
        for begin in range(0, len(view), RECORD):
            self._session.encrypt(view[begin : begin + RECORD])
            while not self._session.send(self.sock):
                await trio.lowlevel.wait_writable(self.sock)
        self._sending = False

    def end_output(self) -> None:
        if self._session is not None:
            self._session.notify()
            self._notifying = False
            with contextlib.suppress(OSError):
                # `receive_some` goes on with it where the socket did not take all of it.
                self._notifying = not self._session.send(self.sock)
            if self._notifying:
                return
            self._session = None
        super().end_output()

    def transport(
        self, reads: ReadContext, poller: Poller, received: bytes, deflate: Deflate | None = None
    ) -> Transport:
        assert self._session is not None
        return self._named(TLSTransport(self.sock, self._session, reads, poller, received, deflate))

    def abort(self) -> None:
        if self._session is not None and self.sock.fileno() != -1:
            self._session.notify_nowait(self.sock)
        super().abort()
