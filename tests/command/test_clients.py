"""The clients on the command line, as they are run."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import trustme

from tests.support.command import (
    ASCII,
    Command,
    answering,
    clean_environment,
    command,
    run_command,
)

pytestmark = pytest.mark.real

TOKEN = "s3cr\u00e9t".encode().hex()
SUBSCRIBE = "news?subscribe-broadcast"
PUBLISH = "news?publish-broadcast"


#: Publishes to a server that is stopped as soon as it has let the client in.
_FREEZING = """
import os, signal, sys
import trio_beat
from trio_beat._command.clients import publish
send = trio_beat.Connection.send

async def freeze(connection, message):
    os.kill(int(os.environ["FROZEN"]), signal.SIGSTOP)
    await send(connection, message)

trio_beat.Connection.send = freeze
sys.exit(publish(["{}", "hello"]))
"""


@contextmanager
def listening(
    url: str, *options: str, stdout: int = subprocess.PIPE
) -> Iterator[subprocess.Popen[str]]:
    """Run ``listen``, once it is connected."""
    process = subprocess.Popen(
        [sys.executable, "-m", "trio_beat", "listen", url, *options],
        stdout=stdout,
        stderr=subprocess.PIPE,
        text=True,
        env=clean_environment(),
    )
    assert process.stderr is not None
    try:
        read_until(process, "open: ")
        yield process
    finally:
        process.kill()
        process.wait()
        for stream in (process.stdout, process.stderr):
            if stream is not None:
                stream.close()


def read_until(process: subprocess.Popen[str], text: str) -> str:
    """Read the log up to a line with this text."""
    assert process.stderr is not None
    lines = []
    for line in process.stderr:
        lines.append(line)
        if text in line:
            return line
    pytest.fail(f"{text!r} is not in {lines}")


def line_of(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline()


def published(running: Command, message: str) -> None:
    result = run_command("publish", running.websocket(PUBLISH), message)
    assert (result.returncode, result.stderr) == (0, "")


class TestListen:
    def test_prints_messages_and_logs_beats(self, tmp_path: Path) -> None:
        with (
            command(tmp_path, "--interval=0.5", "--heartbeat-message=--heartbeat--") as running,
            listening(running.websocket(SUBSCRIBE), "--interval=0.5") as process,
        ):
            published(running, "hello")
            published(running, "gr\u00fc\u00dfe")
            assert line_of(process) == "hello\n"
            assert line_of(process) == "gr\u00fc\u00dfe\n"
            assert "beat of the server's: --heartbeat--" in read_until(process, "server's")
            read_until(process, " ms, 0 missed in a row")
            process.send_signal(signal.SIGINT)
            assert process.wait(10) == 0
            assert process.stdout is not None
            assert process.stdout.read() == ""
            assert "ended: peer (1001 'going away')" in running.log()

    def test_goes_on_and_ends_while_its_output_is_not_read(self, tmp_path: Path) -> None:
        with command(tmp_path, "--interval=0.3") as running:
            with listening(running.websocket(SUBSCRIBE), "--interval=0.3") as process:
                published(running, "x" * 110_000)
                for _ in range(8):  # far longer than it may be silent
                    read_until(process, " ms, 0 missed in a row")
                assert running.health()["ended"]["missed-beats"] == 0
                process.send_signal(signal.SIGINT)
                assert process.wait(10) == 0

    def test_finds_a_restarted_server_again(self, tmp_path: Path) -> None:
        with command(tmp_path) as running:
            url, port = running.websocket(SUBSCRIBE), running.port
            with listening(url) as process:
                running.end()
                assert "; again in " in read_until(process, "again in")
                with command(tmp_path, port=port) as again:
                    read_until(process, "open: ")
                    published(again, "here I am")
                    assert line_of(process) == "here I am\n"
                    process.terminate()
                    assert process.wait(10) == 0

    def test_gives_binary_messages_as_they_are(self, tmp_path: Path) -> None:
        with command(tmp_path, f"--publish-token={TOKEN}") as running:
            with listening(running.websocket(SUBSCRIBE)) as process:
                publish_binary(running, b"plain")
                assert line_of(process) == "plain\n"

    def test_does_not_let_a_message_command_the_terminal(self, tmp_path: Path) -> None:
        with command(tmp_path, f"--publish-token={TOKEN}") as running:
            ours, theirs = pty.openpty()
            try:
                with listening(running.websocket(SUBSCRIBE), stdout=theirs):
                    published(running, "red: \x1b[31m")
                    publish_binary(running, b"\x1b")
                    assert terminal_line(ours) == b"red: \\x1b[31m\r\n"
                    assert terminal_line(ours) == b"b'\\x1b'\r\n"
            finally:
                os.close(ours)
                os.close(theirs)

    def test_ends_when_its_output_is_not_read_any_more(self, tmp_path: Path) -> None:
        with command(tmp_path) as running:
            with listening(running.websocket(SUBSCRIBE)) as process:
                assert process.stdout is not None
                process.stdout.close()
                process.stdout = None
                published(running, "one")
                assert process.wait(10) == 0

    def test_ends_when_it_is_refused(self, tmp_path: Path) -> None:
        with command(tmp_path) as running:
            result = run_command("listen", running.websocket("news?subscribe-user"))
        assert result.returncode == 1
        (line,) = [line for line in result.stderr.splitlines() if line.startswith("trio-beat:")]
        assert line.startswith("trio-beat: the server refuses the WebSocket: 403 Forbidden: ")

    @pytest.mark.parametrize(
        ("options", "text"),
        [
            (["http://localhost/"], "is not the URL of a WebSocket"),
            ([], "the following arguments are required: URL"),
            (["ws://localhost/", "--interval=0"], "interval is 0.0"),
            (["ws://localhost/", "--misses=x"], "invalid int value: 'x'"),
            (["ws://localhost/", "--header=x"], "--header: there is one without a colon"),
            (["ws://localhost/", "--header=Authorization s3cret"], "there is one without a colon"),
            (["ws://localhost/", "--header=A s3cret: a"], "a header's name cannot be sent"),
            (["ws://localhost/", "--header=Host: x"], "header 'Host' is the handshake's own"),
            (["ws://localhost/", "--ca=/nowhere"], "--ca is for wss:// and https:// only"),
            (["wss://localhost/", "--ca=/nowhere"], "--ca: cannot use '/nowhere': No such file"),
            (["wss://localhost/", "--ca=/dev/null"], "--ca: "),
            (["ws://localhost/", "--compression=yes"], "--compression: invalid choice: 'yes'"),
        ],
    )
    def test_bad_arguments(self, options: list[str], text: str) -> None:
        check_bad(["listen", *options], text)


class TestPublish:
    def test_compressed_to_a_client_that_listens(self, tmp_path: Path) -> None:
        offers, text = "--compression=on", "x" * 1000
        with (
            command(tmp_path, offers) as running,
            listening(running.websocket(SUBSCRIBE), offers) as process,
        ):
            result = run_command("publish", running.websocket(PUBLISH), text, offers)
            assert (result.returncode, result.stderr) == (0, "")
            assert line_of(process) == text + "\n"
            counts = running.health()["compression"]
        assert [counts[name] for name in ("accepted", "inflated", "compressed")] == [2, 1, 1]

    def test_over_http_with_a_token(self, tmp_path: Path) -> None:
        with command(tmp_path, f"--publish-token={TOKEN}") as running:
            url = running.page + "api/publish/news"
            with listening(running.websocket(SUBSCRIBE)) as process:
                result = run_command("publish", url, "one", f"--token={TOKEN}")
                assert (result.returncode, result.stdout) == (0, "")
                result = run_command("publish", url, "tw\u00f6", TRIO_BEAT_PUBLISH_TOKEN=TOKEN)
                assert (result.returncode, result.stderr) == (0, "")
                assert [line_of(process) for _ in range(2)] == ["one\n", "tw\u00f6\n"]
            result = run_command("publish", url, "x", "--token=wrong")
            assert result.returncode == 1
            assert result.stderr.startswith("trio-beat: not published: 401 Unauthorized: ")

    def test_over_tls_with_an_authority_of_one_s_own(self, tmp_path: Path) -> None:
        authority = trustme.CA()
        chain, trusted = tmp_path / "chain.pem", tmp_path / "ca.pem"
        authority.issue_cert("localhost").private_key_and_cert_chain_pem.write_to_path(chain)
        authority.cert_pem.write_to_path(trusted)
        options = (f"--tls-cert={chain}", f"--publish-token={TOKEN}")
        with command(tmp_path, *options) as running:
            secure = f"localhost:{running.port}"
            result = run_command("publish", f"wss://{secure}/ws/{PUBLISH}", "x", f"--ca={trusted}")
            assert (result.returncode, result.stderr) == (0, "")
            result = run_command(
                "publish",
                f"https://{secure}/api/publish/news",
                "x",
                f"--ca={trusted}",
                f"--token={TOKEN}",
            )
            assert (result.returncode, result.stderr) == (0, "")
            result = run_command("publish", f"wss://{secure}/ws/{PUBLISH}", "x")
            assert result.returncode == 1
            assert "trio-beat: no TLS with localhost: " in result.stderr

    def test_text_is_utf_8_whatever_the_locale(self, tmp_path: Path) -> None:
        with (
            command(tmp_path, f"--publish-token={TOKEN}") as running,
            listening(running.websocket(SUBSCRIBE)) as process,
        ):
            url = running.page + "api/publish/news"
            text = "gr\u00fc\u00dfe"
            for place in (running.websocket(PUBLISH), url):
                result = run_command("publish", place, text, TRIO_BEAT_PUBLISH_TOKEN=TOKEN, **ASCII)
                assert result.returncode == 0
                assert line_of(process) == text + "\n"
            result = run_command("publish", url, "\udcff", TRIO_BEAT_PUBLISH_TOKEN=TOKEN)
            assert (result.returncode, result.stderr) == (2, "trio-beat: message is not UTF-8\n")

    def test_without_a_server(self) -> None:
        result = run_command("publish", "ws://127.0.0.1:1/?publish-broadcast", "x")
        assert result.returncode == 1
        assert result.stderr == "trio-beat: cannot reach 127.0.0.1:1: Connection refused\n"
        result = run_command("publish", "http://127.0.0.1:1/", "x", "--token=x")
        assert result.returncode == 1
        assert result.stderr == "trio-beat: cannot publish at 127.0.0.1:1: Connection refused\n"

    def test_to_a_server_that_does_not_answer(self, tmp_path: Path) -> None:
        with command(tmp_path) as running:
            process = subprocess.Popen(
                [sys.executable, "-c", _FREEZING.format(running.websocket(PUBLISH))],
                stderr=subprocess.PIPE,
                text=True,
                env=clean_environment(FROZEN=str(running.process.pid)),
            )
            assert process.stderr is not None
            with process.stderr:
                said = process.stderr.read()
            assert process.wait() == 1
            assert "no answer within 5 s: the message may be published, or not" in said

    def test_to_a_server_without_a_token(self, tmp_path: Path) -> None:
        with command(tmp_path) as running:
            url = running.page + "api/publish/news"
            result = run_command("publish", url, "x", "--token=x")
        assert result.returncode == 1
        assert result.stderr.startswith("trio-beat: not published: 404 Not Found: ")
        assert result.stderr.endswith("; was the server given a token?\n")

    def test_what_a_server_says_cannot_command_the_terminal(self) -> None:
        said = "no\x1b[2J\x9b\r\u202etrio-beat: forged".encode()
        head = b"HTTP/1.1 %s\r\nContent-Length: %d\r\n\r\n"
        with answering(head % (b"400 Bad Request", len(said)) + said) as port:
            result = run_command("publish", f"http://127.0.0.1:{port}/", "x", "--token=x")
        assert result.returncode == 1
        assert r"not published: 400 Bad Request: no\x1b[2J\x9b \u202etrio-beat: f" in result.stderr
        assert result.stderr.rstrip("\n").isprintable()
        with answering(head % (b"200 OK", len(said)) + said) as port:
            result = run_command("publish", f"http://127.0.0.1:{port}/", "x", "--token=x")
        assert result.returncode == 0
        assert result.stdout.rstrip("\n").isprintable()
        with answering(head % (b"403 No\x1b[2J", len(said)) + said) as port:
            result = run_command("publish", f"ws://127.0.0.1:{port}/?publish-broadcast", "x")
        assert result.returncode == 1
        assert result.stderr.rstrip("\n").isprintable()

    def test_warns_where_the_url_publishes_nothing(self, tmp_path: Path) -> None:
        with command(tmp_path) as running:
            result = run_command("publish", running.websocket("news"), "x")
        assert result.returncode == 0
        assert result.stderr.startswith("trio-beat: the URL has no publish- parameter")

    @pytest.mark.parametrize(
        ("options", "text"),
        [
            (["news", "x"], "'news' has no known scheme; expected ws://, wss://, http:// or"),
            (["ws://", "x"], "'ws://' is not the URL of a WebSocket"),
            (["http://localhost/", "x", "--token=a\nb"], "the token has characters that"),
            (
                ["http://localhost/", "x", "--token=x", "--header=authorization: y"],
                "--token is for",
            ),
            (["ws://localhost/"], "the following arguments are required: MESSAGE"),
            (["ws://localhost/", "x", "--token=x"], "--token is for http:// and https:// only"),
            (["http://localhost/", "x"], "needs --token or TRIO_BEAT_PUBLISH_TOKEN"),
            (["http://localhost:x/", "x", "--token=x"], "is not a URL"),
            (["http://[x/?token=x", "x", "--token=x"], "'http://[x/' is not a URL"),
            (["http://localhost/\u00fc?token=s3cret", "x", "--token=x"], "percent-encoded"),
            (["http://localhost/ ?token=s3cret", "x", "--token=x"], "percent-encoded"),
            (
                ["http://localhost/", "x", "--token=x", "--header=A: s3cret\r\nx"],
                "header 'A' or its value cannot be sent",
            ),
            (
                ["http://localhost/", "x", "--token=x", "--header=A: s3cret\u20ac"],
                "header 'A' or its value cannot be sent",
            ),
            (
                ["http://localhost/", "x", "--token=x", "--header=A s3cret: a"],
                "a header's name cannot be sent",
            ),
            (["http://a:b/c@localhost/", "x", "--token=x"], "'http://localhost/' is not a URL"),
            (["http:///x", "x", "--token=x"], "has no host"),
            (
                ["http://localhost/", "x", "--token=x", "--compression=on"],
                "--compression is for ws:// and wss:// only",
            ),
        ],
    )
    def test_bad_arguments(self, options: list[str], text: str) -> None:
        check_bad(["publish", *options], text)


def check_bad(arguments: list[str], text: str) -> None:
    result = run_command(*arguments)
    assert result.returncode == 2
    (line,) = result.stderr.splitlines()
    assert line.startswith("trio-beat: ")
    assert text in line
    assert "s3cret" not in line


def publish_binary(running: Command, body: bytes) -> None:
    request = urllib.request.Request(
        running.page + "api/publish/news",
        body,
        {"Authorization": f"Bearer {TOKEN}", "Content-Type": "application/octet-stream"},
    )
    urllib.request.urlopen(request).close()


def terminal_line(fd: int) -> bytes:
    line = b""
    deadline = time.monotonic() + 10
    while not line.endswith(b"\n") and time.monotonic() < deadline:
        line += os.read(fd, 1)
    return line
