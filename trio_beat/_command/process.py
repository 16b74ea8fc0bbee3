"""One process of the bundled server: from its backend to its signals."""

from __future__ import annotations

import contextlib
import gc
import signal
import socket
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any, Final, NamedTuple

import trio

from .._channels.gaps import BackendLost
from .._channels.hub import Hub, open_hub
from .._channels.permissions import Permissions
from .._connection.shared import SlowPolicy
from .._exceptions import BackendError
from .._heartbeat import Heartbeat
from .._log import get_logger
from .._protocol.compression import Compression
from .._server.limits import Limits, ServerStatistics
from .._server.origins import Origins
from .._server.server import Server
from .._site.api import API
from .._site.app import Site, make_app, make_internal_app
from ..auth.credentials import BEARER
from ..backends import Backend, backend_from_url
from .announcement import announce
from .arguments import ConfigurationError
from .exposure import warn_if_exposed
from .internal import internal_server, listening, warn_if_readable
from .listening import listen
from .notify import Manager
from .prepared import Prepared
from .settings import Settings
from .signals import QUITTING, RENEWING, STOPPING, caught
from .streams import standard_error
from .worker import Worker

_log = get_logger("trio_beat")

#: Thresholds of Python's cyclic collector. A full collection blocks everything for 0.3 s where
#: there are 1,000 HTTP connections, and finds little: a connection leaves no cycles, HTTP a few.
_COLLECT: Final = (700, 5, 200)


class Started(NamedTuple):
    """What this process was started as, and with."""

    worker: Worker | None = None  #: among several; None: it is the only one, and listens itself
    inherited: Sequence[socket.socket] = ()  #: sockets; the only process takes them over
    manager: Manager = Manager()  #: is told how the server is; not by a worker


async def run(settings: Settings, prepared: Prepared, started: Started) -> int:
    """Serve until a signal ends it.

    Args:
        settings: the options.
        prepared: what they name.
        started: what this process was started as, and with.

    Returns:
        0 after a clean end, 1 when it was cut short.

    Raises:
        ConfigurationError: an option cannot be used.
    """
    failure: ConfigurationError | None = None
    code = 1
    worker = started.worker
    numbers = (*STOPPING, *QUITTING, *RENEWING) if worker is None else worker.obeyed()
    # Signals are caught before the server announces itself.
    with caught(numbers) as signals:
        async with trio.open_nursery() as nursery:
            if worker is not None:
                worker.take_signals()
                nursery.start_soon(worker.tell_alive)
            nursery.start_soon(started.manager.run)
            try:
                code = await _open_and_serve(settings, prepared, started, signals)
            except ConfigurationError as exc:
                failure = exc  # the nursery would wrap it
            nursery.cancel_scope.cancel()
    if failure is not None:
        raise failure
    return code


async def _open_and_serve(
    settings: Settings,
    prepared: Prepared,
    started: Started,
    signals: AsyncIterator[int],
) -> int:
    worker = started.worker
    with contextlib.ExitStack() as stack:
        try:
            backend = backend_from_url(settings.backend)
            listeners = (
                await listen(settings, started.inherited) if worker is None else worker.listeners
            )
            for listener in listeners:
                stack.enter_context(listener)
            internal = _listen_internally(settings, worker, stack)
            if worker is None:
                warn_if_exposed(settings, listeners)
                if prepared.api_tokens.tokens is not None:
                    warn_if_readable(internal)
            async with _open_hub(settings, backend) as hub:
                served = _make_servers(settings, hub, prepared, worker)
                served = served._replace(listeners=listeners, internal_listeners=internal)
                gc.freeze()  # what exists already stays for good
                gc.set_threshold(*_COLLECT)
                return await _serve(settings, prepared, served, signals, started)
        except BackendError as exc:
            raise ConfigurationError(f"--backend: {exc}") from exc


def _open_hub(settings: Settings, backend: Backend) -> AbstractAsyncContextManager[Hub]:
    return open_hub(
        backend,
        expire=settings.expire,
        backend_lost=BackendLost(settings.backend_lost),
        backend_grace=settings.backend_grace,
    )


def _listen_internally(
    settings: Settings, worker: Worker | None, stack: contextlib.ExitStack
) -> Sequence[socket.socket]:
    if worker is None:
        return stack.enter_context(listening(settings.internal_bind, 1))[0]
    for listener in worker.internal:
        stack.enter_context(listener)
    return worker.internal


