"""Replies that have not come, and the tasks that wait for them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import outcome
import trio

from .errors import Disconnected

#: What a broker answers: bytes for text, or ReplyError, also within lists.
Reply: TypeAlias = Any


class Batch:
    """The replies that one task waits for.

    Args:
        left: how many.

    Attributes:
        abandoned: whether the task has gone.
    """

    __slots__ = ("_left", "_task", "abandoned")

    def __init__(self, left: int) -> None:
        self._left = left
        self.abandoned = False
        self._task: trio.lowlevel.Task | None = None

    def done(self) -> None:
        """One of them has come."""
        self._left -= 1
        if self._left == 0 and self._task is not None:
            trio.lowlevel.reschedule(self._task)
            self._task = None

    def fail(self, error: Disconnected) -> None:
        """The others will not come."""
        if self._task is not None:
            trio.lowlevel.reschedule(self._task, outcome.Error(error))
            self._task = None

    async def wait(self) -> None:
        """Wait for all of them."""
        if self._left > 0:
            self._task = trio.lowlevel.current_task()
            await trio.lowlevel.wait_task_rescheduled(self._abort)

    def _abort(self, _: Callable[[], Any]) -> trio.lowlevel.Abort:
        self._task = None
        return trio.lowlevel.Abort.SUCCEEDED


class Pending:
    """A reply that has not come, of a task that waits for it or has gone.

    Args:
        batch: that it belongs to.
        take: called with it at its place in the stream; None: it does not matter.
        confirmed: whether it comes as a push, unless it is an error.
    """

    __slots__ = ("batch", "confirmed", "take")

    def __init__(
        self,
        batch: Batch,
        take: Callable[[Reply], object] | None = None,
        *,
        confirmed: bool = False,
    ) -> None:
        self.batch = batch
        self.take = take
        self.confirmed = confirmed

    def settle(self, reply: Reply) -> None:
        """It has come."""
        if self.take is not None:
            self.take(reply)
        self.batch.done()
