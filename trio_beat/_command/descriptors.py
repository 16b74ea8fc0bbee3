"""The limit of file descriptors."""

from __future__ import annotations

import contextlib
import sys
from typing import Final

from .._log import get_logger

_log = get_logger("trio_beat")

#: File descriptors beside those of the peers.
_OWN: Final = 64


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
    needed = peers + _OWN
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
