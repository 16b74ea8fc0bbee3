from __future__ import annotations

from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Collection, Mapping
from contextlib import asynccontextmanager
from functools import partial

import pytest
import trio
import trio.testing

from tests.support.backends import OpenBackend, OpenBroker
from tests.support.conformance import assert_broken
from trio_beat import BackendError, Message
from trio_beat.backends import Backend, Receiver, Told
from trio_beat.testing.outages import check_outages
from trio_beat.testing.sentences import Sentence


class PublishesToNobody(OpenBackend):
    async def publish(
        self, channel: str, message: Message, *, expire: float, sender: object | None = None
    ) -> None:
        if self.broker.here:
            await super().publish(channel, message, expire=expire, sender=sender)


class SubscribesToNothing(OpenBackend):
    async def subscribe(self, channels: Collection[str]) -> Mapping[str, BackendError]:
        return await super().subscribe(channels) if self.broker.here else {}


class RefusesMeanwhile(OpenBackend):
    async def subscribe(self, channels: Collection[str]) -> Mapping[str, BackendError]:
        if self.broker.here:
            return await super().subscribe(channels)
        return {channel: self.error() for channel in channels}


class TellsNothing(OpenBackend):
    async def last(self, channels: Collection[str], told: Told) -> Mapping[str, BackendError]:
        if self.broker.here:
            return await super().last(channels, told)
        for channel in channels:
            told(channel, None)
        return {}


class PublishesWhenItIsBack(OpenBackend):
    """Waits for the broker."""

    async def publish(
        self, channel: str, message: Message, *, expire: float, sender: object | None = None
    ) -> None:
        await self.broker.until_here()
        await super().publish(channel, message, expire=expire, sender=sender)


class RaisesAnotherError(OpenBackend):
    def check_there(self) -> None:
        if not self.broker.here:
            raise ConnectionResetError
        super().check_there()


class CannotUnsubscribe(OpenBackend):
    async def unsubscribe(self, channels: Collection[str]) -> None:
        self.check_there()
        await super().unsubscribe(channels)


class UnsubscribesWhenItIsBack(OpenBackend):
    async def unsubscribe(self, channels: Collection[str]) -> None:
        await self.broker.until_here()
        await super().unsubscribe(channels)


class LosesInSilence(OpenBackend):
    def tell_lost(self, channels: Collection[str]) -> None:
        self.subscribed.clear()


class TellsSomeToBeLost(OpenBackend):
    def tell_lost(self, channels: Collection[str]) -> None:
        super().tell_lost(sorted(channels)[:2])


class TellsOthersToBeLost(OpenBackend):
    """Also those that were unsubscribed."""

    def __init__(self, broker: OpenBroker) -> None:
        super().__init__(broker)
        self.ever: set[str] = set()

    async def subscribe(self, channels: Collection[str]) -> Mapping[str, BackendError]:
        self.ever.update(channels)
        return await super().subscribe(channels)

    def tell_lost(self, channels: Collection[str]) -> None:
        super().tell_lost(self.ever)


class TellsItTwice(OpenBackend):
    def tell_lost(self, channels: Collection[str]) -> None:
        super().tell_lost(channels)
        super().tell_lost(channels)


class SubscribesByItself(OpenBackend):
    def __init__(self, broker: OpenBroker) -> None:
        super().__init__(broker)
        self.former: set[str] = set()

    def tell_lost(self, channels: Collection[str]) -> None:
        super().tell_lost(channels)
        self.former.update(channels)

    def came_back(self) -> None:
        self.subscribed |= self.former
        super().came_back()


class NoticesNothing(OpenBackend):
    def went_away(self) -> None:
        self.tell_lost(self.subscribed.copy())

    def came_back(self) -> None:
        pass


class LosesAfterwards(OpenBackend):
    def went_away(self) -> None:
        assert self.receiver is not None
        self.receiver.away(self.error())
        self.tell_lost(self.subscribed.copy())


class TellsEachFailure(OpenBackend):
    async def publish(
        self, channel: str, message: Message, *, expire: float, sender: object | None = None
    ) -> None:
        try:
            await super().publish(channel, message, expire=expire, sender=sender)
        except BackendError as exc:
            if self.receiver is not None:
                self.receiver.away(exc)
            raise


