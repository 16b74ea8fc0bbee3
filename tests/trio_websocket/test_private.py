from __future__ import annotations

import re
import tomllib
from importlib.metadata import version
from pathlib import Path

import trio
import trio.testing
from trio_websocket import WebSocketConnection
from wsproto import ConnectionType, WSConnection

import trio_beat.trio_websocket
from tests.support.documents import ROOT
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


async def test_what_is_missing_is_not_known() -> None:
    ws = make()
    for name in private.NAMES:
        if name in vars(ws):
            delattr(ws, name)
    assert [private.stream(ws), private.socket_of(ws), private.ended(ws)] == [None] * 3
    assert private.queue_is_full(ws) is None
    assert private.progress(ws) == (None, None)
    assert private.peer_closed(ws) is False


def test_the_version_is_bounded() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert "trio-websocket>=0.12,<0.13" in project["dependencies"]
    assert version("trio-websocket").startswith("0.12")


def test_no_other_module_reads_private_names() -> None:
    for path in PACKAGE.glob("*.py"):
        if path.stem != "private":
            for name in ("_send_channel", "_recv_channel", "_stream_lock", "_wsproto"):
                assert not re.search(rf"\b{name}\b", path.read_text()), (path, name)
