"""Conditions of a broker that is away, and of its return."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection
from functools import partial
from itertools import count
from typing import Final

import trio

from .._exceptions import BackendError
from .._protocol.messages import Message
from .calling import ENDS, End, Resources, check_left, check_silent, leave
from .cancelling import cancelled_at
from .hub import Event, Foreign, Hub, Make, Outage, Sender, fresh, open_nursery, running
from .sentences import LIMIT, SETTLE, Broken, Sentence, check, promptly

#: Seconds in which a backend tries its broker several times.
_TRIES: Final = 1.5
#: Outages in a row.
_OUTAGES: Final = 3
_AWAY: Final = Event("away")
_BACK: Final = Event("back")
_NONE_LOST: Final = Event("lost")


async def check_outages(
    make: Make, outage: Outage, within: float, *, shared: bool, foreign: Foreign | None
) -> None:
    """The broker goes and comes back, and nothing is lost in silence.

    Args:
        make: makes a backend.
        outage: in it the broker is away.
        within: seconds in which a call ends, and an outage is told.
        shared: whether several backends hear one another.
        foreign: publishes bytes at the broker; None: nothing can.
    """
    away = _Away(make, outage, within)
    await away.check_in_a_row(foreign)
    await away.check_entering()
    for end, at_once in zip(ENDS, (True, False, False), strict=True):
        await away.check_leaving(end, at_once=at_once)
    if shared:
        await away.check_hubs()


class _Away:
    """The conditions.

    Args: see `check_outages`.
    """

    def __init__(self, make: Make, outage: Outage, within: float) -> None:
        self._make = make
        self._outage = outage
        self._within = within

    async def check_in_a_row(self, foreign: Foreign | None) -> None:
        """The same hub goes through several outages; before the last one it hears nothing."""
        async with running(self._make, outages=True) as hub:
            hub.check_events()
            channels = [fresh("channel") for _ in range(3)]
            gone = fresh("gone")
            for turn in range(_OUTAGES):
                subscribed = channels if turn < _OUTAGES - 1 else []
                await hub.hear(*channels, gone)
                await hub.unsubscribe(gone)
                kept = Message(f"before {turn}")
                for channel in channels:
                    await hub.publish_heard(
                        channel, kept, Sentence.EACH, expire=10 * LIMIT, equal=True
                    )
                if not subscribed:
                    await hub.unsubscribe(*channels)
                begin = len(hub.events)
                async with self._outage():
                    await self._check_beginning(hub, subscribed)
                    await self._check_meanwhile(hub, subscribed)
                    self._check_told(hub, begin, subscribed)
                await self._check_back(hub, begin)
                for channel in subscribed[:1]:
                    await hub.publish_unheard(channel, Sentence.LOST)
                await self._check_again(hub, channels, kept, foreign)
                await hub.unsubscribe(*channels)
            hub.check(equal=True)

    # While it is away

    async def _check_beginning(self, hub: Hub, subscribed: Collection[str]) -> None:
        """The calls that are made before the backend has noticed."""
        new = fresh("new")
        async with open_nursery() as nursery:
            for number in range(5):
                nursery.start_soon(self._publish_until_away, hub, f"unconfirmed {number}")
            for channel in subscribed:
                nursery.start_soon(self._check_fails, "last", partial(hub.last, channel))
                publish = partial(hub.publish, channel, Message("same"), sender=Sender())
                nursery.start_soon(self._check_fails, "publish", publish)
            subscribe = partial(hub.backend.subscribe, [new])
            await self._check_fails("subscribe", subscribe)
        told = await hub.until(lambda: hub.events[-1:] == [_AWAY], self._within)
        seen = f"it was not told within {self._within:g} s: {hub.events!r}"
        check(told, Sentence.TOLD_AWAY, seen)

    async def _publish_until_away(self, hub: Hub, name: str) -> None:
        """Publish what others wait behind; the first call that fails is the last."""
        channel, deadline = fresh("other"), trio.current_time() + 2 * self._within
        for number in count():
            message = Message(f"{name}, {number}")
            if await self._fails("publish", partial(hub.publish, channel, message)):
                return
            late = trio.current_time() > deadline
            check(not late, Sentence.AWAY, "`publish` does not raise")
            await trio.sleep(SETTLE)

    async def _check_meanwhile(self, hub: Hub, subscribed: Collection[str]) -> None:
        """The calls that are made when the outage was told."""
        channel = fresh("meanwhile")
        calls: dict[str, Callable[[], Awaitable[object]]] = {
            "publish": partial(hub.backend.publish, channel, Message("away"), expire=LIMIT),
            "subscribe": partial(hub.backend.subscribe, [channel]),
            "last": partial(hub.last, *subscribed, channel),
        }
        for _ in range(2):
            for name, call in calls.items():
                await self._check_fails(name, call)
                for step in count():
                    if not await cancelled_at(step, partial(self._check_fails, name, call)):
                        break
            await self._check_unsubscribing(hub, [fresh("never heard")])
            await trio.sleep(_TRIES / 2)

    async def _check_unsubscribing(self, hub: Hub, channels: Collection[str]) -> None:
        try:
            with promptly(Sentence.UNSUBSCRIBE_AWAY, "`unsubscribe`", self._within):
                await hub.backend.unsubscribe(channels)
        except BackendError as exc:
            raise Broken(Sentence.UNSUBSCRIBE_AWAY, f"it raised {exc!r}") from exc

    async def _check_fails(self, name: str, call: Callable[[], Awaitable[object]]) -> None:
        """Check that a call raises what it should, and in time."""
        failed = await self._fails(name, call)
        check(failed, Sentence.AWAY, f"`{name}` did not raise")

    async def _fails(self, name: str, call: Callable[[], Awaitable[object]]) -> bool:
        """Check that a call returns or raises in time, and no other exception; tells which."""
        with promptly(Sentence.AWAY, f"`{name}`", self._within):
            try:
                await call()
            except BackendError:
                return True
            except Exception as exc:
                if isinstance(exc, Broken):
                    raise
                raise Broken(Sentence.AWAY, f"`{name}` raised {exc!r}") from exc
        return False

    def _check_told(self, hub: Hub, begin: int, subscribed: Collection[str]) -> None:
        """Check what was told since an outage began: `lost` for all that it concerns, `away`."""
        told = hub.events[begin:]
        names = [event.name for event in told]
        back = "back" in names
        check(not back, Sentence.TOLD_BACK, f"it had not, and there was told {names!r}")
        in_order = names.count("away") == 1 and names[-1] == "away"
        check(in_order, Sentence.TOLD_AWAY, f"there was told {names!r}")
        lost = [channel for event in told for channel in event.channels]
        missing = set(subscribed).difference(lost)
        check(not missing, Sentence.IN_SILENCE, f"{missing!r} were not told to be lost")
        right = len(lost) == len(subscribed)
        check(right, Sentence.CONCERNED, f"subscribed were {subscribed!r}, lost were {lost!r}")

    # When it is there again

    async def _check_back(self, hub: Hub, begin: int) -> None:
        """Check that the return is told, once."""
        back = await hub.until(lambda: _BACK in hub.events[begin:])
        check(back, Sentence.FINDS, f"{LIMIT:g} s after the outage `back` was not told")
        await trio.sleep(SETTLE)
        names = [event.name for event in hub.events[begin:] if event.name != "lost"]
        check(names == ["away", "back"], Sentence.TOLD_BACK, f"there was told {names!r}")

    async def _check_again(
        self, hub: Hub, channels: Collection[str], kept: Message, foreign: Foreign | None
    ) -> None:
        """Channels can be subscribed again; nothing of before comes, and own copies are right."""
        begun = {channel: hub.begun(channel) for channel in channels}
        await hub.hear(*channels, sentence=Sentence.FINDS)
        for channel, before in begun.items():
            last = (await hub.last(channel))[channel]
            # Whether the broker has kept it is the broker's affair.
            right = last in (None, kept)
            check(right, Sentence.PLACE, f"what was kept is {kept!r}, the last one {last!r}")
            senders = [Sender() for _ in range(3)]
            for sender in senders:
                # Others and this hub publish what could not be confirmed.
                if foreign is not None:
                    await foreign(channel, b"same")
                await hub.publish(channel, Message("same"), sender=sender, sentence=Sentence.FINDS)
            end = Message(f"after {kept.payload!r}")
            await hub.publish_heard(channel, end, Sentence.FINDS, equal=True)
            came = hub.on(channel)[before:-1]
            repeated = [it.message for it in came if it.message != Message("same")]
            check(not repeated, Sentence.ONCE, f"{repeated!r} came again after an outage")
            own = [it.sender for it in came if it.sender is not None]
            right = len(own) == len(senders)
            right = right and all(a is b for a, b in zip(own, senders, strict=True))
            right = right and (foreign is None or len(came) - len(own) >= len(senders))
            check(right, Sentence.SENDER, f"equal texts of both sides came as {came!r}")

    # Entering and leaving

    async def _live(
        self,
        hub: Hub,
        leaving: trio.Event,
        end: End = ENDS[0],
        *,
        task_status: trio.TaskStatus[None],
    ) -> None:
        """Run a hub's backend until it is to be left."""

        async def body() -> None:
            task_status.started()
            await leaving.wait()

        await leave(hub, end, body)

    async def check_entering(self) -> None:
        """A backend can be entered while its broker is away, and finds it then."""
        channel, hub, leaving = fresh("channel"), Hub(self._make()), trio.Event()
        async with open_nursery() as nursery:
            async with self._outage():
                for it in (Hub(self._make()), hub):
                    there = Resources()
                    await self._enter(nursery, it, leaving)
                    entered = [event.name for event in it.events if event != _NONE_LOST]
                    right = entered == ["away"]
                    check(right, Sentence.ENTERED_AWAY, f"there was told {entered!r}")
                    await self._check_meanwhile(it, [])
                    if it is not hub:
                        leaving.set()
                        await check_left(it, there, channel)
                        leaving = trio.Event()
            await self._check_back(hub, 0)
            await hub.hear(channel, sentence=Sentence.FINDS)
            await hub.publish_heard(channel, Message("there"), Sentence.FINDS)
            leaving.set()

    async def _enter(self, nursery: trio.Nursery, hub: Hub, leaving: trio.Event) -> None:
        try:
            with promptly(Sentence.ENTERED_AWAY, "entering"):
                await nursery.start(self._live, hub, leaving)
        except BackendError as exc:
            raise Broken(Sentence.ENTERED_AWAY, f"entering raised {exc!r}") from exc

    async def check_leaving(self, end: End, *, at_once: bool) -> None:
        """A backend can be left while its broker is away.

        Args:
            end: how its context ends.
            at_once: whether before the outage is told; else when it was.
        """
        there, channel = Resources(), fresh("channel")
        hub, leaving, left = Hub(self._make()), trio.Event(), trio.Event()

        async def live(*, task_status: trio.TaskStatus[None]) -> None:
            await self._live(hub, leaving, end, task_status=task_status)
            left.set()

        async with open_nursery() as nursery:
            await nursery.start(live)
            await hub.hear(channel)
            async with self._outage():
                if not at_once:
                    await self._check_beginning(hub, [channel])
                leaving.set()
                with promptly(Sentence.LEAVING, "it"):
                    await left.wait()
                await check_silent(hub, channel)
        await there.check_gone()

    async def check_hubs(self) -> None:
        """Each of several hubs is told, and hears the others again."""
        channel = fresh("channel")
        async with (
            running(self._make, outages=True) as one,
            running(self._make, outages=True) as two,
        ):
            for hub in (one, two):
                await hub.hear(channel)
            async with self._outage():
                for hub in (one, two):
                    await self._check_beginning(hub, [channel])
                    self._check_told(hub, 0, [channel])
            for hub in (one, two):
                await self._check_back(hub, 0)
                await hub.hear(channel, sentence=Sentence.FINDS)
            for hub, other in ((one, two), (two, one)):
                message = Message(f"from {(one, two).index(hub)}")
                await hub.publish_heard(channel, message, Sentence.FINDS, equal=True)
                came = await other.until_heard(channel, message)
                check(came, Sentence.FINDS, f"{message!r} did not come to another hub")
