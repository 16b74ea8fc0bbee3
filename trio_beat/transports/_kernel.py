"""What the kernel knows of a TCP socket's peer."""

from __future__ import annotations

import socket
import struct
from typing import Final, NamedTuple

from ._framing import FramingTransport, Wire


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


class Delivery(NamedTuple):
    """What the kernel knows of the bytes that were sent (``TCP_INFO``, tcp(7))."""

    in_flight: int  #: segments that were sent and not acknowledged
    waiting: int  #: bytes that the kernel has not sent yet
    acknowledged: int  #: bytes so far
    last_ack: float  #: seconds since the last acknowledgement came


#: The fields of ``struct tcp_info`` (linux/tcp.h) that make a `Delivery`.
_TCP_INFO: Final = struct.Struct("=24xI28xI60xQ16xI")


def delivery(sock: socket.socket) -> Delivery | None:
    """Ask the kernel; None where it is no TCP socket, or closed."""
    try:
        info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO.size)
    except OSError:
        return None
    if len(info) < _TCP_INFO.size:
        return None
    in_flight, last_ack, acknowledged, waiting = _TCP_INFO.unpack(info)
    return Delivery(in_flight, waiting, acknowledged, last_ack / 1000)


class SocketTransport(FramingTransport):
    """A transport over a TCP socket, whose silence the kernel can say more about.

    Args:
        sock: connected and non-blocking; whoever derives from this closes it.
        wire: what the transports of a server share.
    """

    __slots__ = ("_acknowledged", "_socket", "peer")

    peer: str

    def __init__(self, sock: socket.socket, wire: Wire) -> None:
        super().__init__(wire)
        self._socket = sock
        #: Bytes that were acknowledged when a silent beat was last looked at.
        self._acknowledged: int | None = None
        self.peer = peer_name(sock)

    def stirring(self) -> bool:
        if unread(self._socket):
            return True
        now = delivery(self._socket)
        if now is None:
            return False
        before, self._acknowledged = self._acknowledged, now.acknowledged
        undelivered = now.in_flight > 0 or now.waiting > 0
        return undelivered and before is not None and now.acknowledged > before

    def unreachable(self, patience: float) -> bool:
        now = delivery(self._socket)
        return now is not None and now.in_flight > 0 and now.last_ack > patience
