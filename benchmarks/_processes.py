"""Servers and loads, each a process of its own, and what the kernel knows of them."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Final, NamedTuple

import trio

_ROOT: Final = Path(__file__).parent.parent
#: Seconds that a server may take until it listens.
_START: Final = 30.0
#: Seconds that its workers may take to end: each closes its connections.
_END: Final = 30.0
#: Sockets, and what hangs on each, by name in ``/proc/slabinfo``.
_SOCKET_SLABS: Final = frozenset(
    {"TCP", "TCPv6", "sock_inode_cache", "filp", "eventpoll_epi", "eventpoll_pwq", "dentry"}
)
#: File descriptors that a process needs beside its connections.
_OTHER_FILES: Final = 256
_TICK: Final = os.sysconf("SC_CLK_TCK")


class Failed(Exception):  # noqa: N818 - an outcome of a measurement, shown to people
    """A server or the load could not do what it was asked for."""


class CPU(NamedTuple):
    """Seconds of processor time."""

    user: float
    system: float

    @property
    def total(self) -> float:
        return self.user + self.system

    def __sub__(self, other: CPU) -> CPU:
        return CPU(self.user - other.user, self.system - other.system)

    def scaled(self, factor: float) -> CPU:
        """So many times as much."""
        return CPU(self.user * factor, self.system * factor)


def raise_file_limit() -> None:
    """Let this process, and those that it starts, open as many files as they may."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def most_connections() -> int:
    """How many connections one process can have to one server: files and local ports allow it."""
    files = resource.getrlimit(resource.RLIMIT_NOFILE)[0] - _OTHER_FILES
    first, last = Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()
    return max(0, min(files, int(last) - int(first) + 1))


def bearable(wanted: int, each: int) -> int:
    """How many connections this machine's memory carries, of those that are wanted.

    Args:
        wanted: connections.
        each: bytes that one may take in all, on both of its sides.
    """
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return min(wanted, int(line.split()[1]) * 1024 // each)
    return wanted


def parse_pss(rollup: str) -> int:
    """Bytes of proportional set size, from ``/proc/PID/smaps_rollup`` (proc(5))."""
    for line in rollup.splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) * 1024
    raise ValueError("no Pss line")


def parse_cpu(stat: str, schedstat: Sequence[str]) -> CPU:
    """Seconds that a process ran.

    ``stat`` splits them into user and system by sampling, at the clock's ticks; the sum is taken
    from the threads' ``schedstat``, which counts nanoseconds.
    """
    # The second field is the command's name, which may contain anything.
    fields = stat.rpartition(")")[2].split()
    user, system = int(fields[11]), int(fields[12])
    total = sum(int(line.split()[0]) for line in schedstat) / 1e9
    if user + system == 0:
        return CPU(total, 0.0)
    # Counted from one base, so that differences over a window stay exact in their sum.
    return CPU(user / _TICK, total - user / _TICK)


def parse_slabs(slabinfo: str) -> int:
    """Bytes of the kernel's objects for sockets, from ``/proc/slabinfo`` (slabinfo(5))."""
    total = 0
    for line in slabinfo.splitlines()[2:]:
        name, active, _, size, *_ = line.split()
        if name in _SOCKET_SLABS:
            total += int(active) * int(size)
    return total


def kernel_memory() -> int | None:
    """Bytes that the kernel holds for sockets and their buffers, of all processes.

    None where it may not be asked.
    """
    try:
        slabs = parse_slabs(Path("/proc/slabinfo").read_text())
        buffers = Path("/proc/net/sockstat").read_text()
    except OSError:
        return None
    pages = next(line for line in buffers.splitlines() if line.startswith("TCP:")).split()
    return slabs + int(pages[pages.index("mem") + 1]) * os.sysconf("SC_PAGE_SIZE")


def tree(pid: int) -> list[int]:
    """A process and its descendants."""
    pids = [pid]
    for task in Path(f"/proc/{pid}/task").iterdir():
        for child in (task / "children").read_text().split():
            pids += tree(int(child))
    return pids


class _Lines:
    """Lines that a process prints."""

    def __init__(self, stream: trio.abc.ReceiveStream) -> None:
        self._stream = stream
        self._rest = b""

    async def next(self) -> str | None:
        """Wait for the next line; None after the last. Nothing is lost when it is cancelled."""
        while b"\n" not in self._rest:
            chunk = await self._stream.receive_some()
            if not chunk:
                return None
            self._rest += chunk
        line, _, self._rest = self._rest.partition(b"\n")
        return line.decode()


