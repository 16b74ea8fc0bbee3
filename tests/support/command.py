"""The command as a process of its own."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final


class Command:
    """A running ``python -m trio_beat``."""

    def __init__(self, process: subprocess.Popen[str], banner: list[str], log: Path) -> None:
        self.process = process
        self.banner = banner
        self._log = log
        self.page = banner[1].split()[-1]
        self.port = int(self.page.rstrip("/").rpartition(":")[2])

    def websocket(self, target: str) -> str:
        """The URL of a WebSocket; `target` is a facility and a query."""
        return self.page.replace("http", "ws", 1) + "ws/" + target

    def health(self) -> dict[str, Any]:
        """What /healthz says."""
        with urllib.request.urlopen(self.page + "healthz") as response:
            body: dict[str, Any] = json.load(response)
            return body

    def log(self) -> str:
        """What it has logged so far."""
        return self._log.read_text()

    @contextlib.contextmanager
    def frozen(self) -> Iterator[None]:
        """Stop the process while the context lasts."""
        self.process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self.process.send_signal(signal.SIGCONT)

    def end(self, number: int = signal.SIGTERM) -> int:
        """Send a signal and wait; returns the exit code."""
        self.process.send_signal(number)
        return self.process.wait(20)


@contextlib.contextmanager
def command(tmp_path: Path, *options: str, port: int = 0, **variables: str) -> Iterator[Command]:
    """Run the command until the context ends."""
    log = tmp_path / "server.log"
    with log.open("a") as stderr:
        process = subprocess.Popen(
            [sys.executable, "-m", "trio_beat", f"--port={port}", *options],
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
            env=clean_environment(**variables),
        )
    try:
        assert process.stdout is not None
        banner = [process.stdout.readline() for _ in range(3)]
        assert banner[2], f"the command did not start: {log.read_text()}"
        yield Command(process, banner, log)
    finally:
        process.send_signal(signal.SIGCONT)
        if process.poll() is None:
            process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        assert process.stdout is not None
        process.stdout.close()


def clean_environment(**variables: str) -> dict[str, str]:
    """This process's environment, with none but the given ``TRIO_BEAT_`` variables."""
    inherited = {k: v for k, v in os.environ.items() if not k.startswith("TRIO_BEAT_")}
    return inherited | variables


#: Where nothing but ASCII can be read or written.
ASCII: Final[dict[str, Any]] = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}


def run_command(*options: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run the command to its end."""
    return subprocess.run(
        [sys.executable, "-m", "trio_beat", *options],
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
        env=clean_environment(**variables),
    )


@contextlib.contextmanager
def answering(answer: bytes) -> Iterator[int]:
    """A server that gives one answer; its port."""

    def serve() -> None:
        sock, _ = listener.accept()
        with sock:
            sock.recv(65536)
            sock.sendall(answer)
            sock.shutdown(socket.SHUT_WR)
            sock.recv(65536)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve)
        thread.start()
        yield listener.getsockname()[1]
        thread.join()
