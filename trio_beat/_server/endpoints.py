"""Where a server listens, all of it: a TCP port, a path, and sockets that it is given."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import sys
from collections.abc import Sequence
from typing import Final

from .._checks import check_hosts, check_mode, check_path, check_port
from .given import check_sockets, prepare_socket
from .listeners import open_listeners

if sys.platform != "win32":
    from .unix import UnixListener

#: The host of a port that is given without one.
LOOPBACK: Final = "127.0.0.1"


async def open_endpoints(
    port: int | None,
    host: str | Sequence[str] | None,
    uds: str | os.PathLike[str] | None,
    uds_mode: int,
    sockets: Sequence[socket.socket],
) -> list[socket.socket]:
    """Listen.

    Args:
        port, host, uds, uds_mode, sockets: as for `serve`.

    Returns:
        The listeners, for the caller to close. Where this raises, all are closed, also those that
        were given; save for TypeError and ValueError.

    Raises:
        OSError: one cannot be listened on; its ``filename`` says which.
        TypeError: an argument is of another type.
        ValueError: an argument can never be right, or there is nowhere to listen.
    """
    given = check_sockets(sockets)
    path = None if uds is None else check_path("uds", uds)
    check_mode("uds_mode", uds_mode)
    if port is not None:
        check_port(port)
        check_hosts(host)
    elif host != LOOPBACK:
        raise ValueError(f"host is {host!r}, which is of no use without a port")
    elif path is None and not given:
        raise ValueError("there is nowhere to listen: a port, uds or sockets are needed")
    with contextlib.ExitStack() as stack:
        for sock in given:
            stack.enter_context(sock)
        opened = [] if port is None else await open_listeners(port, host)
        for sock in opened:
            stack.enter_context(sock)
        if path is not None:
            opened.append(stack.enter_context(open_path(path, uds_mode)))
        for sock in given:
            prepare_socket(sock)
        stack.pop_all()
    return [*opened, *given]


def open_path(path: str, mode: int) -> socket.socket:
    """Listen at a path; closing the socket removes it.

    Raises:
        OSError: that cannot be; its ``filename`` is the path.
    """
    if sys.platform != "win32":
        return UnixListener(path, mode)
    raise OSError(errno.EAFNOSUPPORT, "Python has no Unix sockets on this system", path)
