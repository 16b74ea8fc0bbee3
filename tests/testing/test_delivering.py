from __future__ import annotations

from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Collection, Mapping
from contextlib import asynccontextmanager

import pytest
import trio
import trio.testing

from tests.support.backends import REFUSED, OpenBackend, OpenBroker
from tests.support.conformance import assert_rejected
from trio_beat import BackendError, Message
from trio_beat.backends import Backend, Receiver
from trio_beat.testing.sentences import Sentence


class Changing(OpenBackend, ABC):
    """Publishes something else than it is given."""

    async def publish(
        self, channel: str, message: Message, *, expire: float, sender: object | None = None
    ) -> None:
        channel, message, sender = self.change(channel, message, sender)
        await super().publish(channel, message, expire=expire, sender=sender)

    @abstractmethod
    def change(
        self, channel: str, message: Message, sender: object | None
    ) -> tuple[str, Message, object | None]:
        """Make what is published in place of it."""


class StripsNames(Changing):
    def change(
        self, channel: str, message: Message, sender: object | None
    ) -> tuple[str, Message, object | None]:
        return channel.replace("\0", ""), message, sender


class IgnoresCase(Changing):
    def change(
        self, channel: str, message: Message, sender: object | None
    ) -> tuple[str, Message, object | None]:
        return channel.lower(), message, sender


class TextOnly(Changing):
    def change(
        self, channel: str, message: Message, sender: object | None
    ) -> tuple[str, Message, object | None]:
        payload = message.payload
        if isinstance(payload, bytes):
            payload = payload.decode(errors="replace").encode()
        return channel, Message(payload), sender


class EmptyIsBinary(Changing):
    def change(
        self, channel: str, message: Message, sender: object | None
    ) -> tuple[str, Message, object | None]:
        return channel, Message(message.payload or b""), sender


class ReadableIsText(Changing):
    def change(
        self, channel: str, message: Message, sender: object | None
    ) -> tuple[str, Message, object | None]:
        payload = message.payload
        if payload and isinstance(payload, bytes) and payload.isascii():
            payload = payload.decode()
        return channel, Message(payload), sender


class NarrowCharacters(Changing):
    def change(
        self, channel: str, message: Message, sender: object | None
    ) -> tuple[str, Message, object | None]:
        payload = message.payload
        if isinstance(payload, str):
            payload = "".join(c for c in payload if c <= "\uffff")
        return channel, Message(payload), sender


class KnowsNoSenders(Changing):
    def change(
        self, channel: str, message: Message, sender: object | None
    ) -> tuple[str, Message, object | None]:
        return channel, message, None


class AsksWhetherTheSenderIsTrue(Changing):
    def change(
        self, channel: str, message: Message, sender: object | None
    ) -> tuple[str, Message, object | None]:
        return channel, message, sender or None


class HasOneSender(Changing):
    """Takes equal senders for the same."""

    def change(
        self, channel: str, message: Message, sender: object | None
    ) -> tuple[str, Message, object | None]:
        if sender is not None:
            if sender != self.sender:
                self.sender = sender
            sender = self.sender
        return channel, message, sender

    sender: object = None


class TellsTheSenderToAll(OpenBackend):
    async def hand_out(self, channel: str, message: Message, sender: object | None) -> None:
        for hub in self.order():
            await hub.hear(channel, message, sender)


class TakesEqualForOwn(OpenBackend):
    """Knows its own copies by what they are."""

    def __init__(self, broker: OpenBroker) -> None:
        super().__init__(broker)
        self.own: defaultdict[tuple[str, Message], list[object]] = defaultdict(list)

    async def publish(
        self, channel: str, message: Message, *, expire: float, sender: object | None = None
    ) -> None:
        if sender is not None and channel in self.subscribed:
            self.own[channel, message].append(sender)
        await super().publish(channel, message, expire=expire)

    async def hear(self, channel: str, message: Message, sender: object | None) -> None:
        own = self.own[channel, message]
        await super().hear(channel, message, own.pop(0) if own else None)


class ForeignIsItsOwn(OpenBackend):
    async def hear_foreign(self, channel: str, data: bytes) -> None:
        if data == b"same":
            await self.hear(channel, Message("same"), object())
        else:
            await super().hear_foreign(channel, data)


