"""The shared clock, on a virtual one: 16 slots in 4 seconds, a tick every 1/4 of a second."""

from __future__ import annotations

import math
from functools import partial
from itertools import pairwise
from typing import NamedTuple

import pytest
import trio
import trio.testing
from hypothesis import given, settings
from hypothesis import strategies as st
from trio.testing import MockClock, wait_all_tasks_blocked

from trio_beat._heartbeat import Verdict
from trio_beat._metronome import Beat, Metronome, Seat

INTERVAL = 4.0
SLOTS = 16
TICK = INTERVAL / SLOTS


class Heard(NamedTuple):
    """A beat that a seat was told of."""

    seat: int
    time: float
    beat: Beat


class Orchestra:
    """Seats that note their beats."""

    def __init__(self, metronome: Metronome) -> None:
        self.metronome = metronome
        self.heard: list[Heard] = []
        self._next = 0

    async def play(self) -> None:
        """Take a seat and note its beats until cancelled."""
        number, self._next = self._next, self._next + 1
        seat = self.metronome.seat()
        try:
            while True:
                beat = await seat.beat()
                self.heard.append(Heard(number, trio.current_time(), beat))
        finally:
            seat.leave()

    async def start(self, nursery: trio.Nursery, seats: int) -> None:
        """Start seats, and wait until all of them are parked."""
        for _ in range(seats):
            nursery.start_soon(self.play)
        await wait_all_tasks_blocked()

    def of_each_seat(self) -> list[list[Heard]]:
        """What was heard, for one seat after the other."""
        return [[heard for heard in self.heard if heard.seat == i] for i in range(self._next)]


def next_deadline() -> float:
    """Seconds after which Trio has something to wake for."""
    return trio.lowlevel.current_statistics().seconds_to_next_deadline


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
    """Whoever stays came in the same slot's turn: by turns alone that slot would have them all."""
    metronome = Metronome(INTERVAL)
    for _ in range(4 * SLOTS):
        metronome.seat()
        for passer_by in [metronome.seat() for _ in range(SLOTS - 1)]:
            passer_by.leave()
    assert sum(metronome.seats) == 4 * SLOTS
    assert max(metronome.seats) <= 24


async def test_beats_are_spread_over_the_interval(autojump_clock: MockClock) -> None:
    orchestra = Orchestra(Metronome(INTERVAL))
    async with trio.open_nursery() as nursery:
        await nursery.start(orchestra.metronome.run)
        await orchestra.start(nursery, 4 * SLOTS)
        seats = orchestra.metronome.seats
        await trio.sleep(INTERVAL + TICK / 2)
        nursery.cancel_scope.cancel()
    times = [heard.time for heard in orchestra.heard]
    # The first slot's turn at 0 had passed before anybody sat there.
    assert [times.count(tick * TICK) for tick in range(1, SLOTS + 1)] == [*seats[1:], seats[0]]
    assert len(times) == 4 * SLOTS


async def test_seat_has_its_first_beat_within_one_interval_and_then_one_each(
    autojump_clock: MockClock,
) -> None:
    orchestra = Orchestra(Metronome(INTERVAL))
    async with trio.open_nursery() as nursery:
        await nursery.start(orchestra.metronome.run)
        await trio.sleep(1.01)
        await orchestra.start(nursery, 100)
        await trio.sleep(10 * INTERVAL)
        nursery.cancel_scope.cancel()
    for heard in orchestra.of_each_seat():
        assert len(heard) == 10
        assert 1.01 < heard[0].time <= 1.01 + INTERVAL
        assert {b.time - a.time for a, b in pairwise(heard)} == {INTERVAL}
        assert {b.beat.number - a.beat.number for a, b in pairwise(heard)} == {SLOTS}
        assert all(beat.whole for _, _, beat in heard)


class Parties(trio.abc.Instrument):
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


