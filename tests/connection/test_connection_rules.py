"""The numbered rules of the design, as far as one connection can show them.

Rule 3 is the metronome's, 6 and 9 are the server's; rule 8 is in `test_connection_ends`.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Awaitable, Callable
from contextlib import suppress

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked
from websockets.frames import Close, Frame, Opcode

from tests.support.harness import FIRST_BEAT, INTERVAL, Link, echo, idle, linked, take_all, tcp_pair
from tests.support.peer import socket_pair
from trio_beat._connection.connection import Connection
from trio_beat._connection.ending import CANCELLED_TIMEOUT
from trio_beat._connection.shared import SlowPolicy
from trio_beat._exceptions import Closed, ConnectionClosed, EndReason
from trio_beat._heartbeat import Heartbeat
from trio_beat._protocol.frames import message_frame

IMPATIENT = Heartbeat(INTERVAL, misses=1)
PONG = Frame(Opcode.PONG, b"").serialize(mask=True)


def beat(number: int) -> float:
    """When the connection's beats are; the first is number 0."""
    return FIRST_BEAT + number * INTERVAL


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


class TestSilenceCountsOnlyWhileWeListen:
    """Rule 1."""

    async def test_a_handler_that_does_not_read_for_ten_beats_loses_nobody(
        self, autojump_clock: MockClock
    ) -> None:
        async def handler(connection: Connection) -> None:
            await trio.sleep_until(beat(10) + 1)
            await take_all(connection)

        async with linked(handler, inbound=1) as link:
            for _ in range(3):
                await link.peer.send_text("x")
            await trio.sleep_until(beat(10) + 0.5)
            assert link.running
            # We listen from now on, and nothing comes.
            assert (await link.ended()).by is EndReason.MISSED_BEATS
            assert link.ended_at == beat(14)

    async def test_any_byte_proves_life(self, autojump_clock: MockClock) -> None:
        frame = Frame(Opcode.TEXT, b"hello").serialize(mask=True)
        async with linked(echo, heartbeat=IMPATIENT) as link:
            for number, byte in enumerate(frame):
                await trio.sleep_until(beat(number) + 1)
                await link.peer.send(bytes([byte]))
            assert await link.peer.text() == "hello"

    async def test_half_a_frame_proves_life_only_once(self, autojump_clock: MockClock) -> None:
        async with linked() as link:
            await trio.sleep_until(beat(2) + 1)
            await link.peer.send(b"\x81")
            await link.ended()
            assert link.ended_at == beat(6)

    async def test_a_beat_in_which_the_clock_stood_still_does_not_count(
        self, autojump_clock: MockClock
    ) -> None:
        async with linked(heartbeat=IMPATIENT) as link:
            await trio.sleep(1 + FIRST_BEAT / 2)
            autojump_clock.jump(15 * INTERVAL)
            await link.ended()
            # The beats are postponed; the tick that was due half a slot later is due at once.
            assert link.ended_at == beat(2) + 15 * INTERVAL - FIRST_BEAT / 2

    @pytest.mark.parametrize("stall", [1, 2, 15])
    async def test_a_stall_drops_nobody_who_answers(
        self, stall: int, autojump_clock: MockClock
    ) -> None:
        async with linked(heartbeat=IMPATIENT) as link, trio.open_nursery() as nursery:
            nursery.start_soon(link.answer, INTERVAL / 2)
            for _ in range(5):
                await trio.sleep(3.3 * INTERVAL)
                autojump_clock.jump(stall * INTERVAL)
            await trio.sleep(5 * INTERVAL)
            assert link.running
            nursery.cancel_scope.cancel()

    async def test_what_the_kernel_holds_is_read_before_anyone_is_judged(
        self, autojump_clock: MockClock
    ) -> None:
        """The answer and a late beat at the same moment: whichever task comes first."""
        async with linked(heartbeat=IMPATIENT) as link:
            assert isinstance(link.peer.stream, trio.SocketStream)
            peer = link.peer.stream.socket.fileno()
            for number in range(0, 40, 2):
                await trio.sleep_until(beat(number) + 3.5)
                os.write(peer, PONG)
                autojump_clock.jump(1)
                await trio.sleep_until(beat(number + 1) + 1)
                os.write(peer, PONG)
            assert link.running


