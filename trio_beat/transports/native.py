"""Plain TCP: a non-blocking socket and nothing between it and the connection."""

from __future__ import annotations

import fcntl
import socket
import struct
import termios
from collections.abc import Awaitable, Sequence

import trio

from .._outbox import Outbox
from . import END_OF_STREAM, Event
from ._framing import FramingTransport, Wire
from ._poller import Poller


def peer_name(sock: socket.socket) -> str:
    """The address of a socket's peer, for people."""
    try:
        address = sock.getpeername()
    except OSError:
        return "unknown"
    if isinstance(address, tuple):
        host, port = address[:2]
        return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    return "local"


def unread(sock: socket.socket) -> bool:
    """Whether the kernel holds bytes of the peer's, or its end of stream."""
    try:
        sock.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
    except BlockingIOError:
        return False
    except OSError:
        return True
    return True


def in_flight(sock: socket.socket) -> int:
    """How many bytes the peer's kernel has not acknowledged (``SIOCOUTQ``, tcp(7))."""
    try:
        return int(struct.unpack("i", fcntl.ioctl(sock, termios.TIOCOUTQ, b"\0\0\0\0"))[0])
    except OSError:
        return 0


class NativeTransport(FramingTransport):
    """A connected, non-blocking TCP socket.

    Args:
        sock: the socket; the transport closes it.
        wire: what the transports of a server share.
        poller: tells when there is something to read.
        received: bytes that came behind the handshake's request.
    """

    __slots__ = ("_backlog", "_early", "_socket", "_watch", "peer")

    peer: str

    def __init__(
        self, sock: socket.socket, wire: Wire, poller: Poller, received: bytes = b""
    ) -> None:
        super().__init__(wire)
        self._socket = sock
        self._watch = poller.watch(sock)
        if received:
            self._watch.more()
        self._early: bytes | None = received or None
        #: What was in flight when a silent beat was last looked at.
        self._backlog = 0
        self.peer = peer_name(sock)

    def wait_readable(self) -> Awaitable[None]:
        return self._watch.wait()

    def receive_nowait(self) -> Sequence[Event]:
        if self._early is not None:
            early, self._early = self._early, None
            self._watch.more()
            return self._parse(early)
        wire = self._wire
        try:
            count = self._socket.recv_into(wire.buffer)
        except BlockingIOError:
            return ()
        if count == 0:
            return (END_OF_STREAM,)
        if count == len(wire.buffer):
            self._watch.more()
        return self._parse(wire.view[:count])

    def write_nowait(self, data: bytes) -> int:
        try:
            return self._socket.send(data)
        except BlockingIOError:
            return 0

    async def drain(self, outbox: Outbox) -> None:
        try:
            await trio.lowlevel.wait_writable(self._socket)
        except (trio.ClosedResourceError, ValueError) as exc:  # aborted meanwhile, or before
            raise ConnectionAbortedError("socket was closed") from exc
        try:
            outbox.taken(self._socket.sendmsg(outbox.buffers()))
        except BlockingIOError:
            return

    def stirring(self) -> bool:
        if unread(self._socket):
            return True
        before, self._backlog = self._backlog, in_flight(self._socket)
        return 0 < self._backlog < before

    async def _linger(self) -> None:
        self._socket.shutdown(socket.SHUT_WR)
        while True:
            await self._watch.wait()
            try:
                count = self._socket.recv_into(self._wire.buffer)
            except BlockingIOError:
                continue
            if count == 0:
                return
            self._watch.more()

    def abort(self) -> None:
        if self._socket.fileno() != -1:
            self._watch.close()
            trio.lowlevel.notify_closing(self._socket)
            self._socket.close()
