"""The command at a path, and with sockets that it was started with."""

from __future__ import annotations

import contextlib
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import httpx
import pytest
import trio

from tests.support.broker import Broker
from tests.support.command import clean_environment, run_command
from tests.support.nginx import free_ports
from tests.support.peer import dial
from tests.support.systemd import manager, program_of_systemd
from trio_beat._command.listening import listen_for_workers
from trio_beat._command.settings import load_settings

_TARGET = "/ws/news?subscribe-broadcast&publish-broadcast&echo"
_COMMAND = (sys.executable, "-m", "trio_beat")


class Running:
    """The command as a process, once it has told where it listens."""

    def __init__(self, process: subprocess.Popen[str], log: Path) -> None:
        self.process, self._log = process, log

    def shown(self, count: int) -> list[str]:
        """The next lines that it prints."""
        assert self.process.stdout is not None
        lines = [self.process.stdout.readline().rstrip() for _ in range(count)]
        assert all(lines), self.log()
        return lines

    def log(self) -> str:
        """What it has logged so far."""
        return self._log.read_text()

    def end(self, number: int = signal.SIGTERM) -> int:
        """Send a signal and wait; returns the exit code."""
        self.process.send_signal(number)
        return self.process.wait(60)


@contextlib.contextmanager
def started(
    tmp_path: Path, arguments: Sequence[str], fds: Sequence[int] = (), **variables: str
) -> Iterator[Running]:
    """Run the command until the context ends."""
    log = tmp_path / "server.log"
    with log.open("a") as stderr:
        process = subprocess.Popen(
            arguments,
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
            pass_fds=fds,
            env=clean_environment(**variables),
        )
    try:
        yield Running(process, log)
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


async def echoed(stream: trio.SocketStream) -> None:
    """Open a WebSocket over a stream, and have a message sent back."""
    with trio.fail_after(60):
        peer = await dial(0, _TARGET, tcp=stream)
        await peer.send_text("hello")
        assert await peer.text() == "hello"
        await peer.aclose()


def test_workers_have_ports_of_their_own_and_share_the_rest(tmp_path: Path) -> None:
    path = str(tmp_path / "x")
    given = socket.create_server(("127.0.0.1", 0))
    settings = load_settings(["--port=0", f"--uds={path}", "--workers=2"])
    first, second = listen_for_workers(settings, [given])
    assert first[1:] == second[1:] == [first[1], given]
    assert first[1].getsockname() == path
    assert first[0].getsockname() == second[0].getsockname()
    for sock in {*first, *second}:
        sock.close()
    settings = load_settings([f"--uds={path}", "--workers=2"])
    given = socket.create_server(("127.0.0.1", 0))
    first, second = listen_for_workers(settings, [given])
    assert first == second == [first[0], given]
    for sock in first:
        sock.close()


@pytest.mark.real
async def test_at_a_path_alone(tmp_path: Path) -> None:
    path = tmp_path / "x.sock"
    options = [f"--uds={path}", "--uds-mode=0600", "--trusted-proxy=unix"]
    with (
        manager(tmp_path) as told,
        started(tmp_path, [*_COMMAND, *options], NOTIFY_SOCKET=told.address) as running,
    ):
        assert running.shown(2)[1] == f"  Unix socket  {path}"
        assert told.told() == "READY=1"
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        await echoed(await trio.open_unix_socket(str(path)))
        transport = httpx.AsyncHTTPTransport(uds=str(path))
        async with httpx.AsyncClient(base_url="http://localhost", transport=transport) as client:
            assert (await client.get("/healthz")).json()["status"] == "ok"
        # There is no port, and nobody is warned of one.
        assert "WARNING" not in running.log()
        second = run_command(*options)
        assert (second.returncode, second.stdout) == (2, "")
        assert second.stderr == f"trio-beat: cannot listen on {path}: Address already in use\n"
        running.process.send_signal(signal.SIGHUP)
        assert [told.told() for _ in range(2)] == ["RELOADING=1", "READY=1"]
        assert running.end() == 0
        assert told.told() == "STOPPING=1"
    assert not path.exists()
    path.write_text("precious")
    third = run_command(*options)
    assert (third.returncode, third.stderr.count("\n")) == (2, 1)
    assert "there is a file that is no socket" in third.stderr
    assert path.read_text() == "precious"