async def test_many_of_one_slot_are_woken_some_at_a_time(autojump_clock: MockClock) -> None:
    orchestra, parties = Orchestra(Metronome(0.5)), Parties()  # the fewest slots: four
    async with trio.open_nursery() as nursery:
        await nursery.start(orchestra.metronome.run)
        for _ in range(800):
            nursery.start_soon(orchestra.play, name="seat")
        await wait_all_tasks_blocked()
        trio.lowlevel.add_instrument(parties)
        await trio.sleep(5.01)
        trio.lowlevel.remove_instrument(parties)
        nursery.cancel_scope.cancel()
    assert [len(heard) for heard in orchestra.of_each_seat()] == [10] * 800
    assert 0 < max(parties.sizes) <= 64


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
                # Those of the slot who are not woken yet are cancelled in the midst of it.
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
        assert 0 < beaten < 100
        assert left == 1000
        assert not any(metronome.seats)
        nursery.cancel_scope.cancel()


async def test_seats_that_were_parked_before_the_clock_runs_are_served(
    autojump_clock: MockClock,
) -> None:
    orchestra = Orchestra(Metronome(INTERVAL))
    async with trio.open_nursery() as nursery:
        await orchestra.start(nursery, SLOTS)
        await nursery.start(orchestra.metronome.run)
        await trio.sleep(INTERVAL - TICK / 2)
        nursery.cancel_scope.cancel()
    assert [len(heard) for heard in orchestra.of_each_seat()] == [1] * SLOTS


@pytest.mark.parametrize("late", [TICK, 1.0, INTERVAL / 2])
async def test_late_ticks_are_made_up_for_at_once(autojump_clock: MockClock, late: float) -> None:
    """A tick is due a quarter of a second after the clock jumps: late by less than half."""
    orchestra = Orchestra(Metronome(INTERVAL))
    async with trio.open_nursery() as nursery:
        await nursery.start(orchestra.metronome.run)
        await orchestra.start(nursery, 4 * SLOTS)
        await trio.sleep(2 * INTERVAL)
        await wait_all_tasks_blocked()
        seats = orchestra.metronome.seats
        orchestra.heard.clear()
        autojump_clock.jump(late)
        await wait_all_tasks_blocked()
        ticks = round(late / TICK)
        numbers = [heard.beat.number for heard in orchestra.heard]
        made_up = range(2 * SLOTS + 1, 2 * SLOTS + 1 + ticks)
        assert [numbers.count(number) for number in made_up] == seats[1 : ticks + 1]
        assert set(numbers) == set(made_up)
        assert all(beat.whole for _, _, beat in orchestra.heard)
        # From then on everybody is in time again.
        orchestra.heard.clear()
        await trio.sleep(INTERVAL + TICK / 2)
        nursery.cancel_scope.cancel()
    assert len(orchestra.heard) == 4 * SLOTS
    assert all(time == beat.number * TICK for _, time, beat in orchestra.heard)


@pytest.mark.parametrize("stall", [INTERVAL / 2 + TICK, INTERVAL, 1000 * INTERVAL])
async def test_ticks_of_a_stall_are_postponed_and_one_revolution_is_not_whole(
    autojump_clock: MockClock, stall: float
) -> None:
    orchestra = Orchestra(Metronome(INTERVAL))
    async with trio.open_nursery() as nursery:
        await nursery.start(orchestra.metronome.run)
        await orchestra.start(nursery, 4 * SLOTS)
        await trio.sleep(2 * INTERVAL)
        await wait_all_tasks_blocked()
        orchestra.heard.clear()
        autojump_clock.jump(stall)
        await wait_all_tasks_blocked()
        assert orchestra.heard == []  # no burst
        await trio.sleep(3 * INTERVAL - TICK / 2)
        nursery.cancel_scope.cancel()
    for heard in orchestra.of_each_seat():
        assert [beat.whole for _, _, beat in heard] == [False, True, True]
    # The tick that was due is woken when the readers have had a moment, with the one behind it.
    postponed = stall - TICK
    first = min(heard.beat.number for heard in orchestra.heard)
    assert first == 2 * SLOTS + 1
    for _, time, beat in orchestra.heard:
        assert time == beat.number * TICK + postponed + (TICK if beat.number == first else 0)


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
    orchestra = Orchestra(Metronome(INTERVAL))
    stalls: list[tuple[float, float]] = []

    async def main() -> None:
        postponed = 0.0
        async with trio.open_nursery() as nursery:
            await nursery.start(orchestra.metronome.run)
            await orchestra.start(nursery, 8)
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
    for heard in orchestra.of_each_seat():
        forgiven = False
        for (_, begin, last), (_, end, beat) in pairwise(heard):
            stalled = any(begin <= a and b <= end for a, b in stalls)
            forgiven = stalled and not forgiven
            assert beat.number == last.number + SLOTS
            assert beat.whole == (not forgiven)
            assert end - begin > INTERVAL / 2


