"""Seats of a metronome that record their beats: 16 slots in 4 seconds, a tick every 1/4 of one."""

from __future__ import annotations

import math
from typing import NamedTuple

import trio
from trio.testing import wait_all_tasks_blocked

from trio_beat._heartbeat import Verdict
from trio_beat._metronome import Beat, Metronome

INTERVAL = 4.0
SLOTS = 16
TICK = INTERVAL / SLOTS


class Heard(NamedTuple):
    """A beat as a seat has got it."""

    seat: int
    time: float
    beat: Beat


class Recorder:
    """Seats that record their beats."""

    def __init__(self, metronome: Metronome) -> None:
        self.metronome = metronome
        self.heard: list[Heard] = []
        self._next = 0

    async def record(self) -> None:
        """Take a seat and record its beats until cancelled."""
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
            nursery.start_soon(self.record)
        await wait_all_tasks_blocked()

    def of_each_seat(self) -> list[list[Heard]]:
        """What was heard, for one seat after the other."""
        return [[heard for heard in self.heard if heard.seat == i] for i in range(self._next)]


class Crowd:
    """Peers over a metronome and their verdicts, without sockets.

    Args:
        misses: beats in a row that a peer may miss.
    """

    def __init__(self, misses: int) -> None:
        self.metronome = Metronome(INTERVAL)
        self._misses = misses
        #: When each peer was judged dead, of those that do not answer and of those that do.
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


def next_deadline() -> float:
    """Seconds after which Trio has something to wake for."""
    return trio.lowlevel.current_statistics().seconds_to_next_deadline
