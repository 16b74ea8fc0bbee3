"""As much of a hub as the conditions need."""

from __future__ import annotations

import secrets
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple, TypeAlias

import trio

from .._exceptions import BackendError
from .._plain import Plain, leaves
from .._protocol.messages import Message
from ..backends import Backend, Receiver
from .sentences import LIMIT, SETTLE, Broken, Sentence, check, promptly

Make: TypeAlias = Callable[[], Backend]
#: Publishes bytes to a channel at the broker.
Foreign: TypeAlias = Callable[[str, bytes], Awaitable[None]]
#: The broker is away while the context lasts.
Outage: TypeAlias = Callable[[], AbstractAsyncContextManager[None]]


@dataclass
class Sender:
    """What a publish gives as its sender. All are equal, false, and have no hash.

    So it has to come back as it is: who compares it, or asks whether it is true, is wrong.
    """

    def __bool__(self) -> bool:
        return False


class Delivery(NamedTuple):
    """What was delivered."""

    message: Message
    sender: object | None


class Event(NamedTuple):
    """What else was told."""

    name: str  #: of the method
    channels: Sequence[str] = ()  #: those that were lost


def fresh(name: str) -> str:
    """A channel that was never used before, at a broker that others may use."""
    return name + secrets.token_hex(8)


