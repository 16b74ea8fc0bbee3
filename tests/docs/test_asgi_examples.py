"""The documentation's applications, under real Hypercorn over HTTP/1.1 and HTTP/2."""

from __future__ import annotations

import logging
import re
import socket
import subprocess
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import trio

from tests.support.asgi import answering, h2_client, hypercorn
from tests.support.command import clean_environment
from tests.support.documents import document, examples
from trio_beat import Connection, HandshakeRefused

pytestmark = pytest.mark.real

ALONE, STARLETTE, QUART, LITESTAR, ENDPOINT, TESTING = examples("asgi", "python")


def _module(text: str) -> types.ModuleType:
    module = types.ModuleType("my_app")
    # FastAPI and Litestar look annotations up there.
    sys.modules["my_app"] = module
    exec(text, module.__dict__)
    return module


@pytest.fixture(autouse=True)
def no_module() -> Iterator[None]:
    """No example outlives its test, nor does what it makes of logging (as Litestar does)."""
    root = logging.getLogger()
    level, handlers = root.level, root.handlers.copy()
    yield
    sys.modules.pop("my_app", None)
    root.setLevel(level)
    root.handlers[:] = handlers


async def _publish(port: int) -> None:
    async with httpx.AsyncClient() as client:
        answer = await client.post(f"http://127.0.0.1:{port}/publish", content="hello")
        assert answer.status_code == 204


@pytest.mark.parametrize("example", [STARLETTE, QUART, LITESTAR])
async def test_a_mounted_application_gets_what_is_published(example: str) -> None:
    target = "/ws/news?subscribe-broadcast"
    async with hypercorn(_module(example).app) as port:
        async with answering(f"ws://127.0.0.1:{port}{target}") as connection:
            await _publish(port)
            assert await connection.receive() == "hello"
        async with h2_client(port) as client:
            stream = await client.connect(target)
            await _publish(port)
            await client.until(lambda: b"\x81\x05hello" in client.received.get(stream, b""))


async def test_fastapi_mounts_it() -> None:
    text = document("asgi")
    assert '``FastAPI(lifespan=live.lifespan)`` and ``app.mount("/ws", live)``' in text
    module = _module(STARLETTE)
    app: Any = _module(ENDPOINT).FastAPI(lifespan=module.live.lifespan)
    app.mount("/ws", module.live)
    async with hypercorn(app) as port:
        url = f"ws://127.0.0.1:{port}/ws/news?subscribe-broadcast"
        async with answering(url) as connection:
            await module.live.hub.publish("broadcast:news", "hello")
            assert await connection.receive() == "hello"


async def _hears(connection: Connection, *messages: str) -> None:
    assert [await connection.receive() for _ in messages] == list(messages)


async def test_an_endpoint_has_its_dependencies_and_a_connection() -> None:
    async with hypercorn(_module(ENDPOINT).app) as port:
        url = f"ws://127.0.0.1:{port}/feed"
        async with answering(f"{url}?token=token-of-alice") as connection:
            await connection.send("hi")
            await _hears(connection, "hello, alice", "hi")
        with pytest.raises(HandshakeRefused, match="403"):
            async with answering(f"{url}?token=another"):
                raise AssertionError
        origin = {"Origin": "https://evil.example"}
        with pytest.raises(HandshakeRefused, match="Origin"):
            async with answering(f"{url}?token=token-of-alice", headers=origin):
                raise AssertionError
        async with h2_client(port) as client:
            stream = await client.connect("/feed?token=token-of-alice")
            await client.until(lambda: b"hello, alice" in client.received.get(stream, b""))


@pytest.mark.filterwarnings("ignore:Using `httpx` with")
def test_an_application_is_tested_by_starlettes_client() -> None:
    _module(STARLETTE)
    test: dict[str, Any] = {}
    exec(TESTING, test)
    test["test_what_is_published_is_heard"]()


@pytest.mark.slow
async def test_the_command_serves_one_alone(tmp_path: Path) -> None:
    (found,) = set(re.findall(r"``(hypercorn --worker-class trio my_app:app)``", document("asgi")))
    (tmp_path / "my_app.py").write_text(ALONE)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.set_inheritable(True)
        bind = f"fd://{listener.fileno()}"
        process = subprocess.Popen(
            [sys.executable, "-m", *found.split(), "--bind", bind],
            cwd=tmp_path,
            env=clean_environment(),
            pass_fds=[listener.fileno()],
        )
        try:
            url = f"ws://127.0.0.1:{listener.getsockname()[1]}/ws/news"
            target = f"{url}?subscribe-broadcast&publish-broadcast&echo"
            with trio.fail_after(60):
                # What the listener has taken waits for the server.
                async with answering(target, connect_timeout=60) as connection:
                    await connection.send("hello")
                    await _hears(connection, "hello")
        finally:
            process.kill()
            process.wait()
