"""The clock of all `keep_alive` of a Trio run that beat at one interval.

Each of them with a timer of its own would wake the process once for each beat. One metronome beats
for many at a time, and needs no task switch for that.

It ticks in a system task of Trio: none of those that share it outlives all the others. The task is
there while one of them is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

import trio

from .._metronome import Beat, Metronome


class _Clock:
    """A metronome, and how many use it."""

    def __init__(self, interval: float) -> None:
        self.metronome = Metronome(interval)
        self.users = 0
        self.scope = trio.CancelScope()

    async def run(self) -> None:
        with self.scope:
            await self.metronome.run()


_CLOCKS: Final = trio.lowlevel.RunVar[dict[float, _Clock]]("trio_beat clocks")


@contextmanager
def beats(interval: float, call: Callable[[Beat], object]) -> Iterator[None]:
    """Call something at each beat while the context lasts.

    Args:
        interval: seconds between two beats; the first one comes within so many.
        call: called with each beat, in another task. It neither waits nor raises.
    """
    try:
        clocks = _CLOCKS.get()
    except LookupError:
        clocks = {}
        _CLOCKS.set(clocks)
    clock = clocks.get(interval)
    if clock is None:
        clock = clocks[interval] = _Clock(interval)
        trio.lowlevel.spawn_system_task(clock.run, name=f"trio_beat clock, {interval:g} s")
    clock.users += 1
    seat = clock.metronome.call(call)
    try:
        yield
    finally:
        seat.leave()
        clock.users -= 1
        if not clock.users:
            del clocks[interval]
            clock.scope.cancel()