class Process:
    """A process of the suite."""

    def __init__(self, process: trio.Process) -> None:
        assert process.stdout is not None
        self._process = process
        self._lines = _Lines(process.stdout)

    def pss(self) -> int:
        """Bytes of memory, of the whole process tree; raises `Failed` when it has ended."""
        with self._running():
            pids = tree(self._process.pid)
            return sum(parse_pss(Path(f"/proc/{pid}/smaps_rollup").read_text()) for pid in pids)

    def cpu(self) -> CPU:
        """Processor time so far, of the whole process tree; raises `Failed` when it has ended."""
        user = system = 0.0
        with self._running():
            for pid in tree(self._process.pid):
                proc = Path(f"/proc/{pid}")
                threads = [(task / "schedstat").read_text() for task in (proc / "task").iterdir()]
                cpu = parse_cpu((proc / "stat").read_text(), threads)
                user, system = user + cpu.user, system + cpu.system
        return CPU(user, system)

    @contextmanager
    def _running(self) -> Iterator[None]:
        try:
            yield
        except OSError as exc:
            raise Failed("a process of the benchmark ended, see above") from exc

    async def ask(self, line: str) -> Any:
        """Send a line, and wait for the answer, which is one of JSON.

        Raises:
            Failed: it ended.
        """
        assert self._process.stdin is not None
        try:
            await self._process.stdin.send_all(line.encode() + b"\n")
        except trio.BrokenResourceError as exc:
            raise Failed("a process of the benchmark ended, see above") from exc
        return await self.answer()

    async def answer(self) -> Any:
        """Wait for a line of JSON.

        Raises:
            Failed: it ended.
        """
        line = await self._lines.next()
        if line is None:
            raise Failed("a process of the benchmark ended, see above")
        return json.loads(line)

    def send_signal(self, number: int) -> None:
        """Send a signal."""
        self._process.send_signal(number)


class Server(Process):
    """A peer's server, or ours.

    Attributes:
        port: where it listens.
        ends: when its application learnt that a connection had ended, by the request's target.
    """

    def __init__(self, process: trio.Process) -> None:
        super().__init__(process)
        self.port = 0
        self.ends: dict[str, float] = {}

    async def listening(self) -> bool:
        """Wait until it listens; false when it ended before."""
        while (line := await self._lines.next()) is not None:
            if line.startswith("port "):
                self.port = int(line.split()[1])
                return True
            if line.startswith("  page "):  # of the command
                self.port = int(line.rstrip("/").rpartition(":")[2])
                return True
        return False

    async def health(self) -> dict[str, Any]:
        """What ``/healthz`` of the command answers, on a connection of its own."""
        answer = bytearray()
        async with await trio.open_tcp_stream("127.0.0.1", self.port) as stream:
            await stream.send_all(b"GET /healthz HTTP/1.0\r\n\r\n")
            async for chunk in stream:
                answer += chunk
        body: dict[str, Any] = json.loads(answer.partition(b"\r\n\r\n")[2])
        return body

    async def collect_ends(self, seconds: float) -> None:
        """For so long, note which connections end."""
        with trio.move_on_after(seconds):
            while (line := await self._lines.next()) is not None:
                _, target, when = line.split()
                self.ends.setdefault(target, float(when))
            raise Failed("the server ended")


class Load(Process):
    """The other side, see `benchmarks._load`."""

    async def call(self, command: str, **arguments: object) -> dict[str, Any]:
        """Have the load do something.

        Raises:
            Failed: it could not.
        """
        answer: dict[str, Any] = await self.ask(json.dumps({"do": command, **arguments}))
        if "error" in answer:
            raise Failed(f"{command}: {answer['error']}")
        return answer


def softirq() -> float:
    """Seconds so far in which the machine's cores served software interrupts (proc(5)).

    What loopback carries is received in them, often within the sender's system call.
    """
    with Path("/proc/stat").open() as stat:
        return int(stat.readline().split()[7]) / _TICK


async def counters(loads: Iterable[Load]) -> Counter[str]:
    """What all loads together have counted."""
    total = Counter[str]()
    for load in loads:
        total.update(await load.call("counters"))
    return total


