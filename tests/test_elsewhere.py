"""Wherever Trio runs: as on another system, by hiding what only Linux has."""

from __future__ import annotations

import errno
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from trio_beat import Unreachable, connect

from .support.command import clean_environment
from .support.serving import serving

_ROOT = Path(__file__).parent.parent

#: Imports every module, serves over TCP and over TLS, and prints how a silent connection ended.
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

async def serve_and_connect(secure):
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
    trio.run(serve_and_connect, secure, clock=trio.testing.MockClock(autojump_threshold=0.02))
"""

#: The command, without what Windows lacks beside.
_COMMAND = """
import tests.support.hidden
import os, select, signal, sys, trio
del signal.SIGHUP, os.O_NONBLOCK, os.O_NOCTTY, select.PIPE_BUF
from trio_beat._command.main import main
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


@pytest.mark.slow
def test_serves_and_connects_and_drops_a_silent_peer_at_the_exact_beat() -> None:
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
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        arguments = [word.format(bound.getsockname()[1]) for word in arguments]
        with start(_COMMAND, *arguments) as process:
            _, told = process.communicate(timeout=20)
    assert process.returncode == 1
    assert "cannot reach localhost" in told


class TestWindows:
    async def test_a_port_is_had_alone(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """There `SO_REUSEADDR` would share it; the option's number here is another's."""
        options: list[tuple[Any, ...]] = []

        class Socket(socket.socket):
            def setsockopt(self, *arguments: Any) -> None:
                options.append(arguments)

        monkeypatch.setattr(socket, "SO_EXCLUSIVEADDRUSE", ~4, raising=False)
        monkeypatch.setattr(socket, "socket", Socket)
        monkeypatch.setattr(sys, "platform", "win32")
        async with serving():
            pass
        assert (socket.SOL_SOCKET, ~4, 1) in options
        assert (socket.SOL_SOCKET, socket.SO_REUSEADDR, 1) not in options

    @pytest.mark.parametrize(
        ("table", "text"),
        [
            ({errno.ECONNREFUSED: "No server."}, "No server"),
            ({errno.ENOENT: "No file."}, "Connection refused"),
        ],
    )
    async def test_errors_of_sockets_have_words(
        self, table: dict[int, str], text: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(socket, "errorTab", table, raising=False)
        with socket.socket() as bound:
            bound.bind(("127.0.0.1", 0))
            with pytest.raises(Unreachable, match=rf"{text}$"):
                async with connect(f"ws://127.0.0.1:{bound.getsockname()[1]}/"):
                    pass
