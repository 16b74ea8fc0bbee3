from __future__ import annotations

import socket
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Iterator, Mapping
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Final
from weakref import WeakKeyDictionary

import pytest
import trio
import trio.testing

from tests.support.backends import OpenBackend, OpenBroker
from tests.support.conformance import assert_rejected
from trio_beat import BackendError, Message
from trio_beat.backends import Backend, Receiver, Told
from trio_beat.testing.sentences import Sentence


class OneAtATime(OpenBackend):
    """Does not let one publish while another does."""

    busy = False

    async def publish(
        self, channel: str, message: Message, *, expire: float, sender: object | None = None
    ) -> None:
        if self.busy:
            return
        self.busy = True
        try:
            await super().publish(channel, message, expire=expire, sender=sender)
        finally:
            self.busy = False


class PublishesInTurn(OpenBackend):
    async def hand_out(self, channel: str, message: Message, sender: object | None) -> None:
        await trio.sleep(0.01)
        await super().hand_out(channel, message, sender)


class TellsInTurn(OpenBackend):
    async def last(self, channels: Collection[str], told: Told) -> Mapping[str, BackendError]:
        async with self.turn:
            await trio.sleep(0.01)
            return await super().last(channels, told)

    def __init__(self, broker: OpenBroker) -> None:
        super().__init__(broker)
        self.turn = trio.StrictFIFOLock()


class OvertakesItself(OpenBackend):
    """Has a nursery, where some messages wait."""

    nursery: trio.Nursery

    @asynccontextmanager
    async def running(self, receiver: Receiver) -> AsyncIterator[None]:
        async with super().running(receiver), trio.open_nursery() as self.nursery:
            yield
            self.nursery.cancel_scope.cancel()

    async def publish(
        self, channel: str, message: Message, *, expire: float, sender: object | None = None
    ) -> None:
        publish = partial(super().publish, channel, message, expire=expire, sender=sender)

        async def later() -> None:
            await trio.sleep(0.01)
            await publish()

        if str(message.payload).endswith("/1"):
            self.nursery.start_soon(later)
        else:
            await publish()


class LosesItsLock(OpenBackend):
    """A publish that is cancelled leaves the others waiting."""

    def __init__(self, broker: OpenBroker) -> None:
        super().__init__(broker)
        self.lock = trio.Semaphore(1)

    async def publish(
        self, channel: str, message: Message, *, expire: float, sender: object | None = None
    ) -> None:
        await self.lock.acquire()
        await super().publish(channel, message, expire=expire, sender=sender)
        self.lock.release()


class KeepsAnOldSender(OpenBackend):
    """The sender of a publish that is cancelled stays for the next one."""

    senders: list[object]

    async def publish(
        self, channel: str, message: Message, *, expire: float, sender: object | None = None
    ) -> None:
        self.senders = [*getattr(self, "senders", []), sender]
        await trio.lowlevel.checkpoint()
        await super().publish(channel, message, expire=expire, sender=self.senders[0])
        self.senders.pop(0)


class SubscribesForGood(OpenBackend):
    """A subscription that is cancelled cannot be taken back."""

    def __init__(self, broker: OpenBroker) -> None:
        super().__init__(broker)
        self.halfway: set[str] = set()

    async def subscribe(self, channels: Collection[str]) -> Mapping[str, BackendError]:
        self.halfway.update(channels)
        refused = await super().subscribe(channels)
        await trio.lowlevel.checkpoint()
        self.halfway.difference_update(channels)
        return refused

    async def unsubscribe(self, channels: Collection[str]) -> None:
        await super().unsubscribe([it for it in channels if it not in self.halfway])


class SubscribesOnce(OpenBackend):
    """Takes for done what was cancelled."""

    def __init__(self, broker: OpenBroker) -> None:
        super().__init__(broker)
        self.known: set[str] = set()

    async def subscribe(self, channels: Collection[str]) -> Mapping[str, BackendError]:
        new = [channel for channel in channels if channel not in self.known]
        self.known.update(channels)
        return await super().subscribe(new)

    async def unsubscribe(self, channels: Collection[str]) -> None:
        self.known -= self.subscribed.intersection(channels)
        await super().unsubscribe(channels)


class EntersOnce(OpenBackend):
    """Entering that is cancelled leaves the broker closed."""

    doors: Final = WeakKeyDictionary[OpenBroker, trio.Semaphore]()

    @asynccontextmanager
    async def running(self, receiver: Receiver) -> AsyncIterator[None]:
        door = self.doors.setdefault(self.broker, trio.Semaphore(1))
        await door.acquire()
        await trio.lowlevel.checkpoint()
        door.release()
        async with super().running(receiver):
            yield


