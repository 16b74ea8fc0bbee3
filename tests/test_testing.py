from __future__ import annotations

import inspect
import re
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial

import pytest
import trio
import trio.testing

from tests.support.backends import OpenBackend
from trio_beat import BackendError, Message
from trio_beat.backends import Backend, Deliver, Last
from trio_beat.testing import _Sentence, cancelled_at, check_backend


class Broker:
    """Lets several backends hear each other: what a broker outside would do."""

    def __init__(self) -> None:
        self.hubs: list[SharedBackend] = []
        self.lock = trio.StrictFIFOLock()


class SharedBackend(OpenBackend):
    def __init__(self, broker: Broker) -> None:
        super().__init__()
        self.broker = broker

    @asynccontextmanager
    async def running(self, deliver: Deliver) -> AsyncIterator[None]:
        async with super().running(deliver):
            self.broker.hubs.append(self)
            try:
                yield
            finally:
                self.broker.hubs.remove(self)

    async def publish(self, channel: str, message: Message, *, expire: float) -> None:
        async with self.broker.lock:
            for hub in self.order():
                await OpenBackend.publish(hub, channel, message, expire=expire)

    def order(self) -> list[SharedBackend]:
        return self.broker.hubs


async def test_accepts_backends_that_share_a_broker(
    autojump_clock: trio.testing.MockClock,
) -> None:
    await check_backend(partial(SharedBackend, Broker()), shared=True)


class OwnWayFirst(SharedBackend):
    """Hands its own messages out at once, and to the others when their turn has come."""

    async def publish(self, channel: str, message: Message, *, expire: float) -> None:
        await OpenBackend.publish(self, channel, message, expire=expire)
        for hub in self.broker.hubs:
            if hub is not self:
                await OpenBackend.publish(hub, channel, message, expire=expire)


class StaysSubscribed(SharedBackend):
    @asynccontextmanager
    async def running(self, deliver: Deliver) -> AsyncIterator[None]:
        self.broker.hubs.append(self)
        self.deliver = deliver
        yield


@pytest.mark.parametrize(
    ("broken", "sentence"),
    [
        (OwnWayFirst, _Sentence.ORDER),
        (StaysSubscribed, _Sentence.LEAVING),
        # Each hub is alone.
        (lambda broker: OpenBackend(), _Sentence.EACH),
    ],
)
async def test_rejects_hubs_that_hear_different_things(
    broken: Callable[[Broker], Backend],
    sentence: _Sentence,
    autojump_clock: trio.testing.MockClock,
) -> None:
    broker = Broker()
    with pytest.raises(AssertionError, match=re.escape(repr(sentence.value))):
        await check_backend(partial(broken, broker), shared=True)


class StripsNames(OpenBackend):
    async def publish(self, channel: str, message: Message, *, expire: float) -> None:
        await super().publish(channel.replace("\0", ""), message, expire=expire)


class Changing(OpenBackend, ABC):
    """Makes other messages of some."""

    async def publish(self, channel: str, message: Message, *, expire: float) -> None:
        await super().publish(channel, self.change(message), expire=expire)

    @abstractmethod
    def change(self, message: Message) -> Message:
        """Make the message that is published in place of another one."""


class TextOnly(Changing):
    def change(self, message: Message) -> Message:
        if isinstance(message.payload, bytes):
            return Message(message.payload.decode(errors="replace").encode(), message.id)
        return message


class EmptyIsBinary(Changing):
    def change(self, message: Message) -> Message:
        return Message(message.payload or b"", message.id)


class NarrowCharacters(Changing):
    def change(self, message: Message) -> Message:
        if isinstance(message.payload, str):
            narrow = "".join(c for c in message.payload if c <= "\uffff")
            return Message(narrow, message.id)
        return message


class LosesIds(Changing):
    def change(self, message: Message) -> Message:
        return Message(message.payload, message.id.rstrip(b"\n"))


class KeepsAnotherKind(OpenBackend):
    """Delivers as it should; what it keeps is text."""

    async def last(self, channel: str) -> Last | None:
        last = await super().last(channel)
        if last is None or isinstance(last.message.payload, str):
            return last
        text = last.message.payload.decode("latin-1")
        return Last(Message(text, last.message.id), last.expires_in)


class IgnoresCase(OpenBackend):
    async def publish(self, channel: str, message: Message, *, expire: float) -> None:
        await super().publish(channel.lower(), message, expire=expire)


class HearsEverything(OpenBackend):
    async def subscribe(self, channel: str) -> None:
        self.subscribed = {channel, *(f"other{channel.removeprefix('channel')}",)}

    async def publish(self, channel: str, message: Message, *, expire: float) -> None:
        assert self.deliver is not None
        await self.deliver(channel, message)


