"""What waits for the socket: rule 5 of the design - writing never waits."""

from __future__ import annotations

from contextlib import suppress

import pytest
import trio
import trio.lowlevel
from trio.testing import MockClock, wait_all_tasks_blocked
from websockets.frames import Close, Frame, Opcode

from tests.support.harness import INTERVAL, linked
from tests.support.peer import socket_pair
from trio_beat import ConnectionClosed, EndReason, Message
from trio_beat._connection.connection import Connection
from trio_beat._connection.shared import SlowPolicy


async def test_a_ping_that_meets_a_large_message_is_no_slowness(autojump_clock: MockClock) -> None:
    async def handler(connection: Connection) -> None:
        await connection.send(b"\0" * 2_000_000)
        await trio.sleep_forever()

    async with linked(handler, outbox=10_000) as link:
        await trio.sleep(0.1)
        await link.peer.send_frame(Opcode.PING, b"still there?")
        await trio.sleep(0.1)
        assert link.connection.closed is None
        large = await link.peer.frame()
        assert large is not None
        assert len(large.data) == 2_000_000
        assert await link.peer.frame() == Frame(Opcode.PONG, b"still there?")


async def test_pings_without_end_meet_the_slow_policy(autojump_clock: MockClock) -> None:
    async def handler(connection: Connection) -> None:
        await connection.send(b"\0" * 2_000_000)
        await trio.sleep_forever()

    async with linked(handler, outbox=10_000) as link:
        await trio.sleep(0.1)
        with suppress(trio.BrokenResourceError):
            for _ in range(1000):
                await link.peer.send_frame(Opcode.PING, b"x" * 100)
        assert (await link.ended()).by is EndReason.SLOW


async def test_no_pong_follows_a_close_frame_that_waits(autojump_clock: MockClock) -> None:
    # A reader that has been woken already when the connection ends still takes what has come.
    async with linked() as link:
        await trio.sleep(0.1)
        link.clog()
        link.engine.end_nowait(EndReason.SHUTDOWN, 1001, "")
        waiting = link.engine.waiting
        link.answer_ping()
        assert link.engine.waiting == waiting


