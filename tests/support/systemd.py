"""What systemd does for a service, without systemd."""

from __future__ import annotations

import contextlib
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path

from tests.support.programs import missing


def program_of_systemd(name: str) -> str:
    """The path of one of its programs; where it is not installed the test is skipped."""
    found = shutil.which(name)
    if found is None:
        missing(f"{name} is not installed (Debian's systemd)")
    return found


class Manager:
    """Is told how a service is."""

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock
        self.address = str(sock.getsockname())

    def told(self) -> str:
        """The next that is told; without the moment of a reload."""
        text = self._socket.recv(4096).decode()
        return text.partition("\n")[0]

    def told_but(self, but: str) -> str:
        """The next that is told and is another."""
        while (text := self.told()) == but:
            pass
        return text


@contextlib.contextmanager
def manager(directory: Path) -> Iterator[Manager]:
    """Be told how a service is, while the context lasts; a test waits for it 30 seconds."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(str(directory / "notify"))
        sock.settimeout(30)
        yield Manager(sock)
