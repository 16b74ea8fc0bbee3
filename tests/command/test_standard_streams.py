"""The commands with standard streams that are closed, full, or not read."""

from __future__ import annotations

import fcntl
import json
import os
import re
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import trio

from ..support.command import answering, clean_environment, command, run_command
from ..support.peer import Peer, dial

pytestmark = pytest.mark.real

COMMAND = f"exec {sys.executable} -m trio_beat"


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        port: int = sock.getsockname()[1]
        return port


def shell(line: str, **options: Any) -> subprocess.Popen[str]:
    """Run the command with a shell's redirections."""
    return subprocess.Popen(
        ["/bin/sh", "-c", f"{COMMAND} {line}"], text=True, env=clean_environment(), **options
    )


@contextmanager
def ended(process: subprocess.Popen[str]) -> Iterator[None]:
    try:
        yield
    finally:
        process.kill()
        process.wait()
        for stream in (process.stdout, process.stderr):
            if stream is not None:
                stream.close()


def health(port: int) -> dict[str, Any]:
    """What /healthz says, once the server is there."""
    deadline = time.monotonic() + 20
    while True:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/healthz", timeout=5) as answer:
                body: dict[str, Any] = json.load(answer)
                return body
        except OSError:
            assert time.monotonic() < deadline
            time.sleep(0.05)


@contextmanager
def full_pipe() -> Iterator[tuple[int, int]]:
    """A pipe that takes nothing more: its two ends. Closing is idempotent."""
    with ExitStack() as stack:
        reading, writing = os.pipe()
        stack.callback(os.close, reading)
        stack.callback(os.close, writing)
        os.set_blocking(writing, False)
        with suppress(BlockingIOError):
            while True:
                os.write(writing, b"\n" * 4096)
        os.set_blocking(writing, True)
        yield reading, writing


@pytest.mark.parametrize(
    ("redirection", "said"),
    [
        (">&-", "cannot write to standard output: Bad file descriptor"),
        ("<&- >&-", "cannot write to standard output: Bad file descriptor"),
        (">/dev/full", "cannot write to standard output: No space left on device"),
        ("2>&- >/dev/null", ""),
        (">&- 2>&-", ""),
        ("<&- >&- 2>&-", ""),
        (">/dev/full 2>/dev/full", ""),
    ],
)
def test_serves_whatever_standard_output_is(redirection: str, said: str) -> None:
    port = free_port()
    process = shell(f"--port={port} {redirection}", stderr=subprocess.PIPE)
    with ended(process):
        assert health(port)["status"] == "ok"
        process.terminate()
        assert process.wait(20) == 0
        assert process.stderr is not None
        lines = [line for line in process.stderr if "WARNING" in line or "INFO" not in line]
    assert [re.sub(".* WARNING +", "", line) for line in lines] == [said + "\n"] * bool(said)


def test_serves_while_the_announcement_is_not_read() -> None:
    port = free_port()
    with full_pipe() as (reading, writing):
        process = shell(f"--port={port} 2>/dev/null", stdout=writing)
        with ended(process):
            assert health(port)["status"] == "ok"
            data = b""
            while b"<facility>" not in data:
                data = data[-100:] + os.read(reading, 65536)
            process.terminate()
            assert process.wait(20) == 0


def test_ends_while_nothing_is_read() -> None:
    port = free_port()
    with full_pipe() as (_, writing):
        process = shell(f"--port={port}", stdout=writing, stderr=writing)
        with ended(process):
            assert health(port)["status"] == "ok"
            process.terminate()
            assert process.wait(20) == 0


async def test_beats_and_answers_go_on_while_the_log_is_not_read() -> None:
    port = free_port()
    with full_pipe() as (reading, writing):
        line = f"--port={port} --interval=0.5 --log-level=debug"
        process = shell(line, stdout=subprocess.DEVNULL, stderr=writing)
        with ended(process):
            await trio.to_thread.run_sync(health, port)
            async with trio.open_nursery() as nursery:
                staying = await dial(port)
                nursery.start_soon(answer_pings, staying)
                for _ in range(12):
                    peers = [await dial(port) for _ in range(50)]
                    for peer in peers:
                        await peer.send_close()  # at this level, some lines of the log
                        await peer.closed()
                        await peer.aclose()
                counts = await trio.to_thread.run_sync(health, port)
                nursery.cancel_scope.cancel()
            assert counts["accepted"] == 601
            assert counts["ended"]["missed-beats"] == 0
            await staying.aclose()
            # The flags of the pipe, which others share, are as they were.
            assert not fcntl.fcntl(writing, fcntl.F_GETFL) & os.O_NONBLOCK
            data = b""
            with trio.fail_after(20):
                while b" log lines were lost" not in data:
                    await trio.lowlevel.wait_readable(reading)
                    data += os.read(reading, 65536)
            process.terminate()
            assert await trio.to_thread.run_sync(process.wait, 20) == 0
    assert len(re.findall(rb" WARNING \d+ log lines were lost", data)) == 1
    lines = data.decode().strip().splitlines()
    assert all(re.match(r"20\S+ \S+ (DEBUG|INFO|WARNING) ", line) for line in lines)


