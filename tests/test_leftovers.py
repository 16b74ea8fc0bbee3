"""What a connection owned is gone when it has ended, and waits for no collector of cycles."""

from __future__ import annotations

import gc
import logging
from collections import Counter
from collections.abc import Awaitable, Callable

import pytest
import trio
from trio.testing import MockClock
from websockets.frames import Opcode

from tests.support.leftovers import census
from tests.support.peer import HANDSHAKE, Peer, dial
from tests.support.serving import ask, deserted, serving, status
from trio_beat import Connection, Heartbeat, Limits

INTERVAL = 4.0
LIMIT = 10_000
TARGET = "/ws/news?subscribe-broadcast&publish-broadcast"


async def behave(connection: Connection) -> None:
    """Do as the peer says."""
    async for message in connection:
        match message:
            case "return":
                return
            case "raise":
                raise ZeroDivisionError
            case "close":
                await connection.aclose(4000, "enough")
            case "flood":
                while True:
                    connection.send_nowait(b"\0" * LIMIT)
            case _:
                await connection.send(message)


async def close(peer: Peer) -> None:
    await peer.send_close(1000)
    await peer.closed()


async def leave(peer: Peer) -> None:
    pass


async def be_reset(peer: Peer) -> None:
    assert isinstance(peer.stream, trio.SocketStream)
    await trio.sleep(1)
    await peer.reset()


async def be_silent(peer: Peer) -> None:
    while await peer.frame() is not None:
        pass


async def be_big(peer: Peer) -> None:
    await peer.send_frame(Opcode.BINARY, bytes(LIMIT + 1))
    await peer.closed()


async def be_unfinished(peer: Peer) -> None:
    await peer.send_frame(Opcode.BINARY, bytes(LIMIT // 2), fin=False)
    await trio.sleep(1)


async def be_wrong(peer: Peer) -> None:
    await peer.send_frame(Opcode.CONT, b"x")
    await peer.closed()


def say(text: str) -> Callable[[Peer], Awaitable[None]]:
    async def end(peer: Peer) -> None:
        await peer.send_text(text)
        await peer.closed()

    end.__name__ = f"have_it_{text}"
    return end


ENDS = [close, leave, be_reset, be_silent, be_big, be_unfinished, be_wrong]
ORDERS = [say("return"), say("raise"), say("close"), say("flood")]


REFUSALS = [
    ("GET ", "POST "),
    (" HTTP/1.1", " HTTP/1.0"),
    ("Upgrade: websocket", "Upgrade: other"),
    ("Connection: Upgrade", "Connection: close"),
    ("Sec-WebSocket-Key: ", "Sec-WebSocket-Key: !"),
    ("Sec-WebSocket-Key: ", "Other: "),
    ("Sec-WebSocket-Version: 13", "Sec-WebSocket-Version: 8"),
    ("Sec-WebSocket-Version: 13", "Sec-WebSocket-Version: 13\r\nOrigin: a\r\nOrigin: b"),
    ("Sec-WebSocket-Version: 13", "Sec-WebSocket-Version: 13\r\nOrigin: a"),
    ("Sec-WebSocket-Version: 13", "Sec-WebSocket-Version: 13\r\nOrigin: https://evil.example"),
    ("Sec-WebSocket-Version: 13", "Sec-WebSocket-Version: 13\r\nContent-Length: 5"),
]


@pytest.mark.slow
@pytest.mark.parametrize("handles", [True, False], ids=["handler", "hub"])
@pytest.mark.parametrize("end", [*ENDS, *ORDERS], ids=lambda end: end.__name__)
async def test_nothing_of_a_connection_is_left(
    end: Callable[[Peer], Awaitable[None]],
    handles: bool,
    patient_clock: MockClock,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.CRITICAL, "trio_beat")  # it keeps exceptions
    if not handles and end in ORDERS:
        end = close
    async with serving(
        behave if handles else None,
        handler_errors="close",
        heartbeat=Heartbeat(INTERVAL),
        limits=Limits(message_size=LIMIT, outbox=2**20),
    ) as server:

        async def connect_and_end() -> None:
            peer = await dial(server.port, TARGET)
            await peer.send_text("x")
            await end(peer)
            await peer.aclose()
            await deserted(server)

        await connect_and_end()  # what is made once stays
        gc.collect()
        before = census("trio_beat")
        gc.disable()
        try:
            for _ in range(3):
                await connect_and_end()
            assert census("trio_beat") - before == Counter()
        finally:
            gc.enable()


@pytest.mark.slow
@pytest.mark.parametrize(("right", "wrong"), REFUSALS, ids=[wrong[-12:] for _, wrong in REFUSALS])
async def test_nothing_of_a_refused_peer_is_left(
    right: str,
    wrong: str,
    no_gc: None,
    patient_clock: MockClock,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.CRITICAL, "trio_beat")
    request = HANDSHAKE.format(target=TARGET, headers="").replace(right, wrong)
    async with serving() as server:
        before: Counter[str] = Counter()
        for _ in range(4):
            assert status(await ask(server.port, request.encode())) >= 400
            await deserted(server)
            before = before or census("trio_beat", "websockets")  # what is made once stays
        assert census("trio_beat", "websockets") - before == Counter()
