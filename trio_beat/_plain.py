"""What a context manager raises that has tasks of its own.

The rule of the package: what its block raises comes through as it is, and is never wrapped in a
group. What one of its own tasks raises cancels the block, and comes out plainly, too, where it
comes alone. Only where there are several reasons they come in a group.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractAsyncContextManager
from types import TracebackType
from typing import TypeVar

import trio

_T = TypeVar("_T")


def plain(exc: BaseException, block: BaseException | None = None) -> BaseException:
    """What nurseries have wrapped in groups; a group where there are several.

    That tasks were cancelled besides is no reason of its own.

    Args:
        exc: what came out of the outermost nursery.
        block: what the block inside of them raised, which may be a group itself.
    """
    # Not the block's group itself: what a nursery takes out of groups leaves copies of them.
    own = set() if block is None else set(map(id, leaves(block)))
    found = list(leaves(exc))
    reasons = [leaf for leaf in found if not isinstance(leaf, trio.Cancelled)] or found[:1]
    others = [reason for reason in reasons if id(reason) not in own]
    if block is not None and not others:
        return block
    return exc if len(reasons) > 1 else reasons[0]


def bare(exc: BaseException) -> BaseException:
    """An exception of another library, to be kept as a cause.

    Its traceback may end in a frame that has the exception itself: a cycle with all that the
    frames know.
    """
    exc.__context__ = None
    return exc.with_traceback(None)


def leaves(exc: BaseException) -> Iterator[BaseException]:
    """The exceptions of a group, however deep; of any other, itself."""
    if isinstance(exc, BaseExceptionGroup):
        for inner in exc.exceptions:
            yield from leaves(inner)
    else:
        yield exc


class Plain(AbstractAsyncContextManager[_T, bool]):
    """Another context manager, with nurseries inside, that raises by the rule.

    As with a nursery's own, an interrupt at the keyboard does not come in between, except where
    something is waited for.

    Args:
        manager: the other one.
    """

    def __init__(self, manager: AbstractAsyncContextManager[_T, bool | None]) -> None:
        self._manager = manager
        self._entered = False

    @trio.lowlevel.enable_ki_protection
    async def __aenter__(self) -> _T:
        if self._entered:
            raise RuntimeError("this context was entered before; make another one")
        self._entered = True
        try:
            return await self._manager.__aenter__()
        except BaseExceptionGroup as group:
            raised = plain(group)
        # Out here, since what is raised in there would get the group as its context.
        try:
            raise raised
        finally:
            del raised  # its traceback has this frame

    @trio.lowlevel.enable_ki_protection
    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool:
        try:
            return bool(await self._manager.__aexit__(exc_type, exc, traceback))
        except BaseExceptionGroup as group:
            raised = plain(group, exc)
        if raised is exc:
            exc.__traceback__ = traceback  # without the way through here
            return False
        try:
            raise raised
        finally:
            del raised
