"""A warning where everybody on a network may subscribe and publish."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Sequence
from typing import Final

from .._log import get_logger
from .._server.given import is_tcp
from .settings import Settings

_log = get_logger("trio_beat")


#: What is said of addresses.
EXPOSED: Final = (
    "everybody who reaches %s may subscribe and publish; say who with --auth, or what with --allow "
    "(--allow subscribe-broadcast,publish-broadcast is as now)"
)


def warn_if_exposed(settings: Settings, listeners: Sequence[socket.socket]) -> None:
    """Warn where a server that listens beyond loopback was not told who may do what."""
    exposed = beyond_loopback(listeners)
    if exposed and is_open(settings):
        _log.warning(EXPOSED, " and ".join(exposed))


def is_open(settings: Settings) -> bool:
    """Whether the options do not say who may do what."""
    return settings.auth is None and "allow" not in settings.model_fields_set


def beyond_loopback(listeners: Sequence[socket.socket]) -> list[str]:
    """The addresses of listeners that not only this machine reaches; a Unix socket has none."""
    addresses = [_address(listener) for listener in listeners if is_tcp(listener)]
    return [str(address) for address in addresses if not address.is_loopback]


def is_loopback(listener: socket.socket) -> bool:
    """Whether only this machine reaches a TCP listener."""
    return _address(listener).is_loopback


def _address(listener: socket.socket) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    host: str = listener.getsockname()[0]
    address = ipaddress.ip_address(host.partition("%")[0])
    mapped = getattr(address, "ipv4_mapped", None)
    return address if mapped is None else mapped
