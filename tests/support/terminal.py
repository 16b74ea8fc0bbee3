"""The command in a terminal of its own."""

from __future__ import annotations

import fcntl
import os
import pty
import struct
import subprocess
import sys
import termios

from tests.support.command import clean_environment


def run_in_terminal(columns: int, *options: str) -> str:
    """Run the command to its end in a terminal that is so wide; returns what it has written."""
    ours, theirs = pty.openpty()
    try:
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
        environment = clean_environment()
        environment.pop("COLUMNS", None)
        with subprocess.Popen(
            [sys.executable, "-m", "trio_beat", *options],
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            env=environment,
        ):
            os.close(theirs)
            theirs = -1
            data = b""
            # EIO says that no process has the other end any more (pty(7)).
            while chunk := _read(ours):
                data += chunk
        return data.decode().replace("\r\n", "\n")
    finally:
        for fd in (ours, theirs):
            if fd >= 0:
                os.close(fd)


def _read(fd: int) -> bytes:
    try:
        return os.read(fd, 65536)
    except OSError:
        return b""
