"""How the load opens connections, plain and over TLS."""

from __future__ import annotations

import socket
import ssl
from contextlib import nullcontext
from pathlib import Path

import pytest
import trio

from benchmarks._client import dial, request, response_end, time_opening
from benchmarks._processes import Load, Server, open_load, open_server
from benchmarks._suite import certificate


def test_a_response_ends_where_its_head_does() -> None:
    response = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n"
    assert response_end(response[:-1]) == 0
    assert response_end(response + b"frame") == len(response)


def test_a_refusal_is_named() -> None:
    with pytest.raises(RuntimeError, match="503"):
        response_end(b"HTTP/1.1 503 Service Unavailable\r\n\r\n")


def test_the_load_connects_as_browsers_do() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        with dial(listener.getsockname(), None, None) as sock:
            assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
            assert not sock.getblocking()


def test_the_load_connects_to_a_unix_socket(tmp_path: Path) -> None:
    path = str(tmp_path / "socket")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()
        with dial(path, None, None) as sock:
            assert sock.getpeername() == path
            assert not sock.getblocking()


async def _open(server: Server, load: Load, ca: str | None) -> list[str]:
    told = await load.call(
        "connect", host="127.0.0.1", port=server.port, target="/ws/x", count=8, ca=ca
    )
    counters = await load.call("counters")
    with trio.fail_after(10):
        while counters["pings"] < 16:
            await trio.sleep(0.05)
            counters = await load.call("counters")
    assert (counters["open"], counters["lost"]) == (8, 0)
    ciphers: list[str] = told["ciphers"]
    return ciphers


@pytest.mark.real
@pytest.mark.parametrize("peer", ["trio_beat", "websockets"])
@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
async def test_connections_are_opened_and_answer_beats(peer: str, tls: bool) -> None:
    with certificate() if tls else nullcontext() as files:
        ca = files.ca if files else None
        # Unpinned: it may run on one core.
        server = open_server(peer, "idle", interval=0.2, certificate=files, pinned=False)
        async with server as running, open_load(pinned=False) as load:
            ciphers = await _open(running, load, ca)
            assert len(ciphers) == int(tls)
            address = ("127.0.0.1", running.port)
            context = ssl.create_default_context(cafile=ca) if ca else None
            took = await trio.to_thread.run_sync(time_opening, address, "/ws/x", context)
            assert 0 < took < 10
            # A connection that comes and goes is not counted among those that stay.
            assert (await load.call("counters"))["open"] == 8


def test_a_request_asks_for_its_target() -> None:
    assert request("/ws/a").startswith(b"GET /ws/a HTTP/1.1\r\n")
