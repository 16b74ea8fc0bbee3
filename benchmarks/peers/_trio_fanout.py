"""Fan-out for Trio libraries whose send waits for the peer: a queue and a task for each."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import trio

from ._server import QUEUE_SIZE

Message = str | bytes


class Fanout:
    """The subscribers of one channel."""

    def __init__(self) -> None:
        self._subscribers: dict[object, tuple[trio.MemorySendChannel[Message], trio.Nursery]] = {}

    def publish(self, message: Message, sender: object) -> None:
        """Send to all but the sender."""
        for who, (queue, nursery) in self._subscribers.items():
            if who is not sender:
                try:
                    queue.send_nowait(message)
                except trio.WouldBlock:
                    nursery.cancel_scope.cancel()

    @asynccontextmanager
    async def subscribed(
        self, who: object, send: Callable[[Message], Awaitable[None]]
    ) -> AsyncIterator[None]:
        """Send to `who` what others publish. Cancels the context when it is too slow for that."""
        queue, waiting = trio.open_memory_channel[Message](QUEUE_SIZE)

        async def write() -> None:
            async for message in waiting:
                await send(message)

        with queue, waiting:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(write)
                self._subscribers[who] = (queue, nursery)
                try:
                    yield
                finally:
                    del self._subscribers[who]
                nursery.cancel_scope.cancel()
