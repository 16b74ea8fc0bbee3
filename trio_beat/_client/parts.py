"""What the connections of all clients of a Trio run share.

They wait for their sockets one by one, with Trio's own functions: a poller for all of them would
need a task that outlives each of them.
"""

from __future__ import annotations

import math
import sys
from typing import Final
from weakref import WeakValueDictionary

import trio

from .._connection.expiry import Expiry
from .._connection.following import Following
from .._observer import Notifier
from .._protocol.compression import Compression, Counts
from .._protocol.deflate import Deflate
from .._transports.framing import ReadContext
from .._transports.readiness import Poller
from .._transports.tls_session import Bios
from .._transports.unfinished import Unfinished
from .._turns import Turns


class _Alone(Turns):
    """For connections that are tasks of an application: the scheduler gives them their turns."""

    async def take(self) -> None:
        await trio.lowlevel.checkpoint()


class Parts:
    """What the connections of all clients of a Trio run share."""

    def __init__(self) -> None:
        self.bios = Bios()
        self._turns = _Alone()
        self.poller = Poller(self._turns)
        self._buffer = bytearray(131072)
        #: Nothing is told of clients, and no identity of theirs expires.
        self.notify, self.expiry = Notifier(), Expiry()
        self.following = Following()
        #: Kept while a connection has it. What it compresses with takes some 300 KiB.
        self._deflates: WeakValueDictionary[tuple[Compression, int], Deflate]
        self._deflates = WeakValueDictionary()
        #: Messages that are being compressed, see `Shared`.
        self.under_way: dict[tuple[int, int], trio.Event] = {}
        # An application that connects to a server lets it take its time for a message.
        self._unfinished = Unfinished(math.inf, sys.maxsize)

    def reads(self, message_size: int) -> ReadContext:
        """How connections with such a limit read."""
        return ReadContext(message_size, self._turns, self._unfinished, buffer=self._buffer)

    def deflate(self, compression: Compression, window_bits: int) -> Deflate:
        """How connections with such an agreement compress.

        Args:
            compression: what the application asked for.
            window_bits: the base-2 logarithm of the window that was agreed on, 9 to 15.
        """
        key = (compression, window_bits)
        if (deflate := self._deflates.get(key)) is None:
            self._deflates[key] = deflate = Deflate(compression, window_bits, Counts())
        return deflate


_PARTS: Final[trio.lowlevel.RunVar[Parts]] = trio.lowlevel.RunVar("trio_beat client")


def parts() -> Parts:
    """Those of the current run."""
    try:
        return _PARTS.get()
    except LookupError:
        made = Parts()
        _PARTS.set(made)
        return made
