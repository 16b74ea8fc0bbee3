"""The clock of all `keep_alive` of a Trio run that beat at one interval.

Each of them with a timer of its own would wake the process once for each beat. One metronome beats
for many at a time, and needs no task switch for that.

It ticks in the nursery of one of those that share it, and in another one's when that leaves.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

import trio

from .._metronome import Beat, Metronome


class _Clock:
    """A metronome, and the nurseries in which it may tick."""

    def __init__(self, interval: float) -> None:
        self.metronome = Metronome(interval)
        self.users = 0
        #: Of those that share it, in the order in which they came; of none that is being cancelled.
        self._nurseries: dict[object, trio.Nursery] = {}
        #: Whose nursery it ticks in, and what ends that.
        self._owner: object = None
        self._scope = trio.CancelScope()

    def join(self, user: object, nursery: trio.Nursery) -> None:
        """Share it, and let it tick where it does not."""
        self.users += 1
        self._nurseries[user] = nursery
        if self._owner is None:
            self._pass_on()

    def leave(self, user: object) -> None:
        """Share it no more."""
        self.users -= 1
        self._nurseries.pop(user, None)
        if self._owner is user:
            self._scope.cancel()
            self._pass_on()

    def _pass_on(self) -> None:
        self._owner = next(iter(self._nurseries), None)
        if self._owner is not None:
            self._scope = trio.CancelScope()
            nursery = self._nurseries[self._owner]
            nursery.start_soon(self._run, self._owner, self._scope, name="trio_beat clock")

    async def _run(self, user: object, scope: trio.CancelScope) -> None:
        try:
            with scope:
                await self.metronome.run()
        finally:
            if self._owner is user:  # its nursery was cancelled, and it may take long to leave
                self._nurseries.pop(user, None)
                self._pass_on()


_CLOCKS: Final = trio.lowlevel.RunVar[dict[float, _Clock]]("trio_beat clocks")


@contextmanager
def beats(interval: float, call: Callable[[Beat], object], nursery: trio.Nursery) -> Iterator[None]:
    """Call something at each beat while the context lasts.

    Args:
        interval: seconds between two beats; the first one comes within so many.
        call: called with each beat, in another task. It neither waits nor raises.
        nursery: the clock may tick in it; it is open for as long as the context.
    """
    try:
        clocks = _CLOCKS.get()
    except LookupError:
        clocks = {}
        _CLOCKS.set(clocks)
    clock = clocks.get(interval)
    if clock is None:
        clock = clocks[interval] = _Clock(interval)
    seat = clock.metronome.call(call)
    clock.join(seat, nursery)
    try:
        yield
    finally:
        seat.leave()
        clock.leave(seat)
        if not clock.users:
            del clocks[interval]