class DropsEqual(OpenBackend):
    former: Message | None = None

    async def hear(self, channel: str, message: Message, sender: object | None) -> None:
        if message != self.former:
            self.former = message
            await super().hear(channel, message, sender)


class HearsEverything(OpenBackend):
    async def hear(self, channel: str, message: Message, sender: object | None) -> None:
        assert self.receiver is not None
        await self.receiver.deliver(channel, message, sender)


class OnlyTheFirst(OpenBackend):
    async def hear(self, channel: str, message: Message, sender: object | None) -> None:
        await super().hear(channel, message, sender)
        self.subscribed.discard(channel)


class NotItsOwn(OpenBackend):
    async def hear(self, channel: str, message: Message, sender: object | None) -> None:
        if sender is None:
            await super().hear(channel, message, sender)


class Twice(OpenBackend):
    async def hear(self, channel: str, message: Message, sender: object | None) -> None:
        await super().hear(channel, message, sender)
        await super().hear(channel, message, None)


class AllAtOnce(OpenBackend):
    """Each publish hands out by itself."""

    async def publish(
        self, channel: str, message: Message, *, expire: float, sender: object | None = None
    ) -> None:
        await trio.lowlevel.checkpoint()
        self.check_there()
        if expire:
            self.keep(channel, message, expire)
        await self.hand_out(channel, message, sender)


class Spawning(OpenBackend):
    """Has a nursery."""

    nursery: trio.Nursery

    @asynccontextmanager
    async def running(self, receiver: Receiver) -> AsyncIterator[None]:
        async with super().running(receiver), trio.open_nursery() as self.nursery:
            yield
            self.nursery.cancel_scope.cancel()


class SubscribesSoon(Spawning):
    async def subscribe(self, channels: Collection[str]) -> Mapping[str, BackendError]:
        async def soon(channels: Collection[str]) -> None:
            await trio.sleep(0.5)
            self.subscribed.update(channels)

        self.nursery.start_soon(soon, list(channels))
        return {}


class NeverUnsubscribes(OpenBackend):
    async def unsubscribe(self, channels: Collection[str]) -> None:
        pass


class KeepsWhatIsTheCallers(OpenBackend):
    async def subscribe(self, channels: Collection[str]) -> Mapping[str, BackendError]:
        self.given = channels
        return {}

    async def hear(self, channel: str, message: Message, sender: object | None) -> None:
        self.subscribed = set(self.given)
        await super().hear(channel, message, sender)

    given: Collection[str] = ()


class SubscribesSome(OpenBackend):
    async def subscribe(self, channels: Collection[str]) -> Mapping[str, BackendError]:
        return await super().subscribe(list(channels)[:500])


class UnsubscribesSome(OpenBackend):
    async def unsubscribe(self, channels: Collection[str]) -> None:
        await super().unsubscribe(list(channels)[:100])


class NoneIsAll(OpenBackend):
    async def unsubscribe(self, channels: Collection[str]) -> None:
        await super().unsubscribe(channels or list(self.subscribed))


class RefusesLargeBatches(OpenBackend):
    async def subscribe(self, channels: Collection[str]) -> Mapping[str, BackendError]:
        await super().subscribe(channels)
        return {it: BackendError("too many") for it in list(channels)[500:]}


class RefusesAllWithOne(OpenBackend):
    async def subscribe(self, channels: Collection[str]) -> Mapping[str, BackendError]:
        if REFUSED in channels:
            return {channel: BackendError("one is not allowed") for channel in channels}
        return await super().subscribe(channels)


class LosesAllWithOne(OpenBackend):
    async def subscribe(self, channels: Collection[str]) -> Mapping[str, BackendError]:
        if REFUSED in channels:
            self.subscribed.clear()
            return {REFUSED: BackendError("not allowed")}
        return await super().subscribe(channels)


class RaisesForOne(OpenBackend):
    async def subscribe(self, channels: Collection[str]) -> Mapping[str, BackendError]:
        if REFUSED in channels:
            raise BackendError("one is not allowed")
        return await super().subscribe(channels)


class RefusesOthers(OpenBackend):
    async def subscribe(self, channels: Collection[str]) -> Mapping[str, BackendError]:
        return {**await super().subscribe(channels), "another": BackendError("not asked for")}


