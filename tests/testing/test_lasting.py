from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Collection, Mapping
from contextlib import asynccontextmanager

import pytest
import trio
import trio.testing

from tests.support.backends import OpenBackend, OpenBroker
from tests.support.conformance import assert_rejected
from trio_beat import BackendError, Message
from trio_beat.backends import Backend, Receiver, Told
from trio_beat.testing.sentences import Sentence


class KeepsNothing(OpenBackend):
    def keep(self, channel: str, message: Message, expire: float) -> None:
        pass


class KeepsTheFirst(OpenBackend):
    def keep(self, channel: str, message: Message, expire: float) -> None:
        if self.last_of(channel) is None:
            super().keep(channel, message, expire)


class KeepsAnotherKind(OpenBackend):
    """Delivers as it should; what it keeps is text."""

    def keep(self, channel: str, message: Message, expire: float) -> None:
        if isinstance(message.payload, bytes):
            message = Message(message.payload.decode("latin-1"))
        super().keep(channel, message, expire)


class KeepsTooLong(OpenBackend):
    def keep(self, channel: str, message: Message, expire: float) -> None:
        super().keep(channel, message, 2 * expire)


class KeepsTooShort(OpenBackend):
    def keep(self, channel: str, message: Message, expire: float) -> None:
        super().keep(channel, message, expire / 3)


class ForgetsTime(OpenBackend):
    def last_of(self, channel: str) -> Message | None:
        return self.broker.kept[channel][0] if channel in self.broker.kept else None


class KeepsForItself(OpenBackend):
    """What is kept is the hub's, not the broker's."""

    def __init__(self, broker: OpenBroker) -> None:
        super().__init__(broker)
        self.kept: dict[str, Message] = {}

    def last_of(self, channel: str) -> Message | None:
        return None if super().last_of(channel) is None else self.kept.get(channel)

    async def hear(self, channel: str, message: Message, sender: object | None) -> None:
        if self.broker.kept.get(channel, (None, 0))[0] == message:
            self.kept[channel] = message
        await super().hear(channel, message, sender)


class KeepsZero(OpenBackend):
    async def publish(
        self, channel: str, message: Message, *, expire: float, sender: object | None = None
    ) -> None:
        await super().publish(channel, message, expire=expire or 1, sender=sender)


class ZeroDrops(OpenBackend):
    async def publish(
        self, channel: str, message: Message, *, expire: float, sender: object | None = None
    ) -> None:
        if not expire:
            self.broker.kept.pop(channel, None)
        await super().publish(channel, message, expire=expire, sender=sender)


class KeepsAnother(OpenBackend):
    """What is kept is not what came last."""

    def keep(self, channel: str, message: Message, expire: float) -> None:
        if self.last_of(channel) is None or not str(message.payload).endswith("/4"):
            super().keep(channel, message, expire)


class TellsLater(OpenBackend):
    """What it tells was the last message when it was asked."""

    async def last(self, channels: Collection[str], told: Told) -> Mapping[str, BackendError]:
        found = {channel: self.last_of(channel) for channel in channels}
        for _ in range(7):
            await trio.lowlevel.checkpoint()
        self.check_there()
        for channel, message in found.items():
            told(channel, message)
        return {}


class TellsEarlier(OpenBackend):
    """Reads while a message is being handed out, and has not come to this hub."""

    async def hand_out(self, channel: str, message: Message, sender: object | None) -> None:
        await trio.lowlevel.checkpoint()
        await super().hand_out(channel, message, sender)

    async def last(self, channels: Collection[str], told: Told) -> Mapping[str, BackendError]:
        await trio.lowlevel.checkpoint()
        self.check_there()
        for channel in channels:
            told(channel, self.last_of(channel))
        return {}


class TellsTwice(OpenBackend):
    async def last(self, channels: Collection[str], told: Told) -> Mapping[str, BackendError]:
        await super().last(channels, told)
        return await super().last(channels, told)


class TellsSome(OpenBackend):
    async def last(self, channels: Collection[str], told: Told) -> Mapping[str, BackendError]:
        return await super().last(list(channels)[:500], told)


class TellsOfOthers(OpenBackend):
    async def last(self, channels: Collection[str], told: Told) -> Mapping[str, BackendError]:
        return await super().last([*channels, *self.subscribed.difference(channels)], told)


class TellsAfterwards(OpenBackend):
    """Tells some milliseconds after a call was cancelled."""

    nursery: trio.Nursery

    @asynccontextmanager
    async def running(self, receiver: Receiver) -> AsyncIterator[None]:
        async with super().running(receiver), trio.open_nursery() as self.nursery:
            yield
            self.nursery.cancel_scope.cancel()

    async def last(self, channels: Collection[str], told: Told) -> Mapping[str, BackendError]:
        self.check_there()
        done = trio.Event()

        async def tell() -> None:
            await trio.sleep(0.01)
            await super(TellsAfterwards, self).last(channels, told)
            done.set()

        self.nursery.start_soon(tell)
        await done.wait()
        return {}


class CannotTell(OpenBackend):
    async def last(self, channels: Collection[str], told: Told) -> Mapping[str, BackendError]:
        await super().last(channels, told)
        return {channel: BackendError("cannot be told") for channel in list(channels)[1:]}


@pytest.mark.parametrize(
    ("broken", "sentence"),
    [
        (KeepsNothing, Sentence.KEPT),
        (KeepsTheFirst, Sentence.KEPT),
        (KeepsAnotherKind, Sentence.KEPT),
        (KeepsTooLong, Sentence.KEPT),
        (KeepsTooShort, Sentence.KEPT),
        (ForgetsTime, Sentence.KEPT),
        (KeepsForItself, Sentence.KEPT),
        (KeepsZero, Sentence.NOT_KEPT),
        (ZeroDrops, Sentence.NOT_KEPT),
        (KeepsAnother, Sentence.ORDER),
        (TellsLater, Sentence.PLACE),
        (TellsEarlier, Sentence.PLACE),
        (TellsTwice, Sentence.TOLD),
        (TellsSome, Sentence.TOLD),
        (TellsOfOthers, Sentence.TOLD),
        (TellsAfterwards, Sentence.TOLD),
        (CannotTell, Sentence.NOT_TOLD),
    ],
)
async def test_rejects_a_backend_that_breaks_a_sentence(
    broken: Callable[[OpenBroker], Backend],
    sentence: Sentence,
    autojump_clock: trio.testing.MockClock,
) -> None:
    await assert_rejected(broken, sentence)
