"""Messages that the application has not taken yet.

An open connection keeps its inbox, mostly empty. A memory channel of Trio would take a quarter of
the memory of a connection.
"""

from __future__ import annotations

import trio


class Inbox:
    """Messages that wait for the application, in their order.

    Args:
        size: how many may wait.
    """

    __slots__ = ("_arrived", "_closed", "_messages", "_room", "_size")

    def __init__(self, size: int) -> None:
        self._size = size
        self._closed = False
        self._messages: list[str | bytes] = []
        #: Set when a message has come, or when none will come any more; None while no task waits.
        self._arrived: trio.Event | None = None
        #: Set when there is room again; None while no task waits.
        self._room: trio.Event | None = None

    def put_nowait(self, message: str | bytes) -> bool:
        """Add a message.

        Returns:
            False: there is no room for it.
        """
        if len(self._messages) >= self._size:
            return False
        self._messages.append(message)
        self._wake()
        return True

    async def put(self, message: str | bytes) -> None:
        """Add a message as soon as there is room; no checkpoint where there is."""
        while not self.put_nowait(message):
            if self._room is None:
                self._room = trio.Event()
            await self._room.wait()

    async def get(self) -> str | bytes:
        """Take the oldest message. Several tasks may wait; each message goes to one of them.

        Raises:
            trio.EndOfChannel: no message waits, and no more come.
        """
        if self._messages:
            await trio.lowlevel.checkpoint()
        while not self._messages:
            if self._closed:
                raise trio.EndOfChannel
            if self._arrived is None:
                self._arrived = trio.Event()
            await self._arrived.wait()
        message = self._messages.pop(0)
        if self._room is not None:
            self._room.set()
            self._room = None
        return message

    def __len__(self) -> int:
        return len(self._messages)

    def close(self) -> None:
        """No more messages come. Those that wait can still be taken. Idempotent."""
        self._closed = True
        self._wake()

    def discard(self) -> None:
        """Like `close`, and drop those that wait."""
        self._messages.clear()
        self.close()

    def _wake(self) -> None:
        if self._arrived is not None:
            self._arrived.set()
            self._arrived = None
