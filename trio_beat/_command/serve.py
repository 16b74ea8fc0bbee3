"""The bundled server: from its settings to its processes."""

from __future__ import annotations

import contextlib
import importlib
import sys
from collections.abc import Sequence
from dataclasses import replace
from typing import Final

import trio

from .._log import get_logger
from .announcement import announce_nowait
from .arguments import ConfigurationError
from .descriptors import most_sockets, raise_descriptor_limit
from .exposure import warn_if_exposed
from .inherited import inherited_sockets
from .internal import listening, warn_if_readable
from .listening import listen_for_workers
from .logs import set_up_logging
from .notify import find_manager
from .prepared import Prepared
from .process import Started, run
from .settings import Settings, load_settings
from .signals import held_back
from .streams import standard_error
from .title import show_worker
from .worker import SIGNALS, Worker
from .workers import check_workers

if sys.platform != "win32":
    from .supervisor import supervise

_log = get_logger("trio_beat")

#: Seconds after which many proxies close an idle connection.
_PROXY_TIMEOUT: Final = 60.0


def serve(arguments: Sequence[str]) -> int:
    """Run the bundled server until a signal ends it.

    Args:
        arguments: the command line's, without the command.

    Returns:
        0 after a clean end, 1 when it was cut short, 2 where a worker did not start.

    Raises:
        ConfigurationError: an option cannot be used.
        SystemExit: help or the version was asked for, and has been printed.
    """
    settings = load_settings(arguments)
    set_up_logging(settings.log_level, settings.log_format)
    prepared = Prepared(settings)
    if settings.workers > 1:
        check_workers(settings)
    ports = 1 if settings.internal_bind is None else 2
    raise_descriptor_limit(most_sockets(settings.max_connections, settings.max_pending, ports))
    if settings.interval >= _PROXY_TIMEOUT:
        _log.warning(
            "beats are %g s apart; many proxies end what is idle for 60 s", settings.interval
        )
    with contextlib.ExitStack() as stack:
        manager = stack.enter_context(contextlib.closing(find_manager()))
        inherited = [stack.enter_context(sock) for sock in inherited_sockets(settings.fd)]
        started = Started(inherited=inherited, manager=manager)
        if settings.workers == 1:
            return trio.run(run, settings, prepared, started)
        return _supervise(settings, prepared, started)


def _supervise(settings: Settings, prepared: Prepared, started: Started) -> int:
    """Run the workers; in each of them, be one."""
    importlib.import_module("trio_beat._server.http")  # which workers share
    # In a worker, too, this is left when it ends; only the supervisor removes the file of a socket.
    with contextlib.ExitStack() as stack:
        # A signal that would end it now would leave that file: it waits for `supervise`.
        stack.enter_context(held_back(SIGNALS))
        listeners = listen_for_workers(settings, started.inherited)
        for listener in (listener for own in listeners for listener in own):
            stack.enter_context(listener)
        internal = stack.enter_context(listening(settings.internal_bind, settings.workers))
        warn_if_exposed(settings, listeners[0])
        if prepared.api_tokens.tokens is not None:
            warn_if_readable(internal[0])
        result: int | Worker = 2
        if sys.platform != "win32":
            result = supervise(
                [[*public, *own] for public, own in zip(listeners, internal, strict=True)],
                grace=settings.grace,
                announce=lambda: announce_nowait(settings, listeners[0], internal[0]),
                renew=prepared.renew,
                manager=started.manager,
            )
        if isinstance(result, int):
            return result
        started.manager.close()
        place = result.number - 1
        worker = replace(result, listeners=listeners[place], internal=internal[place])
        return _work(settings, prepared, worker)


def _work(settings: Settings, prepared: Prepared, worker: Worker) -> int:
    """Be a worker, in a process that was forked."""
    standard_error().forget()
    set_up_logging(settings.log_level, settings.log_format, worker.number)
    show_worker(worker.number)
    if not worker.first and prepared.authentication is not None:
        # The supervisor's are those of the last SIGHUP; the other workers may have read newer ones.
        prepared.authentication.read_again()
    try:
        return trio.run(run, settings, prepared, Started(worker))
    except ConfigurationError as exc:
        if worker.first:
            raise
        _log.error("%s", exc)
        return 2
