"""A connection as its application and its peer see it."""

from __future__ import annotations

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked
from websockets.frames import Frame, Opcode

from tests.support.harness import FIRST_BEAT, INTERVAL, echo, idle, linked, take_all
from tests.support.peer import Peer
from trio_beat._connection.beating import Beating
from trio_beat._connection.connection import Connection
from trio_beat._exceptions import Closed, ConnectionClosed, EndReason
from trio_beat._heartbeat import Heartbeat
from trio_beat._protocol.frames import message_frame

HEARTBEAT = Heartbeat(INTERVAL, misses=3, message="--heartbeat--")


async def next_ping(peer: Peer) -> Frame:
    frame = await peer.frame()
    assert frame is not None
    assert frame.opcode is Opcode.PING
    return frame


class TestMessages:
    async def test_keep_their_type_both_ways(self, autojump_clock: MockClock) -> None:
        async with linked(echo) as link:
            await link.peer.send_frame(Opcode.TEXT, "é".encode())
            assert await link.peer.text() == "é"
            await link.peer.send_frame(Opcode.BINARY, b"\xff")
            frame = await link.peer.frame()
            assert frame == Frame(Opcode.BINARY, b"\xff")

    async def test_keep_their_order(self, autojump_clock: MockClock) -> None:
        async with linked(echo) as link:
            for number in range(100):
                await link.peer.send_text(str(number))
            assert [await link.peer.text() for _ in range(100)] == list(map(str, range(100)))

    async def test_that_came_with_the_handshake_are_the_first(
        self, autojump_clock: MockClock
    ) -> None:
        early = Frame(Opcode.TEXT, b"early").serialize(mask=True)
        async with linked(echo, received=early) as link:
            await link.peer.send_text("late")
            assert [await link.peer.text(), await link.peer.text()] == ["early", "late"]

    async def test_behind_the_handshake_s_response(self, autojump_clock: MockClock) -> None:
        async with linked(echo, response=b"HTTP/1.1 101 ...\r\n\r\n") as link:
            await link.peer.send_text("x")
            await wait_all_tasks_blocked()
            received = await link.peer.stream.receive_some()
            assert received == b"HTTP/1.1 101 ...\r\n\r\n" + message_frame("x")


class TestSending:
    async def test_does_not_wait_for_a_peer_that_keeps_up(self, autojump_clock: MockClock) -> None:
        async with linked() as link:
            await trio.sleep(0.01)
            await link.connection.send("x")
            assert trio.current_time() == 0.01
            assert await link.peer.text() == "x"

    async def test_lets_other_tasks_run_at_regular_counts(self, autojump_clock: MockClock) -> None:
        async with linked() as link, trio.open_nursery() as nursery:
            turns = 0

            async def other() -> None:
                nonlocal turns
                while True:
                    await trio.lowlevel.checkpoint()
                    turns += 1

            await trio.sleep(0.01)
            nursery.start_soon(other)
            for _ in range(160):
                await link.connection.send("x")
            assert turns >= 8
            nursery.cancel_scope.cancel()

    async def test_can_be_cancelled_though_it_need_not_wait(
        self, autojump_clock: MockClock
    ) -> None:
        async with linked() as link:
            await trio.sleep(0.01)
            for _ in range(20):
                with trio.CancelScope() as scope:
                    scope.cancel()
                    await link.connection.send("never")
                assert scope.cancelled_caught
            await link.connection.send("x")
            assert await link.peer.text() == "x"

    async def test_waits_until_the_peer_takes_it(self, autojump_clock: MockClock) -> None:
        async with linked() as link, trio.open_nursery() as nursery:
            await trio.sleep(0.01)
            clogged = link.clog()
            done = []

            async def send(text: str) -> None:
                await link.connection.send(text)
                done.append(text)

            nursery.start_soon(send, "x")
            await trio.sleep(1)
            assert done == []
            for _ in range(clogged):
                await link.peer.frame()
            assert await link.peer.text() == "x"
            await wait_all_tasks_blocked()
            assert done == ["x"]

    async def test_without_waiting_leaves_it_in_the_outbox(self, autojump_clock: MockClock) -> None:
        async with linked() as link:
            await trio.sleep(0.01)
            clogged = link.clog()
            before = link.connection.statistics().outbox
            link.connection.send_nowait("x")
            assert link.connection.statistics().outbox == before + len(message_frame("x"))
            for _ in range(clogged):
                await link.peer.frame()
            assert await link.peer.text() == "x"
            assert link.connection.statistics().outbox == 0

    async def test_while_the_peer_closes_raises(self, autojump_clock: MockClock) -> None:
        raised = []

        async def handler(connection: Connection) -> None:
            try:
                await connection.send(b"\0" * 500_000)
            except ConnectionClosed as exc:
                raised.append(exc.closed)

        async with linked(handler) as link:
            await trio.sleep(0.01)
            assert link.connection.statistics().outbox
            await link.peer.send_close(1001, "bye")
            await wait_all_tasks_blocked()
            assert raised == [Closed(EndReason.PEER, 1001, "bye")]

    async def test_after_the_end_raises(self, autojump_clock: MockClock) -> None:
        async with linked() as link:
            await link.peer.aclose()
            closed = await link.ended()
            with pytest.raises(ConnectionClosed) as caught:
                await link.connection.send("x")
            assert caught.value.closed is closed
            with pytest.raises(ConnectionClosed):
                link.connection.send_nowait("x")

    async def test_a_prepared_frame_after_the_end_is_nothing(
        self, autojump_clock: MockClock
    ) -> None:
        async with linked() as link:
            await link.peer.aclose()
            await link.ended()
            link.connection.deliver_nowait(message_frame("x"))


