"""Scopes that are cancelled in the midst of what happens."""

from __future__ import annotations

from typing import Any

import trio


class CancelledAfter(trio.abc.Instrument):
    """A context manager that gives a scope, and cancels it after some steps of tasks.

    Args:
        steps: how many, counted from the entering on; 1 at least.
        name: only those of tasks of this name count; None: those of all.
    """

    def __init__(self, steps: int, name: str | None = None) -> None:
        self._left = steps
        self._name = name
        self._scope = trio.CancelScope()

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        self._left -= self._name in (None, task.name)
        if self._left <= 0:
            self._scope.cancel()

    def __enter__(self) -> trio.CancelScope:
        trio.lowlevel.add_instrument(self)
        return self._scope.__enter__()

    def __exit__(self, *exc_info: Any) -> bool | None:
        trio.lowlevel.remove_instrument(self)
        return self._scope.__exit__(*exc_info)