class NotItsOwn(OpenBackend):
    async def publish(self, channel: str, message: Message, *, expire: float) -> None:
        if self.subscribed:
            return
        await super().publish(channel, message, expire=expire)


class OnlyTheFirst(OpenBackend):
    async def publish(self, channel: str, message: Message, *, expire: float) -> None:
        await super().publish(channel, message, expire=expire)
        self.subscribed.discard(channel)


class Spawning(OpenBackend):
    """Has a nursery, in which it delivers."""

    nursery: trio.Nursery

    @asynccontextmanager
    async def running(self, deliver: Deliver) -> AsyncIterator[None]:
        async with super().running(deliver), trio.open_nursery() as self.nursery:
            yield
            self.nursery.cancel_scope.cancel()


class DeliversLater(Spawning):
    async def publish(self, channel: str, message: Message, *, expire: float) -> None:
        self.nursery.start_soon(partial(super().publish, channel, message, expire=expire))


class AllAtOnce(OpenBackend):
    async def publish(self, channel: str, message: Message, *, expire: float) -> None:
        assert self.deliver is not None
        await trio.lowlevel.checkpoint()
        if expire:
            self.kept[channel] = (message, trio.current_time() + expire)
        if channel in self.subscribed:
            await self.deliver(channel, message)


class Twice(OpenBackend):
    async def publish(self, channel: str, message: Message, *, expire: float) -> None:
        await super().publish(channel, message, expire=expire)
        await super().publish(channel, message, expire=0)


class OneAtATime(OpenBackend):
    """Does not let one publish while another does."""

    busy = False

    async def publish(self, channel: str, message: Message, *, expire: float) -> None:
        if self.busy:
            return
        self.busy = True
        try:
            await super().publish(channel, message, expire=expire)
        finally:
            self.busy = False


class LosesItsLock(OpenBackend):
    """A publish that is cancelled leaves the others waiting."""

    def __init__(self) -> None:
        super().__init__()
        self.lock = trio.Semaphore(1)

    async def publish(self, channel: str, message: Message, *, expire: float) -> None:
        await self.lock.acquire()
        await super().publish(channel, message, expire=expire)
        self.lock.release()


class SubscribesForGood(OpenBackend):
    """A subscription that is cancelled cannot be taken back."""

    def __init__(self) -> None:
        super().__init__()
        self.halfway: set[str] = set()

    async def subscribe(self, channel: str) -> None:
        self.halfway.add(channel)
        self.subscribed.add(channel)
        await trio.lowlevel.checkpoint()
        self.halfway.discard(channel)

    async def unsubscribe(self, channel: str) -> None:
        if channel not in self.halfway:
            await super().unsubscribe(channel)


class CannotBeLeft(OpenBackend):
    @asynccontextmanager
    async def running(self, deliver: Deliver) -> AsyncIterator[None]:
        try:
            async with super().running(deliver):
                yield
        except trio.Cancelled:
            with trio.CancelScope(shield=True):
                await trio.sleep(60)
            raise


class NeverLeft(OpenBackend):
    @asynccontextmanager
    async def running(self, deliver: Deliver) -> AsyncIterator[None]:
        self.deliver = deliver
        yield


class KeepsNothing(OpenBackend):
    async def publish(self, channel: str, message: Message, *, expire: float) -> None:
        await super().publish(channel, message, expire=0)


class KeepsTheFirst(OpenBackend):
    async def publish(self, channel: str, message: Message, *, expire: float) -> None:
        former = await self.last(channel)
        await super().publish(channel, message, expire=0 if former else expire)


class KeepsTooLong(OpenBackend):
    async def publish(self, channel: str, message: Message, *, expire: float) -> None:
        await super().publish(channel, message, expire=2 * expire)


class KeepsZero(OpenBackend):
    async def publish(self, channel: str, message: Message, *, expire: float) -> None:
        await super().publish(channel, message, expire=expire or 1)


class ZeroDrops(OpenBackend):
    async def publish(self, channel: str, message: Message, *, expire: float) -> None:
        if not expire:
            self.kept.pop(channel, None)
        await super().publish(channel, message, expire=expire)


class StandsStill(OpenBackend):
    """Tells what is left at the time of publishing, for ever."""

    async def last(self, channel: str) -> Last | None:
        return Last(self.kept[channel][0], 1.0) if channel in self.kept else None


class KeepsAnother(OpenBackend):
    """What is kept is not what came last."""

    async def publish(self, channel: str, message: Message, *, expire: float) -> None:
        former = self.kept.get(channel)
        await super().publish(channel, message, expire=expire)
        if former is not None and str(message.payload).endswith("/4"):
            self.kept[channel] = former