class TestReceiving:
    async def test_ends_when_the_peer_closes(self, autojump_clock: MockClock) -> None:
        received: list[object] = []

        async def handler(connection: Connection) -> None:
            received.append(await connection.receive())
            with pytest.raises(ConnectionClosed) as caught:
                await connection.receive()
            received.append(caught.value.closed)

        async with linked(handler) as link:
            await link.peer.send_text("x")
            await link.peer.send_close(1001, "bye")
            await wait_all_tasks_blocked()
            assert received == ["x", Closed(EndReason.PEER, 1001, "bye")]

    async def test_from_elsewhere_ends_with_the_connection(self, autojump_clock: MockClock) -> None:
        async with linked() as link, trio.open_nursery() as nursery:

            async def receive() -> None:
                with pytest.raises(ConnectionClosed):
                    await link.connection.receive()

            nursery.start_soon(receive)
            await link.ended()
            nursery.start_soon(receive)


class TestPings:
    async def test_of_the_peer_are_answered(self, autojump_clock: MockClock) -> None:
        async with linked() as link:
            await link.peer.send_frame(Opcode.PING, b"abc")
            assert await link.peer.frame() == Frame(Opcode.PONG, b"abc")
            assert trio.current_time() == 0

    async def test_go_out_on_every_beat(self, autojump_clock: MockClock) -> None:
        async with linked() as link:
            for beat in range(20):
                ping = await next_ping(link.peer)
                assert trio.current_time() == FIRST_BEAT + beat * INTERVAL
                await link.peer.pong(ping)

    async def test_go_out_while_the_handler_does_not_read(self, autojump_clock: MockClock) -> None:
        async with linked(inbound=1) as link:
            for _ in range(3):
                await link.peer.send_text("x")
            for beat in range(10):
                await next_ping(link.peer)
                assert trio.current_time() == FIRST_BEAT + beat * INTERVAL

    async def test_tell_the_round_trip_time(self, autojump_clock: MockClock) -> None:
        async with linked() as link:
            assert link.connection.latency is None
            for seconds in (0.25, 1.5):
                ping = await next_ping(link.peer)
                await trio.sleep(seconds)
                await link.peer.pong(ping)
                await wait_all_tasks_blocked()
                assert link.connection.latency == seconds
                assert link.connection.statistics().latency == seconds

    async def test_that_are_answered_twice_are_timed_once(self, autojump_clock: MockClock) -> None:
        async with linked() as link:
            ping = await next_ping(link.peer)
            for _ in range(2):
                await trio.sleep(1)
                await link.peer.pong(ping)
            await wait_all_tasks_blocked()
            assert link.connection.latency == 1

    @pytest.mark.parametrize("payload", [b"", b"\xff\xff\xff\xff", b"12345"])
    async def test_are_not_answered_by_other_pongs(
        self, payload: bytes, autojump_clock: MockClock
    ) -> None:
        async with linked() as link:
            await next_ping(link.peer)
            await link.peer.send_frame(Opcode.PONG, payload)
            await wait_all_tasks_blocked()
            assert link.connection.latency is None