async def answer_pings(peer: Peer) -> None:
    while True:
        frame = await peer.frame()
        assert frame is not None
        await peer.pong(frame)


@pytest.mark.parametrize("option", ["--help", "--version", "listen --help"])
@pytest.mark.parametrize(
    ("redirection", "said", "code"),
    [
        (">/dev/full", "No space left on device", 1),
        (">&-", "Bad file descriptor", 1),
        (">/dev/full 2>&-", "", 1),
    ],
)
def test_help_that_cannot_be_written(option: str, redirection: str, said: str, code: int) -> None:
    process = shell(f"{option} {redirection}", stderr=subprocess.PIPE)
    with ended(process):
        assert process.wait(20) == code
        assert process.stderr is not None
        error = process.stderr.read()
    assert error == (f"trio-beat: cannot write to standard output: {said}\n" if said else "")


def test_help_that_is_not_read_any_more() -> None:
    process = shell("--help", stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    with ended(process):
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.wait(20) in (0, 1)
        assert process.stderr.read() == ""


@pytest.mark.parametrize(
    ("redirection", "code", "said"),
    [
        (">/dev/full", 1, "cannot write to standard output: No space left on device"),
        (">&-", 1, "cannot write to standard output: Bad file descriptor"),
        ("| head -n 1", 0, ""),
    ],
)
def test_listen_ends_where_its_output_does(
    redirection: str, code: int, said: str, tmp_path: Path
) -> None:
    with command(tmp_path) as running:
        url = running.websocket("news?subscribe-broadcast")
        run_command("publish", running.websocket("news?publish-broadcast"), "kept")
        line = f"listen '{url}' {redirection}"
        pipe = {"stdout": subprocess.PIPE} if "|" in redirection else {}
        process = shell(line, stderr=subprocess.PIPE, **pipe)
        with ended(process):
            if "|" in redirection:
                assert process.stdout is not None
                assert process.stdout.readline() == "kept\n"
                run_command("publish", running.websocket("news?publish-broadcast"), "once more")
            assert process.wait(20) == code
            assert process.stderr is not None
            error = [line for line in process.stderr if " INFO " not in line]
    assert error == ([f"trio-beat: {said}\n"] if said else [])


def test_listen_goes_on_while_its_log_is_not_read(tmp_path: Path) -> None:
    with command(tmp_path) as running, full_pipe() as (_, writing):
        run_command("publish", running.websocket("news?publish-broadcast"), "kept")
        line = f"listen '{running.websocket('news?subscribe-broadcast')}'"
        process = shell(line, stdout=subprocess.PIPE, stderr=writing)
        with ended(process):
            assert process.stdout is not None
            assert process.stdout.readline() == "kept\n"
            process.terminate()
            assert process.wait(20) == 0


def test_publish_tells_that_its_output_is_full() -> None:
    # A server of another make, which says more than ours.
    with answering(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok") as port:
        line = f"publish http://127.0.0.1:{port}/ x --token=token >/dev/full"
        process = shell(line, stderr=subprocess.PIPE)
        with ended(process):
            # It was published, which must not be tried again.
            assert process.wait(20) == 0
            assert process.stderr is not None
            assert process.stderr.read() == (
                "trio-beat: cannot write to standard output: No space left on device\n"
            )


def test_bad_configuration_that_is_not_read() -> None:
    with full_pipe() as (_, writing):
        process = shell("--port=x", stdout=subprocess.DEVNULL, stderr=writing)
        with ended(process):
            assert process.wait(20) == 2
    process = shell("--port=x 2>&-", stdout=subprocess.DEVNULL)
    with ended(process):
        assert process.wait(20) == 2


def test_log_goes_to_a_socket(tmp_path: Path) -> None:
    near, far = socket.socketpair()
    with closing(near), closing(far):
        port = free_port()
        process = shell(f"--port={port}", stdout=subprocess.DEVNULL, stderr=near)
        with ended(process):
            health(port)
            process.terminate()
            assert process.wait(20) == 0
        assert b"SIGTERM, shutting down\n" in far.recv(65536)
