"""Subscribers and a backend that record what happens to them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Mapping
from contextlib import asynccontextmanager

import trio
import trio.testing

from trio_beat import BackendError, Hub, Message
from trio_beat._channels.control import CONTROL as CONTROL
from trio_beat._channels.control import Disconnect as Disconnect
from trio_beat.backends import Receiver, Told
from trio_beat.backends.memory import MemoryBackend

#: More than one turn of a fan-out.
MANY = 600


class Listener:
    """Records what is delivered to it.

    Attributes:
        gaps: when it was told of one, on Trio's clock.
    """

    def __init__(self) -> None:
        self.messages: list[Message] = []
        self.gaps: list[float] = []

    def deliver_nowait(self, message: Message) -> None:
        self.messages.append(message)

    def gap_nowait(self) -> None:
        self.gaps.append(trio.current_time())

    @property
    def texts(self) -> list[str]:
        """The payloads of messages that are all text."""
        payloads = [message.payload for message in self.messages]
        texts = [payload for payload in payloads if isinstance(payload, str)]
        assert texts == payloads
        return texts


class AskedBackend(MemoryBackend):
    """Records what it was asked; can be made to fail, to refuse, to wait, and to be away."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[str] = []
        #: Fails, without an outage.
        self.failing = False
        self.is_away = False
        #: By what is asked; "answer": an answer to subscribing is on its way.
        self.gates: dict[str, trio.Event] = {}
        #: Channels that it refuses to subscribe.
        self.refused: set[str] = set()
        #: Channels that the hub has subscribed to.
        self.subscribed: set[str] = set()
        #: The hub's.
        self.receiver: Receiver | None = None

    @asynccontextmanager
    async def running(self, receiver: Receiver) -> AsyncIterator[None]:
        self.receiver = receiver
        async with super().running(receiver):
            yield

    async def _ask(self, what: str, channels: Collection[str]) -> None:
        asks = [f"{what}{channel}" for channel in channels]
        self.asked += asks
        for ask in asks:
            if ask in self.gates:
                await self.gates[ask].wait()
        if (self.failing or self.is_away) and what != "-":
            raise BackendError("no server")

    async def publish(
        self, channel: str, message: Message, *, expire: float, sender: object | None = None
    ) -> None:
        await self._ask("!", [channel])
        await super().publish(channel, message, expire=expire, sender=sender)

    async def subscribe(self, channels: Collection[str]) -> Mapping[str, BackendError]:
        assert not self.subscribed.intersection(channels), "subscribed twice in a row"
        await self._ask("+", channels)
        refused = {key: BackendError("not allowed") for key in channels if key in self.refused}
        granted = [key for key in channels if key not in refused]
        await super().subscribe(granted)
        self.subscribed.update(granted)
        if "answer" in self.gates:
            await self.gates["answer"].wait()
        return refused

    async def unsubscribe(self, channels: Collection[str]) -> None:
        await self._ask("-", channels)
        await super().unsubscribe(channels)
        self.subscribed.difference_update(channels)

    async def last(self, channels: Collection[str], told: Told) -> Mapping[str, BackendError]:
        await self._ask("?", channels)
        return await super().last(channels, told)

    def lose(self, *channels: str) -> None:
        """Lose channels, without an outage; none: all that are subscribed."""
        lost = channels or tuple(self.subscribed)
        self.subscribed.difference_update(lost)
        self._subscribed.difference_update(lost)
        assert self.receiver is not None
        self.receiver.lost(lost)

    def go_away(self) -> None:
        """Begin an outage."""
        self.is_away = True
        self.lose()
        assert self.receiver is not None
        self.receiver.away(BackendError("no server"))

    def come_back(self) -> None:
        """End an outage."""
        self.is_away = False
        assert self.receiver is not None
        self.receiver.back()


def remembered(hub: Hub) -> int:
    """How much a hub knows of channels."""
    registry = hub._registry
    return len(registry._channels) + len(registry._out_of_step) + len(registry._subscribing)


async def settled(hub: Hub, channels: int, subscriptions: int) -> None:
    """Check what the hub holds, once it is in step with its backend."""
    await trio.testing.wait_all_tasks_blocked()
    assert hub.statistics()[:2] == (channels, subscriptions)


async def reached(
    hub: Hub, channel: str, message: str | bytes, *, sender: Listener | None = None
) -> int:
    """Publish a message; returns to how many subscribers the hub has delivered it."""
    before = hub.statistics().delivered
    await hub.publish(channel, message, sender=sender)
    return hub.statistics().delivered - before
