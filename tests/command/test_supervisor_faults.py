"""Workers that are killed, stand still, or cannot start; and a supervisor that is killed."""

from __future__ import annotations

import functools
import re
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import psutil
import pytest
import trio

import trio_beat
from tests.support.broker import Broker, open_broker
from tests.support.command import clean_environment, command, run_command
from tests.support.workers import PATIENCE, Workers, until, workers

pytestmark = [pytest.mark.real, pytest.mark.slow]
_LINUX = pytest.mark.skipif(
    sys.platform != "linux", reason="limits of other processes and signals of real time are Linux's"
)

#: Messages that are published over HTTP while a worker is killed.
_MESSAGES = 200
_LINE = re.compile(
    r"worker (\d) \(process \d+\) was ended by SIGKILL, another starts in (\d\.\d) s"
)


def _publish(running: Workers, text: str) -> bool:
    """Publish over HTTP; returns whether it was confirmed."""
    request = urllib.request.Request(
        running.running.page + "api/publish/news",
        data=text.encode(),
        headers={"Authorization": "Bearer t", "Content-Type": "text/plain"},
    )
    try:
        with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
            return bool(answer.status == 204)
    except OSError:
        return False


def _logged(running: Workers, text: str) -> bool:
    return text in running.running.log()


class _Listener:
    """A client that comes back; with what it has received."""

    def __init__(self) -> None:
        self.received: list[str] = []
        self.connections = 0

    async def run(self, url: str, task_status: trio.TaskStatus[None]) -> None:
        async with trio_beat.reconnecting(url) as connections:
            async for connection in connections:
                self.connections += 1
                if self.connections == 1:
                    task_status.started()
                async for message in connection:
                    assert isinstance(message, str)
                    self.received.append(message)


async def test_one_that_is_killed_under_load_takes_only_its_own_connections_with_it(
    valkey: Broker, prefix: str, tmp_path: Path
) -> None:
    """The others' live, its own come back, and what was confirmed is heard by those that live."""
    url = f"{valkey.url}?prefix={prefix}"
    with workers(tmp_path, url, "--publish-token=t") as running:
        target = running.running.websocket("news?subscribe-broadcast")
        confirmed: list[str] = []
        listeners = [_Listener() for _ in range(24)]
        async with trio.open_nursery() as nursery:
            for listener in listeners:
                await nursery.start(listener.run, target)
            before = running.processes()
            for number in range(_MESSAGES):
                if number == _MESSAGES // 2:
                    before[2].kill()
                text = f"message {number}"
                if await trio.to_thread.run_sync(_publish, running, text):
                    confirmed.append(text)
            after = await running.replaced(2, before[2])

            def all_are_back() -> bool:
                """The last one comes as a message, or as the channel's last message."""
                return all(listener.received[-1] == "the last one" for listener in listeners)

            assert await trio.to_thread.run_sync(_publish, running, "the last one")
            await until(all_are_back)
            nursery.cancel_scope.cancel()
        lived = [listener for listener in listeners if listener.connections == 1]
        # With 24 connections all are at one worker once in 2 ** 23 times.
        assert 0 < len(lived) < len(listeners)
        assert all(listener.connections <= 2 for listener in listeners)
        assert len(confirmed) > _MESSAGES // 2
        for listener in lived:
            assert [text for text in listener.received if text in confirmed] == confirmed
            assert len(listener.received) == len(set(listener.received))
        assert running.processes() == {1: before[1], 2: after}
        assert len(_LINE.findall(running.running.log())) == 1
        assert running.running.end() == 0


async def test_those_whose_supervisor_is_killed_drain(valkey: Broker, tmp_path: Path) -> None:
    with workers(tmp_path, valkey.url, "--grace=4") as running:
        every = running.processes()
        async with running.peers("/ws/a", 1) as peers:
            running.supervisor.kill()
            for number, some in peers.items():
                with trio.fail_after(PATIENCE):
                    close = await some[0].closed()
                assert close is not None
                assert close.code == 1001
                text = f"worker {number}: the supervisor is gone, shutting down"
                await until(functools.partial(_logged, running, text))
        await until(lambda: not any(process.is_running() for process in every.values()))
        with socket.create_server(("127.0.0.1", running.port)):
            pass