@asynccontextmanager
async def _process(
    arguments: Sequence[str], core: int | None, namespace: str | None, log: IO[str] | None = None
) -> AsyncIterator[trio.Process]:
    """Run a module of the suite, and end it on the way out."""
    inside = ["ip", "netns", "exec", namespace] if namespace else []
    process = await trio.lowlevel.open_process(
        [*inside, sys.executable, "-m", *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=log,
        cwd=_ROOT,
        # What a terminal sends when it is interrupted is for the suite, which then ends this.
        process_group=0,
    )
    try:
        if core is not None:
            os.sched_setaffinity(process.pid, {core})
        yield process
    finally:
        # It holds nothing that has to be closed, and it may be stopped (SIGSTOP).
        process.kill()
        with trio.CancelScope(shield=True, deadline=trio.current_time() + 10):
            await process.wait()
        for stream in (process.stdin, process.stdout):
            assert stream is not None
            await stream.aclose()


@dataclass(frozen=True)
class Certificate:
    """Files for TLS."""

    cert: str
    key: str
    ca: str


def _cores() -> tuple[int | None, int | None]:
    cores = sorted(os.sched_getaffinity(0))
    return (cores[0], cores[1]) if len(cores) > 1 else (None, None)


async def _listening(process: trio.Process, name: str) -> Server:
    server = Server(process)
    listening = False
    with trio.move_on_after(_START):
        listening = await server.listening()
    if not listening:
        raise Failed(f"{name} did not start")
    return server


@asynccontextmanager
async def open_server(
    peer: str,
    role: str,
    *,
    interval: float,
    misses: int = 3,
    certificate: Certificate | None = None,
    host: str = "127.0.0.1",
    uds: str | None = None,
    namespace: str | None = None,
    pinned: bool = True,
    deflate: bool = False,
) -> AsyncIterator[Server]:
    """Run one of `benchmarks.peers` while the context lasts.

    Args:
        peer: module name.
        role: see `benchmarks.peers`.
        interval: seconds between PINGs.
        misses: PINGs that may go unanswered.
        certificate: None: no TLS.
        host: address to listen on.
        uds: path of a Unix socket to listen on instead; None: none.
        namespace: network namespace to run in; None: this one.
        pinned: keep it on the first core, away from the load, where there is more than one.
        deflate: compress.

    Raises:
        Failed: it did not begin to listen.
    """
    tls = ["--cert", certificate.cert, "--key", certificate.key] if certificate else []
    arguments = [f"benchmarks.peers.{peer}", role, "--interval", str(interval)]
    arguments += ["--misses", str(misses), "--host", host, *tls]
    arguments += ["--uds", uds] if uds else []
    arguments += ["--deflate"] if deflate else []
    core = _cores()[0] if pinned else None
    async with _process(arguments, core, namespace) as process:
        yield await _listening(process, peer)


@asynccontextmanager
async def open_command(
    *arguments: str, log: IO[str] | None, pinned: bool = True
) -> AsyncIterator[Server]:
    """Run the command of the package while the context lasts.

    Args:
        arguments: the package, and its options.
        log: gets standard error; None: that of the suite.
        pinned: keep it on the first core, away from the load, where there is more than one.

    Raises:
        Failed: it did not begin to listen.
    """
    async with _process(arguments, _cores()[0] if pinned else None, None, log) as process:
        try:
            yield await _listening(process, arguments[0])
        finally:
            # If it were killed its workers would drain for a while, beside what comes next.
            process.send_signal(signal.SIGQUIT)
            with trio.CancelScope(shield=True, deadline=trio.current_time() + _END):
                await process.wait()


@asynccontextmanager
async def open_module(module: str, *arguments: str) -> AsyncIterator[Server]:
    """Run a module of the suite that serves, and answers questions, while the context lasts.

    Raises:
        Failed: it did not begin to listen.
    """
    async with _process([module, *arguments], _cores()[0], None) as process:
        yield await _listening(process, module)


async def run_module(module: str, *arguments: str) -> Any:
    """Run a module of the suite that measures by itself; returns what it prints, which is JSON.

    Raises:
        Failed: it ended without that.
    """
    async with _process([module, *arguments], _cores()[0], None) as process:
        return await Process(process).answer()


@asynccontextmanager
async def open_load(
    *, namespace: str | None = None, pinned: bool = True, module: str = "benchmarks._load"
) -> AsyncIterator[Load]:
    """Run a load generator while the context lasts.

    Args:
        namespace: network namespace to run in; None: this one.
        pinned: keep it on the second core, away from the server, where there is more than one.
        module: that has it.
    """
    core = _cores()[1] if pinned else None
    async with _process([module], core, namespace) as process:
        yield Load(process)
