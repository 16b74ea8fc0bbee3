"""The server's certificate, as the options name it."""

from __future__ import annotations

import ssl
from typing import NoReturn

from .._log import get_logger
from .arguments import ConfigurationError
from .settings import Settings

_log = get_logger("trio_beat")


def load_certificate(settings: Settings) -> ssl.SSLContext | None:
    """Read the certificate and its key.

    Returns:
        None where the server does not speak TLS.

    Raises:
        ConfigurationError: they cannot be read, or do not belong together.
    """
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


def renewed_certificate(settings: Settings) -> ssl.SSLContext | None:
    """Read the certificate again at SIGHUP, and log it.

    Returns:
        None where the one in use stays: there is none, or it cannot be read.
    """
    try:
        context = load_certificate(settings)
    except ConfigurationError as exc:
        _log.error("SIGHUP: the certificate in use stays: %s", exc)
        return None
    if context is not None:
        _log.info("SIGHUP: read %s again", settings.tls_cert)
    return context


def _no_password() -> NoReturn:
    # Without this OpenSSL prompts at the terminal, and all beats wait for the answer.
    text = "its private key is encrypted, and there is no way to give the password"
    raise ConfigurationError(f"--tls-cert: {text}")
