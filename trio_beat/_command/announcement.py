"""What the server tells on standard output: where it listens."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from importlib.metadata import version

from .._log import get_logger
from .._server.given import is_tcp, unix_name
from .._server.listeners import describe
from .internal import places as internal_places
from .settings import Settings
from .streams import encoded, standard_output

_log = get_logger("trio_beat")


async def announce(
    settings: Settings, listeners: Sequence[socket.socket], internal: Sequence[socket.socket]
) -> None:
    """Tell where the server listens, however long it takes to be read."""
    try:
        await standard_output().send(_announcement(settings, listeners, internal))
    except OSError as exc:
        _log.warning("cannot write to standard output: %s", exc.strerror)


def announce_nowait(
    settings: Settings, listeners: Sequence[socket.socket], internal: Sequence[socket.socket]
) -> None:
    """Tell where the server listens, as far as it is taken at once."""
    try:
        rest = standard_output().write_nowait(_announcement(settings, listeners, internal))
    except OSError as exc:
        _log.warning("cannot write to standard output: %s", exc.strerror)
    else:
        if rest:
            _log.warning("cannot write to standard output: nothing reads it")


def _announcement(
    settings: Settings, listeners: Sequence[socket.socket], internal: Sequence[socket.socket]
) -> bytes:
    secure = "" if settings.tls_cert is None else "s"
    workers = "" if settings.workers == 1 else f" with {settings.workers} workers"
    lines = [f"trio-beat {version('trio-beat')} is listening{workers}"]
    places, whole = describe([listener for listener in listeners if is_tcp(listener)])
    for place in places:
        query = "subscribe-broadcast&publish-broadcast"
        lines.append(f"  page       http{secure}://{place}/")
        lines.append(f"  WebSocket  ws{secure}://{place}{settings.path_prefix}<facility>?{query}")
    if whole:
        lines.append(f"  on all addresses of this machine ({' and '.join(whole)})")
    lines += [f"  Unix socket  {unix_name(sock)}" for sock in listeners if not is_tcp(sock)]
    lines += [f"  health and the API  {place}" for place in internal_places(internal)]
    return encoded("\n".join(lines) + "\n")
