"""A task that parks leaves a plain function, which is asked before the task is woken.

To switch to a task costs as much as most of what it is woken for. So the task that would wake it
calls the function first:

1. It returns None: all is done, and the task sleeps on.
2. It returns anything else: the task is woken and gets it.
3. It raises: the task is woken and the exception is raised there. The task that asked goes on.
   A KeyboardInterrupt waits until then: in between it would leave a task that can never be woken.
4. The task is cancelled meanwhile, perhaps by the function: it is woken when the function is done.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Generic, NoReturn, TypeVar, TypeVarTuple

import outcome
import trio

_Answer = TypeVar("_Answer")
_Asked = TypeVarTuple("_Asked")


class Parking(Generic[_Answer, *_Asked]):
    """A place in which one task at a time parks."""

    __slots__ = ("_ask", "_task")

    def __init__(self) -> None:
        #: The task that is parked here; None: there is none.
        self._task: trio.lowlevel.Task | None = None
        #: The function that it left; None, too, while that is being asked.
        self._ask: Callable[[*_Asked], _Answer | None] | None = None

    @property
    def parked(self) -> bool:
        """Whether a task is parked here whose function is not being asked."""
        return self._ask is not None

    def park(self, ask: Callable[[*_Asked], _Answer | None]) -> Awaitable[_Answer]:
        """Park the current task.

        Not a coroutine function, so that a parked task keeps no frame for it.

        Args:
            ask: called in another task; it must not wait.

        Returns:
            An awaitable of what the task is woken with; it must be awaited at once.
        """
        self._task, self._ask = trio.lowlevel.current_task(), ask
        return trio.lowlevel.wait_task_rescheduled(self)  # noqa: ASYNC105

    @trio.lowlevel.enable_ki_protection
    def offer(self, *asked: *_Asked) -> None:
        """Ask the function of the parked task, and wake the task unless it is to sleep on.

        Args:
            asked: what the function is called with.
        """
        task, ask = self._task, self._ask
        assert task is not None
        assert ask is not None
        self._ask = None
        try:
            answer = ask(*asked)
        except BaseException as exc:
            self._task = None
            trio.lowlevel.reschedule(task, outcome.Error(exc))
            return
        if answer is None and task.custom_sleep_data is None:
            self._ask = ask
            return
        self._task = None
        if answer is None:
            trio.lowlevel.reschedule(task, outcome.capture(task.custom_sleep_data))
        else:
            trio.lowlevel.reschedule(task, outcome.Value(answer))

    @trio.lowlevel.enable_ki_protection
    def resume(self, left: outcome.Outcome[_Answer]) -> None:
        """Wake the parked task without asking its function.

        Args:
            left: what the task gets, or what is raised there.
        """
        task = self._task
        assert task is not None
        self._task = self._ask = None
        trio.lowlevel.reschedule(task, left)

    def __call__(self, cancel: Callable[[], NoReturn]) -> trio.lowlevel.Abort:
        """Cancel the wait; Trio calls it. A bound method would cost each parked task an object."""
        if self._ask is None:
            # Trio reserves this for such a use, and clears it when the task is woken.
            assert self._task is not None
            self._task.custom_sleep_data = cancel
            return trio.lowlevel.Abort.FAILED
        self._task = self._ask = None
        return trio.lowlevel.Abort.SUCCEEDED
