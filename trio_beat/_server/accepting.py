"""Accept sockets from a listener, also while the process has no file descriptor left."""

from __future__ import annotations

import errno
import socket
from collections.abc import Callable
from typing import Final

import trio

from .._log import get_logger
from .._transports.kernel import set_up_accepted
from .given import is_tcp

_log = get_logger("trio_beat.server")

#: Sockets that are accepted before other tasks get a turn.
_ACCEPT_TURN: Final = 16
#: Seconds to wait when there is no file descriptor left for a new socket.
_EXHAUSTED_PAUSE: Final = 0.1
_EXHAUSTED: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})


async def accept_forever(listener: socket.socket, take: Callable[[socket.socket], object]) -> None:
    """Accept until cancelled.

    Args:
        listener: listens, non-blocking.
        take: called with each new socket, which it owns from then on.
    """
    exhausted, local = False, not is_tcp(listener)
    while True:
        await trio.lowlevel.wait_readable(listener)
        try:
            for _ in range(_ACCEPT_TURN):
                sock, _ = listener.accept()
                exhausted = False
                if local:
                    set_up_accepted(sock)
                take(sock)
        except BlockingIOError:
            continue
        except OSError as exc:
            # Anything else: the peer left before it was accepted (accept(2), "Error handling").
            if exc.errno in _EXHAUSTED:
                if not exhausted:
                    _log.error("cannot accept: %s; trying again until it works", exc)
                exhausted = True
                await trio.sleep(_EXHAUSTED_PAUSE)