class TestTheOutbox:
    """Rule 5."""

    async def test_a_slow_peer_delays_no_other(self, autojump_clock: MockClock) -> None:
        async with linked() as slow, linked() as quick:
            await trio.sleep(0.01)
            slow.clog()
            for link in (slow, quick):
                link.connection.deliver_nowait(Message("x"))
            assert await quick.peer.text() == "x"
            assert trio.current_time() == 0.01

    async def test_its_task_lives_only_while_something_waits(
        self, autojump_clock: MockClock
    ) -> None:
        async with linked() as link:
            await trio.sleep(0.01)
            before = trio.lowlevel.current_statistics().tasks_living
            clogged = link.clog()
            assert trio.lowlevel.current_statistics().tasks_living == before + 1
            for _ in range(clogged):
                await link.peer.frame()
            await wait_all_tasks_blocked()
            assert trio.lowlevel.current_statistics().tasks_living == before

    async def test_full_means_1013_which_a_peer_that_reads_again_gets(
        self, autojump_clock: MockClock
    ) -> None:
        async with linked(outbox=20_000) as link:
            await trio.sleep(0.01)
            link.clog()
            link.connection.send_nowait(b"x" * 20_000)
            assert link.connection.statistics().outbox > 20_000
            with pytest.raises(ConnectionClosed):
                link.connection.send_nowait("too much")
            await trio.sleep(1)
            assert await link.peer.closed() == Close(1013, "too slow, outbox full")
            await link.peer.send_close(1013)
            assert await link.peer.frame() is None
            await link.peer.aclose()
            assert (await link.ended()).by is EndReason.SLOW
            assert link.ended_at == 1.01

    async def test_a_peer_that_does_not_read_again_has_five_seconds(
        self, autojump_clock: MockClock
    ) -> None:
        async with linked(outbox=1) as link:
            await trio.sleep(1)
            link.clog()
            link.connection.deliver_nowait(Message("too much"))
            assert (await link.ended()).by is EndReason.SLOW
            assert link.ended_at == 6

    async def test_never_waits_for_more_than_the_limit_and_one_frame(
        self, autojump_clock: MockClock
    ) -> None:
        async with linked(outbox=50_000, slow_policy=SlowPolicy.DROP_OLDEST) as link:
            await trio.sleep(0.01)
            for number in range(1000):
                link.connection.send_nowait(b"\0" * (number * 7 % 1000))
                assert link.connection.statistics().outbox <= 50_000 + 1004

    async def test_drop_oldest_loses_the_oldest_and_counts_them(
        self, autojump_clock: MockClock
    ) -> None:
        async with linked(outbox=50_000, slow_policy=SlowPolicy.DROP_OLDEST) as link:
            await trio.sleep(0.01)
            for number in range(1000):
                link.connection.send_nowait(str(number) + " " * 1000)
            dropped = link.connection.statistics().dropped
            received = [int(await link.peer.text()) for _ in range(1000 - dropped)]
            # A gap, and nothing else: what the socket had in part was not cut.
            first = next(n for n, number in enumerate(received) if number != n)
            assert received == [*range(first), *range(first + dropped, 1000)]
            assert dropped > 100
            assert link.counters.dropped_count == dropped
            assert link.connection.statistics().outbox == 0
            assert link.running

    async def test_a_frame_that_the_peer_has_a_part_of_is_never_cut(
        self, autojump_clock: MockClock
    ) -> None:
        async with linked(outbox=1, slow_policy=SlowPolicy.DROP_OLDEST) as link:
            await trio.sleep(0.01)
            link.connection.send_nowait(b"a" * 500_000)
            for _ in range(5):
                link.connection.send_nowait(b"b" * 10_000)
            assert link.connection.statistics().dropped == 4
            assert await link.peer.frame() == Frame(Opcode.BINARY, b"a" * 500_000)
            assert await link.peer.frame() == Frame(Opcode.BINARY, b"b" * 10_000)

    async def test_disconnecting_does_not_cut_it_either(self, autojump_clock: MockClock) -> None:
        async with linked(outbox=1) as link:
            await trio.sleep(0.01)
            link.connection.send_nowait(b"a" * 500_000)
            link.connection.deliver_nowait(Message("too much"))
            assert await link.peer.frame() == Frame(Opcode.BINARY, b"a" * 500_000)
            assert await link.peer.closed() == Close(1013, "too slow, outbox full")

    @pytest.mark.parametrize("limit", [1, 20_000, 2**20])
    async def test_dropping_the_oldest_drops_no_ping_and_no_pong(
        self, limit: int, autojump_clock: MockClock
    ) -> None:
        """A peer that steadily takes less than is sent, answers each PING, and PINGs itself."""
        drop = SlowPolicy.DROP_OLDEST
        async with linked(outbox=limit, slow_policy=drop, pair=socket_pair) as link:
            asked, answered = [], []
            for number in range(200):
                for _ in range(3):
                    link.connection.send_nowait(b"\0" * 10_000)
                name = str(number).encode()
                await link.peer.send_frame(Opcode.PING, name)
                asked.append(name)
                frame = await link.peer.frame()
                while frame is not None and frame.opcode is not Opcode.BINARY:
                    if frame.opcode is Opcode.PING:
                        await link.peer.pong(frame)
                    else:
                        answered.append(bytes(frame.data))
                    frame = await link.peer.frame()
                await trio.sleep(INTERVAL / 4)
            assert link.running
            assert link.connection.statistics().missed_beats < 3
            assert link.connection.statistics().dropped > 50
            while len(answered) < len(asked):
                frame = await link.peer.frame()
                assert frame is not None
                if frame.opcode is Opcode.PONG:
                    answered.append(bytes(frame.data))
            assert answered == asked


class TestBeats:
    """A PING is sent at every beat, also where something else waits for the socket."""

    @pytest.mark.parametrize("secure", [False, True], ids=["tcp", "tls"])
    async def test_stand_behind_what_waits(self, secure: bool, autojump_clock: MockClock) -> None:
        async with linked(secure=secure) as link:
            # Over TLS everything waits: the beat falls between a delivery and its flush.
            for _ in range(20):
                with trio.move_on_after(INTERVAL):
                    while (frame := await link.peer.frame()) is not None:
                        if frame.opcode is Opcode.PING:
                            await link.peer.pong(frame)
                link.connection.deliver_nowait(Message("x"))
            assert link.running
            assert link.connection.statistics().missed_beats == 0