class Hub(Receiver):
    """Uses a backend, and remembers what it is told.

    Its `deliver` lets other tasks run, and is not cut short by cancellation. Its other methods
    check what goes for each call.

    Attributes:
        backend: what it uses.
        events: what it was told beside messages.
    """

    def __init__(self, backend: Backend) -> None:
        self.backend = backend
        self.events: list[Event] = []
        self._begun: defaultdict[str, list[Delivery]] = defaultdict(list)
        self._done: defaultdict[str, int] = defaultdict(int)
        self._overlapped = False
        #: What was told that a hub does not answer by an exception.
        self._faults: list[tuple[Sentence, str]] = []
        self._changed = trio.Event()

    # What the backend tells

    async def deliver(self, channel: str, message: Message, sender: object | None) -> None:
        self._overlapped |= len(self._begun[channel]) > self._done[channel]
        self._begun[channel].append(Delivery(message, sender))
        for _ in range(3):
            await trio.lowlevel.cancel_shielded_checkpoint()
        self._done[channel] += 1
        self._wake()

    def lost(self, channels: Collection[str]) -> None:
        self._tell(Event("lost", tuple(channels)))

    def away(self, error: BackendError) -> None:
        self._tell(Event("away"))

    def back(self) -> None:
        self._tell(Event("back"))

    def _tell(self, event: Event) -> None:
        self.events.append(event)
        self._wake()

    def _wake(self) -> None:
        self._changed.set()
        self._changed = trio.Event()

    # What it has heard

    def on(self, channel: str) -> list[Delivery]:
        """What was delivered to the end, in order."""
        return self._begun[channel][: self._done[channel]]

    def messages(self, channel: str) -> list[Message]:
        """The same, without senders."""
        return [delivery.message for delivery in self.on(channel)]

    def begun(self, channel: str) -> int:
        """How many deliveries have begun."""
        return len(self._begun[channel])

    def own(self, channel: str) -> list[object]:
        """The senders of own copies, in order."""
        return [sender for _, sender in self.on(channel) if sender is not None]

    async def until(self, condition: Callable[[], bool], seconds: float = LIMIT) -> bool:
        """Wait until something is so that depends on what is told.

        Returns:
            Whether it is so; False: it has not become so in time.
        """
        with trio.move_on_after(seconds):
            while not condition():
                await self._changed.wait()
        return condition()

    async def until_heard(self, channel: str, message: Message, since: int = 0) -> bool:
        """Wait for a message behind a number of others; see `until`."""
        return await self.until(lambda: message in self.messages(channel)[since:])

    async def until_number(self, channel: str, number: int) -> bool:
        """Wait for a number of messages; see `until`."""
        return await self.until(lambda: len(self.on(channel)) >= number)

    async def until_count(self, channel: str, number: int, sentence: Sentence) -> list[Delivery]:
        """Wait for a number of messages, and for those that would be too many."""
        await self.until_number(channel, number)
        await trio.sleep(SETTLE)
        came = self.on(channel)
        check(len(came) >= number, sentence, f"{number} were published, there came {came!r}")
        check(len(came) == number, Sentence.ONCE, f"{number} were published, there came {came!r}")
        return came

    def check(self, *, equal: bool = False) -> None:
        """Check what goes for everything that was heard.

        Args:
            equal: whether equal messages were published; else each of a channel is another one.
        """
        check(not self._overlapped, Sentence.ONE_AT_A_TIME, "`deliver` was called twice at once")
        self._check_faults()
        for deliveries in self._begun.values():
            self._check_senders(deliveries)
            times = Counter(message for message, _ in deliveries)
            doubled = {message for message, number in times.items() if number > 1}
            check(equal or not doubled, Sentence.ONCE, f"{doubled!r} came more than once")

    def _check_senders(self, deliveries: Collection[Delivery]) -> None:
        """Check that each sender came once."""
        own: dict[int, Message] = {}
        for message, sender in deliveries:
            if sender is not None:
                former = own.setdefault(id(sender), message)
                if former is not message:
                    again = former == message
                    sentence = Sentence.ONCE if again else Sentence.SENDER
                    check(False, sentence, f"the sender of {former!r} came with {message!r}, too")

    def _check_faults(self) -> None:
        for sentence, seen in self._faults:
            check(False, sentence, seen)

    def check_channels(self, expected: Collection[str], sentence: Sentence) -> None:
        """Check that there came messages of some channels only."""
        others = {channel for channel, came in self._begun.items() if came}.difference(expected)
        check(not others, sentence, f"there came messages of {others!r}")

    def check_events(self) -> None:
        """Check that no outage was told."""
        away = any(event.name == "away" for event in self.events)
        check(not away, Sentence.TOLD_AWAY, "`away` was told, without an outage")
        check(not self.events, Sentence.LOST, f"there was no outage, but told {self.events!r}")

    # What it does

    async def subscribe(
        self, *channels: str, sentence: Sentence = Sentence.SUBSCRIBED
    ) -> Mapping[str, BackendError]:
        given = dict.fromkeys(channels)
        with promptly(sentence, "`subscribe`"):
            refused = await self.backend.subscribe(given.keys())
        given.clear()  # it is the caller's
        for channel, reason in refused.items():
            known = channel in channels and isinstance(reason, BackendError)
            check(known, Sentence.REFUSED, f"the result has {channel!r}: {reason!r}")
        return refused

    async def hear(self, *channels: str, sentence: Sentence = Sentence.SUBSCRIBED) -> None:
        """Subscribe to channels that the broker does not refuse."""
        refused = await self.subscribe(*channels, sentence=sentence)
        check(not refused, Sentence.REFUSED, f"refused were {refused!r}")

    async def unsubscribe(self, *channels: str, sentence: Sentence = Sentence.UNSUBSCRIBED) -> None:
        given = list(channels)
        with promptly(sentence, "`unsubscribe`"):
            await self.backend.unsubscribe(given)
        given.clear()

    async def publish(
        self,
        channel: str,
        message: Message,
        *,
        expire: float = 0,
        sender: object | None = None,
        sentence: Sentence = Sentence.CONFIRMED,
    ) -> None:
        with promptly(sentence, "`publish`"):
            await self.backend.publish(channel, message, expire=expire, sender=sender)

    async def publish_heard(
        self,
        channel: str,
        message: Message,
        sentence: Sentence,
        *,
        expire: float = 0,
        equal: bool = False,
    ) -> None:
        """Publish to a channel that is subscribed, and check that it is heard; see `check`."""
        before, sender = len(self.on(channel)), Sender()
        await self.publish(channel, message, expire=expire, sender=sender)
        came = await self.until_heard(channel, message, before)
        check(came, sentence, f"{message!r} did not come")
        got = [it.sender for it in self.on(channel)[before:] if it.message == message]
        check(got[0] is sender, Sentence.SENDER, f"an own copy came with {got[0]!r}")
        self.check(equal=equal)

    async def publish_unheard(self, channel: str, sentence: Sentence) -> None:
        """Publish to a channel that is not subscribed, and check that nothing is heard."""
        before = self.begun(channel)
        await self.publish(channel, Message("no subscriber"))
        await trio.sleep(SETTLE)
        came = self._begun[channel][before:]
        check(not came, sentence, f"{came!r} came on a channel that is not subscribed")

    async def last(
        self,
        *channels: str,
        at: Callable[[], object] = lambda: None,
        sentence: Sentence = Sentence.TOLD,
    ) -> dict[str, Message | None]:
        """Ask for last messages.

        Args:
            channels: whose.
            at: called at the place of each.
            sentence: is broken if that takes too long.
        """
        found: dict[str, Message | None] = {}
        ended = False

        def told(channel: str, message: Message | None) -> None:
            when = "later" if ended else "twice" if channel in found else "unasked"
            if when != "unasked" or channel not in channels:
                self._faults.append((Sentence.TOLD, f"`told` was called {when}, for {channel!r}"))
            found[channel] = message
            at()

        try:
            with promptly(sentence, "`last`"):
                failed = await self.backend.last(tuple(channels), told)
        finally:
            ended = True
        self._check_faults()
        check(not failed, Sentence.NOT_TOLD, f"the result is {failed!r}")
        missing = set(channels).difference(found)
        check(not missing, Sentence.TOLD, f"`told` was not called for {missing!r}")
        return found

    async def check_kept(self, channel: str, message: Message | None, sentence: Sentence) -> None:
        """Check what the last message of a channel is; None: there is none."""
        last = (await self.last(channel))[channel]
        check(last == message, sentence, f"expected {message!r} as the last message, got {last!r}")


