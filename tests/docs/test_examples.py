"""Every other example in Python or TOML runs as it stands, over real sockets."""

from __future__ import annotations

import signal
import urllib.request
from pathlib import Path

import pytest
import trio

from tests.support.command import run_command
from tests.support.documents import DOCUMENTS, document, examples, program
from tests.support.peer import dial
from tests.support.serving import serving
from trio_beat import Connection, Refused, Request, open_hub

_EXAMPLES = {
    "heartbeats": {"python": 1},
    "channels": {"python": 2},
    "embedding": {"python": 7},
    "chat": {"python": 1},
    "clients": {"python": 4, "javascript": 2},
    "migrating": {"python": 5},
    "operating": {"toml": 1, "sh": 3},
    "api": {"toml": 1, "sh": 2},
    "check": {"sh": 1},
    "proxies": {"nginx": 1},
    "backends": {"python": 2, "toml": 1},
    "redis": {"python": 1, "text": 2},
    "ws4redis": {"python": 2, "sh": 2, "nginx": 1},
    "identity": {"python": 1, "sh": 2},
    "hook": {"python": 2},
    "asgi": {"python": 6},
    "compression": {"python": 2},
    "testing": {"python": 3},
    "systemd": {"ini": 2, "python": 1},
    "trio-websocket": {"python": 3},
}


def test_there_are_no_other_examples() -> None:
    for path in DOCUMENTS[1:]:
        counts = _EXAMPLES.get(path.stem, {})
        for language, count in counts.items():
            assert len(examples(path.stem, language)) == count
        assert document(path.stem).count("code-block::") == sum(counts.values())


@pytest.mark.real
async def test_heartbeats_are_set_for_a_handler() -> None:
    async with program(examples("heartbeats", "python")[0]) as running:
        peer = await dial(*await running.target())
        await peer.send_text("?")
        assert await peer.text() == "latency: None"
        await peer.send_close()
        assert await running.line() == "peer (1000)\n"
        await peer.aclose()


@pytest.mark.real
async def test_a_handler_subscribes() -> None:
    async with program(examples("channels", "python")[1]) as running:
        port, target = await running.target()
        one, two = await dial(port, target), await dial(port, target)
        for peer in (one, two):
            assert await peer.text() == "welcome"
        await one.send_text("to the room")
        assert await two.text() == "to the room"
        await two.send_text("back")
        assert await one.text() == "back"  # and not its own
        await one.aclose()
        await two.aclose()


@pytest.mark.real
async def test_a_handler_sees_the_end() -> None:
    async with program(examples("embedding", "python")[0]) as running:
        peer = await dial(*await running.target())
        await peer.send_text("hello")
        assert await peer.text() == "hello"
        await peer.send_close(1001)
        assert await running.line() == "peer (1001)\n"
        await peer.aclose()


@pytest.mark.real
async def test_pages_are_beside_websockets() -> None:
    async with program(examples("embedding", "python")[5]) as running:
        port, target = await running.target()
        with await trio.to_thread.run_sync(
            urllib.request.urlopen, f"http://127.0.0.1:{port}/"
        ) as response:
            assert response.read() == b"pages beside WebSockets\n"
        peer = await dial(port, target)
        await peer.send_text("hello")
        assert await peer.text() == "hello"
        await peer.aclose()


@pytest.mark.real
async def test_a_signal_drains() -> None:
    async with program(examples("embedding", "python")[6]) as running:
        peer = await dial(*await running.target())
        running.process.send_signal(signal.SIGTERM)
        closed = await peer.closed()
        assert closed is not None
        assert closed.code == 1001
        await peer.send_close(1001)
        await peer.aclose()
        assert await trio.to_thread.run_sync(running.process.wait, 20) == 0


@pytest.mark.real
@pytest.mark.parametrize("number", [0, 1, 3])
async def test_clients_print_what_is_published(number: int) -> None:
    async with open_hub() as hub, serving(hub=hub) as server:
        await hub.publish("broadcast:news", "hello")  # kept, and sent to each new subscriber
        async with program(examples("clients", "python")[number], server.port) as running:
            assert await running.line() == "hello\n"


@pytest.mark.real
async def test_a_client_comes_back_with_a_fresh_token(tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("first\n")

    async def admit(request: Request) -> None:
        if request.headers["authorization"] != f"Bearer {token.read_text().strip()}":
            raise Refused(401, "who are you?")

    async def greet(connection: Connection) -> None:
        await connection.send(f"hello {token.read_text().strip()}")
        if token.read_text() == "first\n":
            token.write_text("second\n")
            await connection.aclose(3000, "expired")
        async for _ in connection:
            pass

    async with serving(greet, admit=admit) as server:
        (example,) = (text for text in examples("clients", "python") if "token" in text)
        async with program(example, server.port, HOME=str(tmp_path)) as running:
            assert await running.line() == "hello first\n"
            assert await running.line() == "hello second\n"


@pytest.mark.real
def test_the_configuration_is_right(tmp_path: Path) -> None:
    example = examples("operating", "toml")[0]
    path = tmp_path / "trio-beat.toml"
    path.write_text(example)
    # What is checked behind the options tells that these were taken.
    ended = run_command("--config", str(path), "--tls-cert", str(tmp_path / "none.pem"))
    assert ended.returncode == 2
    assert "--tls-cert" in ended.stderr
