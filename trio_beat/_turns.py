"""Turns for work that a peer can cause much of.

Trio runs all tasks that are ready before it looks at the sockets and the clock again. Where many
peers cause a little work at the same time, every other task waits for all of it. So a task takes a
turn before such a piece of work. Only a few turns are given in each pass of the scheduler, in the
order in which tasks asked for them.
"""

from __future__ import annotations

from typing import Final

import trio

#: Turns of one pass. A piece of work should take a millisecond at most; an echo takes about four
#: passes.
_MOST: Final = 4


class Turns:
    """Gives turns, once `run` runs.

    Args:
        most: turns of one pass.
    """

    def __init__(self, most: int = _MOST) -> None:
        self._most = most
        #: Turns left in this pass.
        self._left = 0
        self._waiting = trio.lowlevel.ParkingLot()
        self._wanted = trio.Event()

    async def take(self) -> None:
        """Wait for a turn; always a checkpoint, and only a checkpoint while turns are left."""
        self._wanted.set()
        if self._left:
            self._left -= 1
            await trio.lowlevel.checkpoint()
        else:
            await self._waiting.park()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Give turns until cancelled."""
        self._left = self._most
        task_status.started()
        try:
            while True:
                await self._wanted.wait()
                self._wanted = trio.Event()
                while True:
                    woken = len(self._waiting.unpark(count=self._most))
                    self._left = self._most - woken
                    if not woken:
                        break
                    await trio.lowlevel.checkpoint()
        finally:
            self._left = 0
