"""The hub: subscriptions to channels, and the fan-out to the subscribers of this process.

1. The hub subscribes to a channel of the backend once, however many subscribers there are
   (`registry`). Subscribing waits for it; unsubscribing does not wait, so that a connection that
   ends needs no time for it.
2. Fan-out is synchronous: a message is framed once, compressed once where some ask for that, and
   written to one subscriber after the other without waiting for any. A long one lets other tasks
   run at regular counts.
3. A new subscriber joins at the place at which the backend tells the channel's last message: it
   gets that one, and each later message once. The hub remembers no message.
4. Subscriptions are counted: a second one delivers nothing twice, and a subscriber hears the
   channel until it has unsubscribed as often as it has subscribed.
5. The end of the hub ends every wait: subscribing and publishing then raise `HubClosed`.
6. Who is to be disconnected goes to all hubs of the backend, by a channel of its own (`control`).
"""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from typing import Final, NamedTuple, TypeVar

import trio

from .._checks import check_kind, check_seconds, check_text, check_trio
from .._exceptions import BackendError, HubClosed
from .._observer import Notifier, Observer
from .._plain import Plain
from .._protocol.deflate import Deflate
from .._protocol.messages import Message
from .._text import public_channel
from ..backends import Backend, Receiver, backend_from_url
from .availability import Availability
from .control import CONTROL, RESERVED, Control, order, to_message
from .gaps import BackendLost, Gaps
from .members import Members, cancelled_with, check_open, is_open
from .registry import Registry
from .subscriptions import Channel, Subscriber, check_subscriber

_T = TypeVar("_T")

#: Deliveries after which other tasks get a turn.
_TURN: Final = 256
#: Seconds that subscribing may take beside the grace time, however often the backend is away.
_SUBSCRIBING: Final = 30.0


class HubStatistics(NamedTuple):
    """A hub at one moment."""

    channels: int  #: that have subscribers here
    subscriptions: int  #: of different subscribers: one that is made twice counts once
    published: int  #: messages, by this hub
    delivered: int  #: messages, to subscribers here
    available: bool  #: whether the backend can be used
    outages: int  #: how often it could not
    gaps: int  #: subscribers that were told that they may have missed messages