class SubscribesSoon(Spawning):
    async def subscribe(self, channel: str) -> None:
        async def soon() -> None:
            await trio.sleep(0.5)
            self.subscribed.add(channel)

        self.nursery.start_soon(soon)


class NeverUnsubscribes(OpenBackend):
    async def unsubscribe(self, channel: str) -> None:
        pass


@pytest.mark.parametrize(
    ("broken", "sentence"),
    [
        (StripsNames, _Sentence.ANY),
        (IgnoresCase, _Sentence.ANY),
        (TextOnly, _Sentence.SAME),
        (EmptyIsBinary, _Sentence.SAME),
        (NarrowCharacters, _Sentence.SAME),
        (LosesIds, _Sentence.SAME),
        (KeepsAnotherKind, _Sentence.KEPT),
        (HearsEverything, _Sentence.EACH),
        (OnlyTheFirst, _Sentence.EACH),
        (NotItsOwn, _Sentence.SUBSCRIBED),
        (SubscribesSoon, _Sentence.SUBSCRIBED),
        (NeverUnsubscribes, _Sentence.UNSUBSCRIBED),
        (DeliversLater, _Sentence.NEVER_AFTER),
        (Twice, _Sentence.ONCE),
        (AllAtOnce, _Sentence.ONE_AT_A_TIME),
        (OneAtATime, _Sentence.MANY),
        (KeepsAnother, _Sentence.ORDER),
        (LosesItsLock, _Sentence.CANCELLED),
        (SubscribesForGood, _Sentence.CANCELLED),
        (CannotBeLeft, _Sentence.LEAVING),
        (NeverLeft, _Sentence.LEAVING),
        (KeepsNothing, _Sentence.KEPT),
        (KeepsTheFirst, _Sentence.KEPT),
        (KeepsTooLong, _Sentence.KEPT),
        (StandsStill, _Sentence.KEPT),
        (KeepsZero, _Sentence.NOT_KEPT),
        (ZeroDrops, _Sentence.NOT_KEPT),
    ],
)
async def test_rejects_a_backend_that_breaks_a_sentence(
    broken: Callable[[], Backend],
    sentence: _Sentence,
    autojump_clock: trio.testing.MockClock,
) -> None:
    with pytest.raises(AssertionError, match=re.escape(repr(sentence.value))):
        await check_backend(broken)


class ForgetsTime(OpenBackend):
    """Tells the truth about when a message expires, and then keeps it."""

    async def last(self, channel: str) -> Last | None:
        if channel not in self.kept:
            return None
        message, expires = self.kept[channel]
        return Last(message, max(expires - trio.current_time(), 0.001))


async def test_rejects_a_backend_that_keeps_what_has_expired(
    autojump_clock: trio.testing.MockClock,
) -> None:
    with pytest.raises(AssertionError, match=re.escape(_Sentence.NO_LAST)):
        await check_backend(ForgetsTime)


def test_every_sentence_is_one_of_the_contract() -> None:
    methods = (Backend, Backend.publish, Backend.subscribe, Backend.unsubscribe, Backend.last)
    contract = " ".join(" ".join((inspect.getdoc(part) or "").split()) for part in methods)
    for sentence in _Sentence:
        assert sentence in contract


async def test_cancels_at_each_await_in_turn() -> None:
    async def wait_three_times(log: list[int]) -> None:
        for number in range(3):
            await trio.lowlevel.checkpoint()
            log.append(number)

    ends = []
    for step in range(6):
        log: list[int] = []
        call: Callable[[], Awaitable[None]] = partial(wait_three_times, log)
        ends.append((await cancelled_at(step, call), log))
    everything = [0, 1, 2]
    assert ends == [
        (True, []),
        (True, []),
        (True, [0]),
        (True, [0, 1]),
        (False, everything),
        (False, everything),
    ]


@pytest.mark.parametrize("method", ["publish", "subscribe", "last"])
async def test_raises_plainly_what_a_backend_raises(
    autojump_clock: trio.testing.MockClock, method: str
) -> None:
    """Also where the backend has tasks, whose nursery would wrap it in a group."""

    class Failing(OpenBackend):
        @asynccontextmanager
        async def running(self, deliver: Deliver) -> AsyncIterator[None]:
            async with super().running(deliver), trio.open_nursery() as nursery:
                nursery.start_soon(trio.sleep_forever)
                yield
                nursery.cancel_scope.cancel()

    async def fail(*_: object, **__: object) -> None:
        raise BackendError("no broker")

    setattr(Failing, method, fail)
    with pytest.raises(BackendError, match="no broker"):
        await check_backend(Failing)
