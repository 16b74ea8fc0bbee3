"""What runs without the packages of the extra ``server``, and what is said about the rest.

They are hidden from the process under test, which then finds what `pip install trio-beat` gives.
"""

from __future__ import annotations

import subprocess
import sys

import pytest

from trio_beat._command.arguments import ConfigurationError
from trio_beat._command.extras import server_extra

from ..support.command import clean_environment

EXTRA = (
    "hiredis",
    "pydantic",
    "pydantic_settings",
    "pythonjsonlogger",
    "setproctitle",
    "starlette",
)
_HIDDEN = """
import sys
for name in {!r}:
    sys.modules[name] = None
"""
_COMMAND = """
from trio_beat._command.main import main
sys.exit(main())
"""
#: Serves a handler, a hub and an application, to clients, to HTTP, and to both commands.
_CORE = r"""
import subprocess, trio
from functools import partial
from trio_beat import connect, open_hub, serve

async def handler(connection):
    async for message in connection:
        await connection.send(message)

async def app(scope, receive, send):
    assert scope["type"] == "http"
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"an application"})

async def main():
    async with open_hub() as hub, trio.open_nursery() as nursery:
        plain = await nursery.start(serve, handler, 0)
        async with connect(f"ws://127.0.0.1:{plain.port}/") as connection:
            await connection.send("hello")
            assert await connection.receive() == "hello"

        server = await nursery.start(partial(serve, None, 0, hub=hub, app=app))
        async with await trio.open_tcp_stream("127.0.0.1", server.port) as stream:
            await stream.send_all(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            answer = b"".join([bytes(data) async for data in stream])
        assert b"an application" in answer, answer

        url = f"ws://127.0.0.1:{server.port}/ws/news?"
        listen = await nursery.start(partial(
            trio.run_process, [*command, "listen", url + "subscribe-broadcast"],
            stdout=subprocess.PIPE))
        while not server.statistics().connections:
            await trio.sleep(0.05)
        await trio.run_process([*command, "publish", url + "publish-broadcast", "read all of it"])
        assert await listen.stdout.receive_some() == b"read all of it\n"
        server.drain()
        listen.terminate()
        nursery.cancel_scope.deadline = trio.current_time() + 10
        while listen.poll() is None:
            await trio.sleep(0.05)
        nursery.cancel_scope.cancel()

trio.run(main)
"""


def run(program: str, *arguments: str, hidden: tuple[str, ...]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", _HIDDEN.format(hidden) + program, *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env=clean_environment(),
    )


@pytest.mark.real
def test_all_but_the_bundled_server_runs_on_the_core_alone() -> None:
    command = [sys.executable, "-c", _HIDDEN.format(EXTRA) + _COMMAND]
    done = run(f"command = {command!r}\n{_CORE}", hidden=EXTRA)
    assert done.returncode == 0, done.stderr


@pytest.mark.real
@pytest.mark.parametrize(
    ("module", "package"),
    [
        ("pydantic", "pydantic"),
        ("pydantic_settings", "pydantic-settings"),
        ("starlette", "starlette"),
    ],
)
def test_the_bundled_server_names_what_it_misses(module: str, package: str) -> None:
    done = run(_COMMAND, "--port=0", hidden=(module,))
    assert (done.returncode, done.stdout) == (2, "")
    expected = f"the bundled server needs {package}: pip install 'trio-beat[server]' installs it"
    assert done.stderr == f"trio-beat: {expected}\n"


@pytest.mark.real
def test_a_log_of_json_names_what_it_misses() -> None:
    done = run(_COMMAND, "--port=0", "--log-format=json", hidden=("pythonjsonlogger",))
    assert (done.returncode, done.stdout) == (2, "")
    expected = "--log-format json needs python-json-logger: pip install 'trio-beat[server]'"
    assert done.stderr == f"trio-beat: {expected} installs it\n"


@pytest.mark.real
def test_a_secret_of_the_command_line_names_what_it_misses() -> None:
    done = run(_COMMAND, "--publish-token=s3cret", hidden=("setproctitle",))
    assert (done.returncode, done.stdout) == (2, "")
    expected = "hiding a secret of the command line needs setproctitle: pip install 'trio-beat["
    assert done.stderr == f"trio-beat: {expected}server]' installs it\n"


@pytest.mark.real
def test_a_client_goes_on_without_hiding_a_secret() -> None:
    done = run(_COMMAND, "publish", "ws://bob:s3cret@h:x/", "hello", hidden=EXTRA)
    assert (done.returncode, done.stdout) == (2, "")
    warning, error = done.stderr.splitlines()
    assert warning == (
        "trio-beat: the command line shows a secret to all users; with setproctitle it would not"
    )
    assert error.startswith("trio-beat: 'ws://h:.../' is not the URL")


@pytest.mark.real
@pytest.mark.parametrize("scheme", ["redis", "valkeys+sentinel"])
def test_a_broker_names_the_extra_that_it_needs(scheme: str) -> None:
    done = run(_COMMAND, "--port=0", f"--backend={scheme}://h/0", hidden=("hiredis",))
    assert (done.returncode, done.stdout) == (2, "")
    expected = f"backend {scheme}:// needs hiredis: pip install 'trio-beat[redis]' installs it"
    assert done.stderr == f"trio-beat: --backend: {expected}\n"


@pytest.mark.real
def test_a_log_of_text_misses_nothing() -> None:
    done = run(_COMMAND, "--host=no such host", hidden=("pythonjsonlogger",))
    assert done.returncode == 2
    assert done.stderr.startswith("trio-beat: cannot listen on no such host:8000")


def test_a_module_that_is_no_part_of_the_extra_is_a_fault() -> None:
    with pytest.raises(ModuleNotFoundError), server_extra("it"):
        raise ModuleNotFoundError("no module", name="trio_beat.nothing")
    with pytest.raises(ConfigurationError), server_extra("it"):
        raise ModuleNotFoundError("no module", name="starlette")
