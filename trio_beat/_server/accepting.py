"""Accept sockets from a listener, also while the process has no file descriptor left."""

from __future__ import annotations

import errno
import select
import socket
import sys
from collections.abc import Callable
from typing import Final

import trio

from .._log import get_logger
from .._transports.kernel import set_up_accepted
from .given import is_tcp, show_address

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

    Raises:
        OSError: it does not listen any more; its ``filename`` says where it did.
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
            if local and _is_shut_down(listener):
                raise _useless(listener) from None
        except OSError as exc:
            # Anything else: the peer left before it was accepted (accept(2), "Error handling").
            if exc.errno == errno.EINVAL:
                raise _useless(listener) from None
            if exc.errno in _EXHAUSTED:
                if not exhausted:
                    _log.error("cannot accept: %s; trying again until it works", exc)
                exhausted = True
                await trio.sleep(_EXHAUSTED_PAUSE)


def _useless(listener: socket.socket) -> OSError:
    # Another process may have the same socket, and has shut it down (shutdown(2)). It stays
    # readable, so accepting would go on for ever.
    return OSError(errno.EINVAL, "does not listen any more", show_address(listener))


def _is_shut_down(listener: socket.socket) -> bool:
    """Whether a Unix socket was shut down; to accept from it then is only told to wait."""
    if sys.platform != "linux":
        return False
    poll = select.poll()
    poll.register(listener, select.POLLRDHUP)
    return bool(poll.poll(0))