class DropsForeignBinary(OpenBackend):
    async def hear_foreign(self, channel: str, data: bytes) -> None:
        if b"\xff" not in data:
            await super().hear_foreign(channel, data)


class ReplacesForeignBytes(OpenBackend):
    async def hear_foreign(self, channel: str, data: bytes) -> None:
        await self.hear(channel, Message(data.decode(errors="replace")), None)


class CutsForeignBytes(OpenBackend):
    """Takes the first byte for its own."""

    async def hear_foreign(self, channel: str, data: bytes) -> None:
        await super().hear_foreign(channel, data[1:] if data[:1] == b"\xff" else data)


class SwallowsForeignCopies(OpenBackend):
    """Takes what it has published itself for its own copy, for good."""

    def __init__(self, broker: OpenBroker) -> None:
        super().__init__(broker)
        self.published: set[Message] = set()

    async def publish(
        self, channel: str, message: Message, *, expire: float, sender: object | None = None
    ) -> None:
        self.published.add(message)
        await super().publish(channel, message, expire=expire, sender=sender)

    async def hear_foreign(self, channel: str, data: bytes) -> None:
        if data != b"same" or Message("same") not in self.published:
            await super().hear_foreign(channel, data)


class NeverConfirms(OpenBackend):
    async def publish(
        self, channel: str, message: Message, *, expire: float, sender: object | None = None
    ) -> None:
        await super().publish(channel, message, expire=expire, sender=sender)
        await trio.sleep_forever()


class LosesForNothing(OpenBackend):
    async def unsubscribe(self, channels: Collection[str]) -> None:
        await super().unsubscribe(channels)
        assert self.receiver is not None
        self.receiver.lost(channels)


@pytest.mark.parametrize(
    ("broken", "sentence"),
    [
        (StripsNames, Sentence.ANY),
        (IgnoresCase, Sentence.ANY),
        (TextOnly, Sentence.SAME),
        (EmptyIsBinary, Sentence.SAME),
        (ReadableIsText, Sentence.SAME),
        (NarrowCharacters, Sentence.SAME),
        (KnowsNoSenders, Sentence.SENDER),
        (AsksWhetherTheSenderIsTrue, Sentence.SENDER),
        (HasOneSender, Sentence.SENDER),
        (TellsTheSenderToAll, Sentence.SENDER),
        (TakesEqualForOwn, Sentence.SENDER),
        (ForeignIsItsOwn, Sentence.SENDER),
        (DropsEqual, Sentence.EACH),
        (HearsEverything, Sentence.EACH),
        (OnlyTheFirst, Sentence.EACH),
        (NotItsOwn, Sentence.SUBSCRIBED),
        (SubscribesSoon, Sentence.SUBSCRIBED),
        (KeepsWhatIsTheCallers, Sentence.SUBSCRIBED),
        (SubscribesSome, Sentence.SUBSCRIBED),
        (NoneIsAll, Sentence.SUBSCRIBED),
        (NeverUnsubscribes, Sentence.UNSUBSCRIBED),
        (UnsubscribesSome, Sentence.UNSUBSCRIBED),
        (LosesForNothing, Sentence.LOST),
        (Twice, Sentence.ONCE),
        (AllAtOnce, Sentence.ONE_AT_A_TIME),
        (NeverConfirms, Sentence.CONFIRMED),
        (RefusesLargeBatches, Sentence.REFUSED),
        (RefusesAllWithOne, Sentence.REFUSED),
        (LosesAllWithOne, Sentence.REFUSED),
        (RaisesForOne, Sentence.REFUSED),
        (RefusesOthers, Sentence.REFUSED),
        (DropsForeignBinary, Sentence.FOREIGN),
        (ReplacesForeignBytes, Sentence.FOREIGN),
        (CutsForeignBytes, Sentence.FOREIGN),
        (SwallowsForeignCopies, Sentence.FOREIGN),
    ],
)
async def test_rejects_a_backend_that_breaks_a_sentence(
    broken: Callable[[OpenBroker], Backend],
    sentence: Sentence,
    autojump_clock: trio.testing.MockClock,
) -> None:
    await assert_rejected(broken, sentence)
