from __future__ import annotations

import contextlib
import re
import socket
import tomllib
from importlib.metadata import version
from pathlib import Path

import trio
import trio.testing
import trio_websocket
from trio_websocket import WebSocketConnection
from wsproto import ConnectionType, WSConnection

import trio_beat.trio_websocket
from tests.support.documents import ROOT
from tests.support.peer import HANDSHAKE
from trio_beat.trio_websocket import private

PACKAGE = Path(trio_beat.trio_websocket.__file__).parent


def make() -> WebSocketConnection:
    stream, _ = trio.testing.memory_stream_pair()
    return WebSocketConnection(stream, WSConnection(ConnectionType.SERVER))


async def test_the_names_are_there() -> None:
    ws = make()
    for name in private.NAMES:
        assert hasattr(ws, name), name
    assert private.stream(ws) is not None
    assert private.socket_of(ws) is None
    assert private.ping(ws) is not None
    assert private.queue_is_full(ws) is False
    assert private.progress(ws) == (0, 0)
    assert private.ended(ws) is not None
    assert private.peer_closed(ws) is False
    assert private.is_read(ws)
    assert private.sender(ws) is None
    event = private.expect_pong(ws, b"1234")
    assert event is not None
    assert list(private.awaited(ws)) == [b"1234"]
    private.forget_pong(ws, b"1234", trio.Event())  # the program's own
    assert list(private.awaited(ws)) == [b"1234"]
    private.forget_pong(ws, b"1234", event)
    assert list(private.awaited(ws)) == []


async def test_what_is_missing_is_not_known() -> None:
    ws = make()
    for name in private.NAMES:
        if name in vars(ws):
            delattr(ws, name)
    assert [private.stream(ws), private.socket_of(ws), private.ended(ws)] == [None] * 3
    assert private.queue_is_full(ws) is None
    assert private.progress(ws) == (None, None)
    assert private.peer_closed(ws) is False
    assert private.is_read(ws) is False
    assert private.sender(ws) is None
    assert private.expect_pong(ws, b"1234") is None
    assert list(private.awaited(ws)) == []
    private.forget_pong(ws, b"1234", trio.Event())
    with socket.socket() as sock:
        assert private.send_nowait(ws, sock, b"1234", None) is False


async def opened() -> WebSocketConnection:
    ours, theirs = trio.testing.memory_stream_pair()
    await theirs.send_all(HANDSHAKE.format(target="/", headers="").encode())
    async with trio.open_nursery() as nursery:
        request = await trio_websocket.wrap_server_stream(nursery, ours)
        ws = await request.accept()
        nursery.cancel_scope.cancel()
    return ws


async def test_a_beat_is_sent_at_once_where_nobody_sends() -> None:
    ws = await opened()
    one, two = socket.socketpair()
    with one, two:
        assert private.send_nowait(ws, one, b"1234", "beat")
        assert two.recv(100) == b"\x89\x041234\x81\x04beat"
        assert not private.send_nowait(ws, one, b"1234", "more than the smallest buffer " * 100)
        async with private_lock(ws):
            assert not private.send_nowait(ws, one, b"1234", None)
        one.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            while True:
                one.send(bytes(4096))
        assert not private.send_nowait(ws, one, b"1234", None)
        two.close()
        assert not private.send_nowait(ws, one, b"1234", None)


async def test_half_of_a_beat_ends_the_stream() -> None:
    ws = await opened()

    class Short(socket.socket):
        def send(self, data: object, flags: int = 0, /) -> int:
            return super().send(b"\x89")

    one, two = socket.socketpair()
    with Short(fileno=one.detach()) as short, two:
        assert private.send_nowait(ws, short, b"1234", None)
        assert two.recv(100) == b"\x89"
        assert two.recv(100) == b""


def private_lock(ws: WebSocketConnection) -> trio.StrictFIFOLock:
    """Who holds it sends."""
    lock = ws._stream_lock
    assert isinstance(lock, trio.StrictFIFOLock)
    return lock


def test_the_version_is_bounded() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert "trio-websocket>=0.12,<0.13" in project["dependencies"]
    assert version("trio-websocket").startswith("0.12")


def test_no_other_module_reads_private_names() -> None:
    for path in PACKAGE.glob("*.py"):
        if path.stem != "private":
            for name in ("_send_channel", "_recv_channel", "_stream_lock", "_wsproto"):
                assert not re.search(rf"\b{name}\b", path.read_text()), (path, name)
