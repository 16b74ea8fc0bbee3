"""`connect`: missed beats, and how they end the block."""

from __future__ import annotations

import pytest
import trio
from trio.testing import MockClock
from websockets.frames import Frame, Opcode

from tests.support.fake_server import URL, FakeServer, answer_pings, connect_to_silence, fake_server
from tests.support.peer import Peer
from trio_beat import (
    Closed,
    Connection,
    ConnectionLost,
    EndReason,
    Heartbeat,
    connect,
)

__all__ = ["fake_server"]  # a fixture

INTERVAL = 4.0
BEATING = Heartbeat(INTERVAL, misses=3)
TEXT = "--heartbeat--"


class TestMissedBeats:
    async def test_end_the_block_plainly(
        self, fake_server: FakeServer, nursery: trio.Nursery, autojump_clock: MockClock
    ) -> None:
        with pytest.raises(ConnectionLost) as caught:
            async with connect_to_silence(fake_server, nursery):
                await trio.sleep_forever()
        assert trio.current_time() == 4 * INTERVAL
        assert caught.value.closed == Closed(EndReason.MISSED_BEATS, 1006, "3 in a row")
        assert caught.value.__cause__ is None
        assert caught.value.__suppress_context__

    async def test_end_a_block_that_sends_a_large_message(
        self, fake_server: FakeServer, nursery: trio.Nursery, autojump_clock: MockClock
    ) -> None:
        async def serve(peer: Peer) -> None:
            await peer.send_frame(Opcode.PING, b"answer this, when all has been sent")
            await trio.sleep(1)
            await peer.send_text("last words")

        got: list[str | bytes] = []

        async def receive(connection: Connection) -> None:
            async for message in connection:
                got.append(message)

        nursery.start_soon(fake_server.play, serve)
        with pytest.raises(ConnectionLost) as caught:
            async with connect(URL, heartbeat=BEATING) as connection:
                async with trio.open_nursery() as tasks:
                    tasks.start_soon(receive, connection)
                    await connection.send(b"\0" * 5_000_000)
        assert got == ["last words"]
        assert caught.value.closed.by is EndReason.MISSED_BEATS
        assert trio.current_time() == 4 * INTERVAL

    async def test_end_a_block_that_reads(
        self, fake_server: FakeServer, nursery: trio.Nursery, autojump_clock: MockClock
    ) -> None:
        with pytest.raises(ConnectionLost):
            async with connect_to_silence(fake_server, nursery) as connection:
                async for _ in connection:
                    pass
        assert trio.current_time() == 4 * INTERVAL

    async def test_end_a_block_with_tasks_plainly(
        self, fake_server: FakeServer, nursery: trio.Nursery, autojump_clock: MockClock
    ) -> None:
        async def send(connection: Connection) -> None:
            with trio.CancelScope(shield=True):
                await trio.sleep(4 * INTERVAL + 0.1)
            await connection.send("x")

        with pytest.raises(ConnectionLost):
            async with connect_to_silence(fake_server, nursery) as connection:
                async with trio.open_nursery() as tasks:
                    for _ in range(2):
                        tasks.start_soon(send, connection)
                    await trio.sleep_forever()

    async def test_end_a_block_with_tasks_that_fail_and_are_cancelled_plainly(
        self, fake_server: FakeServer, nursery: trio.Nursery, autojump_clock: MockClock
    ) -> None:
        async def send(connection: Connection) -> None:
            try:
                await trio.sleep_forever()
            finally:
                connection.send_nowait("last words")

        with pytest.raises(ConnectionLost) as caught:
            async with connect_to_silence(fake_server, nursery) as connection:
                async with trio.open_nursery() as tasks:
                    tasks.start_soon(send, connection)
                    tasks.start_soon(trio.sleep_forever)
                    await trio.sleep_forever()
        assert caught.value.closed is connection.closed

    async def test_do_not_hide_what_a_task_of_the_block_raises(
        self, fake_server: FakeServer, nursery: trio.Nursery, autojump_clock: MockClock
    ) -> None:
        async def fail() -> None:
            try:
                await trio.sleep_forever()
            finally:
                raise KeyError

        with pytest.raises(ExceptionGroup) as caught:
            async with connect_to_silence(fake_server, nursery):
                async with trio.open_nursery() as tasks:
                    tasks.start_soon(fail)
                    tasks.start_soon(trio.sleep_forever)
        assert [type(exc) for exc in caught.value.exceptions] == [KeyError]

    async def test_do_not_hide_what_the_block_raises(
        self, fake_server: FakeServer, nursery: trio.Nursery, autojump_clock: MockClock
    ) -> None:
        with pytest.raises(KeyError):
            async with connect_to_silence(fake_server, nursery):
                try:
                    await trio.sleep_forever()
                finally:
                    raise KeyError

    async def test_are_none_while_pings_are_answered(
        self, fake_server: FakeServer, nursery: trio.Nursery, autojump_clock: MockClock
    ) -> None:
        async def serve(peer: Peer) -> None:
            await answer_pings(peer, after=0.5)

        nursery.start_soon(fake_server.play, serve)
        async with connect(URL, heartbeat=BEATING) as connection:
            await trio.sleep(100 * INTERVAL)
            assert connection.latency == 0.5
            assert connection.statistics().missed_beats == 0

    async def test_are_counted_from_one_beat_to_the_next(
        self, fake_server: FakeServer, nursery: trio.Nursery, autojump_clock: MockClock
    ) -> None:
        pings: list[float] = []

        async def serve(peer: Peer) -> None:
            while (frame := await peer.frame()) is not None:
                assert frame.opcode is Opcode.PING
                pings.append(trio.current_time())
                if len(pings) == 2:
                    await trio.sleep(1)
                    await peer.pong(frame)
            await peer.aclose()

        nursery.start_soon(fake_server.play, serve)
        with pytest.raises(ConnectionLost):
            async with connect(URL, heartbeat=BEATING) as connection:
                await trio.sleep(2 * INTERVAL + 0.5)
                assert connection.statistics().missed_beats == 1
                await trio.sleep(1)
                assert connection.statistics().missed_beats == 0
                await trio.sleep_forever()
        # The last byte came at 9; silence was whole from 12 on.
        assert trio.current_time() == 24
        assert pings == [4, 8, 12, 16, 20]

    async def test_are_none_while_bytes_of_a_message_come(
        self, fake_server: FakeServer, nursery: trio.Nursery, autojump_clock: MockClock
    ) -> None:
        async def serve(peer: Peer) -> None:
            for byte in Frame(Opcode.TEXT, b"x" * 20).serialize(mask=False):
                await peer.send(bytes([byte]))
                await trio.sleep(INTERVAL / 2)
            await answer_pings(peer)

        nursery.start_soon(fake_server.play, serve)
        async with connect(URL, heartbeat=BEATING) as connection:
            assert await connection.receive() == "x" * 20
        assert trio.current_time() > 40

    async def test_are_none_while_the_block_does_not_take_messages(
        self, fake_server: FakeServer, nursery: trio.Nursery, autojump_clock: MockClock
    ) -> None:
        async def serve(peer: Peer) -> None:
            for number in range(30):
                await peer.send_text(str(number))
            await answer_pings(peer)

        nursery.start_soon(fake_server.play, serve)
        async with connect(URL, heartbeat=BEATING) as connection:
            await trio.sleep(20 * INTERVAL)
            for number in range(30):
                assert await connection.receive() == str(number)
            await trio.sleep(20 * INTERVAL)

    async def test_of_a_text_heartbeat(
        self, fake_server: FakeServer, nursery: trio.Nursery, autojump_clock: MockClock
    ) -> None:
        texts: list[str] = []

        async def serve(peer: Peer) -> None:
            for _ in range(5):
                texts.append(await peer.text())
                await peer.send_text(TEXT)
            await peer.send_text("a message")
            await answer_pings(peer)

        nursery.start_soon(fake_server.play, serve)
        async with connect(URL, heartbeat=Heartbeat(INTERVAL, 3, TEXT)) as connection:
            assert await connection.receive() == "a message"
        assert trio.current_time() == 5 * INTERVAL
        assert texts == [TEXT] * 5

    async def test_send_a_ping_at_each_beat_however_many_are_not_answered(
        self, fake_server: FakeServer, nursery: trio.Nursery, autojump_clock: MockClock
    ) -> None:
        seen: list[Opcode] = []

        async def serve(peer: Peer) -> None:
            while (frame := await peer.frame()) is not None:
                seen.append(frame.opcode)
            await peer.aclose()

        nursery.start_soon(fake_server.play, serve)
        async with connect(URL, heartbeat=Heartbeat(INTERVAL, misses=100)):
            await trio.sleep(20 * INTERVAL + 1)
        assert seen == [Opcode.PING] * 20 + [Opcode.CLOSE]
