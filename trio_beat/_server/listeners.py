"""Where a server listens: names and addresses, and the sockets for them."""

from __future__ import annotations

import contextlib
import errno
import socket
import sys
from collections.abc import Iterable, Sequence
from typing import Any, Final, NamedTuple

import trio

from .._checks import check_hosts, check_port

_BACKLOG: Final = 65535  # as many as the system allows (listen(2))
#: The addresses that stand for all of a family.
_ALL: Final = {socket.AF_INET: "0.0.0.0", socket.AF_INET6: "::"}  # noqa: S104 - names them
#: A name, or no name, may stand for addresses of a family that this machine does not have.
_NO_FAMILY: Final = frozenset({errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL})
#: Another one has the port; on Windows also, where a range of ports is kept free for the system.
_TAKEN: Final = frozenset({errno.EADDRINUSE, errno.EACCES})
#: Attempts to find one port that is free on all addresses.
_ATTEMPTS: Final = 10


class _Place(NamedTuple):
    family: int
    address: tuple[Any, ...]  #: as `socket.socket.bind` wants it
    host: str  #: what was asked for

    @property
    def covered(self) -> bool:
        """Whether it stands for all addresses of its family."""
        return bool(self.address[0] == _ALL[socket.AddressFamily(self.family)])


async def open_listeners(port: int, host: str | Sequence[str] | None) -> list[socket.socket]:
    """Listen; accepted sockets inherit the options that are set here (tcp(7)).

    ``TCP_USER_TIMEOUT`` is not among them: it also ends a peer that acknowledges everything, but
    has not read for so long. See `Transport.unreachable`.

    Args:
        port: 0: the system chooses one, the same for all addresses.
        host: names or addresses; None, or an empty one: all addresses, of both families as far as
            the system has them; ``::`` likewise, and IPv6 is a must.

    Raises:
        OSError: one of them cannot be listened on; its ``filename`` says which.
        TypeError: an argument is of another type.
        ValueError: the port is out of range, or there is no host.
    """
    check_port(port)
    places: list[_Place] = []
    for name in check_hosts(host):
        try:
            found = await trio.socket.getaddrinfo(
                _plain(name) or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
            )
        except (OSError, UnicodeError) as exc:
            raise _not_found(exc, name, port) from None
        places += _places(name, port, found)
    return _open_all(places, port)


def open_listeners_of_workers(
    port: int, host: str | Sequence[str] | None, workers: int
) -> list[list[socket.socket]]:
    """Listen for several processes; each gets listeners of its own where the system spreads peers.

    Linux spreads them over all sockets that listen at one place with ``SO_REUSEPORT`` (socket(7)).
    Elsewhere all processes get the same listeners. Names are looked up in place: a thread would be
    in the way of a process that forks.

    Args:
        port: as for `open_listeners`.
        host: as for `open_listeners`.
        workers: how many processes.

    Raises:
        OSError, TypeError, ValueError: as `open_listeners`.
    """
    check_port(port)
    places: list[_Place] = []
    for name in check_hosts(host):
        try:
            found = socket.getaddrinfo(
                _plain(name) or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
            )
        except (OSError, UnicodeError) as exc:
            raise _not_found(exc, name, port) from None
        places += _places(name, port, found)
    claimed = _open_all(places, port)
    if sys.platform != "linux":
        return [claimed] * workers
    with contextlib.ExitStack() as stack:
        # These were bound alone, and so refuse another instance. The others may join them from now
        # on; they are closed when those listen, since they are not in the group over which the
        # kernel spreads.
        for listener in claimed:
            stack.enter_context(listener)
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        with contextlib.ExitStack() as group:
            listeners = [
                [group.enter_context(_beside(listener)) for listener in claimed]
                for _ in range(workers)
            ]
            group.pop_all()
    return listeners


def _plain(host: str) -> str:
    return host[1:-1] if host.startswith("[") and host.endswith("]") else host


def _not_found(exc: OSError | UnicodeError, host: str, port: int) -> OSError:
    if isinstance(exc, UnicodeError):
        exc = socket.gaierror(socket.EAI_NONAME, "no host can have this name")
    exc.filename = _show(host, port)
    return exc


def _places(host: str, port: int, found: Iterable[tuple[Any, ...]]) -> list[_Place]:
    places = [_Place(family, address, host) for family, _, _, _, address in found]
    if _plain(host) == "::":
        places.append(_Place(socket.AF_INET, (_ALL[socket.AF_INET], port), host))
    return places


def _open_all(places: Sequence[_Place], port: int) -> list[socket.socket]:
    places = _distinct(places)
    for attempt in range(_ATTEMPTS):
        try:
            return _listen(places)
        except OSError as exc:
            # The port that was free on one address may be taken on the next.
            if port or exc.errno not in _TAKEN or attempt == _ATTEMPTS - 1:
                raise
    raise AssertionError("the last attempt has raised")


def _distinct(places: Sequence[_Place]) -> list[_Place]:
    """Leave out what comes twice, and what an address that stands for all covers."""
    whole = {place.family for place in places if place.covered}
    kept: dict[object, _Place] = {}
    for place in places:
        if place.covered or place.family not in whole:
            kept.setdefault((place.family, place.address), place)
    return list(kept.values())


def _listen(places: Sequence[_Place]) -> list[socket.socket]:
    with contextlib.ExitStack() as stack:
        listeners: list[socket.socket] = []
        missing: dict[str, OSError] = {}
        served: set[str] = set()
        for place in places:
            port = listeners[0].getsockname()[1] if listeners else place.address[1]
            try:
                listeners.append(_open(place, port))
            except OSError as exc:
                exc.filename = _show(place.host, place.address[1])
                if exc.errno not in _NO_FAMILY:
                    raise
                missing.setdefault(place.host, exc)
            else:
                stack.enter_context(listeners[-1])
                served.add(place.host)
        for host, failed in missing.items():
            if host not in served or host == "::":
                raise failed
        stack.pop_all()
        return listeners


def _open(place: _Place, port: int) -> socket.socket:
    sock = socket.socket(place.family, socket.SOCK_STREAM)
    try:
        if sys.platform == "win32":
            # There SO_REUSEADDR lets several processes listen at one place, and this forbids it.
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_EXCLUSIVEADDRUSE, 1)
        else:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        _listen_at(sock, (place.address[0], port, *place.address[2:]))
    except BaseException:
        sock.close()
        raise
    return sock


def _beside(listener: socket.socket) -> socket.socket:
    """One more that listens there; the system spreads peers over all such."""
    sock = socket.socket(listener.family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if sys.platform != "win32":
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        _listen_at(sock, listener.getsockname())
    except BaseException:
        sock.close()
        raise
    return sock


def _listen_at(sock: socket.socket, address: tuple[Any, ...]) -> None:
    sock.setblocking(False)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if sock.family == socket.AF_INET6:
        # IPv4 has a socket of its own, so that its peers keep the names they are known by.
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    sock.bind(address)
    sock.listen(_BACKLOG)


def _show(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host and not host.startswith("[") else f"{host}:{port}"


def describe(listeners: Sequence[socket.socket]) -> tuple[list[str], list[str]]:
    """Where a browser on this machine finds the listeners, and what they listen on.

    Returns:
        Hosts with ports to put into URLs; and those of them that stand for all addresses.
    """
    places, whole = [], []
    for listener in listeners:
        host, port = listener.getsockname()[:2]
        if host == _ALL[listener.family]:
            whole.append(_show(host, port))
            host = "127.0.0.1" if listener.family == socket.AF_INET else "::1"
        places.append(_show(host, port))
    return places, whole
