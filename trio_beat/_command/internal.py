"""The listener of its own for health and the API, as ``--internal-bind`` names it.

1. It is a server of its own, over the same hub: floods at the public port take nothing from it.
   It speaks plain HTTP, and no WebSockets.
2. Workers share it: over TCP as they share the public port, over a Unix socket in turn.
"""

from __future__ import annotations

import contextlib
import re
import socket
import sys
from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

from .._heartbeat import Heartbeat
from .._log import get_logger
from .._server.endpoints import open_path
from .._server.lifespan import ASGIApp
from .._server.limits import Limits
from .._server.listeners import describe, open_listeners_of_workers
from .._server.server import Server
from .arguments import ConfigurationError, cannot_listen
from .exposure import is_loopback
from .settings import Settings

_log = get_logger("trio_beat")

_UNIX: Final = "unix:"
_TCP: Final = re.compile(r"(?P<host>\[[^\[\]]+\]|[^\[\]:]+):(?P<port>[0-9]{1,5})")
#: Tokens are sent there: it is for this user alone.
_OWN_MODE: Final = 0o600
_LAST_PORT: Final = 65535
#: Nobody beats there.
_RARELY: Final = Heartbeat(3600)


class Place(NamedTuple):
    """Where to listen: at a host and port, or at a path."""

    host: str
    port: int
    path: str  #: of a Unix socket; empty: TCP


def parse_place(text: str) -> Place:
    """Read the value of ``--internal-bind``.

    Raises:
        ConfigurationError: it is neither HOST:PORT nor unix:PATH.
    """
    if text.startswith(_UNIX):
        path = text.removeprefix(_UNIX)
        if sys.platform == "win32":
            raise ConfigurationError("--internal-bind: Python has no Unix sockets on this system")
        if not path or "\0" in path:
            raise ConfigurationError("--internal-bind: unix: needs a path behind it")
        return Place("", 0, path)
    found = _TCP.fullmatch(text)
    if found is None or int(found["port"]) > _LAST_PORT:
        allowed = "HOST:PORT, such as 127.0.0.1:8001 or [::1]:8001, or unix:/PATH"
        raise ConfigurationError(f"--internal-bind: {text!r} should be {allowed}")
    return Place(found["host"], int(found["port"]), "")


@contextlib.contextmanager
def listening(bind: str | None, workers: int) -> Iterator[list[list[socket.socket]]]:
    """Listen while the context lasts.

    Args:
        bind: where; None: nowhere.
        workers: how many processes get listeners.

    Yields:
        The listeners of each process. They are closed on the way out; so each process closes those
        that it has, and the one that listened removes the file of a Unix socket.

    Raises:
        ConfigurationError: that cannot be listened at.
    """
    with contextlib.ExitStack() as stack:
        opened: list[list[socket.socket]] = [[] for _ in range(workers)]
        if bind is not None:
            place = parse_place(bind)
            try:
                if place.path:
                    opened = [[open_path(place.path, _OWN_MODE)]] * workers
                else:
                    opened = open_listeners_of_workers(place.port, place.host, workers)
            except OSError as exc:
                raise ConfigurationError(f"--internal-bind: {cannot_listen(exc)}") from exc
            for listeners in opened:
                for listener in listeners:
                    stack.enter_context(listener)
        yield opened


def internal_server(app: ASGIApp, limits: Limits, settings: Settings) -> Server:
    """Make the server; it runs beside the public one.

    Args:
        app: health and the API.
        limits: those of the public server; it has as many slots of its own.
        settings: the options; the same proxies are trusted here.
    """
    return Server(
        handler=None,
        handler_errors="raise",
        hub=None,
        app=app,
        path_prefix=None,
        heartbeat=_RARELY,
        limits=limits,
        subprotocols=(),
        ssl_context=None,
        trusted_proxies=settings.trusted_proxy,
        forwarded_host=settings.forwarded_host,
        grace=settings.grace,
    )


def places(listeners: Sequence[socket.socket]) -> list[str]:
    """Where the listeners are, for people."""
    shown = []
    for listener in listeners:
        name = listener.getsockname()
        if isinstance(name, tuple):
            found, _ = describe([listener])
            shown += [f"http://{place}/" for place in found]
        else:
            shown.append(f"{_UNIX}{name}")
    return shown


def warn_if_readable(listeners: Sequence[socket.socket]) -> None:
    """Warn where tokens go over a network in plain text."""
    for listener in listeners:
        if isinstance(listener.getsockname(), tuple) and not is_loopback(listener):
            _log.warning(
                "--internal-bind listens on %s and speaks plain HTTP: who is on the way reads the "
                "tokens of the API",
                listener.getsockname()[0],
            )
