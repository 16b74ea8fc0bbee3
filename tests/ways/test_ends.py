"""How connections end, and what channels do, whichever way they have come."""

from __future__ import annotations

from contextlib import suppress

import pytest
import trio
from trio.testing import MockClock
from websockets.frames import Close, Opcode

from tests.support.living import (
    SOON,
    Kept,
    gone,
    hub_served,
    read,
)
from tests.support.ways import BEATS, Way
from trio_beat import (
    Connection,
    EndReason,
    Limits,
)


class TestEnds:
    async def test_the_peer_closes(self, way: Way, clock: MockClock) -> None:
        kept = Kept()
        async with way.serving(kept) as place:
            peer = await place.dial()
            await peer.send_text("first")
            await peer.send_close(4000, "enough")
            (closed,) = await kept.ended()
            assert closed.by is EndReason.PEER
            assert kept.messages == ["first"]
            with trio.fail_after(SOON):
                assert await peer.closed() is not None
            await gone(place)
            await peer.aclose()

    async def test_the_handler_closes(self, way: Way, clock: MockClock) -> None:
        async def close(connection: Connection) -> None:
            await connection.send("last")
            await connection.aclose(4001, "enough")

        async with way.serving(close) as place:
            peer = await place.dial()
            assert await read(peer) == "last"
            with trio.fail_after(SOON):
                assert await peer.closed() == Close(4001, "enough")
            with suppress(trio.BrokenResourceError):  # some servers wait for no answer
                await peer.send_close(4001)
            await gone(place)
            await peer.aclose()

    async def test_the_handler_returns(self, way: Way, clock: MockClock) -> None:
        async def nothing(connection: Connection) -> None:
            pass

        async with way.serving(nothing) as place:
            peer = await place.dial()
            with trio.fail_after(SOON):
                assert await peer.closed() == Close(1000, "")
            await peer.aclose()

    async def test_a_handler_that_fails_ends_its_own(self, way: Way, clock: MockClock) -> None:
        async def fail(connection: Connection) -> None:
            async for message in connection:
                if message == "fail":
                    raise ValueError(message)
                await connection.send(message)

        async with way.serving(fail, handler_errors="close") as place:
            peer, neighbour = await place.dial(), await place.dial()
            await peer.send_text("fail")
            with trio.fail_after(SOON):
                closed = await peer.closed()
            assert closed is not None
            assert closed.code == 1011
            await neighbour.send_text("still here")
            assert await read(neighbour) == "still here"
            assert place.statistics().handler_errors == 1
            await peer.aclose()
            await neighbour.aclose()

    async def test_the_peer_leaves_without_a_word(self, way: Way, clock: MockClock) -> None:
        kept = Kept()
        async with way.serving(kept) as place:
            peer = await place.dial()
            await peer.send_text("first")
            await trio.sleep(1)
            await peer.aclose()
            (closed,) = await kept.ended()
            assert closed.by in (EndReason.PEER, EndReason.LOST)
            assert closed.code == 1006
            assert kept.messages == ["first"]
            await gone(place)

    @pytest.mark.parametrize(
        ("opcode", "data", "code"),
        [
            (Opcode.TEXT, b"\xff", None),  # who is told so, see `CAN`
            (Opcode.CONT, b"x", None),
            (Opcode.TEXT, b"x" * 1001, 1009),
        ],
    )
    async def test_the_peer_breaks_the_rules(
        self, way: Way, clock: MockClock, opcode: Opcode, data: bytes, code: int | None
    ) -> None:
        kept = Kept()
        limits = Limits(message_size=1000)
        async with way.serving(kept, limits=limits) as place:
            peer, neighbour = await place.dial(), await place.dial()
            await peer.send_frame(opcode, data)
            with trio.fail_after(SOON):
                closed = await peer.closed()
            if code is not None:
                assert closed is not None
                assert closed.code == code
            await kept.ended()
            assert kept.connections[1].closed is None
            assert kept.messages == []
            await peer.aclose()
            await neighbour.aclose()


class TestChannels:
    async def test_all_subscribers_get_it(self, way: Way, clock: MockClock) -> None:
        async with hub_served(way) as (place, hub):
            peers = [await place.dial() for _ in range(20)]
            await hub.publish("broadcast:news", "to all")
            for peer in peers:
                assert await read(peer) == "to all"
                await peer.aclose()
            await gone(place)
            assert hub.statistics().subscriptions == 0

    async def test_peers_publish(self, way: Way, clock: MockClock) -> None:
        async with hub_served(way) as (place, _):
            peer = await place.dial("/ws/news?subscribe-broadcast&publish-broadcast&echo")
            listener = await place.dial()
            await peer.send_text("to all")
            assert await read(peer) == await read(listener) == "to all"
            late = await place.dial()
            assert await read(late) == "to all"  # the last message
            for one in (peer, listener, late):
                await one.aclose()

    async def test_a_silent_subscriber_is_forgotten_in_time(
        self, way: Way, clock: MockClock
    ) -> None:
        async with hub_served(way) as (place, hub):
            peer = await place.dial()
            assert hub.statistics().subscriptions == 1
            await trio.sleep((BEATS.misses + 1) * BEATS.interval + 0.2)
            assert hub.statistics().subscriptions == 0
            await peer.aclose()

    async def test_a_slow_subscriber_holds_nobody_up(self, way: Way, clock: MockClock) -> None:
        async with hub_served(way, limits=Limits(outbox=100_000)) as (place, hub):
            slow, other = await place.dial(), await place.dial()
            for number in range(200):
                await hub.publish("broadcast:news", str(number) + "x" * 65_536)
                assert str(await read(other)).startswith(f"{number}x")
            await slow.aclose()
            await other.aclose()
