"""What Linux tells of the bytes that were sent over TCP.

Other systems tell less, or in another way: then `TELLS` is false, and nothing is known.
"""

from __future__ import annotations

import socket
import struct
import sys
from typing import Final, NamedTuple


class Delivery(NamedTuple):
    """What the kernel knows of the bytes that were sent (``TCP_INFO``, tcp(7))."""

    probes: int  #: of a closed window that were not answered
    in_flight: int  #: segments that were sent and not acknowledged
    acknowledged: int  #: bytes so far
    retransmitted: int  #: segments so far
    last_ack: float  #: seconds since the last acknowledgement came


#: The fields of ``struct tcp_info`` (linux/tcp.h) that make a `Delivery`.
_TCP_INFO: Final = struct.Struct("=3xB20xI28xI40xI16xQ")

#: Its field of the bytes that have come.
_RECEIVED: Final = struct.Struct("=128xQ")

#: Whether anything is known. The option is FreeBSD's too, with other fields.
TELLS: Final = sys.platform == "linux" and hasattr(socket, "TCP_INFO")

if sys.platform == "linux" and hasattr(socket, "TCP_INFO"):
    import fcntl
    import termios

    def delivery(sock: socket.socket) -> Delivery | None:
        """Ask the kernel; None where it is no TCP socket, or closed, or nothing is known."""
        try:
            info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO.size)
        except OSError:
            return None
        if len(info) < _TCP_INFO.size:
            return None
        probes, in_flight, last_ack, retransmitted, acknowledged = _TCP_INFO.unpack(info)
        return Delivery(probes, in_flight, acknowledged, retransmitted, last_ack / 1000)

    def received(sock: socket.socket) -> int | None:
        """How many bytes have come so far, read or not; None as for `delivery`."""
        try:
            info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _RECEIVED.size)
        except OSError:
            return None
        return int(_RECEIVED.unpack(info)[0]) if len(info) == _RECEIVED.size else None

    def undelivered(sock: socket.socket) -> int:
        """How many bytes that were sent are not acknowledged (``SIOCOUTQ``, tcp(7)).

        Of a Unix socket it is the memory that the peer has not read: no less than the bytes.
        """
        try:
            return int(struct.unpack("i", fcntl.ioctl(sock, termios.TIOCOUTQ, b"\0\0\0\0"))[0])
        except (OSError, ValueError):  # a closed socket has no descriptor
            return 0

else:

    def delivery(sock: socket.socket) -> Delivery | None:
        """Nothing is known."""
        return None

    def received(sock: socket.socket) -> int | None:
        """Nothing is known."""
        return None

    def undelivered(sock: socket.socket) -> int:
        """Nothing is known."""
        return 0