def _make_servers(
    settings: Settings, hub: Hub, prepared: Prepared, worker: Worker | None
) -> _Served:
    heartbeat = Heartbeat(settings.interval, settings.misses, settings.heartbeat_message)
    tokens = prepared.api_tokens.tokens
    authentication = prepared.authentication
    limits = Limits(
        connections=settings.max_connections,
        pending=settings.max_pending,
        handshake_timeout=settings.handshake_timeout,
        message_size=settings.max_message_size,
        message_timeout=settings.message_timeout,
        unfinished=settings.max_unfinished,
        outbox=settings.outbox_size,
        slow_policy=SlowPolicy(settings.slow_policy),
        connections_per_address=settings.max_connections_per_address,
        connections_per_user=settings.max_connections_per_user,
        handshake_rate=settings.handshake_rate,
        message_rate=settings.message_rate,
        byte_rate=settings.byte_rate,
        rate_policy=settings.rate_policy,
        channels=settings.max_channels,
    )
    size = settings.max_message_size
    site = Site(
        hub=hub,
        draining=lambda: server.draining,
        statistics=lambda: _by_name(server.statistics()),
        heartbeat=heartbeat,
        path_prefix=settings.path_prefix,
        api=None if tokens is None else API(hub=hub, tokens=tokens, max_message_size=size),
        internal=settings.internal_bind is not None,
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
        origins=Origins(settings.allowed_origin, option="--allowed-origin"),
        app=make_app(site),
        path_prefix=settings.path_prefix,
        heartbeat=heartbeat,
        limits=limits,
        # A page offers a token behind it; Chrome drops a connection whose offer is not answered.
        subprotocols=() if authentication is None else (BEARER,),
        compression=_compression(settings),
        ssl_context=prepared.context,
        trusted_proxies=settings.trusted_proxy,
        forwarded_host=settings.forwarded_host,
        grace=settings.grace,
    )
    internal = None
    if site.internal:
        internal = internal_server(make_internal_app(site), limits, settings)
    return _Served(server, internal)


def _compression(settings: Settings) -> Compression | None:
    if settings.compression == "off":
        return None
    return Compression(
        level=settings.compression_level,
        window_bits=settings.compression_window_bits,
        threshold=settings.compression_threshold,
    )


def _by_name(statistics: ServerStatistics) -> dict[str, Any]:
    compression = statistics.compression
    counts = None if compression is None else compression._asdict()
    return statistics._asdict() | {"compression": counts}


class _Served(NamedTuple):
    """The servers of this process, and where they listen."""

    public: Server
    internal: Server | None  #: for health and the API alone; None: they are at the public one
    listeners: Sequence[socket.socket] = ()
    internal_listeners: Sequence[socket.socket] = ()

    def drain(self) -> None:
        """Begin to shut down."""
        self.public.drain()
        if self.internal is not None:
            self.internal.drain()


async def _serve(
    settings: Settings,
    prepared: Prepared,
    served: _Served,
    signals: AsyncIterator[int],
    started: Started,
) -> int:
    code, worker = 1, started.worker
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_obey, signals, prepared, served, nursery.cancel_scope, started)
        nursery.start_soon(standard_error().run)
        async with trio.open_nursery() as serving:
            if served.internal is not None:
                await serving.start(served.internal.run, served.internal_listeners)
            await serving.start(served.public.run, served.listeners)
            if worker is None:
                where = served.listeners, served.internal_listeners
                nursery.start_soon(announce, settings, *where)
                started.manager.ready()
            else:
                worker.tell_ready()
                nursery.start_soon(_drain_abandoned, worker, served)
        code = 0
        nursery.cancel_scope.cancel()
    return code


async def _obey(
    signals: AsyncIterator[int],
    prepared: Prepared,
    served: _Served,
    everything: trio.CancelScope,
    started: Started,
) -> None:
    worker, manager = started.worker, started.manager
    async for number in signals:
        name = signal.Signals(number).name
        if number in RENEWING:
            with manager.reloading():
                if prepared.renew() and prepared.context is not None:
                    served.public.replace_ssl_context(prepared.context)
        elif number in QUITTING:
            _log.warning("%s, leaving at once", name)
            manager.stopping()
            everything.cancel()
        elif not served.public.draining:
            _log.info("%s, shutting down", name)
            manager.stopping()
            served.drain()
            if worker is not None:
                worker.tell_leaving()
        elif worker is None:
            # A worker may get two of one stop: its supervisor's, and what all processes get.
            _log.warning("%s again, leaving at once", name)
            everything.cancel()


async def _drain_abandoned(worker: Worker, served: _Served) -> None:
    await worker.wait_abandoned()
    _log.warning("the supervisor is gone, shutting down")
    served.drain()
