"""Where the public server listens, as the options and systemd tell."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Sequence

from .._server.endpoints import LOOPBACK, open_endpoints, open_path
from .._server.given import prepare_socket
from .._server.listeners import open_listeners_of_workers
from .arguments import cannot_listen
from .settings import Settings


async def listen(settings: Settings, inherited: Sequence[socket.socket]) -> list[socket.socket]:
    """Listen for one process.

    Args:
        settings: the options.
        inherited: sockets that this process was started with; they are taken over.

    Raises:
        ConfigurationError: one cannot be listened on.
    """
    tcp = settings.listens_on_port(given=bool(inherited))
    port, host = (settings.port, settings.host) if tcp else (None, LOOPBACK)
    try:
        return await open_endpoints(port, host, settings.uds, settings.mode, inherited)
    except OSError as exc:
        raise cannot_listen(exc) from exc


def listen_for_workers(
    settings: Settings, inherited: Sequence[socket.socket]
) -> list[list[socket.socket]]:
    """Listen for several processes: each has a port of its own, and all share what is not TCP.

    Args, Raises: as `listen`.
    """
    workers = settings.workers
    with contextlib.ExitStack() as stack:
        shared = [stack.enter_context(sock) for sock in inherited]
        own: list[list[socket.socket]] = [[] for _ in range(workers)]
        try:
            if settings.listens_on_port(given=bool(inherited)):
                own = open_listeners_of_workers(settings.port, settings.host, workers)
                for sock in (sock for listeners in own for sock in listeners):
                    stack.enter_context(sock)
            for sock in inherited:
                prepare_socket(sock)
            if settings.uds is not None:
                shared.insert(0, stack.enter_context(open_path(settings.uds, settings.mode)))
        except OSError as exc:
            raise cannot_listen(exc) from exc
        stack.pop_all()
    return [[*listeners, *shared] for listeners in own]
