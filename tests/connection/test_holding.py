"""A peer that sends faster than it may is held back: exact counts in virtual time."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked
from websockets.frames import Close, Frame, Opcode

from tests.support.harness import INTERVAL, Link, linked
from trio_beat import Closed, Connection, EndReason, Heartbeat, Observer
from trio_beat._connection.pacing import BREAK, PATIENCE, PAUSE, Pacing, RatePolicy

BEAT = Heartbeat(INTERVAL, message="beat")


class Told(Observer):
    def __init__(self) -> None:
        self.limits: list[tuple[float, str]] = []

    def limited(self, peer: str, limit: str) -> None:
        assert peer == "local"
        self.limits.append((trio.current_time(), limit))


class Taker:
    """A handler that notes when each message came."""

    def __init__(self) -> None:
        self.times: list[float] = []
        self.messages: list[str | bytes] = []

    async def __call__(self, connection: Connection) -> None:
        async for message in connection:
            self.times.append(trio.current_time())
            self.messages.append(message)


def messages(count: int, data: bytes = b"x") -> bytes:
    return Frame(Opcode.BINARY, data).serialize(mask=True) * count


@asynccontextmanager
async def paced(
    taker: Taker,
    message_rate: float = 0,
    byte_rate: float = 0,
    policy: RatePolicy = "disconnect",
    **options: Any,
) -> AsyncIterator[Link]:
    """A connection that answers PINGs, and whose rate is limited."""
    async with linked(taker, **options) as link:
        link.shared.pacing = Pacing(message_rate, byte_rate, policy)
        yield link


@pytest.mark.parametrize("secure", [False, True], ids=["tcp", "tls"])
async def test_a_burst_passes_at_once_and_the_rest_at_the_rate(
    autojump_clock: MockClock, secure: bool
) -> None:
    taker, told = Taker(), Told()
    async with paced(taker, 10, secure=secure, observer=told) as link:
        await link.peer.send(messages(70))
        await wait_all_tasks_blocked()
        begin = trio.current_time()
        for seconds, count in [(0.05, 20), (1.05, 30), (4.05, 60), (4.95, 69), (5.05, 70)]:
            await trio.sleep(begin + seconds - trio.current_time())
            assert len(taker.times) == count, seconds
        await trio.sleep(1)
        assert link.running
        assert [limit for _, limit in told.limits] == ["message_rate"]
        assert told.limits[0][0] == pytest.approx(begin)
        assert link.counters.limited_by["message_rate"] == 1


async def test_messages_come_in_their_order_and_once(autojump_clock: MockClock) -> None:
    taker = Taker()
    sent = [b"%d" % number for number in range(300)]
    async with paced(taker, 100, inbound=2) as link:
        await link.peer.send(b"".join(messages(1, data) for data in sent))
        await trio.sleep(5)
        assert taker.messages == sent


async def test_what_is_saved_up_is_no_more_than_two_seconds(autojump_clock: MockClock) -> None:
    taker = Taker()
    async with paced(taker, 10) as link:
        await link.peer.send(messages(20))
        await trio.sleep(10)
        taker.times.clear()
        await link.peer.send(messages(30))
        await trio.sleep(0.05)
        assert len(taker.times) == 20


async def test_a_rate_below_one_lets_one_message_pass(autojump_clock: MockClock) -> None:
    taker = Taker()
    async with paced(taker, 0.1, 0) as link:
        await link.peer.send(messages(3))
        await trio.sleep(21)
        assert [time - taker.times[0] for time in taker.times] == pytest.approx([0, 10, 20])


@pytest.mark.parametrize("pause", [0, 0.1])
async def test_pongs_between_messages_give_no_more_of_them(
    autojump_clock: MockClock, pause: float
) -> None:
    taker = Taker()
    pong = Frame(Opcode.PONG, b"x").serialize(mask=True)
    async with paced(taker, 1000) as link:
        await link.peer.send(messages(1))
        await trio.sleep(pause)
        begin = trio.current_time()
        for _ in range(400):
            await link.peer.send(pong)
            await link.peer.send(messages(10))
        await trio.sleep(begin + 1.05 - trio.current_time())
        assert len(taker.times) in range(3000, 3130)  # 2,000 saved up, and those of a second


async def test_text_heartbeats_and_control_frames_are_no_messages(
    autojump_clock: MockClock,
) -> None:
    taker = Taker()
    async with paced(taker, 1, heartbeat=BEAT) as link:
        for _ in range(100):
            await link.peer.send_text("beat")
            await link.peer.send_frame(Opcode.PING, b"x")
            await link.peer.send_frame(Opcode.PONG, b"x")
        await link.peer.send(messages(2))
        await trio.sleep(0.05)
        assert len(taker.times) == 2
        assert not link.counters.limited_by["message_rate"]


@pytest.mark.parametrize("secure", [False, True], ids=["tcp", "tls"])
async def test_bytes_are_read_at_their_rate(autojump_clock: MockClock, secure: bool) -> None:
    """Also those of control frames, and of a message that is not whole."""
    taker, told = Taker(), Told()
    async with paced(taker, 0, 100_000, secure=secure, observer=told) as link:
        pings = Frame(Opcode.PING, b"x" * 119).serialize(mask=True)  # 125 bytes
        sent = pings * 4000 + messages(1, b"y" * 500_000)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(link.peer.send, sent)
            nursery.start_soon(link.peer.closed)  # takes the PONGs
            begin = trio.current_time()
            while not taker.times:  # noqa: ASYNC110 - it has no event
                await trio.sleep(0.1)
            nursery.cancel_scope.cancel()
        # Two seconds' worth were saved up, and the last read may be of 128 KiB.
        seconds = taker.times[0] - begin
        assert (len(sent) - 200_000) / 100_000 - 1.4 <= seconds <= len(sent) / 100_000
        assert {limit for _, limit in told.limits} == {"byte_rate"}


async def test_a_peer_that_is_held_back_is_not_silent(autojump_clock: MockClock) -> None:
    """Its PONGs stand behind what is not read: no beat is missed for that."""
    taker = Taker()
    async with paced(taker, 10, policy="wait") as link:
        await link.peer.send(messages(1000))
        await trio.sleep(20 * INTERVAL)
        assert link.running
        assert link.engine.missed == 0
        assert len(taker.times) == pytest.approx(20 + 10 * 20 * INTERVAL, abs=2)


async def test_who_falls_silent_after_that_is_dead_in_time(autojump_clock: MockClock) -> None:
    taker = Taker()
    async with paced(taker, 10) as link:
        await link.peer.send(messages(50))
        closed = await link.ended()
        assert closed.by is EndReason.MISSED_BEATS
        assert len(taker.times) == 50
        assert taker.times[-1] + 3 * INTERVAL < trio.current_time()
        assert trio.current_time() <= taker.times[-1] + 4 * INTERVAL + PAUSE


async def test_held_back_without_a_break_it_is_disconnected(autojump_clock: MockClock) -> None:
    taker = Taker()
    async with paced(taker, 100) as link:
        await link.peer.send(messages(10_000))
        await wait_all_tasks_blocked()
        begin = trio.current_time()
        assert await link.answer_close() == Close(1008, "too fast for 30 s")
        assert await link.ended() == Closed(EndReason.TOO_FAST, 1008, "too fast for 30 s")
        assert trio.current_time() == pytest.approx(begin + PATIENCE, abs=0.01)
        assert len(taker.times) == pytest.approx(200 + 100 * PATIENCE, abs=11)


async def test_by_the_policy_it_waits_for_ever(autojump_clock: MockClock) -> None:
    taker = Taker()
    async with paced(taker, 100, policy="wait") as link:
        await link.peer.send(messages(10_200))
        await trio.sleep(3 * PATIENCE)
        assert link.running
        assert link.counters.limited_by["message_rate"] == 1
        await trio.sleep(10.05)
        assert len(taker.times) == 10_200


async def test_a_break_of_a_second_begins_anew(autojump_clock: MockClock) -> None:
    taker, told = Taker(), Told()
    async with paced(taker, 100, observer=told) as link:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(link.answer)
            for _ in range(4):
                # 20 s; and again before the bucket is full, but after a break.
                await link.peer.send(messages(2200))
                await trio.sleep(20 + 2 * BREAK)
            assert link.running
            assert len(told.limits) == 4
            nursery.cancel_scope.cancel()


async def test_a_peer_that_is_a_little_too_fast_has_no_break(autojump_clock: MockClock) -> None:
    taker = Taker()
    async with paced(taker, 100) as link, trio.open_nursery() as nursery:
        nursery.start_soon(link.answer)
        while link.connection.closed is None and trio.current_time() < 100:
            await link.peer.send(messages(11))
            await trio.sleep(0.1)
        # What was saved up lasts for 20 s.
        assert trio.current_time() == pytest.approx(20 + PATIENCE, abs=2)
        assert (await link.ended()).by is EndReason.TOO_FAST
        nursery.cancel_scope.cancel()


async def test_exactly_the_rate_is_never_held_back(autojump_clock: MockClock) -> None:
    taker = Taker()
    async with paced(taker, 100) as link, trio.open_nursery() as nursery:
        nursery.start_soon(link.answer)
        for _ in range(120):
            await link.peer.send(messages(100))
            await trio.sleep(1)
        assert len(taker.times) == 12_000
        assert not link.counters.limited_by["message_rate"]
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("how", ["cancel", "shutdown", "application"])
async def test_what_ends_a_connection_ends_one_that_is_held_back(
    autojump_clock: MockClock, how: str
) -> None:
    taker = Taker()
    async with paced(taker, 1) as link:
        await link.peer.send(messages(64))
        await trio.sleep(5)
        if how == "cancel":
            link.scope.cancel()
        elif how == "shutdown":
            link.engine.end_nowait(EndReason.SHUTDOWN, 1001, "")
        else:
            with trio.move_on_after(0.1):
                await link.connection.aclose()
        close = await (link.peer.closed() if how == "cancel" else link.answer_close())
        assert close is not None
        assert close.code == (1000 if how == "application" else 1001)
        await link.ended()
        assert trio.current_time() == pytest.approx(5, abs=1.1)


async def test_an_idle_connection_has_no_pace(autojump_clock: MockClock) -> None:
    taker = Taker()
    async with paced(taker, 10, 1000) as link, trio.open_nursery() as nursery:
        nursery.start_soon(link.answer)
        await trio.sleep(5 * INTERVAL)
        assert link.engine._pace is None
        await link.peer.send(messages(3))
        await trio.sleep(0.1)
        assert link.engine._pace is not None
        await trio.sleep(2 * INTERVAL)
        assert link.engine._pace is None
        nursery.cancel_scope.cancel()