class TestDeadAfterMisses:
    """Rule 2."""

    @pytest.mark.parametrize("misses", [1, 2, 3, 7])
    async def test_a_silent_peer_is_dead_at_the_exact_beat(
        self, misses: int, autojump_clock: MockClock
    ) -> None:
        async with linked(heartbeat=Heartbeat(INTERVAL, misses)) as link:
            closed = await link.ended()
            assert closed == Closed(EndReason.MISSED_BEATS, 1006, f"{misses} in a row")
            assert link.ended_at == beat(misses)

    @pytest.mark.parametrize("phase", [0.01, 0.25, 0.5, 0.75, 0.99])
    async def test_never_later_than_promised_nor_much_earlier(
        self, phase: float, autojump_clock: MockClock
    ) -> None:
        async with linked() as link:
            silent_from = beat(5) + phase * INTERVAL
            while trio.current_time() < silent_from:
                await trio.sleep(min(1, silent_from - trio.current_time()))
                await link.peer.send(PONG)
            await link.ended()
            assert link.ended_at is not None
            silence = link.ended_at - silent_from
            assert 3 * INTERVAL < silence <= 4 * INTERVAL

    async def test_misses_are_in_a_row(self, autojump_clock: MockClock) -> None:
        async with linked() as link:
            for number in range(2, 40, 3):
                await trio.sleep_until(beat(number) + 1)
                assert link.connection.statistics().missed_beats == 2
                await link.peer.send(PONG)
            assert link.running

    async def test_a_peer_that_answers_lives(self, autojump_clock: MockClock) -> None:
        async with linked(heartbeat=IMPATIENT) as link, trio.open_nursery() as nursery:
            nursery.start_soon(link.answer)
            await trio.sleep(100 * INTERVAL)
            assert link.running
            nursery.cancel_scope.cancel()

    async def test_a_dead_peer_that_took_nothing_ends_alone(
        self, autojump_clock: MockClock
    ) -> None:
        async with linked() as link:
            await trio.sleep(0.01)
            link.clog()
            assert (await link.ended()).by is EndReason.MISSED_BEATS
            assert link.ended_at == beat(3)
            assert link.error is None


class TestTheReaderWaitsWithinBounds:
    """Rule 4."""

    async def test_a_peer_feels_that_the_handler_does_not_read(
        self, autojump_clock: MockClock
    ) -> None:
        received = 0
        go_on = trio.Event()

        async def handler(connection: Connection) -> None:
            nonlocal received
            await go_on.wait()
            async for _ in connection:
                received += 1

        async with linked(handler, inbound=2) as link:
            sent = 0
            with trio.move_on_after(1):
                while True:
                    await link.peer.send_frame(Opcode.BINARY, b"x" * 1000)
                    sent += 1
            assert 10 < sent < 1000  # what two socket buffers and one read hold
            assert link.consumer.waiting == 2
            go_on.set()
            await wait_all_tasks_blocked()
            assert sent - 1 <= received <= sent


class TestTheOutbox:
    """Rule 5."""

    async def test_a_slow_peer_delays_nobody(self, autojump_clock: MockClock) -> None:
        async with linked() as slow, linked() as quick:
            await trio.sleep(0.01)
            slow.clog()
            for link in (slow, quick):
                link.connection.deliver_nowait(message_frame("x"))
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
            link.connection.deliver_nowait(message_frame("too much"))
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
            assert link.shared.dropped == dropped
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
            link.connection.deliver_nowait(message_frame("too much"))
            assert await link.peer.frame() == Frame(Opcode.BINARY, b"a" * 500_000)
            assert await link.peer.closed() == Close(1013, "too slow, outbox full")


class CancelAtStep(trio.abc.Instrument):
    """Cancels a connection just before the n-th step that one of its tasks makes."""

    def __init__(self, link: Link, step: int) -> None:
        self._link = link
        self._left = step
        self.cancelled_at: float | None = None

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        if self._left and self._is_ours(task):
            self._left -= 1
            if not self._left:
                self.cancelled_at = trio.current_time()
                self._link.scope.cancel()

    def _is_ours(self, task: trio.lowlevel.Task | None) -> bool:
        while task is not None and task is not self._link.task:
            nursery = task.parent_nursery
            task = None if nursery is None else nursery.parent_task
        return task is not None


