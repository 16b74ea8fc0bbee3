"""Wherever Trio runs: as on another system, by hiding what only Linux has."""

from __future__ import annotations

import resource
import signal
import socket
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from trio_beat import Unreachable, connect
from trio_beat._client import dial
from trio_beat._command import clients
from trio_beat._command.serve import _raise_descriptor_limit
from trio_beat._server import listeners
from trio_beat._transports import kernel

from .support.command import clean_environment

_ROOT = Path(__file__).parent.parent

#: Imports every module, lets a peer in over TCP and over TLS, and tells how a silent one ended.
_PROGRAM = """
import tests.support.hidden
import importlib, pkgutil, select, sys
import trio, trio.testing
import trio_beat

for module in pkgutil.walk_packages(trio_beat.__path__, "trio_beat."):
    if module.name != "trio_beat._transports.epoll":
        importlib.import_module(module.name)
assert not hasattr(select, "epoll")

from tests.support.harness import tls_contexts
from tests.support.peer import dial
from trio_beat import Heartbeat, connect

async def handler(connection):
    begun = trio.current_time()
    try:
        async for message in connection:
            await connection.send(message)
    finally:
        if connection.path == "/silent":
            beats = (trio.current_time() - begun) // 4
            print(*connection.closed, int(beats), flush=True)

async def visit(secure):
    server_context, client_context = tls_contexts()
    async with trio.open_nursery() as nursery:
        async def serve(task_status):
            await trio_beat.serve(
                handler, 0, host="localhost", heartbeat=Heartbeat(4, misses=3),
                ssl_context=server_context if secure else None, task_status=task_status)
        server = await nursery.start(serve)
        url = f"ws{'s' if secure else ''}://localhost:{server.port}/"
        context = client_context if secure else None
        async with connect(url, ssl_context=context) as connection:
            stream = await trio.open_tcp_stream("localhost", server.port)
            if secure:
                stream = trio.SSLStream(stream, context, server_hostname="localhost")
            await stream.send_all(
                b"GET /silent HTTP/1.1\\r\\nHost: x\\r\\nUpgrade: websocket\\r\\n"
                b"Connection: Upgrade\\r\\nSec-WebSocket-Version: 13\\r\\n"
                b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\\r\\n\\r\\n")
            for _ in range(30):
                await connection.send("hello" * 50000)
                assert await connection.receive() == "hello" * 50000
                await trio.sleep(1)
            assert connection.latency is not None
        with trio.CancelScope(shield=True, deadline=trio.current_time() + 1):
            try:
                await stream.aclose()
            except trio.BrokenResourceError:
                pass
        server.drain()

for secure in (False, True):
    trio.run(visit, secure, clock=trio.testing.MockClock(autojump_threshold=0.02))
"""

#: The command, without what Windows lacks beside.
_COMMAND = """
import tests.support.hidden
import os, select, signal, sys, trio
del signal.SIGHUP, os.O_NONBLOCK, os.O_NOCTTY, select.PIPE_BUF
from trio_beat._command.serve import main
sys.exit(main(sys.argv[1:]))
"""


def start(program: str, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", program, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=_ROOT,
        env=clean_environment(),
    )


def test_serves_and_connects_and_drops_who_is_silent_at_the_exact_beat() -> None:
    with start(_PROGRAM) as process:
        told, failed = process.communicate(timeout=60)
    assert (process.returncode, failed) == (0, "")
    # Within the fourth interval, of which the first is a part.
    assert told.splitlines() == ["missed-beats 1006 3 in a row 3"] * 2


@pytest.mark.real
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_the_command_runs_and_ends(number: int) -> None:
    with start(_COMMAND, "--port=0", "--interval=1") as process:
        assert process.stdout is not None
        banner = [process.stdout.readline() for _ in range(3)]
        try:
            url = banner[2].split()[-1].replace("<facility>", "x") + "&echo"
            async with connect(url) as connection:
                await connection.send("hello")
                assert await connection.receive() == "hello"
            process.send_signal(number)
            _, log = process.communicate(timeout=20)
        finally:
            process.kill()
    assert process.returncode == 0
    assert f"{signal.Signals(number).name}, shutting down" in log


