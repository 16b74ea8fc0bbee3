"""Listeners that give trio-websocket the streams of a service."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from typing import TypeAlias

import trio

from .._transports.kernel import set_up
from .sockets import ServedStream
from .stream import ServiceStream

#: What a service can listen on.
ServedListener: TypeAlias = trio.SocketListener | trio.SSLListener[trio.SocketStream]


class ServiceListener(trio.abc.Listener[ServiceStream]):
    """A listener over one of Trio's.

    Args:
        listener: it; closed by this.
        take: makes a stream of the service; None: the peer was refused.
        patience: seconds that a peer may be silent.

    Raises:
        TypeError: it is no listener of Trio's for sockets, or for TLS over them.
    """

    def __init__(
        self,
        listener: ServedListener,
        take: Callable[[ServedStream], ServiceStream | None],
        patience: float,
    ) -> None:
        lower = listener.transport_listener if isinstance(listener, trio.SSLListener) else listener
        if not isinstance(lower, trio.SocketListener):
            kind = type(lower).__name__
            text = "it must be a trio.SocketListener, or a trio.SSLListener over one"
            raise TypeError(f"listener is of type {kind}; {text}")
        self._listener = listener
        self._take = take
        # Another descriptor for the same socket, since Trio has the first.
        with socket.socket(fileno=os.dup(lower.socket.fileno())) as sock:
            set_up(sock, patience)
        self._name = _name(lower.socket.getsockname())

    def __repr__(self) -> str:
        return f"<trio_beat listener at {self._name}>"

    async def accept(self) -> ServiceStream:
        while True:
            stream = self._take(await self._listener.accept())
            if stream is not None:
                return stream

    async def aclose(self) -> None:
        await self._listener.aclose()


def _name(address: object) -> str:
    if isinstance(address, tuple):
        return f"{address[0]}:{address[1]}"
    return str(address) or "a Unix socket"
