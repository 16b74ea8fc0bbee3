"""Conditions of calls: many at a time, cancelled ones, the end of all, and several hubs."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from itertools import count
from pathlib import Path
from typing import Final

import trio

from .._protocol.messages import Message
from .cancelling import cancelled_at
from .delivering import check_own
from .hub import Hub, Make, Sender, check_series, fresh, open_nursery, publish_together, running
from .sentences import LIMIT, SETTLE, Sentence, check, promptly

#: Calls at a time.
_MANY: Final = 200
#: Seconds that they may take, beside the time of some of them one after the other.
_SLACK: Final = 1.0
_SOME: Final = 20


class _Left(Exception):  # noqa: N818 - nothing is wrong
    pass


async def check_concurrency(make: Make) -> None:
    """Many tasks may publish at a time; order is kept, also by what is kept."""
    async with running(make) as hub:
        channel = fresh("channel")
        await hub.hear(channel)
        series = await publish_together([hub], channel, 20, Sentence.MANY)
        sent = {message for messages in series for message in messages}
        await hub.until_number(channel, len(sent))
        await trio.sleep(SETTLE)
        hub.check()
        came = hub.messages(channel)
        check(set(came) == sent, Sentence.MANY, f"{sent.difference(came)!r} did not come")
        check_series(came, series)
        last = (await hub.last(channel))[channel]
        seen = f"the last message that came was {came[-1]!r}, the last one kept is {last!r}"
        check(last == came[-1], Sentence.ORDER, seen)


async def check_waiting(make: Make) -> None:
    """Calls do not wait for one another."""
    async with running(make) as hub:
        channels = [fresh("channel") for _ in range(10)]
        await hub.hear(*channels)
        one = channels[0]
        calls: dict[str, Callable[[str], Awaitable[object]]] = {
            "`publish`": lambda channel: hub.publish(channel, Message("x"), expire=LIMIT),
            "`last`": lambda channel: hub.last(channel),
        }
        for name, call in calls.items():
            alone = min([await _seconds_of(partial(call, one)) for _ in range(3)])
            for among in ([one], channels):
                took = await _seconds_of(partial(_call_together, call, among))
                seen = f"one call of {name} took {alone:.2g} s, {_MANY} at a time {took:.2g} s"
                check(took <= _SLACK + _SOME * alone, Sentence.MANY, seen)
        hub.check(equal=True)


async def _seconds_of(call: Callable[[], Awaitable[object]]) -> float:
    begin = trio.current_time()
    await call()
    return trio.current_time() - begin


async def _call_together(call: Callable[[str], Awaitable[object]], channels: Sequence[str]) -> None:
    async with open_nursery() as nursery:
        for number in range(_MANY):
            nursery.start_soon(call, channels[number % len(channels)])


async def check_cancellation(make: Make) -> None:
    """Every method may be cancelled at each of its awaits, and all goes on."""
    async with running(make) as hub:
        channel = fresh("channel")
        await hub.hear(channel)
        for expire in (0, LIMIT):
            await _cancel_publish(hub, channel, expire)
        await _cancel_subscribe(hub)
        await _cancel_unsubscribe(hub, channel)
        await _cancel_last(hub, channel)
    for step in count():
        cancelled = await cancelled_at(step, partial(_come_and_go, make))
        with promptly(Sentence.CANCELLED, "running it afterwards"):
            async with running(make) as hub:
                await hub.hear(channel)
                await hub.publish_heard(channel, Message(f"{step}"), Sentence.CANCELLED)
        if not cancelled:
            break


async def _check_heard(hub: Hub, channel: str, message: Message) -> None:
    """Check that publishing goes on."""
    with promptly(Sentence.CANCELLED, "publishing afterwards"):
        await hub.publish_heard(channel, message, Sentence.CANCELLED)


async def _cancel_publish(hub: Hub, channel: str, expire: float) -> None:
    for step in count():
        name, sender = f"{step} with {expire:g}", Sender()
        message = Message(f"cancelled {name}")
        call = partial(hub.backend.publish, channel, message, expire=expire, sender=sender)
        cancelled = await cancelled_at(step, call)
        await _check_heard(hub, channel, Message(name))
        if not cancelled:
            break
    await trio.sleep(SETTLE)
    hub.check()
    for number, (message, sender_that_came) in enumerate(hub.on(channel)):
        seen = f"message {number}, {message!r}, came without its sender"
        check(sender_that_came is not None, Sentence.SENDER, seen)


async def _cancel_subscribe(hub: Hub) -> None:
    for step in count():
        channels = [fresh("subscribing") for _ in range(3)]
        cancelled = await cancelled_at(step, partial(hub.backend.subscribe, channels))
        await hub.unsubscribe(*channels, sentence=Sentence.CANCELLED)
        for channel in channels:
            await hub.publish_unheard(channel, Sentence.CANCELLED)
        await hub.hear(*channels, sentence=Sentence.CANCELLED)
        for channel in channels:
            await _check_heard(hub, channel, Message("heard"))
        await hub.unsubscribe(*channels, sentence=Sentence.CANCELLED)
        if not cancelled:
            break


async def _cancel_unsubscribe(hub: Hub, channel: str) -> None:
    for step in count():
        leaving = [fresh("leaving") for _ in range(3)]
        await hub.hear(*leaving, sentence=Sentence.CANCELLED)
        cancelled = await cancelled_at(step, partial(hub.backend.unsubscribe, leaving))
        message = Message(f"unsubscribed {step}")
        await _check_heard(hub, channel, message)
        if not cancelled:
            break


async def _cancel_last(hub: Hub, channel: str) -> None:
    kept = Message("kept")
    await hub.publish_heard(channel, kept, Sentence.CANCELLED, expire=LIMIT)
    for step in count():
        cancelled = await cancelled_at(step, partial(hub.last, channel))
        await trio.sleep(SETTLE)
        hub.check()
        last = await hub.last(channel, sentence=Sentence.CANCELLED)
        check(last == {channel: kept}, Sentence.CANCELLED, f"then the last message is {last!r}")
        if not cancelled:
            break


async def _come_and_go(make: Make) -> None:
    async with running(make):
        pass


async def nothing(scope: trio.CancelScope) -> None:
    """Let the context end by itself."""


async def cancel(scope: trio.CancelScope) -> None:
    """Let the context be cancelled."""
    scope.cancel()
    await trio.lowlevel.checkpoint()


async def fail(scope: trio.CancelScope) -> None:
    """Let the context end by an exception."""
    raise _Left


End = Callable[[trio.CancelScope], Awaitable[None]]
#: How a context may end.
ENDS: Final[Sequence[End]] = (nothing, cancel, fail)


async def check_leaving(make: Make) -> None:
    """Leaving closes everything, however it comes to that."""
    for end in ENDS:
        there = Resources()
        hub, channel = Hub(make()), fresh("channel")
        with promptly(Sentence.LEAVING, "it"):
            await leave(hub, end, partial(hub.hear, channel))
        await check_left(hub, there, channel)


async def leave(hub: Hub, end: End, body: Callable[[], Awaitable[object]]) -> None:
    """Run a hub's backend, and leave it.

    Args:
        hub: which was not run yet.
        end: how its context ends.
        body: what is done within.
    """
    try:
        with trio.CancelScope() as scope:
            async with hub.backend.running(hub):
                await body()
                await end(scope)
    except* _Left:
        pass


async def check_silent(hub: Hub, channel: str) -> None:
    """Check that nothing is told after a backend was left."""
    before = len(hub.events), hub.begun(channel)
    # What that raises is for the backend to choose: a hub does not do it.
    with contextlib.suppress(Exception), trio.move_on_after(LIMIT):
        await hub.backend.publish(channel, Message("too late"), expire=0)
    await trio.sleep(SETTLE)
    after = len(hub.events), hub.begun(channel)
    check(before == after, Sentence.LEAVING, "something was told afterwards")


async def check_left(hub: Hub, there: Resources, channel: str) -> None:
    """Check that nothing is told after a backend was left, and that nothing is left of it."""
    await check_silent(hub, channel)
    await there.check_gone()


class Resources:
    """The tasks and sockets that are there when this is made."""

    def __init__(self) -> None:
        self._before = self._count()

    def _count(self) -> dict[str, int]:
        there = {"tasks": trio.lowlevel.current_statistics().tasks_living}
        directory = Path("/proc/self/fd")
        if directory.is_dir():  # on Linux
            there["sockets"] = sum(map(_is_socket, directory.iterdir()))
        return there

    def _more(self) -> dict[str, int]:
        now = self._count()
        return {kind: number for kind, number in now.items() if number > self._before[kind]}

    async def check_gone(self) -> None:
        """Check that no more are left; those of the broker's side may need a moment."""
        for _ in range(int(LIMIT / SETTLE)):
            if not self._more():
                break
            await trio.sleep(SETTLE)
        more = self._more()
        check(not more, Sentence.LEAVING, f"of {self._before!r} there have become {more!r}")


