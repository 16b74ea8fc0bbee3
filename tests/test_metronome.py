"""The shared clock, on a virtual one: turns, their spread, and which tasks are woken."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import MockClock, wait_all_tasks_blocked

from tests.support.recorder import INTERVAL, SLOTS, TICK, Recorder, next_deadline
from trio_beat._metronome import Beat, Metronome, Seat


@pytest.mark.parametrize(
    ("interval", "slots"), [(0.001, 4), (0.5, 4), (1.0, 4), (4.0, 16), (256.0, 1024), (3600, 1024)]
)
def test_slots_are_a_quarter_of_a_second_within_bounds(interval: float, slots: int) -> None:
    assert Metronome(interval).seats == [0] * slots


def test_as_many_seats_as_slots_fill_them_evenly() -> None:
    metronome = Metronome(INTERVAL)
    for _ in range(10 * SLOTS):
        metronome.seat()
    assert metronome.seats == [10] * SLOTS


def test_spread_withstands_a_pattern_of_coming_and_going() -> None:
    """All that stay came in the same slot's turn: by turns alone that slot would have them all."""
    metronome = Metronome(INTERVAL)
    for _ in range(4 * SLOTS):
        metronome.seat()
        for brief in [metronome.seat() for _ in range(SLOTS - 1)]:
            brief.leave()
    assert sum(metronome.seats) == 4 * SLOTS
    assert max(metronome.seats) <= 24


async def test_beats_are_spread_over_the_interval(autojump_clock: MockClock) -> None:
    recorder = Recorder(Metronome(INTERVAL))
    async with trio.open_nursery() as nursery:
        await nursery.start(recorder.metronome.run)
        await recorder.start(nursery, 4 * SLOTS)
        seats = recorder.metronome.seats
        await trio.sleep(INTERVAL + TICK / 2)
        nursery.cancel_scope.cancel()
    times = [heard.time for heard in recorder.heard]
    # The first slot's turn at 0 had passed before there was a seat.
    assert [times.count(tick * TICK) for tick in range(1, SLOTS + 1)] == [*seats[1:], seats[0]]
    assert len(times) == 4 * SLOTS


async def test_seat_has_its_first_beat_within_one_interval_and_then_one_each(
    autojump_clock: MockClock,
) -> None:
    recorder = Recorder(Metronome(INTERVAL))
    async with trio.open_nursery() as nursery:
        await nursery.start(recorder.metronome.run)
        await trio.sleep(1.01)
        await recorder.start(nursery, 100)
        await trio.sleep(10 * INTERVAL)
        nursery.cancel_scope.cancel()
    for heard in recorder.of_each_seat():
        assert len(heard) == 10
        assert 1.01 < heard[0].time <= 1.01 + INTERVAL
        assert {b.time - a.time for a, b in pairwise(heard)} == {INTERVAL}
        assert {b.beat.number - a.beat.number for a, b in pairwise(heard)} == {SLOTS}
        assert all(beat.whole for _, _, beat in heard)


class Batches(trio.abc.Instrument):
    """Counts the tasks that ran in each pass of the scheduler."""

    def __init__(self) -> None:
        self.sizes: list[int] = []
        self._tasks: set[trio.lowlevel.Task] = set()

    def task_scheduled(self, task: trio.lowlevel.Task) -> None:
        if task.name == "seat":
            self._tasks.add(task)

    def before_io_wait(self, timeout: float) -> None:
        self.sizes.append(len(self._tasks))
        self._tasks.clear()


@pytest.mark.slow
async def test_many_of_one_slot_are_woken_some_at_a_time(autojump_clock: MockClock) -> None:
    recorder, batches = Recorder(Metronome(0.5)), Batches()  # the fewest slots: four
    async with trio.open_nursery() as nursery:
        await nursery.start(recorder.metronome.run)
        for _ in range(800):
            nursery.start_soon(recorder.record, name="seat")
        await wait_all_tasks_blocked()
        trio.lowlevel.add_instrument(batches)
        await trio.sleep(5.01)
        trio.lowlevel.remove_instrument(batches)
        nursery.cancel_scope.cancel()
    assert [len(heard) for heard in recorder.of_each_seat()] == [10] * 800
    assert 0 < max(batches.sizes) <= 64