@pytest.mark.real
@pytest.mark.parametrize("arguments", [["publish", "ws://localhost:{}/x?publish-broadcast", "x"]])
def test_the_clients_run(arguments: list[str]) -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        arguments = [word.format(nobody.getsockname()[1]) for word in arguments]
        with start(_COMMAND, *arguments) as process:
            _, told = process.communicate(timeout=20)
    assert process.returncode == 1
    assert "cannot reach localhost" in told


class TestWindows:
    def test_a_port_is_had_alone(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """There `SO_REUSEADDR` would share it; the option's number here is another's."""
        options: list[tuple[Any, ...]] = []

        class Socket(socket.socket):
            def setsockopt(self, *arguments: Any) -> None:
                options.append(arguments)

        monkeypatch.setattr(socket, "SO_EXCLUSIVEADDRUSE", ~4, raising=False)
        monkeypatch.setattr(socket, "socket", Socket)
        monkeypatch.setattr(sys, "platform", "win32")
        place = listeners._Place(socket.AF_INET, ("127.0.0.1", 0), "127.0.0.1")
        listeners._open(place, 0).close()
        assert (socket.SOL_SOCKET, ~4, 1) in options
        assert (socket.SOL_SOCKET, socket.SO_REUSEADDR, 1) not in options

    async def test_errors_of_sockets_have_words(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(socket, "errorTab", {111: "Nobody is there."}, raising=False)
        with socket.socket() as nobody:
            nobody.bind(("127.0.0.1", 0))
            with pytest.raises(Unreachable, match=r"Nobody is there$"):
                async with connect(f"ws://127.0.0.1:{nobody.getsockname()[1]}/"):
                    pass
        assert dial.error_text(2) == "No such file or directory"

    def test_break_ends_a_command(self) -> None:
        expected = {"SIGINT", "SIGTERM"} | ({"SIGBREAK"} if hasattr(signal, "SIGBREAK") else set())
        assert {number.name for number in clients.STOPPING} == expected


def test_the_longest_wait_of_tcp_is_set_on_linux_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """The number of the option means something else elsewhere."""
    with socket.socket() as sock:
        before = sock.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF)
        monkeypatch.setattr(sys, "platform", "darwin")
        monkeypatch.setattr(kernel, "TELLS", False)
        monkeypatch.setattr(kernel, "_TCP_RTO_MAX_MS", socket.TCP_KEEPIDLE)
        kernel.set_up(sock, 60.0)
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == 7200
        # Twice as much as was asked for (socket(7)).
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF) == 131072 != before


def test_to_linger_for_no_time_has_each_system_s_layout() -> None:
    assert struct.unpack("ii", kernel._AT_ONCE) == (1, 0)


class TestDescriptors:
    """macOS refuses to have no limit, and Windows has none."""

    @pytest.fixture(autouse=True)
    def limit(self, monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
        limits = [(256, resource.RLIM_INFINITY)]

        def set_limit(_: int, limit: tuple[int, int]) -> None:
            if limit[0] == resource.RLIM_INFINITY or limit[0] > 10_000:
                raise ValueError
            limits.append(limit)

        monkeypatch.setattr(resource, "getrlimit", lambda _: limits[-1])
        monkeypatch.setattr(resource, "setrlimit", set_limit)
        return limits

    def test_as_many_as_are_needed(
        self, limit: list[tuple[int, int]], caplog: pytest.LogCaptureFixture
    ) -> None:
        _raise_descriptor_limit(5000)
        assert limit[-1] == (5064, resource.RLIM_INFINITY)
        assert not caplog.records

    def test_too_many(self, limit: list[tuple[int, int]], caplog: pytest.LogCaptureFixture) -> None:
        _raise_descriptor_limit(20_000)
        assert limit[-1] == (256, resource.RLIM_INFINITY)
        assert "limited to 256 (ulimit -n), too few for 20000 peers" in caplog.text

    def test_windows_has_no_such_limit(
        self, limit: list[tuple[int, int]], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(sys, "platform", "win32")
        _raise_descriptor_limit(20_000)
        assert len(limit) == 1


class TestGathering:
    def test_without_sendmsg(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(sys, "platform", "win32")
        ours, theirs = socket.socketpair()
        with ours, theirs:
            buffers: list[bytes | memoryview] = [b"abc", memoryview(b"defg"), b"h" * 100_000]
            sent = kernel.send_gathered(ours, buffers)
            assert sent == 65536
            assert theirs.recv(100_000)[:8] == b"abcdefgh"
