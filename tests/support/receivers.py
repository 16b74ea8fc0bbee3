"""A receiver that remembers what a backend tells."""

from __future__ import annotations

from collections.abc import Callable, Collection

import trio

from trio_beat import BackendError, Message
from trio_beat.backends import Receiver


class Recorder(Receiver):
    """Remembers what it is told, in order.

    Attributes:
        events: ``("deliver", channel, payload, sender)``, ``("lost", channels)``, ``("away",
            text)`` and ``("back",)``.
    """

    def __init__(self) -> None:
        self.events: list[tuple[object, ...]] = []
        self._changed = trio.Event()

    def _note(self, *event: object) -> None:
        self.events.append(event)
        self._changed.set()
        self._changed = trio.Event()

    async def deliver(self, channel: str, message: Message, sender: object | None) -> None:
        await trio.lowlevel.cancel_shielded_checkpoint()
        self._note("deliver", channel, message.payload, sender)

    def lost(self, channels: Collection[str]) -> None:
        self._note("lost", sorted(channels))

    def away(self, error: BackendError) -> None:
        self._note("away", str(error))

    def back(self) -> None:
        self._note("back")

    @property
    def delivered(self) -> list[tuple[object, ...]]:
        """Payload and sender of each message."""
        return [event[2:] for event in self.events if event[0] == "deliver"]

    def names(self) -> list[object]:
        """What was told, without details and messages."""
        return [event[0] for event in self.events if event[0] != "deliver"]

    async def until(self, condition: Callable[[], object], seconds: float = 20.0) -> None:
        """Wait until something is so, after one of the events."""
        with trio.fail_after(seconds):
            while not condition():
                await self._changed.wait()
