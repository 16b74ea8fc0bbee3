"""The commands that README and documentation show, against one bundled server."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shlex
import shutil
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.__main__ import COMMANDS
from tests.support.broker import made_broker
from tests.support.command import Command, clean_environment, command
from tests.support.documents import document, examples
from tests.support.programs import missing

_TOKEN = "token-of-this-test"
_ACCOUNTS = "another-token-of-this-test"
_ADDRESS = "127.0.0.1:8000"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Command]:
    """The bundled server; it allows publishing and disconnecting over HTTP."""
    path = tmp_path_factory.mktemp("server")
    tokens = path / "tokens.toml"
    digest = hashlib.sha256(_ACCOUNTS.encode()).hexdigest()
    text, count = re.subn("[0-9a-f]{64}", digest, examples("api", "toml")[0])
    assert count == 1
    tokens.write_text(text)
    with command(path, f"--api-tokens={tokens}", TRIO_BEAT_PUBLISH_TOKEN=_TOKEN) as running:
        yield running


def _arguments(line: str, server: Command) -> list[str]:
    """A command's, as they run here."""
    python, *rest = shlex.split(line.replace(_ADDRESS, f"127.0.0.1:{server.port}"))
    assert python in ("python", ".venv/bin/python")
    return [sys.executable, "-u", *rest]


def _run(arguments: list[str] | str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        arguments,
        shell=isinstance(arguments, str),
        check=True,
        capture_output=True,
        text=True,
        timeout=20,
        env=clean_environment(TRIO_BEAT_PUBLISH_TOKEN=_TOKEN, ACCOUNTS_TOKEN=_ACCOUNTS),
    )


@contextlib.contextmanager
def _listening(line: str, server: Command) -> Iterator[subprocess.Popen[str]]:
    before = server.health()["hub"]["subscriptions"]
    process = subprocess.Popen(
        _arguments(line, server),
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=clean_environment(),
    )
    try:
        while server.health()["hub"]["subscriptions"] == before:
            assert process.poll() is None
        yield process
    finally:
        process.terminate()
        assert process.wait(20) == 0
        assert process.stdout is not None
        process.stdout.close()


@pytest.mark.real
def test_listen_prints_what_publish_sends(server: Command) -> None:
    listen, *publish = examples("operating", "sh")[0].splitlines()
    with _listening(listen, server) as listening:
        assert listening.stdout is not None
        assert len(publish) == 2
        for line in publish:
            _run(_arguments(line, server))
            assert listening.stdout.readline() == "hello\n"


@pytest.mark.real
@pytest.mark.parametrize(("number", "statuses"), [(0, "204"), (1, "204204")])
def test_curl_publishes_and_disconnects(number: int, statuses: str, server: Command) -> None:
    if shutil.which("curl") is None:
        missing("curl is not installed")
    text = examples("api", "sh")[number].replace(_ADDRESS, f"127.0.0.1:{server.port}")
    assert _run(text.replace("curl", "curl -w %{http_code}")).stdout == statuses


@pytest.mark.real
def test_options_are_checked(server: Command) -> None:
    (line,) = examples("check", "sh")[0].splitlines()
    line = line.replace("--port 8000", f"--port {server.port}")
    assert "a trio-beat server runs there" in _run(_arguments(line, server)).stdout


@pytest.mark.real
def test_the_readme_listens(server: Command) -> None:
    (line,) = re.findall(r"^    (\S+ -m trio_beat listen .*)$", document("README"), re.MULTILINE)
    with _listening(line, server) as listening:
        assert listening.stdout is not None
        target = server.websocket("lobby?publish-broadcast")
        _run([sys.executable, "-m", "trio_beat", "publish", target, "hello"])
        assert listening.stdout.readline() == "hello\n"


@pytest.mark.real
@pytest.mark.parametrize(("name", "count"), [("README", 1), ("channels", 2)])
def test_servers_share_channels(name: str, count: int, tmp_path: Path) -> None:
    found = re.findall(
        r"^    \S+ -m trio_beat ((?:--workers auto )?)--port \d+ (--backend redis:\S+)$",
        document(name),
        re.MULTILINE,
    )
    assert len(found) == count
    with made_broker() as broker, contextlib.ExitStack() as stack:
        broker.start_blocking()
        # The README has one line: the second server is started by it as well.
        one, two = (
            stack.enter_context(
                command(path, *"".join(line).replace("6379", str(broker.port)).split())
            )
            for path, line in zip(_folders(tmp_path), (found * 2)[:2], strict=True)
        )
        listen = f"python -m trio_beat listen {one.websocket('news?subscribe-broadcast')}"
        with _listening(listen, one) as listening:
            assert listening.stdout is not None
            target = two.websocket("news?publish-broadcast")
            _run([sys.executable, "-m", "trio_beat", "publish", target, "hello"])
            assert listening.stdout.readline() == "hello\n"


def _folders(path: Path) -> Iterator[Path]:
    for name in ("one", "two"):
        (path / name).mkdir()
        yield path / name


@pytest.mark.real
def test_probes_ask_what_is_there(server: Command) -> None:
    probes = re.findall(
        r"^    (\w+)Probe: {httpGet: {path: (\S+), port: 8000}.*}$",
        document("operating"),
        re.MULTILINE,
    )
    assert probes == [("liveness", "/healthz"), ("readiness", "/readyz")]
    for _, path in probes:
        with urllib.request.urlopen(f"http://127.0.0.1:{server.port}{path}") as response:
            assert response.status == 200


@pytest.mark.real
def test_workers_share_a_port(tmp_path: Path) -> None:
    (line,) = examples("operating", "sh")[1].splitlines()
    with made_broker() as broker:
        broker.start_blocking()
        _, _, options = line.replace("6379", str(broker.port)).partition(" -m trio_beat ")
        with command(tmp_path, *options.split()) as running:
            assert running.health()["workers"] == len(os.sched_getaffinity(0))
            assert running.end() == 0


def test_benchmarks_are_there() -> None:
    (line,) = examples("operating", "sh")[2].splitlines()
    name, quick = re.findall(r"-m benchmarks (\w+) (\S+)$", line)[0]
    assert quick == "--quick"
    assert name in COMMANDS
    for other in COMMANDS:
        assert f"``{other}``" in document("operating") or other == name
    assert Path(__file__).parent.parent.parent.joinpath("benchmarks").is_dir()