@pytest.mark.real
async def test_with_a_socket_that_it_was_given(tmp_path: Path) -> None:
    with socket.socket() as sock:  # bound, and not listening
        sock.bind(("127.0.0.1", 0))
        port, fd = sock.getsockname()[1], sock.fileno()
        with started(tmp_path, [*_COMMAND, f"--fd={fd}"], [fd]) as running:
            assert running.shown(3)[1] == f"  page       http://127.0.0.1:{port}/"
            await echoed(await trio.open_tcp_stream("127.0.0.1", port))
            assert running.end() == 0


@pytest.mark.real
def test_a_descriptor_that_is_none_is_told() -> None:
    done = run_command("--fd=77")
    assert (done.returncode, done.stdout) == (2, "")
    words = "--fd: descriptor 77 cannot be used: Bad file descriptor"
    assert done.stderr == f"trio-beat: {words}\n"


@pytest.mark.real
async def test_systemd_opens_the_sockets(tmp_path: Path) -> None:
    path = tmp_path / "x.sock"
    [port] = free_ports(1)
    arguments = [program_of_systemd("systemd-socket-activate"), "-l", f"127.0.0.1:{port}"]
    arguments += ["-l", str(path)]
    for name in ("NOTIFY_SOCKET", "WATCHDOG_USEC"):
        arguments += ["-E", name]
    with (
        manager(tmp_path) as told,
        started(
            tmp_path, [*arguments, *_COMMAND], NOTIFY_SOCKET=told.address, WATCHDOG_USEC="400000"
        ) as running,
    ):
        with trio.fail_after(60):
            while not path.exists():  # noqa: ASYNC110 - a file has no event
                await trio.sleep(0.05)
        # It is started by whoever comes, who waits meanwhile.
        await echoed(await trio.open_unix_socket(str(path)))
        assert told.told_but("WATCHDOG=1") == "READY=1"
        assert told.told() == "WATCHDOG=1"
        assert running.shown(4)[3] == f"  Unix socket  {path}"
        await echoed(await trio.open_tcp_stream("127.0.0.1", port))
        assert running.end() == 0
        assert told.told_but("WATCHDOG=1") == "STOPPING=1"
    # It is systemd's.
    assert path.exists()


@pytest.mark.real
async def test_workers_that_are_ended_while_they_start_leave_no_file(tmp_path: Path) -> None:
    """A signal that comes as soon as there is a file waits until it can be obeyed."""
    path = tmp_path / "x.sock"
    # They would start without a broker as well.
    options = ["--workers=2", "--backend=redis://127.0.0.1:1/0", f"--uds={path}"]
    with started(tmp_path, [*_COMMAND, *options]) as running:
        with trio.fail_after(60):
            while not path.exists():  # noqa: ASYNC110 - a file has no event
                await trio.sleep(0.001)
        assert running.end() == 0
        assert not path.exists()
        assert "Traceback" not in running.log()


@pytest.mark.real
@pytest.mark.slow
async def test_workers_accept_from_what_they_share(
    valkey: Broker, prefix: str, tmp_path: Path
) -> None:
    path = tmp_path / "x.sock"
    options = ["--workers=2", f"--backend={valkey.url}?prefix={prefix}", f"--uds={path}"]
    with socket.create_server(("127.0.0.1", 0)) as sock, manager(tmp_path) as told:
        port, fd = sock.getsockname()[1], sock.fileno()
        arguments = [*_COMMAND, *options, f"--fd={fd}"]
        variables = {"NOTIFY_SOCKET": told.address, "WATCHDOG_USEC": "1000000"}
        with started(tmp_path, arguments, [fd], **variables) as running:
            assert told.told_but("WATCHDOG=1") == "READY=1"
            assert told.told() == "WATCHDOG=1"
            assert running.shown(4)[3] == f"  Unix socket  {path}"
            numbers: set[int] = set()
            with trio.fail_after(60):
                while numbers != {1, 2}:
                    transport = httpx.AsyncHTTPTransport(uds=str(path))
                    async with httpx.AsyncClient(transport=transport) as client:
                        health = await client.get("http://localhost/healthz")
                        numbers.add(health.json()["worker"])
            await echoed(await trio.open_unix_socket(str(path)))
            await echoed(await trio.open_tcp_stream("127.0.0.1", port))
            running.process.send_signal(signal.SIGHUP)
            assert told.told_but("WATCHDOG=1") == "RELOADING=1"
            assert told.told_but("WATCHDOG=1") == "READY=1"
            assert running.end() == 0
            assert told.told_but("WATCHDOG=1") == "STOPPING=1"
            assert "Traceback" not in running.log()
    assert not path.exists()