class TestTextHeartbeat:
    async def test_is_sent_on_every_beat_whatever_the_traffic(
        self, autojump_clock: MockClock
    ) -> None:
        beats: list[float] = []

        async def chat(connection: Connection) -> None:
            while True:
                await connection.send("chat")
                await trio.sleep(0.7)

        async with linked(chat, heartbeat=HEARTBEAT) as link:
            while len(beats) < 10:
                text = await link.peer.text()
                if text != "chat":
                    assert text == "--heartbeat--"
                    beats.append(trio.current_time())
                    await link.peer.send_text("alive")
        assert beats == [FIRST_BEAT + beat * INTERVAL for beat in range(10)]

    async def test_of_the_peer_goes_no_further(self, autojump_clock: MockClock) -> None:
        async with linked(echo, heartbeat=HEARTBEAT) as link:
            await link.peer.send_text("--heartbeat--")
            await link.peer.send_text("x")
            assert await link.peer.text() == "x"
            assert trio.current_time() == 0

    async def test_of_the_peer_proves_life(self, autojump_clock: MockClock) -> None:
        async with linked(heartbeat=HEARTBEAT) as link:
            for _ in range(20):
                await link.peer.text()
                await link.peer.send_text("--heartbeat--")
            assert link.running
            assert link.connection.statistics().missed_beats == 0

    @pytest.mark.parametrize(
        "text", ["he said --heartbeat--", "--heartbeat-- ", "--heartbeat--" * 2, "--HEARTBEAT--"]
    )
    async def test_that_is_only_quoted_is_delivered(
        self, text: str, autojump_clock: MockClock
    ) -> None:
        async with linked(echo, heartbeat=HEARTBEAT) as link:
            await link.peer.send_text(text)
            assert await link.peer.text() == text

    async def test_in_binary_is_a_message(self, autojump_clock: MockClock) -> None:
        async with linked(echo, heartbeat=HEARTBEAT) as link:
            await link.peer.send_frame(Opcode.BINARY, b"--heartbeat--")
            assert await link.peer.frame() == Frame(Opcode.BINARY, b"--heartbeat--")

    async def test_is_neither_sent_nor_expected_when_off(self, autojump_clock: MockClock) -> None:
        async with linked(echo) as link:
            await link.peer.send_text("--heartbeat--")
            assert await link.peer.text() == "--heartbeat--"
            for _ in range(5):
                await link.peer.pong(await next_ping(link.peer))

    async def test_waits_at_most_once_for_a_peer_that_does_not_read(
        self, autojump_clock: MockClock
    ) -> None:
        async with linked(heartbeat=HEARTBEAT) as link:
            await trio.sleep(0.01)
            clogged = link.clog()
            waiting = link.connection.statistics().outbox
            for _ in range(5):
                await trio.sleep(INTERVAL)
                await link.peer.send_frame(Opcode.PONG)
            # Together with a PING of four bytes.
            expected = waiting + len(message_frame("--heartbeat--")) + 6
            assert link.connection.statistics().outbox == expected
            for _ in range(clogged):
                await link.peer.frame()
            assert await link.peer.text() == "--heartbeat--"


class TestStatistics:
    async def test_at_the_beginning(self, autojump_clock: MockClock) -> None:
        async with linked() as link:
            assert link.connection.statistics() == (0, None, 0, 0)

    async def test_missed_beats(self, autojump_clock: MockClock) -> None:
        async with linked() as link:
            await trio.sleep(FIRST_BEAT + INTERVAL + 1)
            assert link.connection.statistics().missed_beats == 1
            await trio.sleep(INTERVAL)
            assert link.connection.statistics().missed_beats == 2
            await link.peer.send_frame(Opcode.PONG)
            await wait_all_tasks_blocked()
            assert link.connection.statistics().missed_beats == 0


class TestStartSoon:
    async def test_runs_a_task_that_ends_with_the_connection(
        self, autojump_clock: MockClock
    ) -> None:
        seen: list[object] = []

        async def task(engine: Beating) -> None:
            seen.append(engine)
            try:
                await trio.sleep_forever()
            finally:
                seen.append(trio.current_time())

        async with linked(idle) as link:
            await trio.sleep(1)
            link.engine.start_soon(task)
            await trio.sleep(1)
            await link.connection.aclose()
            await link.ended()
            assert seen == [link.engine, 2]

    async def test_names_the_peer_and_the_path(self, autojump_clock: MockClock) -> None:
        async with linked(take_all) as link:
            assert link.connection.path == "/ws/x"
            assert link.connection.peer == "local"
            assert link.connection.subprotocol is None
