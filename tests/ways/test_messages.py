"""Messages and beats, whichever way a connection has come."""

from __future__ import annotations

import itertools

import pytest
import trio
from trio.testing import MockClock
from websockets.frames import Opcode

from tests.support.living import (
    BEAT,
    SOON,
    Kept,
    answering,
    echo,
    gone,
    read,
)
from tests.support.peer import Peer
from tests.support.ways import BEATS, Way
from trio_beat import (
    EndReason,
    Limits,
)


class TestMessages:
    @pytest.mark.parametrize("size", [0, 1, 125, 126, 65_536, 300_000])
    @pytest.mark.parametrize("kind", [Opcode.TEXT, Opcode.BINARY])
    async def test_come_back(self, way: Way, clock: MockClock, kind: Opcode, size: int) -> None:
        async with way.serving(echo) as place, trio.open_nursery() as nursery:
            peer = await place.dial()
            nursery.start_soon(peer.send_frame, kind, b"x" * size)
            expected = b"x" * size
            assert await read(peer) == (expected if kind is Opcode.BINARY else expected.decode())
            await peer.aclose()

    async def test_in_fragments(self, way: Way, clock: MockClock) -> None:
        async with way.serving(echo) as place:
            peer = await place.dial()
            await peer.send_frame(Opcode.TEXT, b"one ", fin=False)
            await peer.send_frame(Opcode.PING, b"between")
            await peer.send_frame(Opcode.CONT, b"two ", fin=False)
            await peer.send_frame(Opcode.CONT, b"three")
            assert await read(peer) == "one two three"
            await peer.aclose()

    async def test_keep_their_order(self, way: Way, clock: MockClock) -> None:
        texts = [str(number) for number in range(300)]

        async def send(peer: Peer) -> None:
            for text in texts:
                await peer.send_text(text)

        async with way.serving(echo, limits=Limits(inbound=1000)) as place:
            async with trio.open_nursery() as nursery:
                peer = await place.dial()
                nursery.start_soon(send, peer)
                assert [await read(peer) for _ in texts] == texts
            await peer.aclose()

    async def test_a_ping_is_answered(self, way: Way, clock: MockClock) -> None:
        async with way.serving(echo) as place:
            peer = await place.dial()
            await peer.send_frame(Opcode.PING, b"hello")
            with trio.fail_after(SOON):
                while (frame := await peer.frame()) is None or frame.opcode is not Opcode.PONG:
                    pass
            assert bytes(frame.data) == b"hello"
            await peer.aclose()


class TestBeats:
    async def test_a_text_at_each_beat(self, way: Way, clock: MockClock) -> None:
        kept = Kept()
        async with way.serving(kept) as place:
            peer = await place.dial()
            beats: list[float] = []
            while len(beats) < 5:
                frame = await peer.frame()
                assert frame is not None
                if frame.opcode is Opcode.PING:
                    await peer.pong(frame)
                elif frame.opcode is Opcode.TEXT:
                    assert bytes(frame.data) == BEAT.encode()
                    beats.append(trio.current_time())
                    await peer.send_text(BEAT)
            pauses = [late - early for early, late in itertools.pairwise(beats)]
            assert pauses == pytest.approx([BEATS.interval] * 4, abs=0.1)
            await peer.aclose()
            await kept.ended()
            assert kept.messages == []  # a beat is no message

    async def test_who_answers_lives(self, way: Way, clock: MockClock) -> None:
        kept = Kept()
        async with way.serving(kept) as place, trio.open_nursery() as nursery:
            peer = await place.dial()
            nursery.start_soon(answering, peer)
            await trio.sleep(10 * BEATS.interval)
            (connection,) = kept.connections
            assert connection.closed is None
            assert connection.statistics().missed_beats == 0
            nursery.cancel_scope.cancel()
        await peer.aclose()

    async def test_who_is_silent_is_gone_in_time(self, way: Way, clock: MockClock) -> None:
        kept = Kept()
        async with way.serving(kept) as place:
            peer = await place.dial()
            began = trio.current_time()
            (closed,) = await kept.ended()
            assert closed.by is EndReason.MISSED_BEATS
            assert 3 * BEATS.interval - 0.1 <= trio.current_time() - began
            assert trio.current_time() - began <= (BEATS.misses + 1) * BEATS.interval + 0.2
            await gone(place)
            await peer.aclose()

    async def test_messages_are_life(self, way: Way, clock: MockClock) -> None:
        kept = Kept()
        async with way.serving(kept, limits=Limits(inbound=100)) as place:
            peer = await place.dial()
            for number in range(6):
                await peer.send_text(str(number))
                await trio.sleep(BEATS.interval)
            (connection,) = kept.connections
            assert connection.closed is None
            await peer.aclose()
