"""A worker: one of several processes that share the port, as it knows of its supervisor.

1. It writes a byte to its supervisor each second, which shows that its loop runs, one when it
   accepts, and one when it begins to drain.
2. It reads nothing but the end of the stream: the supervisor is gone.
3. Signals that arrive before it listens to them wait.
"""

from __future__ import annotations

import contextlib
import signal
import socket
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import trio

from .signals import QUITTING, RENEWING, STOPPING

#: Seconds from one byte to the next.
EVERY: Final = 1.0
ALIVE: Final = b"."
READY: Final = b"!"
LEAVING: Final = b"-"
#: The signals that a worker may get, from its supervisor or from anybody.
SIGNALS: Final = (*STOPPING, *QUITTING, *RENEWING)


@dataclass(frozen=True, slots=True)
class Worker:
    """This process among those that share the port.

    Args:
        number: from 1.
        workers: how many there are.
        listeners: where it accepts.
        channel: to its supervisor, non-blocking.
        internal: where it accepts what is for health and the API alone; empty: there is no such
            place.
        first: the command has not begun to serve yet, and ends if this worker cannot.
    """

    number: int
    workers: int
    listeners: Sequence[socket.socket]
    channel: socket.socket
    first: bool
    internal: Sequence[socket.socket] = ()

    def obeyed(self) -> tuple[int, ...]:
        """The signals that it is to obey; others of `SIGNALS` are ignored from now on.

        Control-C at a terminal reaches all processes, and the supervisor passes it on.
        """
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        return tuple(number for number in SIGNALS if number != signal.SIGINT)

    def take_signals(self) -> None:
        """Let those in that have waited."""
        if sys.platform != "win32":
            signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)

    def tell_ready(self) -> None:
        """Tell the supervisor that this worker accepts."""
        self._tell(READY)

    def tell_leaving(self) -> None:
        """Tell the supervisor that this worker drains: the next one can start."""
        self._tell(LEAVING)

    async def tell_alive(self) -> None:
        """Tell the supervisor as long as the loop runs."""
        while True:
            self._tell(ALIVE)
            await trio.sleep(EVERY)

    async def wait_abandoned(self) -> None:
        """Wait until the supervisor is gone."""
        await trio.lowlevel.wait_readable(self.channel)

    def _tell(self, what: bytes) -> None:
        # A supervisor that stands still hears enough later; `wait_abandoned` tells of its end.
        with contextlib.suppress(BlockingIOError, BrokenPipeError, ConnectionResetError):
            self.channel.send(what)
