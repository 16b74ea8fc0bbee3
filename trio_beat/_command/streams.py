"""Standard output and standard error, which may have no reader.

1. No write blocks. A full pipe, a stopped terminal and a socket report that they take no more, and
   a task waits until they do. O_NONBLOCK belongs to the open file description, which other
   processes share (open(2)); so pipes and terminals are opened once more.
2. Messages (`Descriptor`) wait for their reader. Log lines (`Lines`) wait in a bounded queue and
   are lost beyond it. The loss is counted, and reported once when there is room again.
3. No thread is used: a thread that hangs in a write cannot be ended.
4. Processes that share a pipe do not tear each other's lines, as far as one fits into ``PIPE_BUF``
   bytes (pipe(7)).
5. On Windows neither reports whether it takes more: there a write blocks, and everything with it.
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
import stat
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from functools import cache
from io import FileIO
from typing import Final

import trio

from .._text import printable

#: Most bytes of waiting lines, and what the object of a line takes beside its bytes.
_WAITING: Final = 2**16
_OVERHEAD: Final = 64
#: Windows has none.
_PIPE_BUF: Final[int] = getattr(select, "PIPE_BUF", 512)
#: Seconds between two attempts at a descriptor that is ready and still takes nothing.
_PAUSE: Final = 0.1
#: Seconds that lines may wait for when the command ends.
_LAST: Final = 0.5


def open_missing() -> None:
    """Keep sockets from becoming standard output or error where the command has none.

    The descriptor fails when it is written to, as a closed one does.
    """
    for fd in range(3):
        try:
            os.fstat(fd)
        except OSError:
            os.open(os.devnull, os.O_RDONLY)  # gets the lowest that is free (open(2))


def _path(fd: int, mode: int) -> str | None:
    """The path that opens a pipe or a terminal once more; None where none does."""
    terminal = os.isatty(fd)
    if not (terminal or stat.S_ISFIFO(mode)):
        return None
    if sys.platform == "linux":
        return f"/proc/self/fd/{fd}"
    # On other systems /dev/fd gives the same descriptor, with the same flags.
    if sys.platform != "win32" and terminal:
        with contextlib.suppress(OSError):
            return os.ttyname(fd)
    return None


def _whole_lines(data: bytes) -> bytes:
    """As much as a pipe takes at once, or not at all."""
    if len(data) <= _PIPE_BUF:
        return data
    return data[: data.rfind(b"\n", 0, _PIPE_BUF) + 1 or _PIPE_BUF]


class Descriptor:
    """A file descriptor that other processes may share, written to without blocking.

    On Windows a write waits.

    Args:
        fd: stays open, also when this is closed.
    """

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._socket: socket.socket | None = None
        #: Invariant: None everywhere but on Windows.
        self._file: FileIO | None = None
        self._shared = True
        self._pipe = False
        mode = os.fstat(fd).st_mode
        if sys.platform == "win32" or not hasattr(os, "O_NONBLOCK"):
            # A file object writes UTF-8 to a console; the descriptor takes bytes of the code page.
            self._file = open(fd, "wb", buffering=0, closefd=False)  # noqa: SIM115
        elif stat.S_ISSOCK(mode):
            self._socket = socket.socket(fileno=os.dup(fd))
            self._fd, self._shared = self._socket.fileno(), False
        elif (path := _path(fd, mode)) is not None:
            self._pipe = stat.S_ISFIFO(mode)
            # Another user's may not be opened, and a pipe without a reader cannot.
            with contextlib.suppress(OSError):
                self._fd = os.open(path, os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY)
                self._shared = False

    def write_nowait(self, data: bytes) -> bytes:
        """Write what is taken at once; returns the rest.

        Raises:
            OSError: nothing could be written.
        """
        rest = data
        try:
            while rest:
                rest = rest[self._write(rest) :]
        except BlockingIOError:
            pass
        except OSError:
            if rest is data:
                raise
        return rest

    def _write(self, data: bytes) -> int:
        if sys.platform == "win32" or self._file is not None:
            assert self._file is not None
            return self._file.write(data)
        if self._socket is not None:
            return self._socket.send(data, socket.MSG_DONTWAIT)
        # A pipe that is writable has room for so many bytes (pipe(7)).
        if self._shared and not self.wait_blocking(0):
            raise BlockingIOError
        if self._shared or self._pipe:
            data = _whole_lines(data)
        return os.write(self._fd, data)

    async def wait_writable(self) -> None:
        """Wait until more is taken."""
        try:
            await trio.lowlevel.wait_writable(self._fd)
        except OSError:
            # Neither epoll(7) nor kqueue(2) takes it: no known file that does so blocks.
            await trio.sleep(_PAUSE)

    def wait_blocking(self, seconds: float | None) -> bool:
        """Block until more is taken, at most for `seconds`; None: without limit."""
        if sys.platform == "win32" or self._file is not None:
            return True
        poll = select.poll()
        poll.register(self._fd, select.POLLOUT)
        return bool(poll.poll(None if seconds is None else seconds * 1000))

    async def send(self, data: bytes) -> None:
        """Write all, and let other tasks run until it is read. Raises `OSError`."""
        await trio.lowlevel.checkpoint()
        while data := self.write_nowait(data):
            await self.wait_writable()

    def send_blocking(self, data: bytes) -> None:
        """Write all, outside of an event loop. Raises `OSError`."""
        while data := self.write_nowait(data):
            self.wait_blocking(None)

    def close(self) -> None:
        """Close what was opened beside the descriptor."""
        if self._socket is not None:
            self._socket.close()
        elif not self._shared:
            os.close(self._fd)


class Lines:
    """Writes lines to a descriptor without waiting for its reader; loses them where it must.

    Args:
        out: where to.
        tell_lost: makes the line that tells how many were lost.
    """

    def __init__(self, out: Descriptor, tell_lost: Callable[[int], bytes]) -> None:
        self.tell_lost = tell_lost
        self._out = out
        self._waiting: deque[bytes] = deque()
        self._size = 0
        #: Invariant: while it is not 0, lines are lost until nothing waits. So it is told once.
        self._lost = 0
        #: Whether the last written line was cut off.
        self._torn = False
        # Another thread may log, and so may a finalizer within `put`.
        self._lock = threading.RLock()
        self._more = trio.Event()
        self._token: trio.lowlevel.TrioToken | None = None

    def put(self, line: bytes) -> None:
        """Write a line, queue it, or lose it.

        Args:
            line: with its line end.
        """
        with self._lock:
            if not self._waiting:
                self._admit_lost()
            if self._waiting and (self._lost or self._size + len(line) > _WAITING):
                self._lost += 1
                return
            self._append(line)
            if len(self._waiting) == 1:
                self._write()
            if self._waiting and self._token is not None:
                with contextlib.suppress(trio.RunFinishedError):
                    self._token.run_sync_soon(self._more.set, idempotent=True)

    async def run(self) -> None:
        """Write queued lines whenever the descriptor takes some."""
        self._token = trio.lowlevel.current_trio_token()
        try:
            while True:
                self._more = trio.Event()
                if not self._waiting:
                    await self._more.wait()
                await self._out.wait_writable()
                before = self._size
                with self._lock:
                    self._write()
                if self._waiting and self._size == before:
                    await trio.sleep(_PAUSE)
        finally:
            self._token = None

    def finish(self, seconds: float = _LAST) -> None:
        """Write queued lines, outside of an event loop, for at most `seconds`."""
        end = time.monotonic() + seconds
        while self._waiting and (left := end - time.monotonic()) > 0:
            if self._out.wait_blocking(left):
                before = self._size
                self._write()
                if self._waiting and self._size == before:
                    time.sleep(min(left, _PAUSE))

    def flush(self) -> None:
        """Write what the descriptor takes at once of the queued lines, outside of an event loop."""
        with self._lock:
            if self._waiting:
                self._write()

    def forget(self) -> None:
        """Drop what waits: in a process that was forked, it is the other one's to write."""
        self._waiting.clear()
        self._size = self._lost = 0
        self._torn = False
        self._lock = threading.RLock()

    def _append(self, line: bytes) -> None:
        self._waiting.append(line)
        self._size += len(line) + _OVERHEAD

    def _write(self) -> None:
        try:
            while self._waiting:
                line = self._waiting[0]
                rest = self._out.write_nowait(line)
                self._torn = bool(rest) and (self._torn or len(rest) < len(line))
                self._size -= len(line) - len(rest)
                if rest:
                    self._waiting[0] = rest
                    return
                self._waiting.popleft()
                self._size -= _OVERHEAD
                if not self._waiting:
                    self._admit_lost()
        except OSError:
            # The disk is full, or there is no reader: for now, or for ever.
            self._lost += len(self._waiting)
            self._waiting.clear()
            self._size = 0

    def _admit_lost(self) -> None:
        """Where lines were lost and none waits, write the line that counts them."""
        if self._lost:
            lost, self._lost = self._lost, 0
            line = b"\n" * self._torn + self.tell_lost(lost)
            try:
                rest = self._out.write_nowait(line)
            except OSError:
                self._lost = lost
                return
            self._torn = 0 < len(rest) < len(line)
            if rest:
                self._append(rest)


@cache
def standard_output() -> Descriptor:
    """The standard output of this process."""
    return Descriptor(1)


@cache
def standard_error() -> Lines:
    """The standard error of this process."""
    return Lines(Descriptor(2), lambda lost: encoded(f"trio-beat: {lost} lines were lost\n"))


def encoded(text: str) -> bytes:
    """Encode text as the locale does, with escapes for characters that it lacks."""
    encoding = "utf-8" if sys.__stderr__ is None else sys.__stderr__.encoding
    return text.encode(encoding, "backslashreplace")


def say(text: str) -> bool:
    """Write to standard output, outside of an event loop; returns whether all was written.

    A reader that has closed its end is no error; others are reported on standard error.
    """
    try:
        standard_output().send_blocking(encoded(text))
    except BrokenPipeError:
        return False
    except OSError as exc:
        complain(f"cannot write to standard output: {exc.strerror}")
        return False
    return True


def complain(text: str) -> None:
    """Write a line to standard error."""
    standard_error().put(encoded(f"trio-beat: {printable(text)}\n"))
