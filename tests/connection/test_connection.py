"""A connection as its application and its peer see it."""

from __future__ import annotations

from typing import Any

import pytest
import trio
import trio.lowlevel
from trio.testing import MockClock, wait_all_tasks_blocked
from websockets.frames import Frame, Opcode

from tests.support.harness import FIRST_BEAT, INTERVAL, echo, idle, linked, take_all
from trio_beat import Closed, ConnectionClosed, EndReason, Heartbeat, Message
from trio_beat._connection.connection import Connection
from trio_beat.testing import open_pair


class TestMessages:
    async def test_keep_their_type_both_ways(self, autojump_clock: MockClock) -> None:
        async with open_pair(echo) as peer:
            for message in ("é", b"\xff"):
                await peer.send(message)
                assert await peer.receive() == message

    async def test_keep_their_order(self, autojump_clock: MockClock) -> None:
        async with open_pair(echo) as peer:
            for number in range(100):
                await peer.send(str(number))
            assert [await peer.receive() for _ in range(100)] == list(map(str, range(100)))

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
            assert received == b"HTTP/1.1 101 ...\r\n\r\n" + Message("x").frame


class TestSending:
    async def test_does_not_wait_for_a_peer_that_keeps_up(self, autojump_clock: MockClock) -> None:
        async with linked() as link:
            await trio.sleep(0.01)
            await link.connection.send("x")
            assert trio.current_time() == 0.01
            assert await link.peer.text() == "x"

    @pytest.mark.parametrize("payload", ["text", "\u00e9", b"\xff", ""])
    async def test_message_is_framed_once_for_many(
        self, payload: str | bytes, autojump_clock: MockClock
    ) -> None:
        message = Message(payload)
        async with linked() as one, linked() as two:
            await trio.sleep(0.01)
            await one.connection.send(message)
            frame = message.frame
            two.connection.send_nowait(message)
            assert message.frame is frame
            for link in (one, two):
                got = await link.peer.frame()
                assert got is not None
                assert got.serialize(mask=False) == frame

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
            assert link.connection.statistics().outbox == before + len(Message("x").frame)
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
            link.connection.deliver_nowait(Message("x"))

    @pytest.mark.parametrize("clogged", [False, True])
    @pytest.mark.parametrize("message", ["x", b"\x81\x01x", None])
    async def test_what_is_no_message_is_not_delivered(
        self, autojump_clock: MockClock, message: Any, clogged: bool
    ) -> None:
        async with linked() as link:
            await trio.sleep(0.1)
            if clogged:
                link.clog()
            waiting = link.connection.statistics().outbox
            with pytest.raises(TypeError, match="must be a Message"):
                link.connection.deliver_nowait(message)
            assert link.connection.closed is None
            assert link.connection.statistics().outbox == waiting


class TestReceiving:
    async def test_ends_when_the_peer_closes(self, autojump_clock: MockClock) -> None:
        received: list[object] = []

        async def handler(connection: Connection) -> None:
            received.append(await connection.receive())
            with pytest.raises(ConnectionClosed) as caught:
                await connection.receive()
            received.append(caught.value.closed)

        async with open_pair(handler) as peer:
            await peer.send("x")
            await peer.close(1001, "bye")
            assert received == ["x", Closed(EndReason.PEER, 1001, "bye")]

    async def test_from_elsewhere_ends_with_the_connection(self, autojump_clock: MockClock) -> None:
        async with open_pair(idle) as peer, trio.open_nursery() as nursery:

            async def receive() -> None:
                with pytest.raises(ConnectionClosed):
                    await peer.connection.receive()

            nursery.start_soon(receive)
            await wait_all_tasks_blocked()
            await peer.close()
            nursery.start_soon(receive)


class TestStatistics:
    async def test_at_the_beginning(self, autojump_clock: MockClock) -> None:
        async with linked() as link:
            assert link.connection.statistics() == (0, None, 0, 0)

    async def test_missed_beats(self, autojump_clock: MockClock) -> None:
        async with open_pair(idle, heartbeat=Heartbeat(INTERVAL)) as peer:
            peer.fall_silent()
            await trio.sleep(FIRST_BEAT + INTERVAL + 1)
            assert peer.connection.statistics().missed_beats == 1
            await trio.sleep(INTERVAL)
            assert peer.connection.statistics().missed_beats == 2
            await peer.send("a sign of life")
            await wait_all_tasks_blocked()
            assert peer.connection.statistics().missed_beats == 0


class TestNames:
    def test_that_are_visible_are_those_of_an_application(self) -> None:
        visible = {name for name in dir(Connection) if not name.startswith("_")}
        assert visible == {
            "aclose",
            "closed",
            "compression",
            "deliver_nowait",
            "gap_nowait",
            "identity",
            "latency",
            "path",
            "peer",
            "receive",
            "renew",
            "request",
            "send",
            "send_nowait",
            "statistics",
            "subprotocol",
            "wait_closed",
        }

    async def test_are_those_of_the_peer_and_the_path(self, autojump_clock: MockClock) -> None:
        async with linked(take_all) as link:
            assert link.connection.path == "/ws/x"
            assert link.connection.peer == "local"
            assert link.connection.subprotocol is None