class AwayWithoutReason(OpenBackend):
    @asynccontextmanager
    async def running(self, receiver: Receiver) -> AsyncIterator[None]:
        async with super().running(receiver):
            if self.broker.here:
                receiver.away(self.error())
                receiver.back()
            yield


class Flaps(OpenBackend):
    """Takes a connection for an answer."""

    nursery: trio.Nursery

    @asynccontextmanager
    async def running(self, receiver: Receiver) -> AsyncIterator[None]:
        async with super().running(receiver), trio.open_nursery() as self.nursery:
            yield
            self.nursery.cancel_scope.cancel()

    def went_away(self) -> None:
        super().went_away()
        self.nursery.start_soon(self.try_again)

    async def try_again(self) -> None:
        await trio.sleep(1)
        assert self.receiver is not None
        self.receiver.back()
        self.receiver.away(self.error())


class BackTwice(OpenBackend):
    def came_back(self) -> None:
        super().came_back()
        super().came_back()


class NeverBack(OpenBackend):
    def came_back(self) -> None:
        pass


class BackOnce(OpenBackend):
    """Finds its broker again after one outage only."""

    outages = 0

    def came_back(self) -> None:
        self.outages += 1
        if self.outages == 1:
            super().came_back()


class CannotBeEntered(OpenBackend):
    @asynccontextmanager
    async def running(self, receiver: Receiver) -> AsyncIterator[None]:
        if not self.broker.here:
            raise self.error()
        async with super().running(receiver):
            yield


class WaitsForItsBroker(OpenBackend):
    @asynccontextmanager
    async def running(self, receiver: Receiver) -> AsyncIterator[None]:
        await self.broker.until_here()
        async with super().running(receiver):
            yield


class EnteredInSilence(OpenBackend):
    """Tells that its broker is away a moment later."""

    @asynccontextmanager
    async def running(self, receiver: Receiver) -> AsyncIterator[None]:
        here, self.broker.here = self.broker.here, True
        async with super().running(receiver), trio.open_nursery() as nursery:
            self.broker.here = here
            if not here:
                nursery.start_soon(self.tell_later, receiver)
            yield
            nursery.cancel_scope.cancel()

    async def tell_later(self, receiver: Receiver) -> None:
        await trio.sleep(0.01)
        receiver.away(self.error())


class Repeats(OpenBackend):
    """Delivers again what was the last message before an outage."""

    lost_once = False

    def tell_lost(self, channels: Collection[str]) -> None:
        self.lost_once = True
        super().tell_lost(channels)

    async def subscribe(self, channels: Collection[str]) -> Mapping[str, BackendError]:
        refused = await super().subscribe(channels)
        for channel in channels if self.lost_once else ():
            if (message := self.last_of(channel)) is not None:
                await self.hear(channel, message, None)
        return refused


class RemembersItsSenders(OpenBackend):
    """What could not be confirmed is taken for the own copy, when its like comes later."""

    def __init__(self, broker: OpenBroker) -> None:
        super().__init__(broker)
        self.unconfirmed: defaultdict[Message, list[object]] = defaultdict(list)

    async def publish(
        self, channel: str, message: Message, *, expire: float, sender: object | None = None
    ) -> None:
        try:
            await super().publish(channel, message, expire=expire, sender=sender)
        except BackendError:
            self.unconfirmed[message].append(sender)
            raise

    async def hear(self, channel: str, message: Message, sender: object | None) -> None:
        former = self.unconfirmed[message]
        await super().hear(channel, message, former.pop() if former and not sender else sender)


class SendersAreLost(OpenBackend):
    """Knows its own copies until the first outage."""

    async def hear(self, channel: str, message: Message, sender: object | None) -> None:
        await super().hear(channel, message, None if self.lost_once else sender)

    lost_once = False

    def tell_lost(self, channels: Collection[str]) -> None:
        self.lost_once = bool(channels)
        super().tell_lost(channels)


class CannotBeLeft(OpenBackend):
    """Says goodbye to its broker, also where that is away."""

    @asynccontextmanager
    async def running(self, receiver: Receiver) -> AsyncIterator[None]:
        async with super().running(receiver):
            try:
                yield
            finally:
                with trio.CancelScope(shield=True):
                    await self.broker.until_here()


