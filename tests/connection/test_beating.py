"""The heartbeat: rules 1 and 2 of the design, PINGs and text heartbeats.

Rule 3 is the metronome's.
"""

from __future__ import annotations

import os
import socket

import pytest
import trio
import trio.lowlevel
from trio.testing import MockClock, wait_all_tasks_blocked
from websockets.frames import Frame, Opcode

from tests.support.harness import FIRST_BEAT, INTERVAL, echo, linked, take_all, tcp_pair
from tests.support.peer import Peer
from trio_beat import Closed, EndReason, Heartbeat, Message
from trio_beat._connection.connection import Connection
from trio_beat.testing import open_pair

HEARTBEAT = Heartbeat(INTERVAL, misses=3, message="--heartbeat--")
IMPATIENT = Heartbeat(INTERVAL, misses=1)
PONG = Frame(Opcode.PONG, b"").serialize(mask=True)


def beat(number: int) -> float:
    """When the connection's beats are; the first is number 0."""
    return FIRST_BEAT + number * INTERVAL


async def next_ping(peer: Peer) -> Frame:
    frame = await peer.frame()
    assert frame is not None
    assert frame.opcode is Opcode.PING
    return frame


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
        async with open_pair(echo, heartbeat=HEARTBEAT) as peer:
            await peer.send("--heartbeat--")
            await peer.send("x")
            assert await peer.receive() == "x"
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
        async with open_pair(echo, heartbeat=HEARTBEAT) as peer:
            await peer.send(text)
            assert await peer.receive() == text

    async def test_in_binary_is_a_message(self, autojump_clock: MockClock) -> None:
        async with open_pair(echo, heartbeat=HEARTBEAT) as peer:
            await peer.send(b"--heartbeat--")
            assert await peer.receive() == b"--heartbeat--"

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
            expected = waiting + len(Message("--heartbeat--").frame) + 6
            assert link.connection.statistics().outbox == expected
            for _ in range(clogged):
                await link.peer.frame()
            assert await link.peer.text() == "--heartbeat--"


class TestSilenceCountsOnlyWhileWeListen:
    """Rule 1."""

    async def test_a_handler_that_does_not_read_for_ten_beats_loses_no_peer(
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
    async def test_a_stall_drops_no_peer_that_answers(
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

    async def test_what_the_kernel_holds_is_read_before_a_peer_is_judged(
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
        async with open_pair(take_all, heartbeat=IMPATIENT) as peer:
            await trio.sleep(100 * INTERVAL)
            assert peer.pings == 100
            assert peer.closed is None

    async def test_a_dead_peer_that_took_nothing_ends_alone(
        self, autojump_clock: MockClock
    ) -> None:
        async with linked() as link:
            await trio.sleep(0.01)
            link.clog()
            assert (await link.ended()).by is EndReason.MISSED_BEATS
            assert link.ended_at == beat(3)
            assert link.error is None


class TestSlowReaders:
    """Rule 1: a PING that stands behind data has not been heard yet."""

    @pytest.mark.slow
    @pytest.mark.parametrize("misses", [1, 3])
    async def test_a_slow_reader_is_alive_and_one_that_stops_is_not(
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

    async def test_a_peer_that_sent_urgent_data_once_and_is_silent_is_dead(
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
