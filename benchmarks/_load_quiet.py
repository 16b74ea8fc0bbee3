"""A load that is all quiet: as many connections as a process has file descriptors, and no objects.

Run as ``python -m benchmarks._load_quiet``; commands as in `benchmarks._load`. A connection is the
number of its file descriptor, and a byte of state. It answers each PING, and knows nothing else.
"""

from __future__ import annotations

import contextlib
import gc
import os
import resource
import select
import socket
import time
from collections import Counter
from typing import Any, Final

from ._client import request
from ._commands import COMMANDS, Commands

#: Handshakes under way at once: fewer than wait in any listener's queue.
_WINDOW: Final = 128
_PATIENCE: Final = 60.0  #: seconds without any progress
#: Lets the kernel choose a port when the other end is known (ip(7)): a port for each of both.
_NO_PORT: Final = 24
_MOST: Final = 65_536  #: bytes that are read at once

_NONE, _ASKED, _OPEN, _MUTE = range(4)


class Quiet:
    """All connections of this process, and what can be asked of them."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._state = bytearray(resource.getrlimit(resource.RLIMIT_NOFILE)[0])
        self._counts: Counter[str] = Counter()
        #: Of the mute: where they come from, and when the server was seen to leave.
        self._names: dict[int, str] = {}
        self._gone: dict[str, float] = {}

    def connect(self, host: str, port: int, source: str, target: str, count: int) -> dict[str, Any]:
        """Open connections from an address of this machine."""
        begun = moved = time.monotonic()
        asked = done = 0
        before = self._counts["open"]
        while done < count:
            while asked < count and asked - done < _WINDOW:
                self._dial((host, port), source, request(target))
                asked += 1
            self._turn(1.0)
            if self._counts["open"] - before > done:
                done, moved = self._counts["open"] - before, time.monotonic()
            if self._counts["refused"]:
                raise RuntimeError("the server refused a connection")
            if time.monotonic() - moved > _PATIENCE:
                raise TimeoutError(f"only {done} of {count} connections were let in")
        return {"seconds": time.monotonic() - begun}

    def mute(self, count: int) -> dict[str, Any]:
        """Let so many answer no more; returns where they come from, and when that was."""
        for fd, state in enumerate(self._state):
            if len(self._names) == count:
                break
            if state == _OPEN:
                self._state[fd] = _MUTE
                with socket.socket(fileno=os.dup(fd)) as sock:
                    address, port = sock.getsockname()
                self._names[fd] = f"{address}:{port}"
        return {"names": list(self._names.values()), "time": time.monotonic()}

    def gone(self) -> dict[str, Any]:
        """When the server was seen to leave the mute ones."""
        return {"gone": self._gone}

    def counters(self) -> dict[str, Any]:
        """What has come so far."""
        names = ("open", "pings", "lost", "odd")
        return {"cpu": time.process_time()} | {name: self._counts[name] for name in names}

    def run(self) -> None:
        """Answer PINGs and commands until standard input ends."""
        self._epoll.register(COMMANDS, select.EPOLLIN)
        commands = Commands(self)
        while not self._turn(60.0) or commands.obey():
            pass

    def _dial(self, address: tuple[str, int], source: str, data: bytes) -> None:
        sock = socket.socket()
        try:
            sock.setsockopt(socket.IPPROTO_IP, _NO_PORT, 1)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.bind((source, 0))
            sock.connect(address)
            sock.send(data)
            sock.setblocking(False)
        except BaseException:
            sock.close()
            raise
        fd = sock.detach()
        self._state[fd] = _ASKED
        self._epoll.register(fd, select.EPOLLIN)

    def _turn(self, timeout: float) -> bool:
        """Wait for something and deal with it; true when a command has come."""
        command = False
        for fd, _ in self._epoll.poll(timeout):
            if fd == COMMANDS:
                command = True
                continue
            try:
                data = os.read(fd, _MOST)
            except OSError:
                data = b""
            if data:
                self._take(fd, data)
            else:
                self._leave(fd)
        return command

    def _take(self, fd: int, data: bytes) -> None:
        if self._state[fd] == _ASKED:
            head, end, data = data.partition(b"\r\n\r\n")
            if not (end and head.startswith(b"HTTP/1.1 101")):
                self._counts["refused"] += 1
                return
            self._state[fd] = _OPEN
            self._counts["open"] += 1
        while data:
            size = 2 + data[1] if len(data) > 1 else 0
            if data[0] != 0x89 or not 2 <= size <= len(data):
                self._counts["odd"] += 1
                return
            self._counts["pings"] += 1
            if self._state[fd] == _OPEN:
                # A key of zeros: the load need not pay for a mask that hides nothing.
                with contextlib.suppress(OSError):  # the next read tells that it is gone
                    os.write(fd, bytes((0x8A, 0x80 | size - 2, 0, 0, 0, 0)) + data[2:size])
            data = data[size:]

    def _leave(self, fd: int) -> None:
        if self._state[fd] == _MUTE:
            self._gone[self._names[fd]] = time.monotonic()
        else:
            self._counts["lost"] += 1
        self._counts["open"] -= self._state[fd] != _ASKED
        self._state[fd] = _NONE
        self._epoll.unregister(fd)
        os.close(fd)


def main() -> None:
    """Serve commands."""
    gc.disable()  # nothing here is cyclic garbage
    Quiet().run()


if __name__ == "__main__":
    main()
