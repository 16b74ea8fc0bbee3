"""A warning where everybody on a network may subscribe and publish."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Sequence

from .._log import get_logger
from .settings import Settings

_log = get_logger("trio_beat")


def warn_if_exposed(settings: Settings, listeners: Sequence[socket.socket]) -> None:
    """Warn where a server that listens beyond loopback was not told who may do what."""
    if settings.auth is not None or "allow" in settings.model_fields_set:
        return
    exposed = [address for address in map(_address, listeners) if not address.is_loopback]
    if exposed:
        text = (
            "everybody who reaches %s may subscribe and publish; say who with --auth, or what "
            "with --allow (--allow subscribe-broadcast,publish-broadcast is as now)"
        )
        _log.warning(text, " and ".join(str(address) for address in exposed))


def is_loopback(listener: socket.socket) -> bool:
    """Whether only this machine reaches a TCP listener."""
    return _address(listener).is_loopback


def _address(listener: socket.socket) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    host: str = listener.getsockname()[0]
    address = ipaddress.ip_address(host.partition("%")[0])
    mapped = getattr(address, "ipv4_mapped", None)
    return address if mapped is None else mapped
