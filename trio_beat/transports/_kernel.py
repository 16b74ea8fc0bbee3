"""What the kernel knows of a TCP socket's peer."""

from __future__ import annotations

import contextlib
import fcntl
import socket
import struct
import termios
from typing import TYPE_CHECKING, Final, NamedTuple

import trio

from . import Transport
from ._framing import FramingTransport, Wire

#: A state of a socket's (``net/tcp_states.h``): a peer that sent a FIN leaves it in another.
_TCP_CLOSE: Final = 7
#: The longest that TCP waits before it sends again (linux/tcp.h), and the kernel's bounds for it,
#: in seconds. The connection fails after some more such times (``tcp_retries2``, tcp(7)): as many
#: as this take as long as the peer may be silent.
_TCP_RTO_MAX_MS: Final = 44
_SHORTEST, _LONGEST = 1.0, 120.0
_RETRIES: Final = 6


def retry_often(sock: socket.socket, patience: float) -> None:
    """Let TCP send again several times what the line has lost, while the peer may be silent.

    It waits twice as long each time, and soon for too long. Sockets that are accepted inherit this;
    kernels before Linux 6.15 do not know it.

    Args:
        sock: connected, or listening.
        patience: seconds that a peer may be silent.
    """
    milliseconds = round(min(max(patience / _RETRIES, _SHORTEST), _LONGEST) * 1000)
    with contextlib.suppress(OSError):
        sock.setsockopt(socket.IPPROTO_TCP, _TCP_RTO_MAX_MS, milliseconds)


def peer_name(sock: socket.socket) -> str:
    """The address of a socket's peer, for people."""
    try:
        address = sock.getpeername()
    except OSError:
        return "unknown"
    if isinstance(address, tuple):
        host, port = address[:2]
        # A socket for both families shows IPv4 addresses like this (RFC 4291, section 2.5.5.2).
        host = host.removeprefix("::ffff:") if "." in host else host
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


def was_reset(sock: socket.socket) -> bool:
    """Whether the peer reset the connection; to be asked once nothing more can be read."""
    try:
        return sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0] == _TCP_CLOSE
    except OSError:
        return False


class Delivery(NamedTuple):
    """What the kernel knows of the bytes that were sent (``TCP_INFO``, tcp(7))."""

    probes: int  #: of a closed window that were not answered
    in_flight: int  #: segments that were sent and not acknowledged
    acknowledged: int  #: bytes so far
    retransmitted: int  #: segments so far
    last_ack: float  #: seconds since the last acknowledgement came


#: The fields of ``struct tcp_info`` (linux/tcp.h) that make a `Delivery`.
_TCP_INFO: Final = struct.Struct("=3xB20xI28xI40xI16xQ")
#: To linger for no time at all: what waits is dropped, and the peer is told by a reset.
_AT_ONCE: Final = struct.pack("ii", 1, 0)


def delivery(sock: socket.socket) -> Delivery | None:
    """Ask the kernel; None where it is no TCP socket, or closed."""
    try:
        info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO.size)
    except OSError:
        return None
    if len(info) < _TCP_INFO.size:
        return None
    probes, in_flight, last_ack, retransmitted, acknowledged = _TCP_INFO.unpack(info)
    return Delivery(probes, in_flight, acknowledged, retransmitted, last_ack / 1000)


def undelivered(sock: socket.socket) -> int:
    """How many bytes that were sent are not acknowledged (``SIOCOUTQ``, tcp(7))."""
    try:
        return int(struct.unpack("i", fcntl.ioctl(sock, termios.TIOCOUTQ, b"\0\0\0\0"))[0])
    except OSError:
        return 0


class _Look(NamedTuple):
    """What was seen at a beat."""

    acknowledged: int  #: bytes so far
    before_ping: int  #: the PING of that beat comes behind so many bytes
    retransmitted: int  #: segments so far
    unread: bool  #: the kernel held bytes of the peer's
    lossy: bool  #: since the beat before, something was retransmitted and something arrived


class KernelTransport(Transport):
    """A transport over a TCP socket, whose silence the kernel can say more about.

    Whoever derives from this has the slots, since two bases with slots do not combine, and calls
    `_begin_looking`.
    """

    if not TYPE_CHECKING:
        __slots__ = ()

    peer: str
    _socket: socket.socket
    #: At the last beat; None where that was not a silent one.
    _looked: _Look | None
    #: What was acknowledged when output got stuck, and when that was.
    _stuck: tuple[int, float] | None

    def _begin_looking(self, sock: socket.socket) -> None:
        self._socket = sock
        self._looked = self._stuck = None
        self.peer = peer_name(sock)

    def rest(self, *, heard: bool, listening: bool = True) -> None:
        if heard:
            self._looked = None

    def stirring(self, queued: int) -> bool:
        held, before = unread(self._socket), self._looked
        again = before is not None and before.unread
        if held and not again:
            # Should an edge have been overlooked. At the next beat nothing is left of this doubt.
            self._read_on()
        now = delivery(self._socket)
        if now is None:
            self._looked = _Look(0, 0, 0, held, lossy=False)
            return held and not again
        moved = before is not None and before.acknowledged < now.acknowledged
        self._looked = _Look(
            now.acknowledged,
            now.acknowledged + undelivered(self._socket) + queued,
            now.retransmitted,
            held,
            moved and before is not None and before.retransmitted < now.retransmitted,
        )
        if held and not again:
            return True
        return moved and before is not None and now.acknowledged <= before.before_ping

    def lossy(self) -> bool:
        return self._looked is not None and self._looked.lossy

    def _read_on(self) -> None:
        """Let the reader read, should it wait for an edge; others are told as long as it is so."""

    def _reset(self) -> None:
        """Abort without waiting for anything."""
        with contextlib.suppress(OSError):
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _AT_ONCE)
        self.abort()

    def unreachable(self, patience: float) -> bool:
        now = delivery(self._socket)
        if now is None or not (now.in_flight or now.probes):
            self._stuck = None
            return False
        if self._stuck is None or self._stuck[0] != now.acknowledged:
            self._stuck = (now.acknowledged, trio.current_time())
            return False
        return trio.current_time() - self._stuck[1] > patience and now.last_ack > patience


class SocketTransport(KernelTransport, FramingTransport):
    """A transport that reads and writes a TCP socket's frames itself.

    Args:
        sock: connected and non-blocking; whoever derives from this closes it.
        wire: what the transports of a server share.
    """

    __slots__ = ("_looked", "_socket", "_stuck", "peer")

    def __init__(self, sock: socket.socket, wire: Wire) -> None:
        FramingTransport.__init__(self, wire)
        self._begin_looking(sock)

    def rest(self, *, heard: bool, listening: bool = True) -> None:
        if self._protocol is not None:  # an idle connection has none
            FramingTransport.rest(self, heard=heard, listening=listening)
        if heard:
            self._looked = None