async def conversation(link: Link) -> None:
    """Something of everything: messages, PINGs, an outbox that fills and empties, a goodbye."""
    peer = link.peer
    await peer.send_text("x")
    await peer.send_frame(Opcode.PING, b"x")
    await peer.send_frame(Opcode.BINARY, b"x" * 300_000)
    await trio.sleep(1)
    frames = 0
    while frames < 3 and (frame := await peer.frame()) is not None:
        frames += frame.opcode is not Opcode.PING
    await trio.sleep(INTERVAL)
    await peer.send_text("y")
    await trio.sleep(1)
    await peer.send_close(1001)
    await peer.closed()
    await peer.aclose()


async def answering(link: Link) -> None:
    """Wait to be closed, and answer that."""
    if await link.peer.closed() is not None:
        await link.peer.send_frame(Opcode.CLOSE)
        await link.peer.frame()
    await link.peer.aclose()


async def silence(link: Link) -> None:
    """Nothing."""
    await trio.sleep_forever()


async def flooded(connection: Connection) -> None:
    await trio.sleep(1)
    while True:
        connection.send_nowait(b"x" * 50_000)


async def returning(connection: Connection) -> None:
    await trio.sleep(1)
    await connection.send("bye")


async def closing(connection: Connection) -> None:
    await trio.sleep(1)
    await connection.aclose()


class TestSlowReaders:
    """Rule 1: a PING that stands behind data has not been heard yet."""

    @pytest.mark.parametrize("misses", [1, 3])
    async def test_who_reads_slowly_is_alive_and_who_stops_is_not(
        self, misses: int, patient_clock: MockClock
    ) -> None:
        heartbeat = Heartbeat(INTERVAL, misses)
        async with linked(heartbeat=heartbeat, outbox=2**26, pair=tcp_pair) as link:
            if misses == 1:
                # A large buffer is acknowledged for several beats, and then not for several.
                assert isinstance(link.peer.stream, trio.SocketStream)
                link.peer.stream.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
            link.connection.send_nowait(b"x" * 2**25)
            taken = 0
            for _ in range(10 * misses):
                step = 0
                while step < 2**19:
                    step += len(await link.peer.stream.receive_some(65536))
                taken += step
                await trio.sleep(INTERVAL)
                assert link.running
            assert taken < 2**25
            stopped = trio.current_time()
            await link.ended()
            assert link.connection.closed is not None
            assert link.connection.closed.by is EndReason.MISSED_BEATS
            assert link.ended_at is not None
            # What the kernel had room for still moved for a moment.
            assert link.ended_at - stopped <= (misses + 2) * INTERVAL

    async def test_who_sent_urgent_data_once_and_is_silent_is_dead(
        self, patient_clock: MockClock
    ) -> None:
        async with linked(echo, pair=tcp_pair) as link:
            await trio.sleep(FIRST_BEAT / 2)
            link.peer.send_at_once(Frame(Opcode.TEXT, b"before").serialize(mask=True))
            link.peer.send_at_once(b"!", urgent=True)
            link.peer.send_at_once(Frame(Opcode.TEXT, b"behind").serialize(mask=True))
            assert [await link.peer.text() for _ in range(2)] == ["before", "behind"]
            assert (await link.ended()).by is EndReason.MISSED_BEATS
            assert link.ended_at is not None
            assert link.ended_at <= 4 * INTERVAL + FIRST_BEAT