@pytest.mark.parametrize("turn", [1, 2, 7])
async def test_turn_says_how_many_are_woken_at_a_time(autojump_clock: MockClock, turn: int) -> None:
    recorder, batches = Recorder(Metronome(0.5)), Batches()
    recorder.metronome.turn = turn
    async with trio.open_nursery() as nursery:
        await nursery.start(recorder.metronome.run)
        for _ in range(40):
            nursery.start_soon(recorder.record, name="seat")
        await wait_all_tasks_blocked()
        trio.lowlevel.add_instrument(batches)
        await trio.sleep(1.01)
        trio.lowlevel.remove_instrument(batches)
        nursery.cancel_scope.cancel()
    assert [len(heard) for heard in recorder.of_each_seat()] == [2] * 40
    assert max(batches.sizes) == turn


async def test_a_seat_may_be_left_while_its_turn_is_due(autojump_clock: MockClock) -> None:
    metronome = Metronome(0.5)
    beaten = left = 0

    async def play(scope: trio.CancelScope) -> None:
        nonlocal beaten, left
        seat = metronome.seat()
        try:
            with scope:
                await seat.beat()
                beaten += 1
                # The others of the slot, which are not woken yet, are cancelled in the midst of it.
                for other in scopes:
                    other.cancel()
        finally:
            seat.leave()
            left += 1

    scopes = [trio.CancelScope() for _ in range(1000)]
    async with trio.open_nursery() as nursery:
        await nursery.start(metronome.run)
        for scope in scopes:
            nursery.start_soon(play, scope)
        await trio.sleep(1)
        # A batch, or two: Trio runs tasks in random order, and the clock's may precede the first.
        assert beaten in (64, 128)
        assert left == 1000
        assert not any(metronome.seats)
        nursery.cancel_scope.cancel()


async def test_seats_that_were_parked_before_the_clock_runs_are_served(
    autojump_clock: MockClock,
) -> None:
    recorder = Recorder(Metronome(INTERVAL))
    async with trio.open_nursery() as nursery:
        await recorder.start(nursery, SLOTS)
        await nursery.start(recorder.metronome.run)
        await trio.sleep(INTERVAL - TICK / 2)
        nursery.cancel_scope.cancel()
    assert [len(heard) for heard in recorder.of_each_seat()] == [1] * SLOTS


async def test_a_seat_without_a_task_is_called_until_it_is_left(autojump_clock: MockClock) -> None:
    metronome, beats = Metronome(INTERVAL), list[Beat]()
    seat = metronome.call(beats.append)
    async with trio.open_nursery() as nursery:
        await nursery.start(metronome.run)
        await trio.sleep(3 * INTERVAL + TICK / 2)
        assert len(beats) == 3
        assert all(beat.whole for beat in beats)
        seat.leave()
        assert not seat.parked
        await trio.sleep(3 * INTERVAL)
        nursery.cancel_scope.cancel()
    assert len(beats) == 3
    assert metronome.seats == [0] * SLOTS


async def test_without_seats_there_is_nothing_to_wake_for(autojump_clock: MockClock) -> None:
    metronome = Metronome(INTERVAL)
    async with trio.open_nursery() as nursery:
        await nursery.start(metronome.run)
        await wait_all_tasks_blocked()
        assert next_deadline() == math.inf
        seat = metronome.seat()
        await wait_all_tasks_blocked()
        assert next_deadline() <= TICK
        seat.leave()
        await trio.sleep(TICK)
        await wait_all_tasks_blocked()
        assert next_deadline() == math.inf
        nursery.cancel_scope.cancel()


async def test_cancelled_while_parked_leaves_nothing(autojump_clock: MockClock) -> None:
    recorder = Recorder(Metronome(INTERVAL))
    async with trio.open_nursery() as nursery:
        await nursery.start(recorder.metronome.run)
        async with trio.open_nursery() as seats:
            await recorder.start(seats, 4 * SLOTS)
            seats.cancel_scope.cancel()
        assert recorder.metronome.seats == [0] * SLOTS
        assert recorder.metronome._slots == [[] for _ in range(SLOTS)]
        await trio.sleep(2 * INTERVAL)
        assert recorder.heard == []
        nursery.cancel_scope.cancel()