class Hub:
    """Channels and their subscribers. Made by `open_hub`.

    Args:
        backend: carries messages to the other processes.
        expire: seconds for which a channel's last message is kept; 0: not at all.
        lost: what happens to subscribers that may have missed messages.
        grace: seconds for which is waited for a backend that is away.
        notify: is told what is published and delivered; None: it is only counted.
    """

    def __init__(
        self,
        backend: Backend,
        expire: float,
        lost: BackendLost = BackendLost.CLOSE,
        grace: float = 10.0,
        notify: Notifier | None = None,
    ) -> None:
        self._backend = backend
        self._expire = expire
        self._notify = notify or Notifier()
        self._grace = grace
        self._availability = Availability(grace)
        self._gaps = Gaps(lost)
        self._registry = Registry(backend, self._availability, self._gaps)
        self._members = Members(self._registry)
        #: For servers.
        self.control: Final = Control(self._registry, self._until_end)
        #: Deliveries since other tasks got a turn.
        self._in_a_row = 0
        #: Scopes in which is waited; cancelled when the hub ends.
        self._waits: set[trio.CancelScope] = set()
        #: Why it cannot be used; None while it is running.
        self._closed: str | None = "the hub is not running yet"

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Run the hub, and its backend, while the context lasts."""
        receiver = _Receiver(self._deliver, self._lose, self._away, self._back)
        async with self._backend.running(receiver), trio.open_nursery() as nursery:
            nursery.start_soon(self._registry.run)
            nursery.start_soon(self._availability.run, self._registry.give_up)
            nursery.start_soon(self._gaps.run)
            nursery.start_soon(self.control.run)
            nursery.start_soon(self._notify.failures.run)
            self._closed = None
            try:
                yield
            finally:
                self._closed = "the hub has ended"
                self._members.clear()
                self._registry.clear()
                for scope in self._waits:
                    scope.cancel()
                self.control.tell()
                self._notify.failures.tell()
            nursery.cancel_scope.cancel()

    def _check_running(self) -> None:
        if self._closed is not None:
            raise HubClosed(self._closed)

    async def _until_end(self, call: Callable[[], Awaitable[_T]], limit: float = math.inf) -> _T:
        """Wait for something, at most until the hub ends.

        Args:
            call: what is waited for.
            limit: seconds, at most.

        Raises:
            HubClosed: the hub has ended.
            BackendError: it took too long.
        """
        self._check_running()
        scope = trio.CancelScope(deadline=trio.current_time() + limit)
        self._waits.add(scope)
        try:
            with scope:
                return await call()
        except BackendError:
            self._check_running()
            raise
        finally:
            self._waits.discard(scope)
        self._check_running()
        raise BackendError(f"the backend comes and goes; it took more than {limit:g} s")

    @property
    def available(self) -> bool:
        """Whether the backend can be used at this moment."""
        return self._closed is None and self._availability.error is None

    async def wait_available(self) -> None:
        """Wait until the backend can be used, while the grace time lasts.

        Raises:
            BackendError: it is away for longer.
            HubClosed: the hub has ended, perhaps meanwhile; or it was not running.
        """
        await self._until_end(self._availability.wait)

    async def publish(
        self, channel: str, message: str | bytes | Message, *, sender: Subscriber | None = None
    ) -> None:
        """Send a message to all subscribers of a channel, here and elsewhere.

        Returns when the backend has confirmed it. It may be delivered before or after that.

        Args:
            channel: its key, for example ``broadcast:news``; any text that is not empty.
            message: text or binary by its type, or a `Message`.
            sender: a subscriber that does not get it; None: all do.

        Raises:
            BackendError: it may not have reached all of them.
            HubClosed: that, because the hub has ended; or it was not running.
            TypeError: the message is neither text nor bytes, or the key is no text.
            ValueError: the key is empty, or begins with ``trio-beat:``, or it or the message cannot
                be encoded.
        """
        self._check_running()
        _check_key(channel)
        if not isinstance(message, Message):
            message = Message(message)
        if (tell := self._notify.published) is not None:
            tell(channel)
        call = partial(self._backend.publish, channel, message, expire=self._expire, sender=sender)
        await self._until_end(call)

    async def disconnect(
        self,
        *,
        user: str | None = None,
        session: str | None = None,
        code: int = 4003,
        reason: str = "disconnected",
        block: float = 0.0,
    ) -> None:
        """End all connections of a user or a session, at all servers that share the backend.

        Returns when the backend has confirmed it; connections end shortly before or after that.
        A peer that is being admitted at that moment is refused. One that comes later is admitted
        if its credentials are still good and `block` is over: a signed token is, until it expires.
        A server whose backend is away at that moment does not hear of it.

        Args:
            user: whose connections end, as in their `Identity`. Exactly one of it and `session` is
                given, with at most 4,096 characters.
            session: the key of the session whose connections end.
            code: close code that peers are told. 1008, and 4000 to 4099, forbid clients of this
                package to reconnect; with them refusals are 403, else 503.
            reason: text that peers are told.
            block: seconds for which each of these servers refuses the name from now on. 0: none. It
                does not shorten what was asked for before.

        Raises:
            BackendError: it may not have reached all servers.
            HubClosed: that, because the hub has ended; or it was not running.
            TypeError: an argument is of another type.
            ValueError: both or neither of `user` and `session` are given, or an argument can never
                be right.
        """
        self._check_running()
        message = to_message(order(user, session, code, reason, block))
        await self._until_end(partial(self._backend.publish, CONTROL, message, expire=0))

    async def subscribe(self, subscriber: Subscriber, channels: Iterable[str]) -> None:
        """Deliver channels to a subscriber, beginning with the last message of each.

        A subscriber that subscribes to a channel again, or names it twice, still gets each message
        once, and the last one not again. It hears the channel until it has unsubscribed as often;
        a `Connection` at most until it has ended.

        While the backend is away, this waits for it, as long as the grace time lasts.

        Args:
            subscriber: gets the messages.
            channels: their keys.

        Raises:
            BackendError: the backend is away, or refuses one; none of them is subscribed.
            ConnectionClosed: the subscriber is a connection that has ended, perhaps meanwhile.
            HubClosed: that, because the hub has ended, perhaps meanwhile; or it was not running.
            TypeError: a key is no text, or `channels` is one, or the subscriber cannot be one; none
                of them is subscribed.
            ValueError: a key is empty, or begins with ``trio-beat:``, or cannot be encoded; none of
                them is subscribed.
        """
        self._check_running()
        _check_several(channels)
        check_subscriber(subscriber)
        check_open(subscriber)
        times: dict[str, int] = {}
        for key in channels:
            _check_key(key)
            times[key] = times.get(key, 0) + 1
        held = {key: self._registry.hold(key, count) for key, count in times.items()}
        #: Those that the subscriber has not joined yet.
        left = dict(held)

        def told(key: str, message: Message | None) -> None:
            # One that was lost meanwhile is asked for again.
            if key in left and left[key].subscribed and is_open(subscriber):
                first = self._members.join(key, left.pop(key), subscriber, times[key])
                if first and message is not None:
                    subscriber.deliver_nowait(message)

        async def join() -> None:
            with trio.CancelScope() as scope, cancelled_with(subscriber, scope):
                await self._join(left, told)
            check_open(subscriber)

        try:
            await self._until_end(join, self._grace + _SUBSCRIBING)
        except BaseException:
            for key, channel in held.items():
                for _ in range(times[key]):
                    if key in left:
                        self._registry.release(key, channel)
                    else:
                        self._members.leave(key, channel, subscriber)
            raise

    async def _join(
        self, left: dict[str, Channel], told: Callable[[str, Message | None], None]
    ) -> None:
        """Have the last message of each channel told; those told are not left."""
        while left:
            for key, channel in left.items():
                await self._registry.hear(key, channel)
            outages = self._availability.outages
            try:
                refused = await self._backend.last(list(left), told)
            except BackendError:
                if self._availability.outages == outages and self._availability.error is None:
                    raise
                await self._availability.wait()
            else:
                for key, error in refused.items():
                    raise BackendError(f"cannot subscribe to {public_channel(key)!r}") from error

    def unsubscribe(self, subscriber: Subscriber, channels: Iterable[str]) -> None:
        """Undo one subscription to each of some channels.

        What is not subscribed is passed over, and so is everything once the hub has ended.

        Args:
            subscriber: the one that subscribed to them.
            channels: their keys; one that is named twice is undone twice.

        Raises:
            TypeError: `channels` is a text.
        """
        _check_several(channels)
        for key in channels:
            channel = self._registry.get(key)
            if channel is not None:
                self._members.leave(key, channel, subscriber)

    @asynccontextmanager
    async def subscribed(self, subscriber: Subscriber, *channels: str) -> AsyncIterator[None]:
        """Subscribe while the context lasts; subscriptions are counted, see `subscribe`.

        Args:
            subscriber: gets the messages.
            channels: their keys.

        Raises:
            BackendError, ConnectionClosed, HubClosed, TypeError, ValueError: as for `subscribe`, on
                entering the context.
        """
        await self.subscribe(subscriber, channels)
        try:
            yield
        finally:
            self.unsubscribe(subscriber, channels)

    def statistics(self) -> HubStatistics:
        """The hub at this moment."""
        channels, subscriptions = self._registry.count()
        if self._registry.get(CONTROL) is not None:  # it is ours, and has no subscribers
            channels -= 1
        counters = self._notify.counters
        return HubStatistics(
            channels,
            subscriptions,
            counters.published_count,
            counters.delivered_count,
            self.available,
            counters.outages,
            self._gaps.told,
        )

    async def _deliver(self, key: str, message: Message, sender: object | None) -> None:
        if key == CONTROL:
            self.control.take(message)
            await trio.lowlevel.cancel_shielded_checkpoint()
            return
        channel = self._registry.get(key)
        if channel is None:
            return
        channel.count += 1
        number = channel.count
        if channel.deflates is not None:
            # One that joins meanwhile has been told of this message.
            await _prepare(message, list(channel.deflates))
        subscribers = [other for other in channel.subscribers if other is not sender]
        if (tell := self._notify.delivered) is not None:
            tell(key, len(subscribers))
        for begin in range(0, len(subscribers), _TURN):
            if begin:
                await trio.lowlevel.cancel_shielded_checkpoint()
            for subscriber in subscribers[begin : begin + _TURN]:
                # Not to one that has unsubscribed since then, even if it has subscribed again.
                if channel.subscribers.get(subscriber, number) < number:
                    subscriber.deliver_nowait(message)
        # Messages may come in a row, without a wait between them.
        self._in_a_row += len(subscribers) + 1
        if self._in_a_row >= _TURN:
            self._in_a_row = 0
            await trio.lowlevel.cancel_shielded_checkpoint()

    def _lose(self, keys: Collection[str]) -> None:
        self._registry.lose(keys)
        if CONTROL in keys:
            self.control.lose()

    def _away(self, error: BackendError) -> None:
        self._availability.away(error)
        if (tell := self._notify.away) is not None:
            tell(str(error))

    def _back(self) -> None:
        self._availability.back()
        if (tell := self._notify.back) is not None:
            tell()


class _Receiver(Receiver):
    """What the backend tells the hub."""

    def __init__(
        self,
        deliver: Callable[[str, Message, object | None], Awaitable[None]],
        lost: Callable[[Collection[str]], None],
        away: Callable[[BackendError], None],
        back: Callable[[], None],
    ) -> None:
        self._deliver = deliver
        self._lost = lost
        self._away = away
        self._back = back

    async def deliver(self, channel: str, message: Message, sender: object | None) -> None:
        await self._deliver(channel, message, sender)

    def lost(self, channels: Collection[str]) -> None:
        self._lost(channels)

    def away(self, error: BackendError) -> None:
        self._away(error)

    def back(self) -> None:
        self._back()


async def _prepare(message: Message, deflates: Iterable[Deflate]) -> None:
    """Compress a large message for subscribers, before any gets it: their order is kept so.

    A backend delivers the messages of a channel one after the other.
    """
    for deflate in deflates:
        if deflate.wants(message):
            for _ in deflate.prepare(message):
                await trio.lowlevel.cancel_shielded_checkpoint()


def _check_several(channels: Iterable[str]) -> None:
    if isinstance(channels, str):  # each of its letters would be a channel
        shown = public_channel(channels)
        raise TypeError(f"channels is {shown!r}; it must be several texts, as [{shown!r}]")


def _check_key(key: str) -> None:
    check_text("channel", key)
    if not key:
        raise ValueError("channel is empty; it must be a text such as broadcast:news")
    if key.startswith(RESERVED):
        raise ValueError(f"channel is {key!r}; keys that begin with {RESERVED!r} are reserved")


def open_hub(
    backend: str | Backend = "memory://",
    *,
    expire: float = 3600.0,
    backend_lost: BackendLost = BackendLost.CLOSE,
    backend_grace: float = 10.0,
    observer: Observer | None = None,
) -> AbstractAsyncContextManager[Hub]:
    """Open a hub and run it while the context lasts.

    What the block raises comes through as it is. What the backend's own tasks raise cancels the
    block and comes out in its place. Once the context is left, what still waits in the hub, or
    comes later, raises `HubClosed`.

    Args:
        backend: its URL, or one that is made already and used for nothing else.
        expire: seconds to keep a channel's last message; 0: not at all; `math.inf`: no limit.
        backend_lost: what happens to subscribers that may have missed messages of an outage.
        backend_grace: seconds for which is waited for a backend that is away: subscribing waits so
            long, and only then are subscribers told, where the backend is not back before.
        observer: is told what is published and delivered; None: it is only counted.

    Raises:
        BackendError: the backend cannot be made (`UnknownBackend`: none has the URL's scheme), or
            cannot start. On entering the context. One whose broker is not reached is waited for
            instead, see `Hub.available`.
        TypeError: an argument is of another type.
        ValueError: `expire` or `backend_grace` is negative, or not a number.
    """
    check_kind("backend", backend, (str, Backend), "a URL, or a Backend")
    check_seconds("expire", expire, zero=True, endless=True)
    check_kind("backend_lost", backend_lost, BackendLost, "a BackendLost")
    check_seconds("backend_grace", backend_grace, zero=True)
    notify = Notifier(observer)
    return Plain(_open_hub(backend, expire, backend_lost, backend_grace, notify))


@asynccontextmanager
async def _open_hub(
    backend: str | Backend, expire: float, lost: BackendLost, grace: float, notify: Notifier
) -> AsyncIterator[Hub]:
    check_trio()
    made = backend_from_url(backend) if isinstance(backend, str) else backend
    hub = Hub(made, expire, lost, grace, notify)
    async with hub.running():
        yield hub
