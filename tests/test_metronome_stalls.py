"""The shared clock where the process stands still: what is postponed, forgiven, made up for."""

from __future__ import annotations

import math
from functools import partial
from itertools import pairwise

import pytest
import trio
import trio.testing
from hypothesis import given, settings
from hypothesis import strategies as st
from trio.testing import MockClock, wait_all_tasks_blocked

from tests.support.recorder import INTERVAL, SLOTS, TICK, Crowd, Recorder
from trio_beat._metronome import Beat, Metronome


@pytest.mark.parametrize("late", [TICK, 1.0, INTERVAL / 2])
async def test_late_ticks_are_made_up_for_at_once(autojump_clock: MockClock, late: float) -> None:
    """A tick is due a quarter of a second after the clock jumps: late by less than half."""
    recorder = Recorder(Metronome(INTERVAL))
    async with trio.open_nursery() as nursery:
        await nursery.start(recorder.metronome.run)
        await recorder.start(nursery, 4 * SLOTS)
        await trio.sleep(2 * INTERVAL)
        await wait_all_tasks_blocked()
        seats = recorder.metronome.seats
        recorder.heard.clear()
        autojump_clock.jump(late)
        await wait_all_tasks_blocked()
        ticks = round(late / TICK)
        numbers = [heard.beat.number for heard in recorder.heard]
        made_up = range(2 * SLOTS + 1, 2 * SLOTS + 1 + ticks)
        assert [numbers.count(number) for number in made_up] == seats[1 : ticks + 1]
        assert set(numbers) == set(made_up)
        assert all(beat.whole for _, _, beat in recorder.heard)
        # From then on all beats are in time again.
        recorder.heard.clear()
        await trio.sleep(INTERVAL + TICK / 2)
        nursery.cancel_scope.cancel()
    assert len(recorder.heard) == 4 * SLOTS
    assert all(time == beat.number * TICK for _, time, beat in recorder.heard)


@pytest.mark.parametrize("stall", [INTERVAL / 2 + TICK, INTERVAL, 1000 * INTERVAL])
async def test_ticks_of_a_stall_are_postponed_and_one_revolution_is_not_whole(
    autojump_clock: MockClock, stall: float
) -> None:
    recorder = Recorder(Metronome(INTERVAL))
    async with trio.open_nursery() as nursery:
        await nursery.start(recorder.metronome.run)
        await recorder.start(nursery, 4 * SLOTS)
        await trio.sleep(2 * INTERVAL)
        await wait_all_tasks_blocked()
        recorder.heard.clear()
        autojump_clock.jump(stall)
        await wait_all_tasks_blocked()
        assert recorder.heard == []  # no burst
        await trio.sleep(3 * INTERVAL - TICK / 2)
        nursery.cancel_scope.cancel()
    for heard in recorder.of_each_seat():
        assert [beat.whole for _, _, beat in heard] == [False, True, True]
    # The tick that was due is woken when the readers have had a moment, with the one behind it.
    postponed = stall - TICK
    first = min(heard.beat.number for heard in recorder.heard)
    assert first == 2 * SLOTS + 1
    for _, time, beat in recorder.heard:
        assert time == beat.number * TICK + postponed + (TICK if beat.number == first else 0)


@pytest.mark.slow
@settings(deadline=None)
@given(
    jumps=st.lists(
        st.tuples(st.integers(2 * SLOTS + 4, 240), st.integers(1, 160)).map(
            lambda ticks: (ticks[0] * TICK / 2, ticks[1] * TICK / 2)
        ),
        max_size=8,
    )
)
def test_whatever_the_clock_does_seats_miss_no_beat_and_learn_of_stalls(
    jumps: list[tuple[float, float]],
) -> None:
    """Each jump stands behind an interval in which the clock is in order."""
    clock = MockClock(autojump_threshold=0)
    recorder = Recorder(Metronome(INTERVAL))
    stalls: list[tuple[float, float]] = []

    async def main() -> None:
        postponed = 0.0
        async with trio.open_nursery() as nursery:
            await nursery.start(recorder.metronome.run)
            await recorder.start(nursery, 8)
            for quiet, jump in jumps:
                await trio.sleep(quiet)
                await wait_all_tasks_blocked()
                before = trio.current_time()
                clock.jump(jump)
                await wait_all_tasks_blocked()
                due = (math.floor((before - postponed) / TICK) + 1) * TICK + postponed
                if trio.current_time() - due >= INTERVAL / 2:
                    stalls.append((before, trio.current_time()))
                    postponed += trio.current_time() - due
            await trio.sleep(2 * INTERVAL)
            nursery.cancel_scope.cancel()

    trio.run(main, clock=clock)
    for heard in recorder.of_each_seat():
        forgiven = False
        for (_, begin, last), (_, end, beat) in pairwise(heard):
            stalled = any(begin <= a and b <= end for a, b in stalls)
            forgiven = stalled and not forgiven
            assert beat.number == last.number + SLOTS
            assert beat.whole == (not forgiven)
            assert end - begin > INTERVAL / 2


