"""Calls that are cancelled at one of their awaits."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import trio

from .._checks import check_trio


async def cancelled_at(step: int, call: Callable[[], Awaitable[object]]) -> bool:
    """Make a call, and cancel it at one of its awaits.

    Args:
        step: it is cancelled while it waits for the time of this number; 0: before it begins.
        call: what to call.

    Returns:
        Whether it was cancelled; False: it came to its end without waiting so often.
    """
    check_trio()
    canceller = _Canceller(step)
    trio.lowlevel.add_instrument(canceller)
    try:
        with canceller.scope:
            await call()
    finally:
        trio.lowlevel.remove_instrument(canceller)
    return canceller.scope.cancelled_caught


class _Canceller(trio.abc.Instrument):
    def __init__(self, step: int) -> None:
        self.scope = trio.CancelScope()
        self._task = trio.lowlevel.current_task()
        self._left = step
        if step == 0:
            self.scope.cancel()

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        if task is self._task:
            self._left -= 1
            if self._left == 0:
                self.scope.cancel()
