"""What the kernel tells of a peer whose socket another implementation reads.

Where it tells (`TELLS`), each byte that came counts, be it read or not: a full queue above hides
nothing.
"""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator
from dataclasses import dataclass

from .._transports.kernel import LASTS, Stuck, stuck, unread
from .._transports.tcp_info import delivery, received, undelivered


@dataclass(frozen=True, slots=True)
class Seen:
    """What was seen of a beat.

    Args:
        heard: bytes came.
        excused: the silence may not be the peer's: it cannot send, since nothing is read; or it
            has not come to the PING yet.
        lossy: TCP sent something again, and something arrived.
    """

    heard: bool
    excused: bool
    lossy: bool


class Kernel:
    """Looks at a socket once a beat.

    Args:
        sock: Trio's.
    """

    __slots__ = (
        "_acknowledged",
        "_before_ping",
        "_received",
        "_retransmitted",
        "_sock",
        "_stuck",
        "_unsent",
    )

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._received = received(sock)
        self._acknowledged = self._before_ping = self._retransmitted = 0
        self._stuck: Stuck | None = None
        #: At the last look the PING of the beat before was not sent yet.
        self._unsent = False

    @property
    def tells(self) -> bool:
        """Whether anything is known."""
        return self._received is not None

    @property
    def idle(self) -> bool:
        """Whether all that was sent had been acknowledged at the last look, and it is open."""
        return self._before_ping == self._acknowledged and self._sock.fileno() >= 0

    def look(self, *, unsent: bool) -> Seen | None:
        """Look at what came since the last time; None: the kernel tells nothing.

        Args:
            unsent: the PING of the last beat waits for a message that is being sent: it stands
                behind bytes of which the kernel does not know yet.
        """
        count, now = received(self._sock), delivery(self._sock)
        if count is None or now is None:
            return None
        moved = now.acknowledged > self._acknowledged
        # The PING of the last beat stands behind so many bytes, if it was sent when it was due.
        late = unsent or self._unsent
        behind = moved and (late or now.acknowledged <= self._before_ping)
        self._unsent = unsent
        lossy = moved and now.retransmitted > self._retransmitted
        heard = count != self._received
        self._received = count
        self._acknowledged, self._retransmitted = now.acknowledged, now.retransmitted
        self._before_ping = now.acknowledged + undelivered(self._sock)
        return Seen(heard, not heard and (behind or self._holds()), lossy)

    @contextlib.contextmanager
    def borrowed(self) -> Iterator[socket.socket]:
        """The socket, as one that does not wait, for as long as nothing is waited for."""
        borrowed = socket.socket(fileno=self._sock.fileno())
        borrowed.settimeout(0)
        try:
            yield borrowed
        finally:
            borrowed.detach()

    def _holds(self) -> bool:
        with self.borrowed() as sock:
            return unread(sock)

    def unreachable(self, patience: float) -> bool:
        """Whether nothing that was sent is acknowledged, see `Transport.unreachable`."""
        self._stuck = stuck(self._sock, self._stuck, patience)
        return self._stuck is not None and self._stuck.for_long


class Unread:
    """Looks once a beat at what a Unix socket's peer has not read, where Linux tells.

    Args:
        sock: Trio's.
    """

    __slots__ = ("_lasts", "_sock", "_waiting")

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._waiting = self._lasts = 0

    def falls(self) -> bool:
        """Whether the peer has read something lately, and has more to read."""
        before, self._waiting = self._waiting, undelivered(self._sock)
        self._lasts = LASTS if self._waiting < before else max(self._lasts - 1, 0)
        return self._waiting > 0 and self._lasts > 0
