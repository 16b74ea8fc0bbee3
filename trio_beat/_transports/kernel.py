"""What the kernel knows of a socket's peer.

Linux tells most of TCP (`tcp_info`). Where it does not, and over Unix sockets, only what the socket
takes tells of the peer:

1. What lies before a PING waits in the outbox, and little of it in the kernel (`set_up`): while the
   socket takes some of it, the silence is excused, since the peer has not come to the PING. So no
   peer is dropped that takes `_LITTLE` bytes within the time that it may be silent; and one that
   takes nothing goes in its time, since a dead peer's socket is full soon.
   Of a Unix socket Linux tells how much the peer has not read; less of it is an excuse for some
   beats (`LASTS`), as long as something is left.
2. Nothing tells that the network loses packets: no beat is granted for that.
3. Where the reader does not listen, only TCP itself notices that a peer is gone, when it has sent
   the PINGs again often enough: a beat's write then fails.
"""

from __future__ import annotations

import contextlib
import socket
import struct
import sys
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Final, NamedTuple

import trio

from .._protocol.deflate import Deflate
from . import Transport
from .framing import FramingTransport, ReadContext
from .tcp_info import TELLS, delivery, undelivered

#: The longest that TCP waits before it sends again (linux/tcp.h), and the kernel's bounds for it,
#: in seconds. The connection fails after some more such times (``tcp_retries2``, tcp(7)): as many
#: as this take as long as the peer may be silent.
_TCP_RTO_MAX_MS: Final = 44
_SHORTEST, _LONGEST = 1.0, 120.0
_RETRIES: Final = 6
#: Bytes that the kernel holds before a PING where it does not tell of them: with 64 KiB, 600 KiB
#: a second over a path of 100 ms.
_LITTLE: Final = 65536
#: Beats for which it excuses a silence that the peer of a Unix socket has read something, where it
#: has not read all: Linux counts what is written in pieces of 36 KiB, each when all of it is read.
LASTS: Final = 3
_TCP: Final = frozenset({socket.AF_INET, socket.AF_INET6})
#: How a peer over a Unix socket is called.
LOCAL: Final = "local"
#: To linger for no time at all: what waits is dropped, and the peer is told by a reset.
_AT_ONCE: Final = struct.pack("hh" if sys.platform == "win32" else "ii", 1, 0)


def set_up(sock: socket.socket, patience: float) -> None:
    """Set what a heartbeat wants of TCP; sockets that are accepted inherit it.

    TCP waits twice as long each time before it sends again what the network has lost, and soon for
    too long: it is to do that several times while the peer may be silent. Kernels before Linux 6.15
    do not know it, and to other systems the number means something else.

    Where the kernel does not tell what the peer has acknowledged, it is to hold little.

    Args:
        sock: connected, or listening; of a Unix socket nothing is set here.
        patience: seconds that a peer may be silent.
    """
    if sock.family not in _TCP:
        return
    if sys.platform == "linux":
        milliseconds = round(min(max(patience / _RETRIES, _SHORTEST), _LONGEST) * 1000)
        with contextlib.suppress(OSError):
            sock.setsockopt(socket.IPPROTO_TCP, _TCP_RTO_MAX_MS, milliseconds)
    if not TELLS:
        with contextlib.suppress(OSError):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _LITTLE)


def set_up_accepted(sock: socket.socket) -> None:
    """Set what a heartbeat wants of a Unix socket, which inherits nothing from its listener.

    Where the kernel does not tell how much of it the peer has not read, it is to hold little.
    """
    if not TELLS:
        with contextlib.suppress(OSError):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _LITTLE)


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
    return LOCAL


def unread(sock: socket.socket) -> bool:
    """Whether the kernel holds bytes of the peer's, or its end of stream.

    Args:
        sock: non-blocking.
    """
    try:
        sock.recv(1, socket.MSG_PEEK)
    except BlockingIOError:
        return False
    except OSError:
        return True
    return True


def first_bytes(buffers: Sequence[bytes | memoryview], size: int) -> Iterator[bytes | memoryview]:
    """What makes the first so many bytes of some buffers."""
    for buffer in buffers:
        yield buffer[:size]
        size -= len(buffer)
        if size <= 0:
            return