async def test_beat_that_is_on_its_way_is_not_lost_to_a_cancellation(
    autojump_clock: MockClock,
) -> None:
    """The first of a slot to run cancels all: the rest of its slot was woken with it."""
    metronome = Metronome(interval=0.1)
    beats: list[Beat] = []
    async with trio.open_nursery() as nursery:
        await nursery.start(metronome.run)
        async with trio.open_nursery() as seats:

            async def play_once() -> None:
                seat = metronome.seat()
                try:
                    beats.append(await seat.beat())
                    seats.cancel_scope.cancel()
                finally:
                    seat.leave()

            for _ in range(100):
                seats.start_soon(play_once)
            await wait_all_tasks_blocked()
            seated = metronome.seats
        assert len(set(beats)) == 1
        assert len(beats) == seated[beats[0].number % len(seated)] > 1
        assert metronome.seats == [0] * len(seated)
        assert metronome._slots == [[] for _ in seated]
        nursery.cancel_scope.cancel()


class TestAsking:
    async def test_a_seat_that_sleeps_on_is_asked_at_each_beat(
        self, autojump_clock: MockClock
    ) -> None:
        metronome = Metronome(INTERVAL)
        beats: list[float] = []

        def ask(beat: Beat) -> Beat | None:
            beats.append(trio.current_time())
            return beat if len(beats) == 3 else None

        async with trio.open_nursery() as nursery:
            await nursery.start(metronome.run)
            seat = metronome.seat()
            beat = await seat.beat(ask)
            assert trio.current_time() == beats[-1] == beat.number * TICK
            assert [second - first for first, second in pairwise(beats)] == [INTERVAL] * 2
            seat.leave()
            nursery.cancel_scope.cancel()

    async def test_cancelled_and_parked_again_is_asked_once_a_beat(
        self, autojump_clock: MockClock
    ) -> None:
        metronome = Metronome(INTERVAL)
        asked: list[float] = []
        async with trio.open_nursery() as nursery:
            await nursery.start(metronome.run)
            seat = metronome.seat()
            for _ in range(100):
                with trio.move_on_after(0.01):
                    await seat.beat(lambda _: None)
            with trio.move_on_after(4 * INTERVAL):
                await seat.beat(lambda _: asked.append(trio.current_time()))
            assert len(asked) == 4
            assert sum(metronome.seats) == 1
            seat.leave()
            nursery.cancel_scope.cancel()

    async def test_many_are_asked_a_few_at_a_time(self, autojump_clock: MockClock) -> None:
        metronome = Metronome(INTERVAL)
        asked, most = 0, 0

        class Passes(trio.abc.Instrument):
            def before_io_wait(self, timeout: float) -> None:
                nonlocal asked, most
                asked, most = 0, max(most, asked)

        def ask(_: Beat) -> None:
            nonlocal asked
            asked += 1

        async def play() -> None:
            seat = metronome.seat()
            try:
                await seat.beat(ask)
            finally:
                seat.leave()

        async with trio.open_nursery() as nursery:
            await nursery.start(metronome.run)
            for _ in range(SLOTS * 200):
                nursery.start_soon(play)
            await wait_all_tasks_blocked()
            trio.lowlevel.add_instrument(passes := Passes())
            await trio.sleep(2 * INTERVAL)
            trio.lowlevel.remove_instrument(passes)
            nursery.cancel_scope.cancel()
        assert 0 < most <= 64


@given(st.lists(st.integers(0, 2**16), max_size=60))
def test_a_seat_that_is_left_takes_no_other_s_place(choices: list[int]) -> None:
    """A seat is taken where the number is even, and given back where it is odd."""
    metronome = Metronome(INTERVAL, slots=2)
    seats: list[Seat] = []
    for choice in choices:
        if choice % 2 and seats:
            seats.pop(choice % len(seats)).leave()
        else:
            seats.append(metronome.seat())
        found = [seat for slot in metronome._slots for seat in slot]
        assert sorted(map(id, found)) == sorted(map(id, seats))
        assert sum(metronome.seats) == len(seats)
