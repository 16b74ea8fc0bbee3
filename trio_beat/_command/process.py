"""One process of the bundled server: from its backend to its signals."""

from __future__ import annotations

import contextlib
import gc
import signal
import socket
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Final

import trio

from .._channels.gaps import BackendLost
from .._channels.hub import Hub, open_hub
from .._channels.permissions import Permissions
from .._connection.shared import SlowPolicy
from .._exceptions import BackendError
from .._heartbeat import Heartbeat
from .._log import get_logger
from .._server.limits import Limits
from .._server.listeners import open_listeners
from .._server.server import Server
from .._site.app import Site, make_app
from ..auth.credentials import BEARER
from ..backends import Backend, backend_from_url
from .announcement import announce
from .arguments import ConfigurationError, cannot_listen
from .exposure import warn_if_exposed
from .prepared import Prepared
from .settings import Settings
from .signals import QUITTING, RENEWING, STOPPING, caught
from .streams import standard_error
from .worker import Worker

_log = get_logger("trio_beat")

#: Thresholds of Python's cyclic collector. A full collection blocks everything for 0.3 s where
#: there are 1,000 HTTP connections, and finds little: a connection leaves no cycles, HTTP a few.
_COLLECT: Final = (700, 5, 200)


async def run(settings: Settings, prepared: Prepared, worker: Worker | None = None) -> int:
    """Serve until a signal ends it.

    Args:
        settings: the options.
        prepared: what they name.
        worker: what this process is among several; None: it is the only one, and listens itself.

    Returns:
        0 after a clean end, 1 when it was cut short.

    Raises:
        ConfigurationError: an option cannot be used.
    """
    failure: ConfigurationError | None = None
    code = 1
    numbers = (*STOPPING, *QUITTING, *RENEWING) if worker is None else worker.obeyed()
    # Signals are caught before the server announces itself.
    with caught(numbers) as signals:
        async with trio.open_nursery() as nursery:
            if worker is not None:
                worker.take_signals()
                nursery.start_soon(worker.tell_alive)
            try:
                code = await _open_and_serve(settings, prepared, worker, signals)
            except ConfigurationError as exc:
                failure = exc  # the nursery would wrap it
            nursery.cancel_scope.cancel()
    if failure is not None:
        raise failure
    return code


async def _open_and_serve(
    settings: Settings,
    prepared: Prepared,
    worker: Worker | None,
    signals: AsyncIterator[int],
) -> int:
    with contextlib.ExitStack() as stack:
        try:
            backend = backend_from_url(settings.backend)
            listeners = await _listen(settings) if worker is None else worker.listeners
            for listener in listeners:
                stack.enter_context(listener)
            if worker is None:
                warn_if_exposed(settings, listeners)
            async with _open_hub(settings, backend) as hub:
                server = _make_server(settings, hub, prepared, worker)
                gc.freeze()  # what exists already stays for good
                gc.set_threshold(*_COLLECT)
                return await _serve(settings, prepared, server, listeners, signals, worker)
        except BackendError as exc:
            raise ConfigurationError(f"--backend: {exc}") from exc


def _open_hub(settings: Settings, backend: Backend) -> AbstractAsyncContextManager[Hub]:
    return open_hub(
        backend,
        expire=settings.expire,
        backend_lost=BackendLost(settings.backend_lost),
        backend_grace=settings.backend_grace,
    )


async def _listen(settings: Settings) -> list[socket.socket]:
    try:
        return await open_listeners(settings.port, settings.host)
    except OSError as exc:
        raise cannot_listen(exc) from exc


def _make_server(settings: Settings, hub: Hub, prepared: Prepared, worker: Worker | None) -> Server:
    heartbeat = Heartbeat(settings.interval, settings.misses, settings.heartbeat_message)
    token = settings.publish_token
    authentication = prepared.authentication
    site = Site(
        hub=hub,
        draining=lambda: server.draining,
        statistics=lambda: server.statistics()._asdict(),
        heartbeat=heartbeat,
        path_prefix=settings.path_prefix,
        publish_token=None if token is None else token.get_secret_value(),
        max_message_size=settings.max_message_size,
        worker=1 if worker is None else worker.number,
        workers=1 if worker is None else worker.workers,
    )
    server = Server(
        handler=None,
        handler_errors="raise",
        hub=hub,
        admit=None if authentication is None else authentication.admit,
        permissions=Permissions(allow=settings.allow, denied=settings.denied),
        refuse_by=settings.refuse_by,
        app=make_app(site),
        path_prefix=settings.path_prefix,
        heartbeat=heartbeat,
        limits=Limits(
            connections=settings.max_connections,
            pending=settings.max_pending,
            handshake_timeout=settings.handshake_timeout,
            message_size=settings.max_message_size,
            message_timeout=settings.message_timeout,
            unfinished=settings.max_unfinished,
            outbox=settings.outbox_size,
            slow_policy=SlowPolicy(settings.slow_policy),
        ),
        # A page offers a token behind it; Chrome drops a connection whose offer is not answered.
        subprotocols=() if authentication is None else (BEARER,),
        ssl_context=prepared.context,
        trusted_proxies=settings.trusted_proxy,
        forwarded_host=settings.forwarded_host,
        grace=settings.grace,
    )
    return server


async def _serve(
    settings: Settings,
    prepared: Prepared,
    server: Server,
    listeners: Sequence[socket.socket],
    signals: AsyncIterator[int],
    worker: Worker | None,
) -> int:
    code = 1
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_obey, signals, prepared, server, nursery.cancel_scope, worker)
        nursery.start_soon(standard_error().run)
        async with trio.open_nursery() as serving:
            await serving.start(server.run, listeners)
            if worker is None:
                nursery.start_soon(announce, settings, listeners)
            else:
                worker.tell_ready()
                nursery.start_soon(_drain_abandoned, worker, server)
        code = 0
        nursery.cancel_scope.cancel()
    return code


async def _obey(
    signals: AsyncIterator[int],
    prepared: Prepared,
    server: Server,
    everything: trio.CancelScope,
    worker: Worker | None,
) -> None:
    async for number in signals:
        name = signal.Signals(number).name
        if number in RENEWING:
            if prepared.renew() and prepared.context is not None:
                server.replace_ssl_context(prepared.context)
        elif number in QUITTING:
            _log.warning("%s, leaving at once", name)
            everything.cancel()
        elif not server.draining:
            _log.info("%s, shutting down", name)
            server.drain()
            if worker is not None:
                worker.tell_leaving()
        elif worker is None:
            # A worker may get two of one stop: its supervisor's, and what all processes get.
            _log.warning("%s again, leaving at once", name)
            everything.cancel()


async def _drain_abandoned(worker: Worker, server: Server) -> None:
    await worker.wait_abandoned()
    _log.warning("the supervisor is gone, shutting down")
    server.drain()