class TellsAfterwards(OpenBackend):
    @asynccontextmanager
    async def running(self, receiver: Receiver) -> AsyncIterator[None]:
        async with super().running(receiver):
            yield
        if not self.broker.here:
            trio.lowlevel.spawn_system_task(self.tell_later, receiver)

    async def tell_later(self, receiver: Receiver) -> None:
        await trio.sleep(0.01)
        receiver.back()


class LeavesATask(OpenBackend):
    @asynccontextmanager
    async def running(self, receiver: Receiver) -> AsyncIterator[None]:
        async with super().running(receiver):
            yield
        if not self.broker.here:
            trio.lowlevel.spawn_system_task(trio.sleep, 1000)


class MakesUpLastMessages(OpenBackend):
    """Takes for the last message what was not confirmed."""

    def keep(self, channel: str, message: Message, expire: float) -> None:
        self.broker.kept[channel] = (message, trio.current_time() + expire)

    async def publish(
        self, channel: str, message: Message, *, expire: float, sender: object | None = None
    ) -> None:
        if not self.broker.here:
            self.keep(channel, message, 100)
        await super().publish(channel, message, expire=expire, sender=sender)


class DeafToOthers(OpenBackend):
    """Hears only itself once its broker was away."""

    lost_once = False

    def tell_lost(self, channels: Collection[str]) -> None:
        self.lost_once = True
        super().tell_lost(channels)

    async def hand_out(self, channel: str, message: Message, sender: object | None) -> None:
        for hub in self.order():
            assert isinstance(hub, DeafToOthers)
            if hub is self or not hub.lost_once:
                await hub.hear(channel, message, sender if hub is self else None)


@pytest.mark.parametrize(
    ("broken", "sentence"),
    [
        (PublishesToNobody, Sentence.AWAY),
        (SubscribesToNothing, Sentence.AWAY),
        (RefusesMeanwhile, Sentence.AWAY),
        (TellsNothing, Sentence.AWAY),
        (PublishesWhenItIsBack, Sentence.AWAY),
        (RaisesAnotherError, Sentence.AWAY),
        (CannotUnsubscribe, Sentence.UNSUBSCRIBE_AWAY),
        (UnsubscribesWhenItIsBack, Sentence.UNSUBSCRIBE_AWAY),
        (LosesInSilence, Sentence.IN_SILENCE),
        (TellsSomeToBeLost, Sentence.IN_SILENCE),
        (TellsOthersToBeLost, Sentence.CONCERNED),
        (TellsItTwice, Sentence.CONCERNED),
        (SubscribesByItself, Sentence.LOST),
        (NoticesNothing, Sentence.TOLD_AWAY),
        (LosesAfterwards, Sentence.TOLD_AWAY),
        (TellsEachFailure, Sentence.TOLD_AWAY),
        (AwayWithoutReason, Sentence.TOLD_AWAY),
        (Flaps, Sentence.TOLD_BACK),
        (BackTwice, Sentence.TOLD_BACK),
        (NeverBack, Sentence.FINDS),
        (BackOnce, Sentence.FINDS),
        (DeafToOthers, Sentence.FINDS),
        (CannotBeEntered, Sentence.ENTERED_AWAY),
        (WaitsForItsBroker, Sentence.ENTERED_AWAY),
        (EnteredInSilence, Sentence.ENTERED_AWAY),
        (Repeats, Sentence.ONCE),
        (RemembersItsSenders, Sentence.SENDER),
        (SendersAreLost, Sentence.SENDER),
        (MakesUpLastMessages, Sentence.PLACE),
        (CannotBeLeft, Sentence.LEAVING),
        (TellsAfterwards, Sentence.LEAVING),
        (LeavesATask, Sentence.LEAVING),
    ],
)
async def test_rejects_a_backend_that_breaks_a_sentence(
    broken: Callable[[OpenBroker], Backend],
    sentence: Sentence,
    autojump_clock: trio.testing.MockClock,
) -> None:
    broker = OpenBroker()
    with assert_broken(sentence):
        await check_outages(
            partial(broken, broker), broker.outage, 5, shared=True, foreign=broker.foreign
        )
