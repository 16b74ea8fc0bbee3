"""The limit of file descriptors."""

from __future__ import annotations

import contextlib
import sys
from typing import Final, NamedTuple

from .._log import get_logger

_log = get_logger("trio_beat")

#: File descriptors beside those of the peers.
OWN: Final = 64


def most_sockets(connections: int, pending: int, listeners: int) -> int:
    """How many sockets of peers a process may have.

    Args:
        connections: open WebSockets.
        pending: handshakes under way at a listener; as many sockets again speak HTTP there.
        listeners: how many, 2 with one for health and the API.
    """
    return connections + 2 * listeners * pending


class DescriptorLimit(NamedTuple):
    """The limit of file descriptors of a process (getrlimit(2))."""

    soft: int | None  #: in force; None: there is none
    hard: int | None  #: up to which the process may raise it; None: any number


def descriptor_limit() -> DescriptorLimit | None:
    """The limit of this process; None: the system has none."""
    if sys.platform == "win32":
        return None  # a socket is no file descriptor there
    try:
        import resource
    except ImportError:
        return None
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    return DescriptorLimit(*(None if it == resource.RLIM_INFINITY else it for it in limits))


def raise_descriptor_limit(peers: int) -> None:
    """Raise the limit of file descriptors as far as allowed; warn if that is too few.

    Args:
        peers: how many sockets this process, or each that it forks, may have.
    """
    if sys.platform == "win32":
        return  # a socket is no file descriptor there
    try:
        import resource
    except ImportError:
        return
    needed = peers + OWN
    allowed, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    # Where there is no limit, macOS wants a number all the same (setrlimit(2)).
    wanted = max(allowed, needed) if hard == resource.RLIM_INFINITY else hard
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        allowed = wanted
    if allowed != resource.RLIM_INFINITY and allowed < needed:
        _log.warning(
            "file descriptors are limited to %d (ulimit -n), too few for %d peers", allowed, peers
        )