def send_gathered(sock: socket.socket, buffers: Sequence[bytes | memoryview]) -> int:
    """Write some of the buffers at once; returns how many bytes. Raises `OSError`."""
    if sys.platform != "win32" and hasattr(sock, "sendmsg"):
        return sock.sendmsg(buffers)
    return sock.send(b"".join(first_bytes(buffers, _LITTLE)))


class Stuck(NamedTuple):
    """Output of which the peer's kernel acknowledges nothing, see `stuck`."""

    acknowledged: int  #: bytes when that began
    since: float  #: when that was, by Trio's clock, in seconds
    for_long: bool  #: so long that the peer is out of reach


def stuck(sock: socket.socket, before: Stuck | None, patience: float) -> Stuck | None:
    """Look whether nothing that was sent is acknowledged, once a beat.

    Args:
        sock: it.
        before: what the last look gave.
        patience: seconds after which the peer is out of reach.

    Returns:
        What is stuck; None: nothing is, or it is not known.
    """
    now = delivery(sock)
    if now is None or not (now.in_flight or now.probes):
        return None
    at = trio.current_time()
    if before is None or before.acknowledged != now.acknowledged:
        return Stuck(now.acknowledged, at, for_long=False)
    for_long = at - before.since > patience and now.last_ack > patience
    return before._replace(for_long=for_long)


class _Look(NamedTuple):
    """What was seen at a beat."""

    acknowledged: int  #: bytes so far; where that is not known, what was taken since
    before_ping: int  #: the PING of that beat comes behind so many bytes
    retransmitted: int  #: segments so far
    unread: bool  #: the kernel held bytes of the peer's
    lossy: bool  #: since the beat before, something was retransmitted and something arrived
    known: bool = True  #: the kernel told
    waiting: int = 0  #: what it held for the peer, where it tells no more; not in bytes
    lasts: int = 0  #: beats for which it counts that the peer has read something


class KernelTransport(Transport):
    """A transport over a TCP socket: the kernel can say more about its silence.

    A derived class has the slots, since two bases with slots do not combine, and calls
    `_begin_looking`.
    """

    if not TYPE_CHECKING:
        __slots__ = ()

    peer: str
    _socket: socket.socket
    #: At the last beat; None where that was not a silent one.
    _looked: _Look | None
    _stuck: Stuck | None

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
            waiting = undelivered(self._socket)
            # What stood before the last PING then, and whether some of it has left the outbox; or
            # the kernel, and not all of it: then the peer has come to the PING.
            moved = before is not None and (
                min(before.acknowledged, before.before_ping) > 0 or 0 < waiting < before.waiting
            )
            lasts = LASTS if moved else max(0 if before is None else before.lasts - 1, 0)
            self._looked = _Look(
                0, queued, 0, held, False, known=False, waiting=waiting, lasts=lasts
            )
            moved = moved or (waiting > 0 and lasts > 0)
            return moved or (held and not again)
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

    def _took(self, count: int) -> None:
        """The socket took so many bytes that had waited for it."""
        look = self._looked
        if look is not None and not look.known:
            self._looked = look._replace(acknowledged=look.acknowledged + count)

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
        self._stuck = stuck(self._socket, self._stuck, patience)
        return self._stuck is not None and self._stuck.for_long


class SocketTransport(KernelTransport, FramingTransport):
    """A transport that reads and writes a TCP socket's frames itself.

    Args:
        sock: connected and non-blocking; a derived class closes it.
        reads: what the transports of a server share.
        deflate: what the handshake agreed on; None: nothing is compressed.
    """

    __slots__ = ("_looked", "_socket", "_stuck", "peer")

    def __init__(
        self, sock: socket.socket, reads: ReadContext, deflate: Deflate | None = None
    ) -> None:
        FramingTransport.__init__(self, reads, deflate)
        self._begin_looking(sock)

    def rest(self, *, heard: bool, listening: bool = True) -> None:
        if self._protocol is not None:  # an idle connection has none
            FramingTransport.rest(self, heard=heard, listening=listening)
        if heard:
            self._looked = None