async def test_one_that_stands_still_is_replaced_and_what_waits_at_it_is_served(
    valkey: Broker, tmp_path: Path
) -> None:
    with workers(tmp_path, valkey.url) as running:
        before = running.processes()
        target = "/ws/a?subscribe-broadcast&publish-broadcast&echo"
        async with running.peers(target, 1) as peers, trio.open_nursery() as nursery:
            before[2].suspend()
            stopped = time.monotonic()
            answers: list[bytes] = []

            async def ask() -> None:
                async with await trio.open_tcp_stream("127.0.0.1", running.port) as stream:
                    await stream.send_all(b"GET /healthz HTTP/1.0\r\n\r\n")
                    answer = bytearray()
                    async for chunk in stream:
                        answer += chunk
                    answers.append(bytes(answer))

            # One of 32 goes to either of two workers, but for once in 2 ** 31 times.
            for _ in range(32):
                nursery.start_soon(ask)
            await running.replaced(2, before[2])
            assert time.monotonic() - stopped > 9
            await peers[1][0].send_text("still here")
            assert await peers[1][0].text() == "still here"
            with trio.fail_after(PATIENCE):
                while len(answers) < 32:  # noqa: ASYNC110 - looked at from time to time
                    await trio.sleep(0.1)
        assert all(answer.startswith(b"HTTP/1.1 200") for answer in answers)
        assert {b'"worker":1,' in answer for answer in answers} == {True, False}
        assert running.processes()[1] == before[1]
        (line,) = [text for text in running.running.log().splitlines() if "another starts" in text]
        assert "WARNING worker 2 (process " in line
        assert ") stood still for 10 s and was killed, another starts in 0." in line
        assert running.running.end() == 0


async def test_none_is_killed_where_the_supervisor_stood_still(
    valkey: Broker, tmp_path: Path
) -> None:
    with workers(tmp_path, valkey.url) as running:
        before = running.processes()
        for process in (running.supervisor, *before.values()):
            process.suspend()
        await trio.sleep(12)
        running.supervisor.resume()
        await trio.sleep(2)
        for process in before.values():
            process.resume()
        await trio.sleep(2)
        assert running.processes() == before
        assert running.running.end() == 0


async def test_one_that_hangs_past_the_grace_time_is_killed(valkey: Broker, tmp_path: Path) -> None:
    with workers(tmp_path, valkey.url, "--grace=1") as running:
        running.processes()[1].suspend()
        running.supervisor.terminate()
        assert await trio.to_thread.run_sync(running.running.process.wait, PATIENCE) == 1
        log = running.running.log()
        assert re.search(r"worker 1 \(process \d+\) did not end in time and was killed\n", log)
        assert "worker 2 (" not in log


async def test_one_that_is_replaced_and_does_not_end_is_killed(
    valkey: Broker, tmp_path: Path
) -> None:
    """It has the grace time from when it began to drain; the one after it is left alone."""
    # Longer than it takes to stop it, and too short for it to be killed since it stands still.
    with workers(tmp_path, valkey.url, "--grace=6") as running:
        before = running.processes()
        # These do not answer, so that it has not ended when it is stopped.
        async with running.peers("/ws/a", 1):
            before[2].terminate()
            name = f"worker 2 (process {before[2].pid}) "
            await until(functools.partial(_logged, running, f"{name}drains, another starts"))
            before[2].suspend()
            after = await running.replaced(2, before[2])
            killed = f"WARNING {name}did not end in time and was killed\n"
            await until(functools.partial(_logged, running, killed))
        assert running.processes() == {1: before[1], 2: after}
        assert running.running.end() == 0


@_LINUX
async def test_one_that_cannot_be_started_is_tried_again(valkey: Broker, tmp_path: Path) -> None:
    """As where file descriptors are short."""
    with workers(tmp_path, valkey.url) as running:
        before = running.processes()
        limits = running.supervisor.rlimit(psutil.RLIMIT_NOFILE)
        running.supervisor.rlimit(psutil.RLIMIT_NOFILE, (3, limits[1]))
        before[2].kill()
        text = "worker 2 cannot be started: Too many open files, another starts in "
        await until(lambda: running.running.log().count(text) >= 2)
        assert running.processes() == {1: before[1]}
        running.supervisor.rlimit(psutil.RLIMIT_NOFILE, limits)
        await running.replaced(2, before[2])
        assert running.processes()[1] == before[1]
        assert running.running.end() == 0


async def test_ones_that_die_again_and_again_come_more_and_more_slowly(
    valkey: Broker, tmp_path: Path
) -> None:
    with workers(tmp_path, valkey.url) as running:
        first = running.processes()[1]
        process = running.processes()[2]
        for _ in range(6):
            process.kill()
            process = await running.replaced(2, process)
        assert running.processes()[1] == first
        pauses = [float(pause) for _, pause in _LINE.findall(running.running.log())]
        assert len(pauses) == 6
        for number, pause in enumerate(pauses):
            ceiling = min(5.0, 0.25 * 2**number)
            assert ceiling / 2 - 0.05 <= pause <= ceiling + 0.05
        assert running.running.end() == 0


def _refused(*options: str) -> str:
    """The one line of a command that does not start."""
    result = run_command(*options)
    assert result.returncode == 2
    assert result.stdout == ""
    (line,) = result.stderr.splitlines()
    return line


