"""One clock for all heartbeats.

The interval is divided into slots, and one task goes through one slot after the other. A heartbeat
has a seat in a slot and parks there until its turn: no cancel scope, no deadline in Trio's heap. It
is asked before it is woken, and sleeps on where there is nothing to judge (`Parking`).

1. A seat keeps its slot, so its beats are one interval apart.
2. New seats go to the emptier of two slots, one taken in turn and one by chance: beats stay spread
   evenly whatever the pattern in which connections come and go.
3. A tick that comes a little late is made up for at once. After a stall - the clock stood still for
   half an interval or more - the ticks are postponed by the time stalled: nobody is beaten in a
   burst or left out, and a seat's beats are one interval of *running* time apart. The first beat
   of a seat after it was not whole, and the seat is told.
4. A process that stalls again and again is not frozen but busy, and its dead must go. So a seat is
   never told this of two beats in a row: a peer that may miss `misses` beats goes within
   ``2 * misses + 1`` intervals of running time. A stall that follows another within an interval is
   not forgiven, and half an interval of it counts as running: a clock that is always late beats.
5. With no seats there is nothing to wake for, and the clock stops.
"""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable
from typing import NamedTuple

import trio

from ._parking import Parking

#: Ticks a second: fine enough for an even spread, coarse enough for a tick to be shared by many.
_TICKS_PER_SECOND = 4
_FEWEST_SLOTS, _MOST_SLOTS = 4, 1024
#: Heartbeats that are asked before other tasks get a turn. Where they are woken, more than a few
#: hundred objects that are made at once start Python's collector, which would find nothing each
#: time, and in the end look through all connections: with 16,000 of them a third of what their
#: beats cost, and long pauses.
_TURN = 64
#: A tick that is late by this share of an interval or more means that the process stood still.
_STALL = 0.5
#: Share of an interval that readers get after a stall to take what has come meanwhile.
_SETTLE = 1 / 16


class Beat(NamedTuple):
    """What a heartbeat is told when its turn has come."""

    #: Counts ticks; the same for all seats of a slot.
    number: int
    #: False when the clock stood still at some time since the seat's last beat, and that one was
    #: whole.
    whole: bool


class Metronome:
    """Tells heartbeats their turns, spread evenly over the interval.

    Nothing runs until `run` does.

    Args:
        interval: seconds between two beats of one seat.
        slots: how many; one wakes nobody in vain where there is but one seat. None: as many as
            spread the beats of a server well.
    """

    def __init__(self, interval: float, slots: int | None = None) -> None:
        many = min(max(round(interval * _TICKS_PER_SECOND), _FEWEST_SLOTS), _MOST_SLOTS)
        count = slots or many
        self._width = interval / count
        self._stall = interval * _STALL
        self._settle = min(self._width, interval * _SETTLE)
        self._slots: list[list[Seat]] = [[] for _ in range(count)]
        #: The first tick after the last forgiven stall; each slot's last tick that was not whole.
        self._stalled = -count
        self._forgiven = [-count] * count
        self._turn = 0
        self._occupied = trio.Event()
        self._random = random.Random()  # noqa: S311 - spreads load, guards nothing

    def seat(self) -> Seat:
        """Take a place; `Seat.leave` gives it back.

        Returns:
            A seat whose first beat comes within one interval.
        """
        count = len(self._slots)
        self._turn = (self._turn + 1) % count
        other = self._random.randrange(count)
        here, there = self._slots[self._turn], self._slots[other]
        self._occupied.set()
        return Seat(here if len(here) <= len(there) else there)

    @property
    def seats(self) -> list[int]:
        """How many seats each slot has, in the order of their turns."""
        return [len(slot) for slot in self._slots]

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Tick until cancelled."""
        count, begin = len(self._slots), trio.current_time()
        tick = forgiving_from = 0
        task_status.started()
        while True:
            if not any(self._slots):
                self._occupied = trio.Event()
                await self._occupied.wait()
                # Ticks that had nobody to wake were neither late nor missed.
                tick = max(tick, int((trio.current_time() - begin) / self._width) + 1)
            await trio.sleep_until(begin + tick * self._width)
            late = trio.current_time() - (begin + tick * self._width)
            if late >= self._stall:
                if tick >= forgiving_from:
                    self._stalled, forgiving_from = tick, tick + count
                    begin += late
                    await trio.sleep(self._settle)
                    continue
                begin, late = begin + late - self._stall, self._stall
                forgiving_from = tick + int(late / self._width) + 1 + count
            due = tick + int(late / self._width)
            while tick <= due:
                await self._go_through(tick)
                tick += 1

    def _is_whole(self, tick: int) -> bool:
        count = len(self._slots)
        if tick - self._stalled >= count or self._forgiven[tick % count] == tick - count:
            return True
        self._forgiven[tick % count] = tick
        return False

    async def _go_through(self, tick: int) -> None:
        beat = Beat(tick & 0xFFFFFFFF, self._is_whole(tick))
        # Of those that are seated now: others may come and go in between, and change places.
        due = self._slots[tick % len(self._slots)].copy()
        for begin in range(0, len(due), _TURN):
            if begin:
                await trio.lowlevel.checkpoint()
            for seat in due[begin : begin + _TURN]:
                if seat.parked:
                    seat.offer(beat)


def _wake(beat: Beat) -> Beat:
    return beat


class Seat(Parking[Beat, Beat]):
    """One heartbeat's place in a metronome."""

    __slots__ = ("_place", "_slot")

    def __init__(self, slot: list[Seat]) -> None:
        super().__init__()
        self._slot = slot
        #: Invariant: where in the slot the seat is, so that nobody has to look for it.
        self._place = len(slot)
        slot.append(self)

    def beat(self, ask: Callable[[Beat], Beat | None] = _wake) -> Awaitable[Beat]:
        """Wait for the next beat that needs the heartbeat's task.

        Args:
            ask: is asked at each beat, in the metronome's task; gives the beat back to wake the
                heartbeat's, or None.

        Returns:
            An awaitable of the `Beat` that was given back.
        """
        return self.park(ask)

    def leave(self) -> None:
        """Give the place back; the last one of the slot moves there."""
        last = self._slot.pop()
        if last is not self:
            self._slot[self._place] = last
            last._place = self._place  # noqa: SLF001 - of this class
