"""What other users of the machine see of the command line."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from trio_beat._command.title import hide_secrets, without_secrets

from ..support.command import clean_environment, command

needs_proc = pytest.mark.skipif(not Path("/proc/self/cmdline").exists(), reason="has no /proc")


@pytest.mark.parametrize(
    ("arguments", "shown"),
    [
        ([], []),
        (["--port=0", "--backend", "memory://"], None),
        (["--backend=redis://h:1/0?prefix=x"], None),
        (["--backend=redis://bob:s3cret@h/0?prefix=x"], ["--backend=redis://***@h/0?prefix=x"]),
        (["--backend", "redis://bob:s3cret@h"], ["--backend", "redis://***@h"]),
        (["--backend", "redis://bob:s3/cr?e#t@h"], ["--backend", "redis://***@h"]),
        (["--backend", "redis://bob:12/s3@cret@h"], ["--backend", "redis://***@h"]),
        (["--publish-token=s3cret", "--port=1"], ["--publish-token=***", "--port=1"]),
        (["--publish-token", "s3cret", "--port=1"], ["--publish-token", "***", "--port=1"]),
        (["--publish-token", "--s3cret"], ["--publish-token", "***"]),
        (["--publish_token", "s3cret"], ["--publish_token", "***"]),
        (["--pub", "s3cret"], ["--pub", "***"]),
        (["--pub=s3cret=s3cret"], ["--pub=***"]),
        (["--port", "--pub=s3cret"], ["--port", "--pub=***"]),
        (["listen", "ws://bob:s3cret@h/x?y-z"], ["listen", "ws://***@h/x?y-z"]),
        (["listen", "ws://h/ws/news?subscribe-broadcast"], None),
        (
            ["listen", "ws://h/ws/news?token=s3cret&subscribe-broadcast&t=s3=?s3#s3"],
            ["listen", "ws://h/ws/news?token=***&subscribe-broadcast&t=***"],
        ),
        (["listen", "wss://bob:s3@h/?t=s3"], ["listen", "wss://***@h/?t=***"]),
        (["--auth", "http://h/hook?key=s3cret"], ["--auth", "http://h/hook?***"]),
        (["--auth=https://h:1?s3cret&s3"], ["--auth=https://h:1?***"]),
        (["--auth", "http://h/hook", "--auth-header", "X-Key"], None),
        (["publish", "--token", "s3cret", "http://h", "m"], ["publish", "--token", "***"]),
        (["listen", "--header", "Cookie: s3cret"], ["listen", "--header", "Cookie: ***"]),
        (["listen", "--head=Cookie:s3cret"], ["listen", "--head=Cookie: ***"]),
        (["listen", "--header=s3cret"], ["listen", "--header=***"]),
        (["publish", "ws://h", "--", "--token"], None),
        (["publish", "ws://h", "a@b"], None),
    ],
)
def test_secrets_are_replaced(arguments: list[str], shown: list[str] | None) -> None:
    done = list(without_secrets(arguments))
    assert len(done) == len(arguments)
    expected = arguments if shown is None else shown
    assert done[: len(expected)] == expected
    assert "s3" not in "".join(done)


def test_a_title_is_for_the_arguments_of_the_process_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    before = Path("/proc/self/cmdline").read_bytes() if Path("/proc/self/cmdline").exists() else b""
    monkeypatch.setattr(sys, "argv", ["trio-beat", "--publish-token=s3cret"])
    hide_secrets()
    after = Path("/proc/self/cmdline").read_bytes() if before else b""
    assert before == after


def command_line(pid: int) -> str:
    """What ``ps`` shows of a process."""
    return Path(f"/proc/{pid}/cmdline").read_bytes().rstrip(b"\0").replace(b"\0", b" ").decode()


@needs_proc
@pytest.mark.real
def test_no_process_list_shows_the_secrets_of_the_server(tmp_path: Path) -> None:
    options = ["--publish-token", "s3cret token", "--log-level=debug", "--misses=4"]
    with command(tmp_path, *options) as running:
        shown = command_line(running.process.pid)
        name = Path(f"/proc/{running.process.pid}/comm").read_text()
    whole = f"{sys.executable} -m trio_beat --port=0 --publish-token '***' --log-level=debug"
    assert shown == f"{whole} --misses=4"
    assert name == Path(sys.executable).name + "\n"  # as it is without a title


@needs_proc
@pytest.mark.real
def test_without_a_secret_the_command_line_stays_as_it_is(tmp_path: Path) -> None:
    with command(tmp_path, TRIO_BEAT_PUBLISH_TOKEN="s3cret") as running:
        given = Path(f"/proc/{running.process.pid}/cmdline").read_bytes()
    assert given == b"".join(
        os.fsencode(part) + b"\0" for part in (sys.executable, "-m", "trio_beat", "--port=0")
    )


@needs_proc
@pytest.mark.real
def test_no_process_list_shows_the_secrets_of_a_client(tmp_path: Path) -> None:
    with command(tmp_path) as running:
        url = running.websocket("news?subscribe-broadcast").replace("//", "//bob:s3cret@")
        options = ["listen", "--header", "X-Key: s3cret", url]
        client = subprocess.Popen(
            [sys.executable, "-m", "trio_beat", *options],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            env=clean_environment(),
        )
        try:
            assert client.stderr is not None
            assert "open: " in client.stderr.readline()
            shown = command_line(client.pid)
        finally:
            client.terminate()
            client.wait(10)
            assert client.stderr is not None
            client.stderr.close()
    assert "s3cret" not in shown
    url = running.websocket("news?subscribe-broadcast").replace("//", "//***@")
    assert shown == f"{sys.executable} -m trio_beat listen --header 'X-Key: ***' '{url}'"


@needs_proc
@pytest.mark.real
def test_a_secret_that_is_not_utf_8_is_hidden_as_well(tmp_path: Path) -> None:
    options = [b"--publish-token=s3cret\xff", b"--config=/nowhere/\xff"]
    done = subprocess.run(
        [sys.executable, "-c", _SHOW, *options],
        capture_output=True,
        timeout=20,
        check=True,
        env=clean_environment(),
    )
    assert b"s3cret" not in done.stdout
    assert b"--publish-token=***" in done.stdout


#: Prints its own command line, as the command would have it.
_SHOW = """
from pathlib import Path
from trio_beat._command.title import hide_secrets
hide_secrets()
print(ascii(Path("/proc/self/cmdline").read_bytes()))
"""
