"""Tells the service manager how the server is (sd_notify(3)).

1. Telling never waits, and never fails: what is not taken is told again, once a second at most.
2. The watchdog is told from the loop that serves: where that stands still, nothing is told.
3. One process tells. Variables do not go on to those that it starts.
4. A signal to read files again may come at any time. It is told only while the server serves: the
   end of reading is told by the same text as the begin of serving.
"""

from __future__ import annotations

import contextlib
import os
import socket
import sys
import time
from collections.abc import Callable, Iterator
from typing import Final

import trio

from .._log import get_logger

_log = get_logger("trio_beat")

_SOCKET: Final = "NOTIFY_SOCKET"
_USEC: Final = "WATCHDOG_USEC"
_PID: Final = "WATCHDOG_PID"
_ALIVE: Final = b"WATCHDOG=1"
#: Digits of a number of microseconds, at most: systemd's have 64 bits.
_DIGITS: Final = 20
#: Seconds until what was not taken is told again.
_AGAIN: Final = 1.0


class Manager:
    """The service manager.

    Args:
        address: of its socket, a path or an abstract one; None: there is none to tell.
        watchdog: seconds within which it wants to be told that the server is alive; None: it does
            not.
        clock: seconds that go on evenly.

    Attributes:
        due: when `tick` has something to do, by the clock.
    """

    def __init__(
        self,
        address: str | None = None,
        watchdog: float | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._address, self._watchdog, self._clock = address, watchdog, clock
        # Open all the time: it is also told while no descriptor is left.
        self._socket = None
        if address is not None and sys.platform != "win32":
            self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
            self._socket.setblocking(False)
        self._every = _AGAIN if watchdog is None else min(_AGAIN, watchdog / 4)
        self.due = 0.0 if self._socket else float("inf")
        self._alive_due = 0.0
        #: The last state, where it was not taken.
        self._untold = b""
        self._failing = False
        #: It accepts, and does not shut down yet.
        self._serves = False

    def ready(self) -> None:
        """Tell that the server accepts."""
        self._serves = True
        self._tell(b"READY=1")

    @contextlib.contextmanager
    def reloading(self) -> Iterator[None]:
        """Tell that files are read again while the context lasts; nothing before `ready`."""
        if not self._serves:
            yield
            return
        # The clock that systemd compares with (``Type=notify-reload``).
        self._tell(b"RELOADING=1\nMONOTONIC_USEC=%d" % (time.monotonic_ns() // 1000))
        try:
            yield
        finally:
            self._tell(b"READY=1")

    def stopping(self) -> None:
        """Tell that the server shuts down."""
        self._serves = False
        self._tell(b"STOPPING=1")

    def tick(self, *, alive: bool = True) -> None:
        """Do what is due: feed the watchdog, and tell again what was not taken.

        Args:
            alive: whether the watchdog is to be fed.
        """
        now = self._clock()
        if now < self.due:
            return
        self.due = now + self._every
        if self._untold:
            self._tell(self._untold)
        if self._watchdog is not None and alive and now >= self._alive_due and self._send(_ALIVE):
            self._alive_due = now + self._watchdog / 2 - self._every / 2

    async def run(self) -> None:
        """Do what is due, until cancelled."""
        while self._socket is not None:
            self.tick()
            await trio.sleep(self._every)

    def close(self) -> None:
        """Tell nothing any more."""
        if self._socket is not None:
            self._socket.close()
        self._socket, self.due = None, float("inf")

    def _tell(self, state: bytes) -> None:
        self._untold = b"" if self._send(state) else state

    def _send(self, text: bytes) -> bool:
        if self._socket is None or self._address is None:
            return True
        try:
            self._socket.sendto(text, self._address)
        except OSError as exc:
            if not self._failing:
                _log.warning(
                    "cannot tell the service manager (%s): %s", _SOCKET, exc.strerror or exc
                )
            self._failing = True
            return False
        self._failing = False
        return True


def find_manager() -> Manager:
    """The service manager that has started this process; its variables are removed."""
    address, every, pid = (os.environ.pop(name, None) for name in (_SOCKET, _USEC, _PID))
    if not address or sys.platform == "win32":
        return Manager()
    if address[0] not in "/@" or len(address) == 1:
        _log.warning("%s is ignored: %r is no path of a socket", _SOCKET, address)
        return Manager()
    if address[0] == "@":
        address = "\0" + address[1:]
    return Manager(address, _watchdog(every, pid))


def _watchdog(every: str | None, pid: str | None) -> float | None:
    if every is None or (pid and pid != str(os.getpid())):
        return None
    number = every.isascii() and every.isdecimal() and len(every) <= _DIGITS
    if not (number and int(every) > 0):
        shown = every[:_DIGITS]
        _log.warning("%s is ignored: %r is no number of microseconds", _USEC, shown)
        return None
    return int(every) / 10**6
