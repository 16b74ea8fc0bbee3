"""The bundled server: from its settings to its signals."""

from __future__ import annotations

import contextlib
import gc
import signal
import socket
import ssl
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager
from importlib.metadata import version
from typing import NoReturn

import trio

from .._channels.gaps import BackendLost
from .._channels.hub import Hub, open_hub
from .._connection.shared import SlowPolicy
from .._exceptions import BackendError
from .._heartbeat import Heartbeat
from .._log import get_logger
from .._server.limits import Limits
from .._server.listeners import describe, open_listeners
from .._server.server import Server
from .._site.app import Site, make_app
from ..backends import Backend, backend_from_url
from .arguments import ConfigurationError
from .logs import set_up_logging
from .settings import Settings, load_settings
from .signals import RENEWING, STOPPING
from .streams import encoded, standard_error, standard_output

_log = get_logger("trio_beat")

#: File descriptors beside those of the peers.
_OWN_DESCRIPTORS = 64
#: Seconds after which many proxies close an idle connection.
_PROXY_TIMEOUT = 60.0
#: Thresholds of Python's cyclic collector. A full collection blocks everything for 0.3 s where
#: there are 1,000 HTTP connections, and finds little: a connection leaves no cycles, HTTP a few.
_COLLECT = (700, 5, 200)


def serve(arguments: Sequence[str]) -> int:
    """Run the bundled server until a signal ends it.

    Args:
        arguments: the command line's, without the command.

    Returns:
        0 after a clean end, 1 when a second signal cut it short.

    Raises:
        ConfigurationError: an option cannot be used.
        SystemExit: help or the version was asked for, and has been printed.
    """
    settings = load_settings(arguments)
    set_up_logging(settings.log_level, settings.log_format)
    return trio.run(_run, settings)


async def _run(settings: Settings) -> int:
    context = _ssl_context(settings)
    _raise_descriptor_limit(settings.max_connections + settings.max_pending)
    heartbeat = Heartbeat(settings.interval, settings.misses, settings.heartbeat_message)
    if settings.interval >= _PROXY_TIMEOUT:
        _log.warning(
            "beats are %g s apart; many proxies end what is idle for 60 s", settings.interval
        )
    # Signals are caught before the server announces itself.
    with (
        trio.open_signal_receiver(*STOPPING, *RENEWING) as signals,
        contextlib.ExitStack() as stack,
    ):
        try:
            backend = backend_from_url(settings.backend)
            listeners = await _listen(settings)
            for listener in listeners:
                stack.enter_context(listener)
            async with _open_hub(settings, backend) as hub:
                server = _make_server(settings, hub, heartbeat, context)
                gc.freeze()  # what exists already stays for good
                gc.set_threshold(*_COLLECT)
                return await _serve(settings, server, listeners, signals)
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
        raise ConfigurationError(f"cannot listen on {exc.filename}: {exc.strerror}") from exc


def _make_server(
    settings: Settings, hub: Hub, heartbeat: Heartbeat, context: ssl.SSLContext | None
) -> Server:
    token = settings.publish_token
    site = Site(
        hub=hub,
        draining=lambda: server.draining,
        statistics=lambda: server.statistics()._asdict(),
        heartbeat=heartbeat,
        path_prefix=settings.path_prefix,
        publish_token=None if token is None else token.get_secret_value(),
        max_message_size=settings.max_message_size,
    )
    server = Server(
        handler=None,
        handler_errors="raise",
        hub=hub,
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
        subprotocols=(),
        ssl_context=context,
        grace=settings.grace,
    )
    return server


async def _serve(
    settings: Settings,
    server: Server,
    listeners: Sequence[socket.socket],
    signals: AsyncIterator[int],
) -> int:
    code = 1
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_obey_signals, signals, settings, server, nursery.cancel_scope)
        nursery.start_soon(standard_error().run)
        nursery.start_soon(_announce, settings, listeners)
        await server.run(listeners)
        code = 0
        nursery.cancel_scope.cancel()
    return code


async def _announce(settings: Settings, listeners: Sequence[socket.socket]) -> None:
    secure = "" if settings.tls_cert is None else "s"
    lines = [f"trio-beat {version('trio-beat')} is listening"]
    places, whole = describe(listeners)
    for place in places:
        query = "subscribe-broadcast&publish-broadcast"
        lines.append(f"  page       http{secure}://{place}/")
        lines.append(f"  WebSocket  ws{secure}://{place}{settings.path_prefix}<facility>?{query}")
    if whole:
        lines.append(f"  on all addresses of this machine ({' and '.join(whole)})")
    try:
        await standard_output().send(encoded("\n".join(lines) + "\n"))
    except OSError as exc:
        _log.warning("cannot write to standard output: %s", exc.strerror)


async def _obey_signals(
    signals: AsyncIterator[int],
    settings: Settings,
    server: Server,
    everything: trio.CancelScope,
) -> None:
    async for number in signals:
        name = signal.Signals(number).name
        if number in RENEWING:
            _renew_certificate(settings, server)
        elif server.draining:
            _log.warning("%s again, leaving at once", name)
            everything.cancel()
        else:
            _log.info("%s, shutting down", name)
            server.drain()


def _renew_certificate(settings: Settings, server: Server) -> None:
    """Read the certificate again; where that fails, the one in use stays."""
    try:
        context = _ssl_context(settings)
    except ConfigurationError as exc:
        _log.error("SIGHUP: the certificate in use stays: %s", exc)
        return
    if context is None:
        _log.info("SIGHUP: nothing to read again, there is no --tls-cert")
    else:
        server.replace_ssl_context(context)
        _log.info("SIGHUP: read %s again", settings.tls_cert)


def _ssl_context(settings: Settings) -> ssl.SSLContext | None:
    if settings.tls_cert is None:
        return None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.set_alpn_protocols(["http/1.1"])
    # One session ticket, not OpenSSL's two: each costs 16 us of a handshake's 256, and a client
    # uses one for each connection. Without any it would wait for an acknowledgement.
    context.num_tickets = 1
    try:
        context.load_cert_chain(settings.tls_cert, settings.tls_key, _no_password)
    except ssl.SSLError as exc:
        where = "it" if settings.tls_key is None else f"it and {settings.tls_key}"
        why = exc.reason or "no private key"
        text = f"in {where} are no certificate and key of one another (PEM): {why}"
        raise ConfigurationError(f"--tls-cert: {settings.tls_cert}: {text}") from exc
    except OSError as exc:
        paths = " with ".join(str(p) for p in (settings.tls_cert, settings.tls_key) if p)
        raise ConfigurationError(f"--tls-cert: cannot use {paths}: {exc.strerror}") from exc
    return context


def _no_password() -> NoReturn:
    # Without this OpenSSL prompts at the terminal, and all beats wait for the answer.
    text = "its private key is encrypted, and there is no way to give the password"
    raise ConfigurationError(f"--tls-cert: {text}")


def _raise_descriptor_limit(peers: int) -> None:
    """Raise the limit of file descriptors as far as allowed; warn if that is too few."""
    if sys.platform == "win32":
        return  # a socket is no file descriptor there
    try:
        import resource
    except ImportError:
        return
    needed = peers + _OWN_DESCRIPTORS
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
