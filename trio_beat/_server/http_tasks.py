"""The applications' tasks of a connection, and the events that wait for each of them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Final

import trio
from hypercorn.config import Config
from hypercorn.trio.task_group import TaskGroup
from hypercorn.typing import AppWrapper

#: Events that wait for an application before its peer feels back-pressure.
_QUEUE: Final = 2


class Inbox:
    """Events on their way to an application. To end it waits for nothing, at either side.

    Args:
        step: awaited before each piece of a body.
    """

    def __init__(self, step: Callable[[], Awaitable[None]]) -> None:
        self._step = step
        self._sender, self._receiver = trio.open_memory_channel[Any](_QUEUE)
        self._disconnect: Any = None

    async def put(self, event: Any) -> None:
        """Add an event; where the application has ended, it is forgotten.

        A disconnect ends the inbox.
        """
        if event["type"] in ("http.disconnect", "websocket.disconnect"):
            self._disconnect = event
            self._sender.close()
            return
        if event.get("body"):
            await self._step()
        try:
            await self._sender.send(event)
        except (trio.ClosedResourceError, trio.BrokenResourceError):
            # The one that ended it did not wait for this task.
            await trio.lowlevel.checkpoint()

    async def get(self) -> Any:
        """Wait for the next event; behind the last one it is a disconnect for ever."""
        try:
            return await self._receiver.receive()
        except trio.EndOfChannel:
            return self._disconnect

    def close(self) -> None:
        """No task gets another event."""
        self._receiver.close()


class Tasks(TaskGroup):
    """Hypercorn's, with an inbox that cannot block the end of a request.

    Args:
        step: awaited before each piece of a body.
    """

    def __init__(self, step: Callable[[], Awaitable[None]]) -> None:
        super().__init__()
        self._step = step

    async def spawn_app(
        self,
        app: AppWrapper,
        config: Config,
        scope: Any,
        send: Callable[[Any], Awaitable[None]],
    ) -> Callable[[Any], Awaitable[None]]:
        """Start the application, and return how to give it events."""
        inbox = Inbox(self._step)

        async def fed(scope: Any, receive: Any, send: Any, sync_spawn: Any, call_soon: Any) -> None:
            try:
                await app(scope, inbox.get, send, sync_spawn, call_soon)
            finally:
                inbox.close()

        await super().spawn_app(fed, config, scope, send)
        return inbox.put
