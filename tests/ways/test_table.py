"""What a way cannot do stands in the table of the documentation, and is so."""

from __future__ import annotations

import os
import re
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Final

import pytest
import trio
from trio.testing import MockClock
from websockets.frames import Opcode

from tests.support.documents import document
from tests.support.living import SOON, Kept, echo, gone, hub_served, read
from tests.support.peer import Peer
from tests.support.ways import BEATS, WAYS, Way
from trio_beat import (
    Compression,
    Connection,
    EndReason,
    Limits,
)


async def pong_is_life(way: Way) -> bool:
    """Be a peer that answers PINGs, and no text heartbeat."""
    kept = Kept()
    async with way.serving(kept) as place, trio.open_nursery() as nursery:
        peer = await place.dial()

        async def pong() -> None:
            while (frame := await peer.frame()) is not None:
                if frame.opcode is Opcode.PING:
                    await peer.pong(frame)

        nursery.start_soon(pong)
        await trio.sleep((BEATS.misses + 2) * BEATS.interval)
        (connection,) = kept.connections
        lives = connection.closed is None
        assert lives == (connection.latency is not None)
        nursery.cancel_scope.cancel()
    await peer.aclose()
    return lives


async def close_code_is_known(way: Way) -> bool:
    kept = Kept()
    async with way.serving(kept) as place:
        peer = await place.dial()
        await peer.send_close(4000, "enough")
        (closed,) = await kept.ended()
        await peer.aclose()
    assert closed.by is EndReason.PEER
    return (closed.code, closed.reason) == (4000, "enough")


async def socket_is_closed_at_once(way: Way) -> bool:
    """Be a peer that takes nothing of much, and is dead."""
    kept = Kept()
    async with way.serving(kept) as place:
        peer = await place.dial()
        while not kept.connections:  # noqa: ASYNC110 - it has no event
            await trio.sleep(0.1)
        (connection,) = kept.connections
        for _ in range(9):
            connection.send_nowait(b"x" * 100_000)
        before = open_sockets()
        await connection.wait_closed()
        await trio.sleep(1)
        after = open_sockets()
        await peer.aclose()
    return after < before


def open_sockets() -> int:
    """Sockets of this process."""
    count = 0
    for name in os.listdir("/proc/self/fd"):
        with suppress(FileNotFoundError):  # the one that listed them
            count += os.readlink(f"/proc/self/fd/{name}").startswith("socket:")
    return count


async def handler_slows_its_peer(way: Way) -> bool:
    """Be a peer that sends more than its handler takes."""
    connections: list[Connection] = []

    async def idle(connection: Connection) -> None:
        connections.append(connection)
        await trio.sleep_forever()

    async with way.serving(idle) as place:
        peer = await place.dial()
        for number in range(200):
            try:
                await peer.send_text(str(number))
            except trio.BrokenResourceError:
                break
        with trio.move_on_after(10 * BEATS.interval):
            await connections[0].wait_closed()
        closed = connections[0].closed
        await peer.aclose()
    assert closed is None or closed.by is EndReason.INBOX_FULL
    return closed is None


async def slow_policy_is_met(way: Way) -> bool:
    """Be a peer that reads nothing of very much."""
    async with hub_served(way, limits=Limits(outbox=100_000)) as (place, hub):
        peer = await place.dial()
        for _ in range(100):
            await hub.publish("broadcast:news", "x" * 65_536)
            await trio.sleep(0.01)
        await gone(place)
        await peer.aclose()
        return place.statistics().ended[EndReason.SLOW] == 1


async def wrong_frame_is_told(way: Way) -> bool:
    codes = []
    for opcode, data in [(Opcode.TEXT, b"\xff"), (Opcode.CONT, b"x")]:
        async with way.serving(Kept()) as place:
            peer = await place.dial()
            await peer.send_frame(opcode, data)
            with trio.fail_after(SOON):
                codes.append(await peer.closed())
            await peer.aclose()
    return [None if close is None else close.code for close in codes] == [1007, 1002]


async def messages_are_compressed(way: Way) -> bool:
    try:
        async with way.serving(echo, compression=Compression()) as place:
            peer = await place.dial(headers="Sec-WebSocket-Extensions: permessage-deflate\r\n")
            await peer.send_text("x" * 10_000)
            assert await read(peer) == "x" * 10_000
            compressed = peer.received < 1000
            await peer.aclose()
    except TypeError:  # it has no such option
        return False
    return compressed


async def shutdown_is_told(way: Way) -> bool:
    async with way.serving(Kept(), grace=8) as place:
        peers = [await place.dial() for _ in range(3)]
        place.drain()
        codes = []
        for peer in peers:
            with trio.fail_after(SOON):
                codes.append(await peer.closed())
            await peer.aclose()
    return all(close is not None and close.code == 1001 for close in codes)


async def shutdown_is_spread(way: Way) -> bool:
    kept, times = Kept(), []

    async def until_closed(peer: Peer) -> None:
        await peer.closed()
        times.append(trio.current_time())
        await peer.aclose()

    async with way.serving(kept, grace=8) as place:
        async with trio.open_nursery() as nursery:
            for _ in range(4):
                nursery.start_soon(until_closed, await place.dial())
            await trio.sleep(0.1)
            place.drain()
    return max(times) - min(times) > 2


#: By the words of the table.
CAN: Final[dict[str, Callable[[Way], Awaitable[bool]]]] = {
    "a PONG proves life, with a latency": pong_is_life,
    "the peer's close code is known": close_code_is_known,
    "a dead peer's socket goes at once": socket_is_closed_at_once,
    "a slow handler slows its peer down": handler_slows_its_peer,
    "a slow peer meets the slow policy": slow_policy_is_met,
    "who breaks RFC 6455 is told so": wrong_frame_is_told,
    "messages may be compressed": messages_are_compressed,
    "all are told of a shutdown": shutdown_is_told,
    "closing at shutdown is spread out": shutdown_is_spread,
}


def table() -> dict[tuple[str, str], bool]:
    """What the documentation says, by what and way."""
    page = document("embedding")
    lines = page[page.index("\nWhat each way can do\n") :].splitlines()
    first, _, last = [index for index, line in enumerate(lines) if "== ==" in line][:3]
    edges = [match.span() for match in re.finditer("=+", lines[first])]
    rows = [[line[begin:end].strip() for begin, end in edges] for line in lines[first:last]]
    _, (_, *ways), _, *rest = rows
    return {
        (what, way): {"yes": True, "no": False}[word]
        for what, *words in rest
        for way, word in zip(ways, words, strict=True)
    }


TABLE: Final = table()


@pytest.mark.slow
class TestTable:
    @pytest.mark.parametrize("what", CAN)
    async def test_says_what_is_so(self, way: Way, clock: MockClock, what: str) -> None:
        assert await CAN[what](way) is TABLE[what, way.name]

    def test_has_nothing_else(self) -> None:
        assert set(TABLE) == {(what, way.name) for what in CAN for way in WAYS}
