"""A listening Unix socket (unix(7)).

1. Its file is for this user alone from the moment on that it exists.
2. The file of a socket at which nobody listens any more is replaced; anything else is left alone.
3. It is removed by the process that made it, and not by those that were forked from it. One that
   another process has put in its place is left alone.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import stat
import sys
from collections.abc import Iterator
from typing import Final

assert sys.platform != "win32"

#: Peers that may wait; more are a sign of trouble.
_BACKLOG: Final = 1024


@contextlib.contextmanager
def listening_unix(path: str) -> Iterator[socket.socket]:
    """Listen at a path while the context lasts.

    Raises:
        OSError: that cannot be; its ``filename`` is the path.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.setblocking(False)
        try:
            _make_way(path)
            _bind(listener, path)
        except OSError as exc:
            exc.filename, exc.strerror = path, exc.strerror or str(exc)
            raise
        made, maker = _file(path), os.getpid()
        try:
            listener.listen(_BACKLOG)
            yield listener
        finally:
            if os.getpid() == maker and made is not None and _file(path) == made:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(path)


def _bind(listener: socket.socket, path: str) -> None:
    # Linux makes the file with the mode of the socket (unix(7) tells of the mask alone), also where
    # the directory has an access list in place of the mask.
    with contextlib.suppress(OSError):
        os.fchmod(listener.fileno(), 0o600)
    mask = os.umask(0o177)
    try:
        listener.bind(path)
    finally:
        os.umask(mask)


def _make_way(path: str) -> None:
    """Remove the file of a socket at which nobody listens any more."""
    try:
        mode = os.lstat(path).st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise OSError(errno.EEXIST, "there is a file that is no socket")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        with contextlib.suppress(BlockingIOError):  # more wait there than may
            try:
                probe.connect(path)
            except ConnectionRefusedError:
                os.unlink(path)


def _file(path: str) -> tuple[int, int] | None:
    try:
        found = os.lstat(path)
    except FileNotFoundError:
        return None
    return found.st_dev, found.st_ino
