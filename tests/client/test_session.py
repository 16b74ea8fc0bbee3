"""What a client's connection leaves behind, while the cyclic collector does not run."""

from __future__ import annotations

import gc
import tracemalloc
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import trio
from trio.testing import MockClock
from websockets.frames import Frame, Opcode

from tests.support.fake_server import URL, FakeServer, answer_pings, fake_server
from trio_beat import (
    ConnectFailed,
    ConnectionClosed,
    Heartbeat,
    Unreachable,
    connect,
    reconnecting,
)

__all__ = ["fake_server"]  # a fixture

SESSIONS = 5
#: Bytes of a message of which the rest never comes.
UNFINISHED = 500_000


@contextmanager
def without_collector() -> Iterator[None]:
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def ours() -> Counter[str]:
    """Objects of this package, and of the libraries that work for one of its connections."""
    kinds = [type(thing) for thing in gc.get_objects()]
    names = [f"{kind.__module__}.{kind.__qualname__}" for kind in kinds]
    parts = ("trio_beat", "trio_websocket", "h11", "wsproto.connection", "trio._socket", "socket")
    # Without the rest of `websockets`, which plays the server.
    more = {"websockets.client.ClientProtocol", "trio.Nursery", "trio.lowlevel.Task"}
    return Counter(name for name in names if name.startswith(parts) or name in more)


async def serve(fake_server: FakeServer, kind: str) -> None:
    """Be the server of one session."""
    if kind == "refused":
        return await fake_server.refuse(403, "no")
    if kind == "failed":
        peer = await fake_server.receive_request()
        await peer.send(b"garbage\r\n\r\n")
        return await peer.aclose()
    peer = await fake_server.accept()
    match kind:
        case "closed by the server":
            await peer.send_close(1001)
            await peer.closed()
        case "lost" | "in a loop":
            pass
        case "broken":
            await peer.send(b"\xff" * 10)
            await peer.closed()
        case "unfinished":
            frame = Frame(Opcode.BINARY, bytes(2 * UNFINISHED)).serialize(mask=False)
            await peer.send(frame[:UNFINISHED])
        case "silent":
            await trio.sleep(60)
        case _:
            return await answer_pings(peer)
    await peer.aclose()
    return None


async def run(fake_server: FakeServer, kind: str) -> None:
    async with trio.open_nursery() as nursery:
        if kind == "unreachable":
            fake_server.errors = [Unreachable("no route")]
        else:
            nursery.start_soon(serve, fake_server, kind)
        try:
            if kind == "in a loop":
                async with reconnecting(URL) as connections:
                    async for connection in connections:
                        async for _ in connection:
                            pass
                        break
            else:
                await use(kind)
        except (ConnectFailed, ConnectionClosed, ZeroDivisionError):
            pass
    for sock in fake_server.sockets:
        sock.close()
    for kept in (fake_server.sockets, fake_server.times):
        kept.clear()


async def use(kind: str) -> None:
    with trio.CancelScope() as scope:
        async with connect(URL, heartbeat=Heartbeat(4), message_size=2 * UNFINISHED) as connection:
            match kind:
                case "left":
                    await connection.send("hello")
                case "cancelled":
                    scope.cancel()
                    await trio.sleep_forever()
                case "raised":
                    raise ZeroDivisionError
                case _:
                    async for _ in connection:
                        pass


KINDS = [
    "unreachable",
    "failed",
    "refused",
    "left",
    "cancelled",
    "raised",
    "closed by the server",
    "lost",
    "broken",
    "unfinished",
    "silent",
    "in a loop",
]


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
async def test_nothing_waits_for_the_collector(
    fake_server: FakeServer, autojump_clock: MockClock, kind: str
) -> None:
    await run(fake_server, kind)
    with without_collector():
        before = ours()
        for _ in range(SESSIONS):
            await run(fake_server, kind)
        left = ours() - before
    assert {name: count for name, count in left.items() if count >= SESSIONS} == {}


async def test_the_bytes_of_an_unfinished_message_come_back(
    fake_server: FakeServer, autojump_clock: MockClock
) -> None:
    await run(fake_server, "unfinished")
    with without_collector():
        tracemalloc.start()
        try:
            begin, _ = tracemalloc.get_traced_memory()
            for _ in range(SESSIONS):
                await run(fake_server, "unfinished")
            held = tracemalloc.get_traced_memory()[0] - begin
        finally:
            tracemalloc.stop()
    assert held < SESSIONS * UNFINISHED / 10