def _is_socket(path: Path) -> bool:
    try:
        return os.readlink(path).startswith("socket:")
    except OSError:  # the directory's own
        return False


async def check_hubs(make: Make) -> None:
    """Several hubs hear the same, each its own copies as such."""
    channel = fresh("channel")
    async with running(make) as one:
        async with running(make) as two:
            hubs = (one, two)
            for hub in hubs:
                await hub.hear(channel)
            series = await publish_together(hubs, channel, 10, Sentence.MANY)
            sent = {message for messages in series for message in messages}
            for hub in hubs:
                await hub.until_number(channel, len(sent))
            await trio.sleep(SETTLE)
            for hub in hubs:
                hub.check()
                missing = sent.difference(hub.messages(channel))
                check(not missing, Sentence.EACH, f"{missing!r} did not come to every hub")
                check_series(hub.messages(channel), series)
            same = one.messages(channel) == two.messages(channel)
            check(same, Sentence.ORDER, "two hubs saw different orders")
            _check_shares(one, two, channel)
            for expire in (0, LIMIT):
                await _check_equal(one, two, expire)
        await one.publish(channel, Message("later"), expire=LIMIT)
        await trio.sleep(SETTLE)
        later = Message("later") in two.messages(channel)
        check(not later, Sentence.LEAVING, "a message came to a hub that was left")
        async with running(make) as three:
            await three.hear(channel)
            await three.check_kept(channel, Message("later"), Sentence.KEPT)


async def _check_equal(one: Hub, two: Hub, expire: float) -> None:
    """Both publish equal texts at once, and each gets its own ones as such."""
    channel = fresh("equal")
    senders = {hub: [Sender() for _ in range(30)] for hub in (one, two)}
    for hub in senders:
        await hub.hear(channel)
    async with open_nursery() as nursery:
        for hub in senders:
            nursery.start_soon(_publish_equal, hub, channel, senders[hub], expire)
    for hub in senders:
        await hub.until_count(channel, 60, Sentence.EACH)
        check_own(hub, channel, senders[hub])
    _check_shares(one, two, channel)


async def _publish_equal(hub: Hub, channel: str, senders: Sequence[Sender], expire: float) -> None:
    for sender in senders:
        await hub.publish(channel, Message("same"), expire=expire, sender=sender)


def _check_shares(one: Hub, two: Hub, channel: str) -> None:
    """Check that each message is the own one of just one of two hubs."""
    for first, second in zip(one.on(channel), two.on(channel), strict=True):
        owners = sum(it.sender is not None for it in (first, second))
        check(owners == 1, Sentence.SENDER, f"{first.message!r} was the own one of {owners} hubs")
