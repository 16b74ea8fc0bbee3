"""Sockets that a server is given: open already, by a program or by systemd."""

from __future__ import annotations

import socket
import sys
from collections.abc import Iterable
from typing import Final

from .._checks import check_kind

_BACKLOG: Final = 65535  # as many as the system allows (listen(2))


def check_sockets(sockets: Iterable[socket.socket]) -> list[socket.socket]:
    """Check sockets that are to listen; nothing is done to them.

    Raises:
        TypeError: they are not several, or one is no socket of the standard library.
        ValueError: one cannot listen.
    """
    check_kind("sockets", sockets, Iterable, "several of socket.socket, such as [listener]")
    found: list[socket.socket] = []
    for number, sock in enumerate(sockets):
        name = f"sockets[{number}]"
        check_kind(name, sock, socket.socket, "a socket.socket")
        if wrong := wrong_socket(sock):
            raise ValueError(f"{name} {wrong}")
        if any(sock.fileno() == other.fileno() for other in found):
            raise ValueError(f"{name} is given twice")
        found.append(sock)
    return found


def wrong_socket(sock: socket.socket) -> str:
    """Why a server cannot listen with a socket; empty: it can."""
    if sock.fileno() == -1:
        return "is closed"
    if sock.family not in (socket.AF_INET, socket.AF_INET6, getattr(socket, "AF_UNIX", None)):
        return f"is of {_name(sock.family)}; it must be of AF_INET, AF_INET6 or AF_UNIX"
    if sock.type != socket.SOCK_STREAM:
        return f"is of {_name(sock.type)}; it must be of SOCK_STREAM"
    if _listens(sock):
        return ""
    try:
        sock.getpeername()
    except OSError:
        pass
    else:
        return "is connected; it must be bound, or listen"
    address = sock.getsockname()
    if not address or (isinstance(address, tuple) and address[1] == 0):
        return "is not bound"
    return ""


def prepare_socket(sock: socket.socket) -> None:
    """Let a socket listen, if it does not, and set what those are given that the server opens.

    Raises:
        OSError: it cannot listen; its ``filename`` says where.
    """
    sock.setblocking(False)
    try:
        if not _listens(sock):
            sock.listen(_BACKLOG)
    except OSError as exc:
        exc.filename = show_address(sock)
        raise
    if is_tcp(sock):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def is_tcp(sock: socket.socket) -> bool:
    """Whether a listener is one of TCP; if not, it is a Unix socket."""
    return sock.family in (socket.AF_INET, socket.AF_INET6)


def unix_name(sock: socket.socket) -> str:
    """The path of a Unix socket; ``@`` and its name where it has none (unix(7), "abstract")."""
    name = sock.getsockname()
    if isinstance(name, bytes):
        return "@" + name[1:].decode(errors="backslashreplace")
    return str(name)


def show_address(sock: socket.socket) -> str:
    """Where a socket listens, or is to, for people."""
    if not is_tcp(sock):
        return unix_name(sock)
    host, port = sock.getsockname()[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _listens(sock: socket.socket) -> bool:
    if sys.platform == "win32":
        return False  # to listen again does nothing
    return bool(sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN))


def _name(number: int) -> str:
    return str(getattr(number, "name", number))
