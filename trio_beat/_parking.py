"""A task that parks leaves a plain function, which is asked before the task is woken.

To switch to a task costs as much as most of what it is woken for. So the function is asked first,
by the task that would wake the other one:

1. It returns None: what was to do is done, and the task sleeps on.
2. It returns anything else: the task is woken, and gets it.
3. It raises: the task is woken, and the exception is raised there. The task that asked goes on.
   An interrupt waits until then: between two steps it would leave a task that nobody can wake.
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
    """Where one task at a time parks."""

    __slots__ = ("_ask", "_task")

    def __init__(self) -> None:
        #: The task that is parked here.
        self._task: trio.lowlevel.Task | None = None
        #: The function that it left; None also while that is asked.
        self._ask: Callable[[*_Asked], _Answer | None] | None = None

    @property
    def parked(self) -> bool:
        """A task is parked here, and its function is not being asked."""
        return self._ask is not None

    def park(self, ask: Callable[[*_Asked], _Answer | None]) -> Awaitable[_Answer]:
        """Park the current task.

        Not a coroutine function, so that a parked task keeps no frame for it.

        Args:
            ask: it must not wait, and is asked in another task.

        Returns:
            An awaitable of what the task is woken with; to be awaited at once.
        """
        self._task, self._ask = trio.lowlevel.current_task(), ask
        return trio.lowlevel.wait_task_rescheduled(self)  # noqa: ASYNC105

    @trio.lowlevel.enable_ki_protection
    def offer(self, *asked: *_Asked) -> None:
        """Ask the function of the task that is parked, and wake the task unless it sleeps on."""
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
        """Wake the task that is parked, without asking.

        Args:
            left: what it gets, or what is raised there.
        """
        task = self._task
        assert task is not None
        self._task = self._ask = None
        trio.lowlevel.reschedule(task, left)

    def __call__(self, cancel: Callable[[], NoReturn]) -> trio.lowlevel.Abort:
        """Cancel the wait, for Trio: a bound method would be an object more for each that parks."""
        if self._ask is None:
            # Trio keeps this for both sides of such a sleep, and lets go of it at the wake-up.
            assert self._task is not None
            self._task.custom_sleep_data = cancel
            return trio.lowlevel.Abort.FAILED
        self._task = self._ask = None
        return trio.lowlevel.Abort.SUCCEEDED
