"""What an observer sees of a connection."""

from __future__ import annotations

import inspect
import sys
from types import FrameType

import pytest
import trio
from trio.testing import MockClock

from tests.support.harness import FIRST_BEAT, INTERVAL, linked
from tests.support.observing import Broken, Tally
from trio_beat import Closed, EndReason, Heartbeat, Observer, SlowPolicy

BEATS = 10


@pytest.mark.parametrize("message", [None, "beat"])
async def test_each_beat_is_told_once_with_what_was_judged(
    message: str | None, autojump_clock: MockClock
) -> None:
    tally = Tally()
    heartbeat = Heartbeat(INTERVAL, misses=3, message=message)
    async with linked(heartbeat=heartbeat, observer=tally) as link:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(link.answer, 0.5)
            await trio.sleep(FIRST_BEAT + BEATS * INTERVAL - 1)
            nursery.cancel_scope.cancel()
        assert tally.beats == {"/ws/x": [(0, None)] + [(0, 0.5)] * (BEATS - 1)}
        tally.beats.clear()
        assert await link.ended() == Closed(EndReason.MISSED_BEATS, 1006, "3 in a row")
    assert tally.beats == {"/ws/x": [(missed, 0.5) for missed in range(4)]}
    assert (tally.opens, tally.ends) == (1, {EndReason.MISSED_BEATS: 1})


@pytest.mark.parametrize("observer", [None, Observer()], ids=["none", "idle"])
async def test_a_beat_that_is_not_observed_calls_nothing(
    observer: Observer | None, autojump_clock: MockClock
) -> None:
    module, called = inspect.getfile(Observer), []

    def note(frame: FrameType, event: str, _: object) -> None:
        if event == "call" and frame.f_code.co_filename == module:
            called.append(frame.f_code.co_name)

    async with linked(observer=observer) as link, trio.open_nursery() as nursery:
        nursery.start_soon(link.answer)
        await trio.sleep(FIRST_BEAT)
        sys.setprofile(note)
        try:
            await trio.sleep(BEATS * INTERVAL)
        finally:
            sys.setprofile(None)
        nursery.cancel_scope.cancel()
    assert called == []


async def test_dropped_messages_are_told(autojump_clock: MockClock) -> None:
    tally = Tally()
    policy = SlowPolicy.DROP_OLDEST
    async with linked(outbox=25_000, slow_policy=policy, observer=tally) as link:
        link.clog()
        for _ in range(20):
            link.connection.send_nowait(b"\0" * 10_000)
        assert tally.drops == link.connection.statistics().dropped > 10


async def test_an_observer_that_raises_ends_nothing(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async with linked(observer=Broken()) as link, trio.open_nursery() as nursery:
        nursery.start_soon(link.answer)
        await trio.sleep(FIRST_BEAT + BEATS * INTERVAL - 1)
        nursery.cancel_scope.cancel()
        assert link.running
        link.connection.send_nowait("hello")
        assert await link.peer.text() == "hello"
        await link.peer.send_close()
        assert await link.ended() == Closed(EndReason.PEER, 1000, "")
    assert caplog.messages == [
        "opened of the observer failed",
        *["beat of the observer failed"] * BEATS,
        "ended of the observer failed",
    ]
    assert all(record.exc_info is not None for record in caplog.records)


async def test_the_end_is_told_when_the_handler_has_ended(autojump_clock: MockClock) -> None:
    order: list[str] = []

    class Order(Observer):
        def opened(self, connection: object) -> None:
            order.append("opened")

        def ended(self, connection: object, closed: object) -> None:
            order.append("ended")

    async def handler(_: object) -> None:
        order.append("handler")
        try:
            await trio.sleep_forever()
        finally:
            order.append("handler is left")

    async with linked(handler, observer=Order()) as link:
        await trio.sleep(1)
        await link.peer.send_close()
        assert (await link.peer.frame()) is not None
        await link.ended()
    assert order == ["opened", "handler", "handler is left", "ended"]
