"""A client's socket until its opening handshake is over: plain, or with TLS."""

from __future__ import annotations

import contextlib
import socket
import ssl
from typing import Final

import trio

from .._protocol.deflate import Deflate
from .._transports import Transport
from .._transports.client import ClientTCPTransport, ClientTLSTransport
from .._transports.tls_session import RECORD, Session
from .parts import Parts, parts

_CHUNK: Final = 16384


class ClientSocket:
    """A connected, non-blocking socket.

    Args:
        sock: the socket; `abort` closes it.
    """

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock

    async def receive_some(self) -> bytes:
        """Wait for bytes; empty at the end of the stream. Raises `OSError`."""
        while True:
            await trio.lowlevel.wait_readable(self.sock)
            with contextlib.suppress(BlockingIOError):
                return self.sock.recv(_CHUNK)

    async def send_all(self, data: bytes) -> None:
        """Send bytes. Raises `OSError`."""
        await trio.lowlevel.checkpoint()
        while data:
            try:
                data = data[self.sock.send(data) :]
            except BlockingIOError:
                await trio.lowlevel.wait_writable(self.sock)

    def transport(
        self, message_size: int, received: bytes, deflate: Deflate | None = None
    ) -> Transport:
        """Make the transport of the connection, which owns the socket from now on.

        Args:
            message_size: the largest message to receive, in bytes.
            received: bytes that came behind the handshake's response.
            deflate: what the handshake agreed on; None: nothing is compressed.
        """
        shared = parts()
        reads = shared.reads(message_size)
        return ClientTCPTransport(self.sock, reads, shared.poller, received, deflate)

    def abort(self) -> None:
        """Close the socket at once. Idempotent."""
        if self.sock.fileno() != -1:
            trio.lowlevel.notify_closing(self.sock)
            self.sock.close()


class SecureClientSocket(ClientSocket):
    """A connected, non-blocking socket with TLS.

    Args:
        sock: the socket; `abort` closes it.
        context: a client's.
        host: the server's name, which its certificate must have.
    """

    def __init__(self, sock: socket.socket, context: ssl.SSLContext, host: str) -> None:
        super().__init__(sock)
        self._shared: Parts = parts()
        self._session = Session(context, self._shared.bios, host)
        #: The TLS handshake is done.
        self._open = False

    async def shake_hands(self) -> None:
        """Do the TLS handshake. Raises `OSError`, of which an `ssl.SSLError` is one."""
        session, data = self._session, b""
        while not self._open:
            try:
                self._open = session.handshake(data)
            except ssl.SSLError:
                with contextlib.suppress(OSError):
                    session.send(self.sock)  # the alert
                raise
            await self._send()
            if not self._open and not (data := await super().receive_some()):
                raise ConnectionResetError("the server ended the connection")

    async def receive_some(self) -> bytes:
        session, view = self._session, self._shared.bios.view
        while True:
            if session.waiting:
                await trio.lowlevel.checkpoint()
            else:
                await trio.lowlevel.wait_readable(self.sock)
            try:
                count = session.receive(self.sock, view)
            except BlockingIOError:
                continue
            if count is None:
                return b""
            if count:
                return bytes(view[:count])

    async def send_all(self, data: bytes) -> None:
        await trio.lowlevel.checkpoint()
        for begin in range(0, len(data), RECORD):
            self._session.encrypt(data[begin : begin + RECORD])
            await self._send()

    async def _send(self) -> None:
        while not self._session.send(self.sock):
            await trio.lowlevel.wait_writable(self.sock)

    def transport(
        self, message_size: int, received: bytes, deflate: Deflate | None = None
    ) -> Transport:
        shared = self._shared
        reads = shared.reads(message_size)
        return ClientTLSTransport(self.sock, self._session, reads, shared.poller, received, deflate)

    def abort(self) -> None:
        if self._open and self.sock.fileno() != -1:
            self._session.notify_nowait(self.sock)
        super().abort()
