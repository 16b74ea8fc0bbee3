"""The listener of its own for health and the API."""

from __future__ import annotations

import logging
import os
import signal
import socket
import stat
from contextlib import closing
from pathlib import Path

import httpx
import pytest
import trio

from tests.support.broker import Broker
from tests.support.certificates import ServerFiles
from tests.support.command import Command, command, run_command
from tests.support.peer import HANDSHAKE
from tests.support.serving import ask, status
from tests.support.workers import PATIENCE, until, workers
from trio_beat._command.arguments import ConfigurationError
from trio_beat._command.internal import Place, listening, parse_place, places, warn_if_readable

BEARER = {"Authorization": "Bearer s3cret"}


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("127.0.0.1:8001", Place("127.0.0.1", 8001, "")),
        ("[::1]:0", Place("[::1]", 0, "")),
        ("localhost:65535", Place("localhost", 65535, "")),
        ("unix:/run/x.sock", Place("", 0, "/run/x.sock")),
        ("unix:x.sock", Place("", 0, "x.sock")),
    ],
)
def test_where_to_listen_is_read(text: str, place: Place) -> None:
    assert parse_place(text) == place


@pytest.mark.parametrize(
    "text",
    ["8001", ":8001", "127.0.0.1", "127.0.0.1:", "127.0.0.1:x", "::1:80", "a:65536", "/run/x.sock"],
)
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(ConfigurationError, match="should be HOST:PORT") as caught:
        parse_place(text)
    assert repr(text) in str(caught.value)


def test_a_path_is_needed() -> None:
    with pytest.raises(ConfigurationError, match="unix: needs a path"):
        parse_place("unix:")


def test_nowhere_is_no_listener() -> None:
    with listening(None, 3) as listeners:
        assert listeners == [[], [], []]


def test_each_process_gets_listeners(tmp_path: Path) -> None:
    with listening("127.0.0.1:0", 2) as (one, two):
        assert places(one) == places(two)
        assert places(one)[0].startswith("http://127.0.0.1:")
    path = tmp_path / "x.sock"
    with listening(f"unix:{path}", 2) as (one, two):
        assert one == two
        assert places(one) == [f"unix:{path}"]
    assert not path.exists()


@pytest.mark.parametrize(
    ("host", "warned"), [("127.0.0.1", False), ("[::1]", False), ("0.0.0.0", True)]
)
def test_tokens_in_plain_text_are_warned_of(
    host: str, warned: bool, caplog: pytest.LogCaptureFixture
) -> None:
    with listening(f"{host}:0", 1) as (listeners,):
        warn_if_readable(listeners)
    lines = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert [f"listens on {host} and speaks plain HTTP" in line for line in lines] == [True] * warned


def _place(running: Command) -> str:
    """Where health and the API are, as it is announced."""
    assert running.process.stdout is not None
    line = running.process.stdout.readline()
    assert line.startswith("  health and the API  ")
    return line.split()[-1]


def _client_of(place: str) -> httpx.AsyncClient:
    if not place.startswith("unix:"):
        return httpx.AsyncClient(base_url=place)
    transport = httpx.AsyncHTTPTransport(uds=place.removeprefix("unix:"))
    return httpx.AsyncClient(base_url="http://localhost", transport=transport)


@pytest.mark.real
@pytest.mark.slow
@pytest.mark.parametrize("kind", ["tcp", "unix"])
async def test_health_and_the_api_are_there_and_not_at_the_public_port(
    kind: str, tmp_path: Path
) -> None:
    path = tmp_path / "x.sock"
    bind = "127.0.0.1:0" if kind == "tcp" else f"unix:{path}"
    files = ServerFiles(tmp_path)
    options = [f"--internal-bind={bind}", "--publish-token=s3cret", *files.options]
    options.append("--trusted-proxy=127.0.0.1,unix")
    with command(tmp_path, *options) as running:
        place = _place(running)
        assert kind == "tcp" or place == bind
        assert kind == "tcp" or stat.S_IMODE(path.stat().st_mode) == 0o600
        async with _client_of(place) as client:
            assert (await client.get("/healthz")).json()["status"] == "ok"
            forwarded = {"X-Forwarded-For": "203.0.113.7"}
            assert (await client.get("/readyz", headers=forwarded)).status_code == 200
            assert (await client.post("/api/publish/news", content="x")).status_code == 401
            response = await client.post("/api/publish/news?user=bob", content="x", headers=BEARER)
            assert response.status_code == 204
            assert (
                await client.post("/api/disconnect?user=bob", headers=BEARER)
            ).status_code == 403
            assert (await client.get("/")).status_code == 404
            assert (await client.get("/ws/news?subscribe-broadcast")).status_code == 404
            health = (await client.get("/healthz")).json()
            assert health["api"] == {"401": 1, "204": 1, "403": 1}
            assert health["http"] == 0  # those of the public port
        if kind == "tcp":
            port = int(place.rstrip("/").rpartition(":")[2])
            answer = await ask(port, HANDSHAKE.format(target="/ws/news", headers="").encode())
            assert answer.startswith(b"HTTP/1.1 404 ")
            assert b"this listener has health and the API" in answer
            assert status(await ask(port, b"GET / HTTP/9.9\r\nHost: x\r\n\r\n")) == 505
        async with httpx.AsyncClient(base_url=running.page, verify=files.context) as public:
            for target in ("healthz", "readyz", "api/publish/news", "api/disconnect"):
                assert (await public.post(target, headers=BEARER)).status_code == 404
            assert (await public.get("")).status_code == 200
        assert running.end() == 0
        assert running.log().count("Traceback") == 0
        assert "is not believed" not in running.log()
    assert not path.exists()