class TestMessagesThatAreNotFinished:
    @pytest.mark.parametrize("secure", [False, True], ids=["tcp", "tls"])
    @pytest.mark.parametrize("opcode", [Opcode.CONT, Opcode.PONG, Opcode.PING])
    async def test_have_a_time_limit(
        self, opcode: Opcode, secure: bool, autojump_clock: MockClock
    ) -> None:
        """Whatever else the peer sends meanwhile."""
        async with (
            linked(secure=secure, message_timeout=30) as link,
            trio.open_nursery() as nursery,
        ):
            await link.peer.send_frame(Opcode.TEXT, b"x" * 1000, fin=False)

            async def close() -> None:
                assert await link.peer.closed() == Close(1013, "message took too long")
                nursery.cancel_scope.cancel()
                await link.peer.aclose()

            nursery.start_soon(close)
            with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
                while True:
                    await trio.sleep(1)
                    await link.peer.send_frame(opcode, b"x", fin=opcode is not Opcode.CONT)
        assert (await link.ended()).by is EndReason.SLOW
        assert 30 < trio.current_time() <= 31 + 2 * INTERVAL

    async def test_time_in_which_the_handler_is_slow_does_not_count(
        self, autojump_clock: MockClock
    ) -> None:
        async def slow(connection: Connection) -> None:
            async for message in connection:
                got.append(message)
                await trio.sleep(100)

        got: list[str | bytes] = []
        async with linked(slow, inbound=1, message_timeout=30) as link:
            for _ in range(4):
                await link.peer.send_text("x")
            await link.peer.send_frame(Opcode.TEXT, b"la", fin=False)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(link.answer)
                await trio.sleep(215)  # it has listened for 15
                await link.peer.send_frame(Opcode.CONT, b"st")
                await trio.sleep(200)
                assert got == [*["x"] * 4, "last"]
                assert link.running
                nursery.cancel_scope.cancel()

    @pytest.mark.parametrize("opcode", [Opcode.TEXT, Opcode.PONG])
    async def test_one_after_the_other_have_a_time_of_their_own(
        self, opcode: Opcode, autojump_clock: MockClock
    ) -> None:
        """Where every read ends within the next one."""
        async with linked(take_all, message_timeout=10) as link:
            frame = Frame(opcode, b"x" * 100).serialize(mask=True)
            await link.peer.send(frame[:50])
            for _ in range(100):
                await trio.sleep(1)
                await link.peer.send(frame[50:] + frame[:50])
            assert link.running

    async def test_one_that_comes_steadily_may_take_long(self, autojump_clock: MockClock) -> None:
        async with linked(echo, message_timeout=10) as link:
            frame = Frame(Opcode.TEXT, b"x" * 60_000).serialize(mask=True)
            for begin in range(0, len(frame), 1500):
                await link.peer.send(frame[begin : begin + 1500])
                await trio.sleep(1)
            assert await link.peer.text() == "x" * 60_000

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


class TestPings:
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
                link.connection.deliver_nowait(b"\x81\x01x")
            assert link.running
            assert link.connection.statistics().missed_beats == 0


class TestCleanupCompletes:
    """Rule 7: cancelled at any step. `linked` checks the seat, the watch and the socket."""

    @pytest.mark.parametrize("secure", [False, True], ids=["tcp", "tls"])
    @pytest.mark.parametrize(
        ("handler", "peer", "fewest_steps"),
        [
            (echo, conversation, 15),
            (idle, silence, 5),
            (flooded, answering, 5),
            (flooded, silence, 5),
            (returning, answering, 5),
            (closing, silence, 5),
        ],
        ids=lambda value: getattr(value, "__name__", None),
    )
    async def test_cancelled_at_any_step(
        self,
        handler: Callable[[Connection], Awaitable[None]],
        peer: Callable[[Link], Awaitable[None]],
        fewest_steps: int,
        secure: bool,
        autojump_clock: MockClock,
    ) -> None:
        steps = 0
        while True:
            instrument = await self._cancel_at(steps, handler, peer, secure=secure)
            if steps and instrument.cancelled_at is None:
                break
            steps += 1
        assert steps > fewest_steps

    async def _cancel_at(
        self,
        step: int,
        handler: Callable[[Connection], Awaitable[None]],
        peer: Callable[[Link], Awaitable[None]],
        *,
        secure: bool,
    ) -> CancelAtStep:
        async def run_peer() -> None:
            with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
                await peer(link)

        async with linked(handler, outbox=100_000, secure=secure) as link:
            instrument = CancelAtStep(link, step)
            trio.lowlevel.add_instrument(instrument)
            if step == 0:
                link.scope.cancel()
            try:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(run_peer)
                    with trio.fail_after(100):
                        await link.ended()
                    nursery.cancel_scope.cancel()
            finally:
                trio.lowlevel.remove_instrument(instrument)
            if instrument.cancelled_at is not None and not secure:
                assert link.ended_at is not None
                assert link.ended_at <= instrument.cancelled_at + CANCELLED_TIMEOUT
            assert link.error is None
            assert sum(link.shared.ended.values()) == 1
            with pytest.raises(ConnectionClosed):
                await link.connection.receive()
        return instrument

    async def test_a_record_that_was_begun_is_waited_for_within_a_deadline(
        self, autojump_clock: MockClock
    ) -> None:
        async with linked(flooded, outbox=10**7, secure=True) as link:
            await trio.sleep(2)
            link.scope.cancel()
            await link.ended()
            assert link.ended_at is not None
            assert link.ended_at - 2 <= 10
