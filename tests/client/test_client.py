"""`connect`: the block, and how it ends."""

from __future__ import annotations

import itertools
from contextlib import suppress

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked
from websockets.frames import Close, Frame, Opcode

from tests.support.fake_server import URL, FakeServer, answer_pings, fake_server
from tests.support.peer import Peer
from trio_beat import (
    Closed,
    Connection,
    ConnectionClosed,
    ConnectionLost,
    EndReason,
    Heartbeat,
    connect,
)
from trio_beat._metronome import Beat

__all__ = ["fake_server"]  # a fixture

INTERVAL = 4.0
BEATING = Heartbeat(INTERVAL, misses=3)
TEXT = "--heartbeat--"


class TestBlock:
    async def test_sends_and_receives(
        self, fake_server: FakeServer, nursery: trio.Nursery, autojump_clock: MockClock
    ) -> None:
        async def echo(peer: Peer) -> None:
            for _ in range(3):
                frame = await peer.frame()
                assert frame is not None
                await peer.send_frame(frame.opcode, bytes(frame.data))
            await answer_pings(peer)

        nursery.start_soon(fake_server.play, echo)
        async with connect(URL) as connection:
            for message in ("é", b"\xff", "x" * 200_000):
                await connection.send(message)
                assert await connection.receive() == message
            assert connection.path == "/ws/news?subscribe-broadcast"
        assert connection.closed == Closed(EndReason.HANDLER, 1000, "")

    async def test_keeps_the_order_of_what_is_sent(
        self, fake_server: FakeServer, nursery: trio.Nursery, autojump_clock: MockClock
    ) -> None:
        texts: list[str] = []

        async def listen(peer: Peer) -> None:
            for _ in range(100):
                texts.append(await peer.text())
            await answer_pings(peer)

        nursery.start_soon(fake_server.play, listen)
        async with connect(URL) as connection:
            for number in range(100):
                connection.send_nowait(str(number))
        assert texts == [str(number) for number in range(100)]

    async def test_gets_what_came_with_the_handshake(
        self, fake_server: FakeServer, nursery: trio.Nursery, autojump_clock: MockClock
    ) -> None:
        early = Frame(Opcode.TEXT, b"early").serialize(mask=False)

        async def serve() -> None:
            await answer_pings(await fake_server.accept(behind=early))

        nursery.start_soon(serve)
        async with connect(URL) as connection:
            assert await connection.receive() == "early"

    async def test_left_closes_and_waits_for_the_answer(
        self, fake_server: FakeServer, nursery: trio.Nursery, autojump_clock: MockClock
    ) -> None:
        async def serve(peer: Peer) -> None:
            assert await peer.closed() == Close(1000, "")
            await trio.sleep(2)
            await peer.send_close()
            assert await peer.frame() is None
            await peer.aclose()

        nursery.start_soon(fake_server.play, serve)
        async with connect(URL):
            pass
        assert trio.current_time() == 2

    async def test_left_sends_what_waits_before(
        self, fake_server: FakeServer, nursery: trio.Nursery, autojump_clock: MockClock
    ) -> None:
        got: list[int] = []

        async def slow(peer: Peer) -> None:
            await trio.sleep(1)
            while (frame := await peer.frame()) is not None:
                got.append(len(frame.data))
                if frame.opcode is Opcode.CLOSE:
                    await peer.send_close()
            await peer.aclose()

        nursery.start_soon(fake_server.play, slow)
        async with connect(URL) as connection:
            connection.send_nowait(b"\0" * 900_000)
            connection.send_nowait(b"\0" * 10)
        assert got == [900_000, 10, 2]

    async def test_left_does_not_wait_for_ever(
        self, fake_server: FakeServer, nursery: trio.Nursery, autojump_clock: MockClock
    ) -> None:
        async with connect_to_silence(fake_server, nursery):
            pass
        assert trio.current_time() == 5

    async def test_raising_raises_that(
        self, fake_server: FakeServer, nursery: trio.Nursery, autojump_clock: MockClock
    ) -> None:
        error = ValueError("the application's")
        with pytest.raises(ValueError, match="the application's") as caught:
            async with connect_to_silence(fake_server, nursery) as connection:
                raise error
        assert caught.value is error
        assert error.__cause__ is None
        assert connection.closed == Closed(EndReason.HANDLER, 1011, "internal error")
        assert trio.current_time() == 1

    async def test_raising_a_group_raises_that(
        self, fake_server: FakeServer, nursery: trio.Nursery, autojump_clock: MockClock
    ) -> None:
        group = ExceptionGroup("the application's", [ValueError(), KeyError()])
        with pytest.raises(ExceptionGroup) as caught:
            async with connect_to_silence(fake_server, nursery):
                raise group
        assert caught.value is group

    async def test_interrupted_at_the_keyboard_goes_away(
        self, fake_server: FakeServer, nursery: trio.Nursery, autojump_clock: MockClock
    ) -> None:
        nursery.start_soon(fake_server.play, answer_pings)
        with pytest.raises(KeyboardInterrupt):
            async with connect(URL) as connection:
                raise KeyboardInterrupt
        assert connection.closed == Closed(EndReason.HANDLER, 1001, "going away")

    async def test_cancelled_closes_within_a_second(
        self, fake_server: FakeServer, nursery: trio.Nursery, autojump_clock: MockClock
    ) -> None:
        with trio.move_on_after(10) as scope:
            async with connect_to_silence(fake_server, nursery) as connection:
                await trio.sleep_forever()
        assert scope.cancelled_caught
        assert connection.closed == Closed(EndReason.HANDLER, 1001, "going away")
        assert trio.current_time() == 11

    async def test_cancelled_says_goodbye(
        self, fake_server: FakeServer, nursery: trio.Nursery, autojump_clock: MockClock
    ) -> None:
        told: list[Close | None] = []

        async def serve(peer: Peer) -> None:
            told.append(await peer.closed())
            await peer.send_close()
            await peer.aclose()

        nursery.start_soon(fake_server.play, serve)
        with trio.move_on_after(1):
            async with connect(URL):
                await trio.sleep_forever()
        assert trio.current_time() == 1
        assert told == [Close(1001, "going away")]

    async def test_cancelled_while_it_waits_for_the_answer(
        self, fake_server: FakeServer, nursery: trio.Nursery, autojump_clock: MockClock
    ) -> None:
        with trio.move_on_after(2) as scope:
            async with connect_to_silence(fake_server, nursery):
                pass
        assert scope.cancelled_caught
        assert trio.current_time() == 3

    @pytest.mark.parametrize("late", [False, True], ids=["while leaving", "before"])
    async def test_cancelled_loses_nothing_that_it_raises(
        self, fake_server: FakeServer, nursery: trio.Nursery, autojump_clock: MockClock, late: bool
    ) -> None:
        with trio.move_on_after(0.5):
            with pytest.raises(ValueError, match="mine"):
                async with connect_to_silence(fake_server, nursery):
                    try:
                        await trio.sleep(1 if late else 0.3)
                    finally:
                        raise ValueError("mine")

    async def test_may_close_before_it_ends(
        self, fake_server: FakeServer, nursery: trio.Nursery, autojump_clock: MockClock
    ) -> None:
        nursery.start_soon(fake_server.play, answer_pings)
        async with connect(URL) as connection:
            await connection.aclose(4200, "enough")
            with pytest.raises(ConnectionClosed) as caught:
                await connection.send("x")
            assert caught.type is ConnectionClosed
            await trio.sleep(1)  # it is not cancelled
        assert connection.closed == Closed(EndReason.HANDLER, 4200, "enough")

    async def test_a_ping_that_meets_the_close_frame_does_no_harm(
        self, fake_server: FakeServer, nursery: trio.Nursery, autojump_clock: MockClock
    ) -> None:
        async def serve(peer: Peer) -> None:
            await peer.closed()
            await peer.send_frame(Opcode.PING, b"late")
            await peer.send_close()
            await peer.aclose()

        nursery.start_soon(fake_server.play, serve)
        async with connect(URL) as connection:
            pass
        assert connection.closed == Closed(EndReason.HANDLER, 1000, "")

    async def test_opening_can_be_cancelled_at_any_step(
        self, fake_server: FakeServer, nursery: trio.Nursery, autojump_clock: MockClock
    ) -> None:
        async def serve() -> None:
            while True:
                with suppress(trio.EndOfChannel, trio.BrokenResourceError):
                    nursery.start_soon(be_patient, await fake_server.accept())

        async def be_patient(peer: Peer) -> None:
            with suppress(trio.BrokenResourceError):
                await answer_pings(peer)

        async def visit() -> None:
            async with connect(URL):
                pass

        nursery.start_soon(serve)
        for step in itertools.count():
            canceller = Canceller(step)
            trio.lowlevel.add_instrument(canceller)
            try:
                with canceller.scope:
                    await visit()
            finally:
                trio.lowlevel.remove_instrument(canceller)
            if not canceller.scope.cancelled_caught:
                break
        assert step > 20
        nursery.cancel_scope.cancel()

    async def test_is_entered_once(
        self, fake_server: FakeServer, nursery: trio.Nursery, autojump_clock: MockClock
    ) -> None:
        nursery.start_soon(fake_server.play, answer_pings)
        context = connect(URL)
        async with context:
            pass
        with pytest.raises(RuntimeError, match="was entered before"):
            async with context:
                pass


