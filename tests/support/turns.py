"""Turns, as the parts of one server share them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio

from trio_beat._turns import Turns


def make_turns(most: int | None = None) -> Turns:
    """Turns that are not given until their `run` runs.

    Args:
        most: turns of one pass; None: as many as a server gives.
    """
    return Turns() if most is None else Turns(most)


@asynccontextmanager
async def giving_turns() -> AsyncIterator[Turns]:
    """Turns that are given while the context lasts."""
    turns = make_turns()
    async with trio.open_nursery() as nursery:
        await nursery.start(turns.run)
        yield turns
        nursery.cancel_scope.cancel()
