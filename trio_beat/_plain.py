"""What a context manager with tasks of its own raises.

The rule of the package: what the block raises comes through unchanged, never wrapped in a group.
What one of the context manager's tasks raises cancels the block and comes out without a group, too,
where it is the only exception. Only several exceptions come out as a group.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractAsyncContextManager
from types import TracebackType
from typing import TypeVar

import trio

_T = TypeVar("_T")


def plain(exc: BaseException, block: BaseException | None = None) -> BaseException:
    """Take an exception out of the groups in which nurseries have wrapped it.

    A cancellation beside another exception does not count.

    Args:
        exc: what came out of the outermost nursery.
        block: what the block inside of them raised, which may be a group itself; None: nothing.

    Returns:
        The only exception; where there are several, a group of them.
    """
    # By their leaves, since a nursery that splits the block's group leaves copies of it.
    own = set() if block is None else set(map(id, leaves(block)))
    found = list(leaves(exc))
    reasons = [leaf for leaf in found if not isinstance(leaf, trio.Cancelled)] or found[:1]
    others = [reason for reason in reasons if id(reason) not in own]
    if block is not None and not others:
        return block
    return exc if len(reasons) > 1 else reasons[0]


def bare(exc: BaseException) -> BaseException:
    """Strip another library's exception of its traceback and context, to keep it as a cause.

    Its traceback may end in a frame that refers to the exception: a cycle, which keeps alive all
    that the frames refer to.
    """
    exc.__context__ = None
    return exc.with_traceback(None)


def leaves(exc: BaseException) -> Iterator[BaseException]:
    """Iterate over the exceptions in a group, however deep; of any other exception, over itself."""
    if isinstance(exc, BaseExceptionGroup):
        for inner in exc.exceptions:
            yield from leaves(inner)
    else:
        yield exc


class Plain(AbstractAsyncContextManager[_T, bool]):
    """Wraps a context manager with nurseries inside, so that it raises by the rule.

    As with a nursery, a KeyboardInterrupt is raised only where something waits.

    Args:
        manager: the context manager that it wraps.
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
        # Outside of the handler, since inside the exception would get the group as its context.
        try:
            raise raised
        finally:
            del raised  # its traceback refers to this frame

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
            exc.__traceback__ = traceback  # without the frames of this method
            return False
        try:
            raise raised
        finally:
            del raised