async def test_a_clock_that_is_late_all_the_time_still_beats(autojump_clock: MockClock) -> None:
    """Only the first of many stalls is forgiven: a busy process must let its dead go."""
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
    orchestra = Orchestra(Metronome(INTERVAL))
    async with trio.open_nursery() as nursery:
        await nursery.start(orchestra.metronome.run)
        await orchestra.start(nursery, 8)
        for _ in range(20):
            await trio.sleep(INTERVAL / 2)
            await wait_all_tasks_blocked()
            autojump_clock.jump(INTERVAL * 3 / 4)
            await wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    for heard in orchestra.of_each_seat():
        assert sum(beat.whole for _, _, beat in heard) >= 15


class Crowd:
    """Peers over a metronome and their verdicts, without sockets.

    Args:
        misses: beats in a row that a peer may miss.
    """

    def __init__(self, misses: int) -> None:
        self.metronome = Metronome(INTERVAL)
        self._misses = misses
        #: When each of the dead, and of the living, was found dead.
        self.dead: list[float] = []
        self.living: list[float] = []

    async def peer(self, *, answers: bool) -> None:
        """Answer each PING after an eighth of an interval, or none; until found dead."""
        verdict, seat = Verdict(self._misses), self.metronome.seat()
        verdict.listen()
        answer = math.inf
        try:
            while True:
                beat = await seat.beat()
                if answers and answer <= trio.current_time():
                    verdict.heard()
                    verdict.listen()
                if verdict.beat(fair=beat.whole):
                    (self.living if answers else self.dead).append(trio.current_time())
                    return
                answer = trio.current_time() + INTERVAL / 8
        finally:
            seat.leave()


@pytest.mark.parametrize("misses", [1, 3])
@pytest.mark.parametrize(
    ("running", "stalled"),
    [(5.5, 2.5), (2.4, 2.1), (10, 30), (3, 30), (4.0, 2.5), (4.25, 2.5), (8, 8), (1, 3), (0.5, 4)],
)
async def test_the_dead_go_however_often_the_process_stalls(
    running: float, stalled: float, misses: int, autojump_clock: MockClock
) -> None:
    """Within ``2 * misses + 1`` intervals of running time, and nobody else does."""
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


async def test_time_without_seats_is_no_stall(autojump_clock: MockClock) -> None:
    orchestra = Orchestra(Metronome(INTERVAL))
    async with trio.open_nursery() as nursery:
        await nursery.start(orchestra.metronome.run)
        await trio.sleep(100.01 * INTERVAL)
        await orchestra.start(nursery, SLOTS)
        assert orchestra.heard == []  # nor is anything made up for
        await trio.sleep(INTERVAL)
        nursery.cancel_scope.cancel()
    for heard in orchestra.of_each_seat():
        assert [(beat.number * TICK, beat.whole) for _, _, beat in heard] == [(heard[0].time, True)]


async def test_cancelled_while_parked_leaves_nothing(autojump_clock: MockClock) -> None:
    orchestra = Orchestra(Metronome(INTERVAL))
    async with trio.open_nursery() as nursery:
        await nursery.start(orchestra.metronome.run)
        async with trio.open_nursery() as seats:
            await orchestra.start(seats, 4 * SLOTS)
            seats.cancel_scope.cancel()
        assert orchestra.metronome.seats == [0] * SLOTS
        assert orchestra.metronome._slots == [[] for _ in range(SLOTS)]
        await trio.sleep(2 * INTERVAL)
        assert orchestra.heard == []
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
def test_whoever_leaves_takes_nobody_else_s_place(choices: list[int]) -> None:
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