async def test_a_clock_that_is_late_all_the_time_still_beats(autojump_clock: MockClock) -> None:
    """Only the first of many stalls is forgiven: a busy process must find its dead peers."""
    metronome = Metronome(INTERVAL)
    beats: list[Beat] = []

    async def note() -> None:
        seat = metronome.seat()
        try:
            while True:
                beats.append(await seat.beat())
        finally:
            seat.leave()

    async with trio.open_nursery() as nursery:
        await nursery.start(metronome.run)
        nursery.start_soon(note)
        await trio.testing.wait_all_tasks_blocked()
        for _ in range(10):
            autojump_clock.jump(INTERVAL)
            await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    # Half an interval of each stall but the first counts as running.
    assert len(beats) == 6
    assert [beat.whole for beat in beats] == [False] + 5 * [True]


async def test_a_clock_that_is_late_now_and_then_still_beats(autojump_clock: MockClock) -> None:
    """Stalls with punctual ticks between them are forgiven no more often."""
    recorder = Recorder(Metronome(INTERVAL))
    async with trio.open_nursery() as nursery:
        await nursery.start(recorder.metronome.run)
        await recorder.start(nursery, 8)
        for _ in range(20):
            await trio.sleep(INTERVAL / 2)
            await wait_all_tasks_blocked()
            autojump_clock.jump(INTERVAL * 3 / 4)
            await wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    for heard in recorder.of_each_seat():
        assert sum(beat.whole for _, _, beat in heard) >= 15


@pytest.mark.slow
@pytest.mark.parametrize("misses", [1, 3])
@pytest.mark.parametrize(
    ("running", "stalled"),
    [(5.5, 2.5), (2.4, 2.1), (10, 30), (3, 30), (4.0, 2.5), (4.25, 2.5), (8, 8), (1, 3), (0.5, 4)],
)
async def test_the_dead_go_however_often_the_process_stalls(
    running: float, stalled: float, misses: int, autojump_clock: MockClock
) -> None:
    """Within ``2 * misses + 1`` intervals of running time, and no living peer does."""
    crowd = Crowd(misses)
    stalls: list[float] = []  # when they were over
    async with trio.open_nursery() as nursery:
        await nursery.start(crowd.metronome.run)
        for index in range(180):
            nursery.start_soon(partial(crowd.peer, answers=index % 9 == 0))
        for _ in range(200):
            await trio.sleep(running)
            await wait_all_tasks_blocked()
            autojump_clock.jump(stalled)
            stalls.append(trio.current_time())
            await wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    assert len(crowd.dead) == 160
    assert crowd.living == []
    last = max(crowd.dead)
    ran = last - stalled * sum(over <= last for over in stalls)
    assert ran <= (2 * misses + 1) * INTERVAL + TICK


async def test_time_without_seats_is_no_stall(autojump_clock: MockClock) -> None:
    recorder = Recorder(Metronome(INTERVAL))
    async with trio.open_nursery() as nursery:
        await nursery.start(recorder.metronome.run)
        await trio.sleep(100.01 * INTERVAL)
        await recorder.start(nursery, SLOTS)
        assert recorder.heard == []  # nor is anything made up for
        await trio.sleep(INTERVAL)
        nursery.cancel_scope.cancel()
    for heard in recorder.of_each_seat():
        assert [(beat.number * TICK, beat.whole) for _, _, beat in heard] == [(heard[0].time, True)]