class Canceller(trio.abc.Instrument):
    """Cancels a scope when so many tasks, whichever they are, have had their turn."""

    def __init__(self, step: int) -> None:
        self.scope = trio.CancelScope()
        self._left = step

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        if self._left == 0:
            self.scope.cancel()
        self._left -= 1


def connect_to_silence(
    fake_server: FakeServer, nursery: trio.Nursery, heartbeat: Heartbeat = BEATING
) -> connect:
    """Connect to a server that lets the client in, and neither reads nor sends any more."""

    async def serve() -> None:
        await fake_server.accept()

    nursery.start_soon(serve)
    return connect(URL, heartbeat=heartbeat)


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

    async def test_do_not_send_more_pings_than_a_server_may_owe(
        self, fake_server: FakeServer, nursery: trio.Nursery, autojump_clock: MockClock
    ) -> None:
        seen: list[Opcode] = []

        async def serve(peer: Peer) -> None:
            while (frame := await peer.frame()) is not None:
                seen.append(frame.opcode)
            await peer.aclose()

        nursery.start_soon(fake_server.play, serve)
        async with connect(URL, heartbeat=BEATING) as connection:
            for number in range(20):
                connection._engine.send_beat(Beat(1000 + number, whole=True))
                await wait_all_tasks_blocked()
        assert seen.count(Opcode.PING) == 16
        assert seen.count(Opcode.PONG) == 4