@pytest.mark.real
@pytest.mark.slow
@pytest.mark.parametrize("kind", ["tcp", "unix"])
async def test_workers_share_it(kind: str, valkey: Broker, prefix: str, tmp_path: Path) -> None:
    path, tokens = tmp_path / "x.sock", tmp_path / "tokens.toml"
    tokens.write_text("[one]\ntoken = 'the-first-of-these'\n")
    bind = "127.0.0.1:0" if kind == "tcp" else f"unix:{path}"
    options = [f"--internal-bind={bind}", f"--api-tokens={tokens}"]
    with workers(tmp_path, f"{valkey.url}?prefix={prefix}", *options) as running:
        place = _place(running.running)

        async def published(token: str) -> set[int]:
            """The statuses that both workers answer with."""
            statuses: dict[int, int] = {}
            with trio.fail_after(PATIENCE):
                while len(statuses) < 2:
                    async with _client_of(place) as client:  # one connection
                        number = (await client.get("/healthz")).json()["worker"]
                        headers = {"Authorization": f"Bearer {token}"}
                        response = await client.post("/api/publish/news", headers=headers)
                        statuses[number] = response.status_code
            return set(statuses.values())

        assert await published("the-first-of-these") == {204}
        tokens.write_text("[one]\ntoken = 'the-second-of-these'\n")
        running.running.process.send_signal(signal.SIGHUP)
        line = "SIGHUP: read the file of --api-tokens again"
        await until(lambda: running.running.log().count(line) == 3 or None)
        assert await published("the-first-of-these") == {401}
        assert await published("the-second-of-these") == {204}
        if kind == "unix":
            # One that drains leaves the file, and the next one serves it.
            before = running.processes()[1]
            before.terminate()
            await until(lambda: not before.is_running() or None)
            assert await published("the-second-of-these") == {204}
        assert running.running.end() == 0
        assert "Traceback" not in running.running.log()
    assert not path.exists()


@pytest.mark.real
@pytest.mark.slow
async def test_a_socket_of_a_process_that_was_killed_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "x.sock"
    option = f"--internal-bind=unix:{path}"
    with command(tmp_path, option) as running:
        assert run_command("--port=0", option).stderr == (
            f"trio-beat: --internal-bind: cannot listen on {path}: Address already in use\n"
        )
        running.end(signal.SIGKILL)
    assert path.exists()
    with command(tmp_path, option) as running:
        async with _client_of(_place(running)) as client:
            assert (await client.get("/healthz")).status_code == 200
        assert running.end() == 0
    assert not path.exists()


def test_what_cannot_be_listened_at_is_told(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("precious")
    with closing(socket.create_server(("127.0.0.1", 0))) as other:
        port = other.getsockname()[1]
        for bind, words in (
            (f"127.0.0.1:{port}", f"127.0.0.1:{port}: Address already in use"),
            (f"unix:{file}", f"{file}: there is a file that is no socket"),
            (f"unix:{tmp_path}/none/x", f"{tmp_path}/none/x: No such file or directory"),
            (
                f"unix:/{'x' * 200}",
                f"/{'x' * 200}: path too long: it has 201 bytes, a socket's at most 107",
            ),
        ):
            with pytest.raises(ConfigurationError) as caught, listening(bind, 2):
                pass
            assert str(caught.value) == f"--internal-bind: cannot listen on {words}"
    assert file.read_text() == "precious"
    assert os.listdir(tmp_path) == ["file"]


@pytest.mark.real
@pytest.mark.parametrize("workers", [1, 2])
def test_misuse_is_one_line_and_exit_code_2(workers: int) -> None:
    options = [f"--workers={workers}", "--backend=redis://127.0.0.1:1"]
    done = run_command("--port=0", "--internal-bind=8001", *options)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert done.stderr.startswith("trio-beat: --internal-bind: '8001' should be HOST:PORT")
