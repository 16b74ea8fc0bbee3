"""The load that answers text heartbeats, over a Unix socket and TCP."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest
import trio

from benchmarks._processes import Load, open_load
from benchmarks.peers._server import HEARTBEAT
from benchmarks.peers.floor import RESPONSE

_TEXT = HEARTBEAT.encode()
#: Once in one segment, as a server may send it.
_BEATS = b"".join(
    (
        b"\x81" + bytes((len(_TEXT),)) + _TEXT,
        b"\x89\x02hi",
        b"\x81\x05other",
        b"\x81" + bytes((len(_TEXT) - 1,)) + _TEXT[:-1],
    )
)
_ANSWERS = b"".join(
    (
        b"\x81" + bytes((0x80 | len(_TEXT),)) + b"\0\0\0\0" + _TEXT,
        b"\x8a\x82\0\0\0\0hi",
    )
)


async def _serve(listener: trio.SocketListener, answers: bytearray) -> None:
    """Let one client in, beat, and note what it answers."""
    async with await listener.accept() as stream:
        request = b""
        while b"\r\n\r\n" not in request:
            request += await stream.receive_some()
        await stream.send_all(RESPONSE + _BEATS)
        while len(answers) < len(_ANSWERS):
            answers += await stream.receive_some()


async def _beat(listener: trio.SocketListener, load: Load, host: str, port: int | None) -> None:
    answers = bytearray()
    with trio.fail_after(60):
        assert await load.call("answer", text=HEARTBEAT) == {}
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_serve, listener, answers)
            await load.call("connect", host=host, port=port, target="/ws/x", count=1)
    assert answers == _ANSWERS
    counters = await load.call("counters")
    assert counters["pings"] == 2


@pytest.mark.real
@pytest.mark.parametrize("family", ["tcp", "unix"])
async def test_heartbeats_of_both_kinds_are_answered_and_counted(
    family: str, tmp_path: Path
) -> None:
    with trio.socket.socket(socket.AF_UNIX if family == "unix" else socket.AF_INET) as sock:
        await sock.bind(str(tmp_path / "socket") if family == "unix" else ("127.0.0.1", 0))
        sock.listen()
        name = sock.getsockname()
        host, port = (name, None) if family == "unix" else name
        async with open_load(module="benchmarks._load_text", pinned=False) as load:
            await _beat(trio.SocketListener(sock), load, host, port)
