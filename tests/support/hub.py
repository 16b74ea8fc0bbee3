"""Subscribers and a backend that record what happens to them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio
import trio.testing

from trio_beat import BackendError, Hub, Message
from trio_beat._channels.subscriptions import LastMessages
from trio_beat.backends import Deliver, Last
from trio_beat.backends.memory import MemoryBackend

#: More than one turn of a fan-out.
MANY = 600


class Listener:
    """Records what is delivered to it."""

    def __init__(self) -> None:
        self.messages: list[Message] = []

    def deliver_nowait(self, message: Message) -> None:
        self.messages.append(message)

    @property
    def texts(self) -> list[str]:
        """The payloads of messages that are all text."""
        payloads = [message.payload for message in self.messages]
        texts = [payload for payload in payloads if isinstance(payload, str)]
        assert texts == payloads
        return texts


class AskedBackend(MemoryBackend):
    """Records what it was asked; can be made to fail, and to wait."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[str] = []
        self.away = False
        self.gates: dict[str, trio.Event] = {}
        #: Channels that the hub has subscribed to.
        self.subscribed: set[str] = set()
        #: Called with each message; the hub's, unless a test puts another one here.
        self.deliver: Deliver | None = None

    @asynccontextmanager
    async def running(self, deliver: Deliver) -> AsyncIterator[None]:
        self.deliver = deliver
        async with super().running(self._deliver_now):
            yield

    async def _deliver_now(self, channel: str, message: Message) -> None:
        assert self.deliver is not None
        await self.deliver(channel, message)

    async def _ask(self, what: str) -> None:
        self.asked.append(what)
        if what in self.gates:
            await self.gates[what].wait()
        if self.away and not what.startswith("-"):
            raise BackendError("no server")

    async def publish(self, channel: str, message: Message, *, expire: float) -> None:
        await self._ask(f"!{channel}")
        await super().publish(channel, message, expire=expire)

    async def subscribe(self, channel: str) -> None:
        await self._ask(f"+{channel}")
        await super().subscribe(channel)
        self.subscribed.add(channel)

    async def unsubscribe(self, channel: str) -> None:
        await self._ask(f"-{channel}")
        await super().unsubscribe(channel)
        self.subscribed.discard(channel)

    async def last(self, channel: str) -> Last | None:
        last = await super().last(channel)
        await self._ask(f"?{channel}")
        return last


async def settled(hub: Hub, channels: int, subscriptions: int) -> None:
    """Check what the hub holds, once it is in step with its backend."""
    await trio.testing.wait_all_tasks_blocked()
    assert hub.statistics()[:2] == (channels, subscriptions)


def keep_last(hub: Hub, keep: int) -> LastMessages:
    """Let a hub keep so many bytes of last messages, beginning with none."""
    hub._last = LastMessages(keep)
    return hub._last
