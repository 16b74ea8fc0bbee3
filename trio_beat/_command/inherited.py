"""Sockets that this process was started with: by ``--fd``, and by systemd (sd_listen_fds(3)).

1. Those of systemd are meant for the process that ``LISTEN_PID`` names, and for no other.
2. Neither they nor the variables that tell of them go on to processes that this one starts.
"""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterable
from typing import Final

from .._log import get_logger
from .._server.given import wrong_socket
from .arguments import ConfigurationError

_log = get_logger("trio_beat")

#: The first of systemd's descriptors (``SD_LISTEN_FDS_START``).
_FIRST: Final = 3
_FDS: Final = "LISTEN_FDS"
_PID: Final = "LISTEN_PID"
#: What else systemd tells of them.
_MORE: Final = ("LISTEN_FDNAMES", "LISTEN_PIDFDID")
#: Characters of a value that are shown where it is no number; none has as many digits.
_SHOWN: Final = 20


def inherited_sockets(descriptors: Iterable[int]) -> list[socket.socket]:
    """Take over sockets; those of systemd first.

    Args:
        descriptors: those of ``--fd``; one may also be systemd's.

    Raises:
        ConfigurationError: one is no socket, or cannot listen.
    """
    theirs = _listen_fds()
    ours = [descriptor for descriptor in dict.fromkeys(descriptors) if descriptor not in theirs]
    with contextlib.ExitStack() as stack:
        sockets = []
        # One after the other: a number that is too large ends at the first that is not there.
        for descriptor in theirs:
            sockets.append(stack.enter_context(_take_over(descriptor, _FDS)))
        for descriptor in ours:
            sockets.append(stack.enter_context(_take_over(descriptor, "--fd")))
        stack.pop_all()
    return sockets


def _listen_fds() -> range:
    """The descriptors that systemd passes on."""
    pid, count = os.environ.pop(_PID, None), os.environ.pop(_FDS, None)
    for name in _MORE:
        os.environ.pop(name, None)
    if pid is None or count is None:
        return range(0)
    for name, value in ((_PID, pid), (_FDS, count)):
        if not (value.isascii() and value.isdecimal() and len(value) < _SHOWN):
            raise ConfigurationError(f"{name}: {value[:_SHOWN]!r} should be a number")
    if int(pid) != os.getpid():
        _log.info("LISTEN_FDS is ignored: it is meant for process %s (LISTEN_PID)", pid)
        return range(0)
    return range(_FIRST, _FIRST + int(count))


def _take_over(descriptor: int, name: str) -> socket.socket:
    try:
        sock = socket.socket(fileno=descriptor)
    except OverflowError:
        raise ConfigurationError(f"{name}: no descriptor is {descriptor}") from None
    except OSError as exc:
        text = f"{name}: descriptor {descriptor} cannot be used: {exc.strerror}"
        raise ConfigurationError(text) from exc
    if wrong := wrong_socket(sock):
        sock.detach()  # it is not ours to close
        raise ConfigurationError(f"{name}: descriptor {descriptor} {wrong}")
    sock.set_inheritable(False)
    return sock