class CannotBeLeft(OpenBackend):
    @asynccontextmanager
    async def running(self, receiver: Receiver) -> AsyncIterator[None]:
        try:
            async with super().running(receiver):
                yield
        except trio.Cancelled:
            with trio.CancelScope(shield=True):
                await trio.sleep(60)
            raise


class NeverLeft(OpenBackend):
    @asynccontextmanager
    async def running(self, receiver: Receiver) -> AsyncIterator[None]:
        self.receiver = receiver
        self.broker.hubs.append(self)
        yield


class LeavesATask(OpenBackend):
    @asynccontextmanager
    async def running(self, receiver: Receiver) -> AsyncIterator[None]:
        trio.lowlevel.spawn_system_task(trio.sleep, 1000)
        async with super().running(receiver):
            yield


class OwnWayFirst(OpenBackend):
    """Hands its own messages out at once, and to the others when their turn has come."""

    async def publish(
        self, channel: str, message: Message, *, expire: float, sender: object | None = None
    ) -> None:
        self.check_there()
        async with self.own:
            await self.hear(channel, message, sender)
        async with self.broker.lock:
            if expire:
                self.keep(channel, message, expire)
            for hub in self.order():
                if hub is not self:
                    assert isinstance(hub, OwnWayFirst)
                    async with hub.own:
                        await hub.hear(channel, message, None)

    async def last(self, channels: Collection[str], told: Told) -> Mapping[str, BackendError]:
        if len(self.broker.hubs) > 1:
            return await super().last(channels, told)
        async with self.own:
            return await super().last(channels, told)

    def __init__(self, broker: OpenBroker) -> None:
        super().__init__(broker)
        self.own = trio.StrictFIFOLock()


class StaysSubscribed(OpenBackend):
    """Has left the broker only after a while."""

    @asynccontextmanager
    async def running(self, receiver: Receiver) -> AsyncIterator[None]:
        self.receiver = receiver
        self.broker.hubs.append(self)
        try:
            yield
        finally:
            # Alone it is closed; another one's messages still come.
            if len(self.broker.hubs) == 1:
                self.broker.hubs.remove(self)
                self.receiver = None


class DropsOthers(OpenBackend):
    def order(self) -> Iterable[OpenBackend]:
        return [self]


@pytest.mark.parametrize(
    ("broken", "sentence"),
    [
        (OneAtATime, Sentence.MANY),
        (PublishesInTurn, Sentence.MANY),
        (TellsInTurn, Sentence.MANY),
        (OvertakesItself, Sentence.SERIES),
        (LosesItsLock, Sentence.CANCELLED),
        (KeepsAnOldSender, Sentence.SENDER),
        (SubscribesForGood, Sentence.CANCELLED),
        (SubscribesOnce, Sentence.CANCELLED),
        (EntersOnce, Sentence.CANCELLED),
        (CannotBeLeft, Sentence.LEAVING),
        (NeverLeft, Sentence.LEAVING),
        (LeavesATask, Sentence.LEAVING),
        (StaysSubscribed, Sentence.LEAVING),
        (OwnWayFirst, Sentence.ORDER),
        # Each hub is alone.
        (lambda _: OpenBackend(), Sentence.EACH),
        (DropsOthers, Sentence.EACH),
    ],
)
async def test_rejects_a_backend_that_breaks_a_sentence(
    broken: Callable[[OpenBroker], Backend],
    sentence: Sentence,
    autojump_clock: trio.testing.MockClock,
) -> None:
    await assert_rejected(broken, sentence)


@pytest.fixture
def sockets() -> Iterator[list[socket.socket]]:
    """What is closed at the end of the test."""
    left: list[socket.socket] = []
    yield left
    for one in left:
        one.close()


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="only Linux tells")
async def test_rejects_a_backend_that_leaves_sockets(
    autojump_clock: trio.testing.MockClock, sockets: list[socket.socket]
) -> None:
    class LeavesSockets(OpenBackend):
        @asynccontextmanager
        async def running(self, receiver: Receiver) -> AsyncIterator[None]:
            sockets.extend(socket.socketpair())
            async with super().running(receiver):
                yield

    await assert_rejected(LeavesSockets, Sentence.LEAVING)
