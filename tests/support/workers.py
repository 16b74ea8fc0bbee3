"""The command with workers, seen from outside."""

from __future__ import annotations

import contextlib
import functools
import re
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import psutil
import trio

from .command import Command, command
from .peer import Peer, dial

T = TypeVar("T")

#: Seconds after which something that has to happen has not.
PATIENCE = 30.0
_NUMBER = re.compile(r" \(worker (\d+)\)\Z")


class Workers:
    """A running command with workers."""

    def __init__(self, running: Command) -> None:
        self.running = running
        self.supervisor = psutil.Process(running.process.pid)

    @property
    def port(self) -> int:
        return self.running.port

    def processes(self) -> dict[int, psutil.Process]:
        """Those that run, by their numbers."""
        found = {}
        children = sorted(self.supervisor.children(), key=psutil.Process.create_time)
        for process in children:  # one that drains comes before the one that replaces it
            with contextlib.suppress(psutil.NoSuchProcess, psutil.ZombieProcess):
                if match := _NUMBER.search(" ".join(process.cmdline()).rstrip()):
                    found[int(match[1])] = process
        return found

    async def replaced(self, number: int, before: psutil.Process) -> psutil.Process:
        """Wait for the next worker of a number, until it accepts."""

        def next_one() -> psutil.Process | None:
            process = self.processes().get(number)
            return None if process is None or process.pid == before.pid else process

        process = await until(next_one)
        await self.health(number)
        return process

    def holder(self, stream: trio.SocketStream) -> int | None:
        """The number of the worker that has accepted a connection."""
        port = stream.socket.getsockname()[1]
        for number, process in self.processes().items():
            for connection in process.net_connections("tcp"):
                if connection.raddr and connection.raddr.port == port:
                    return number
        return None

    @contextlib.asynccontextmanager
    async def peers(self, target: str, count: int) -> AsyncIterator[dict[int, list[Peer]]]:
        """Connect so many peers to each worker, by its number."""
        numbers = self.processes()
        peers: dict[int, list[Peer]] = {number: [] for number in numbers}
        async with contextlib.AsyncExitStack() as stack:
            with trio.fail_after(PATIENCE):
                while any(len(some) < count for some in peers.values()):
                    tcp = await stack.enter_async_context(
                        await trio.open_tcp_stream("127.0.0.1", self.port)
                    )
                    number = await until(functools.partial(self.holder, tcp))
                    if len(peers[number]) < count:
                        peers[number].append(await dial(self.port, target, tcp=tcp))
                    else:
                        await tcp.aclose()
            yield peers

    async def health(self, number: int) -> dict[str, Any]:
        """What /healthz of one worker says."""

        def asked() -> dict[str, Any] | None:
            body = self.running.health()
            return body if body["worker"] == number else None

        return await until(asked)


async def until(condition: Callable[[], T | None]) -> T:
    """Wait until a function returns something, and return it."""
    end = time.monotonic() + PATIENCE
    while not (value := await trio.to_thread.run_sync(condition)):
        assert time.monotonic() < end, "it did not happen in time"
        await trio.sleep(0.05)
    return value


@contextlib.contextmanager
def workers(tmp_path: Path, backend: str, *options: str, count: int = 2) -> Iterator[Workers]:
    """Run the command with workers until the context ends; peers need not answer beats soon."""
    given = [f"--workers={count}", f"--backend={backend}", "--interval=30", *options]
    with command(tmp_path, *given) as running:
        yield Workers(running)