@asynccontextmanager
async def running(make: Make, *, outages: bool = False) -> AsyncIterator[Hub]:
    """Make a backend, and run it while the context lasts.

    Args:
        make: makes it.
        outages: whether it may tell of some.
    """
    hub = Hub(make())
    async with Plain(hub.backend.running(hub)):
        yield hub
        if not outages:
            hub.check_events()


@asynccontextmanager
async def open_nursery() -> AsyncIterator[trio.Nursery]:
    """Open a nursery that raises what one of its tasks, or its block, found to be broken."""
    try:
        async with Plain(trio.open_nursery()) as nursery:
            yield nursery
    except BaseExceptionGroup as group:
        for exc in leaves(group):
            if isinstance(exc, Broken):
                raise exc from None
        raise


def texts(prefix: object, number: int = 5) -> list[Message]:
    """Messages of one task."""
    return [Message(f"{prefix}/{turn}") for turn in range(number)]


async def publish_all(hub: Hub, channel: str, messages: Collection[Message]) -> None:
    """Publish one message after the other, and ask for the last one after each."""
    for message in messages:
        await hub.publish(channel, message, expire=LIMIT, sender=Sender(), sentence=Sentence.MANY)
        await hub.last(channel, sentence=Sentence.MANY)


async def publish_together(
    hubs: Sequence[Hub], channel: str, number: int, sentence: Sentence
) -> list[list[Message]]:
    """Publish from several tasks of several hubs at once, and wait until they are done."""
    series = [texts(prefix) for prefix in range(number)]
    with promptly(sentence, "it"):
        async with open_nursery() as nursery:
            for turn, messages in enumerate(series):
                call = partial(publish_all, hubs[turn % len(hubs)], channel, messages)
                nursery.start_soon(call)
    return series


def check_series(came: Sequence[Message], series: Sequence[Sequence[Message]]) -> None:
    """Check that the messages of each task came in their order."""
    for sent in series:
        got = [message for message in came if message in sent]
        check(got == list(sent), Sentence.SERIES, f"one task's messages came as {got!r}")
