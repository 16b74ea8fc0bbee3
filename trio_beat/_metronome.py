"""One clock for all heartbeats.

The interval is divided into slots, and one task serves one slot after the other. A heartbeat has a
seat in a slot and parks there until its turn. It needs no cancel scope, and no deadline in Trio's
heap. Its function is asked before its task is woken; with nothing to judge the task sleeps on
(`Parking`).

1. A seat keeps its slot, so its beats are one interval apart.
2. A new seat goes to the emptier of two slots, one chosen in turn and one at random. So beats stay
   spread evenly, whatever the pattern in which connections come and go.
3. Ticks that are a little late are made up for at once. After a stall (the clock stood still for
   half an interval or more) all ticks are postponed by the time stalled. So there is no burst of
   beats, no seat is left out, and a seat's beats are one interval of *running* time apart. The
   first beat of a seat after a stall is not whole, and says so.
4. A process that stalls again and again is busy, not frozen, and must still find its dead peers. So
   no two beats of a seat in a row are not whole, and a peer that falls silent is dead within
   ``2 * misses + 1`` intervals of running time. A stall within an interval after another one is not
   forgiven, and half an interval of it counts as running time: a clock that is always late beats.
5. Without seats the clock stops.
6. The clock may be run by one task after the other, and goes on where it was. (Where one was
   cancelled amid the seats of a slot, the rest of them have their next beat an interval later.)
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
#: Heartbeats that are asked before other tasks get a turn. Where more are woken at once, the new
#: objects start Python's garbage collector. It would find nothing, and in the end scan all
#: connections: with 16,000 of them a third of what their beats cost, and long pauses.
_TURN = 64
#: Share of an interval: where a tick is as late as that, the process stood still.
_STALL = 0.5
#: Share of an interval for which readers may take what came during a stall, before the next tick.
_SETTLE = 1 / 16


class Beat(NamedTuple):
    """A heartbeat's turn."""

    #: The number of the tick; the same for all seats of a slot.
    number: int
    #: False where the clock stood still since the seat's last beat, and that one was whole.
    whole: bool


class Metronome:
    """Gives heartbeats their turns, spread evenly over the interval.

    Nothing runs until `run` does.

    Args:
        interval: seconds between two beats of one seat.
        slots: how many; 1 is right for a single seat, since each slot costs a tick. None: as many
            as spread the beats of a server well.

    Attributes:
        turn: heartbeats that are asked before other tasks get a turn; less than usual where each
            starts a task.
    """

    def __init__(self, interval: float, slots: int | None = None) -> None:
        many = min(max(round(interval * _TICKS_PER_SECOND), _FEWEST_SLOTS), _MOST_SLOTS)
        count = slots or many
        self.turn = _TURN
        self._width = interval / count
        self._stall = interval * _STALL
        self._settle = min(self._width, interval * _SETTLE)
        self._slots: list[list[Seat]] = [[] for _ in range(count)]
        #: The first tick after the last forgiven stall; each slot's last tick that was not whole.
        self._stalled = -count
        self._forgiven = [-count] * count
        self._turn = 0
        #: When tick 0 was due, as if there had been no stalls; None: it has not run yet.
        self._begin: float | None = None
        #: The next tick; and the first one before which a stall is forgiven again.
        self._tick = self._forgiving_from = 0
        self._occupied = trio.Event()

    def seat(self) -> Seat:
        """Take a seat; `Seat.leave` gives it back.

        Returns:
            A seat whose first beat comes within one interval.
        """
        return Seat(self._choose())

    def call(self, call: Callable[[Beat], object]) -> CalledSeat:
        """Take a seat at which no task parks.

        Args:
            call: called with each beat, in the metronome's task. It neither waits nor raises.
        """
        return CalledSeat(self._choose(), call)

    def _choose(self) -> list[Seat]:
        count = len(self._slots)
        self._turn = (self._turn + 1) % count
        other = random.randrange(count)  # noqa: S311 - spreads load, guards nothing
        here, there = self._slots[self._turn], self._slots[other]
        self._occupied.set()
        return here if len(here) <= len(there) else there

    @property
    def seats(self) -> list[int]:
        """The number of seats in each slot, in the order of the slots' turns."""
        return [len(slot) for slot in self._slots]

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Tick until cancelled."""
        if self._begin is None:
            self._begin = trio.current_time()
        task_status.started()
        while True:
            if not any(self._slots):
                self._occupied = trio.Event()
                await self._occupied.wait()
                # Ticks without a seat to wake were neither late nor missed.
                passed = int((trio.current_time() - self._begin) / self._width)
                self._tick = max(self._tick, passed + 1)
            await trio.sleep_until(self._begin + self._tick * self._width)
            late = trio.current_time() - (self._begin + self._tick * self._width)
            if late < 0:  # the task before this one has ticked meanwhile
                continue
            if late >= self._stall:
                if self._tick >= self._forgiving_from:
                    self._stalled = self._tick
                    self._forgiving_from = self._tick + len(self._slots)
                    self._begin += late
                    await trio.sleep(self._settle)
                    continue
                self._begin, late = self._begin + late - self._stall, self._stall
                self._forgiving_from = self._tick + int(late / self._width) + 1 + len(self._slots)
            due = self._tick + int(late / self._width)
            while self._tick <= due:
                tick, self._tick = self._tick, self._tick + 1
                await self._go_through(tick)

    def _is_whole(self, tick: int) -> bool:
        count = len(self._slots)
        if tick - self._stalled >= count or self._forgiven[tick % count] == tick - count:
            return True
        self._forgiven[tick % count] = tick
        return False

    async def _go_through(self, tick: int) -> None:
        beat = Beat(tick & 0xFFFFFFFF, self._is_whole(tick))
        # A copy: seats may come, leave and change places in between.
        due = self._slots[tick % len(self._slots)].copy()
        for begin in range(0, len(due), self.turn):
            if begin:
                await trio.lowlevel.checkpoint()
            for seat in due[begin : begin + self.turn]:
                if seat.parked:
                    seat.offer(beat)


def _wake(beat: Beat) -> Beat:
    return beat


class Seat(Parking[Beat, Beat]):
    """A heartbeat's place in a metronome."""

    __slots__ = ("_place", "_slot")

    def __init__(self, slot: list[Seat]) -> None:
        super().__init__()
        self._slot = slot
        #: Invariant: the seat's index in its slot, so that `leave` need not search.
        self._place = len(slot)
        slot.append(self)

    def beat(self, ask: Callable[[Beat], Beat | None] = _wake) -> Awaitable[Beat]:
        """Wait for the next beat that needs the heartbeat's task.

        Args:
            ask: called with each beat, in the metronome's task. It returns the beat to wake the
                heartbeat's task, or None to let it sleep on.

        Returns:
            An awaitable of the `Beat` that `ask` returned.
        """
        return self.park(ask)

    def leave(self) -> None:
        """Give the seat back; the last one of the slot moves to its place."""
        last = self._slot.pop()
        if last is not self:
            self._slot[self._place] = last
            last._place = self._place  # noqa: SLF001 - of this class


class CalledSeat(Seat):
    """A place whose function is called with each beat, until it is left."""

    __slots__ = ("_call",)

    def __init__(self, slot: list[Seat], call: Callable[[Beat], object]) -> None:
        super().__init__(slot)
        self._call: Callable[[Beat], object] | None = call

    @property
    def parked(self) -> bool:
        return self._call is not None

    def offer(self, beat: Beat) -> None:
        assert self._call is not None
        self._call(beat)

    def leave(self) -> None:
        self._call = None
        super().leave()
