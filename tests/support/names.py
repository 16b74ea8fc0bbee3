"""The look-up of names, under a virtual clock."""

from __future__ import annotations

import socket
from typing import Any

import pytest
import trio


class _Resolver(trio.abc.HostnameResolver):
    """Knows what this system's own files tell, and waits for no thread."""

    async def getaddrinfo(self, *args: Any, **kwargs: Any) -> Any:
        await trio.lowlevel.checkpoint()
        return socket.getaddrinfo(*args, **kwargs)

    async def getnameinfo(self, *args: Any, **kwargs: Any) -> Any:
        await trio.lowlevel.checkpoint()
        return socket.getnameinfo(*args, **kwargs)


@pytest.fixture
async def local_names() -> None:
    """Names such as localhost are looked up at once.

    Trio uses a thread, and a virtual clock does not wait for one: where the machine is busy it
    jumps over the look-up, to the time limit of the handshake.
    """
    trio.socket.set_custom_hostname_resolver(_Resolver())