async def test_a_port_in_use_is_told(valkey: Broker, tmp_path: Path) -> None:
    """Also where another instance has it, with workers or without."""
    refused = functools.partial(_refused, "--workers=2", f"--backend={valkey.url}")
    with workers(tmp_path, valkey.url) as running:
        port = f"--port={running.port}"
        expected = f"trio-beat: cannot listen on 127.0.0.1:{running.port}: Address already in use"
        assert await trio.to_thread.run_sync(refused, port) == expected
        assert await trio.to_thread.run_sync(_refused, port) == expected
        assert len(running.processes()) == 2
    with command(tmp_path) as alone:
        assert "already in use" in await trio.to_thread.run_sync(refused, f"--port={alone.port}")
    with socket.create_server(("127.0.0.1", 0)) as sock:
        port = f"--port={sock.getsockname()[1]}"
        assert "already in use" in await trio.to_thread.run_sync(refused, port)


async def test_what_fails_at_the_first_start_is_told_once() -> None:
    async with open_broker(config=["requirepass s3cret"]) as broker:
        line = await trio.to_thread.run_sync(
            _refused, "--workers=3", "--port=0", f"--backend={broker.url}"
        )
    where = f"{broker.host}:{broker.port}"
    assert line == f"trio-beat: --backend: {where} cannot be used: it asks for a password"


async def test_what_fails_later_is_logged_and_tried_again(tmp_path: Path) -> None:
    async with open_broker() as broker:
        with workers(tmp_path, broker.url) as running:
            await broker.ask("CONFIG", "SET", "requirepass", "s3cret")
            before = running.processes()[2]
            before.kill()
            wrong = re.compile(
                r"ERROR +worker 2: --backend: \S+ cannot be used: it asks for a password\n"
                r".* WARNING worker 2 \(process \d+\) ended with exit code 2, another starts in "
            )
            await until(lambda: wrong.search(running.running.log()))
            await broker.ask("CONFIG", "SET", "requirepass", "")
            await running.replaced(2, before)
            assert running.running.end() == 0


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (
            ["--workers=2"],
            "2 processes would not hear of one another over memory://; name a broker",
        ),
        (["--workers=0"], "--workers: '0' should be greater than or equal to 1"),
        (["--workers=-1"], "--workers: '-1' should be greater than or equal to 1"),
        (["--workers=1025"], "--workers: '1025' should be less than or equal to 1024"),
        (["--workers=many"], "--workers: 'many' should be a valid integer"),
        (["--workers=2", "--backend=nothing://x"], "--backend: "),
        (["--workers=2", "--tls-cert=/nonexistent"], "--tls-cert: cannot use /nonexistent"),
    ],
)
def test_what_cannot_be_is_told(options: list[str], words: str) -> None:
    assert words in _refused("--port=0", *options)


#: A supervisor of what its first argument says a worker does.
_PROGRAM = """
import errno, os, signal, socket, sys
from trio_beat._command.notify import find_manager
from trio_beat._command.streams import standard_error
from trio_beat._command.supervisor import supervise

def no_fork():
    raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))

if sys.argv[1] == "no fork":
    os.fork = no_fork
listeners = [[socket.create_server(("127.0.0.1", 0))] for _ in range(3)]
announce = lambda: print("ready")
manager = find_manager()
result = supervise(listeners, grace=1, announce=announce, renew=lambda: False, manager=manager)
if isinstance(result, int):
    signal.raise_signal(signal.SIGTERM)  # one more changes nothing
    standard_error().finish()
    assert all(listener.fileno() == -1 for own in listeners for listener in own)
    sys.exit(result)
if sys.argv[1] == "ends":
    os._exit(3)
if sys.argv[1] == "dies":
    os.kill(os.getpid(), signal.SIGSEGV)
if sys.argv[1] == "dies without a name":
    os.kill(os.getpid(), 40)
signal.sigwait([signal.SIGTERM])
"""


@pytest.mark.parametrize(
    ("what", "line"),
    [
        ("no fork", r"worker 1 cannot be started: Resource temporarily unavailable"),
        ("ends", r"worker 1 \(process \d+\) ended with exit code 3 before it was ready"),
        ("dies", r"worker 1 \(process \d+\) was ended by SIGSEGV before it was ready"),
        pytest.param(
            "dies without a name",
            r"worker 1 \(process \d+\) was ended by signal 40 before it was ready",
            marks=_LINUX,
        ),
        ("hangs", r"worker 1 \(process \d+\) stood still for 10 s and was killed"),
    ],
)
def test_one_that_never_gets_ready_ends_the_command(what: str, line: str) -> None:
    result = subprocess.run(
        [sys.executable, "-W", "error", "-c", _PROGRAM, what],
        check=False,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        env=clean_environment(),
    )
    assert re.fullmatch(f"trio-beat: {line}\n", result.stderr)
    assert (result.returncode, result.stdout) == (2, "")
