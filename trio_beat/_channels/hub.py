"""The hub: subscriptions to channels, and the fan-out to the subscribers of this process.

1. The hub subscribes to a channel of the backend once, however many subscribers there are, and in
   one task alone (`_keep_in_step`). Subscribing waits for it; unsubscribing does not wait, so that
   a connection that ends needs no time for it.
2. Fan-out is synchronous: a message is framed once, and written to one subscriber after the other
   without waiting for any. A long one lets other tasks run at regular counts, and is not cut short
   when its publisher is cancelled.
3. A hub that hears a channel knows its last message, and delivers it to each new subscriber. One
   that subscribes during a fan-out gets that message in this way, and only once. The hub keeps so
   many bytes of last messages; for one that it has dropped it asks the backend again.
4. Subscriptions are counted: a second one delivers nothing twice, and a subscriber hears the
   channel until it has unsubscribed as often as it has subscribed.
5. The end of the hub ends every wait: subscribing and publishing then raise `HubClosed`.
"""

from __future__ import annotations

import secrets
import struct
from collections.abc import AsyncIterator, Iterable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Final, NamedTuple

import trio

from .._checks import check_kind, check_seconds, check_text
from .._connection.beating import Engine
from .._connection.consumer import Consumer
from .._exceptions import BackendError, EndReason, HubClosed
from .._log import get_logger
from .._observer import Notifier, Observer
from .._plain import Plain
from .._protocol.messages import Message
from ..backends import Backend, backend_from_url
from .permissions import Channels
from .subscriptions import Channel, LastMessages, Subscriber

_log = get_logger("trio_beat.hub")

#: Deliveries after which other tasks get a turn.
_TURN: Final = 256
#: The second half of a message's id; the first names the hub that published it.
_NUMBER: Final = struct.Struct("!Q")


class HubStatistics(NamedTuple):
    """A hub at one moment."""

    channels: int  #: that have subscribers here
    subscriptions: int  #: of different subscribers: one that is made twice counts once
    published: int  #: messages, by this hub
    delivered: int  #: messages, to subscribers here


class _Publication:
    """A message of our own that is under way."""

    __slots__ = ("delivered", "scope", "sender")

    def __init__(self, sender: Subscriber | None) -> None:
        self.sender = sender
        self.delivered = 0
        #: Cancelled when the hub ends.
        self.scope = trio.CancelScope()


class Hub:
    """Channels and their subscribers. Made by `open_hub`.

    Args:
        backend: carries messages to the other processes.
        expire: seconds for which a channel's last message is kept; 0: not at all.
        notify: is told what is published and delivered; None: it is only counted.
    """

    def __init__(self, backend: Backend, expire: float, notify: Notifier | None = None) -> None:
        self._backend = backend
        self._expire = expire
        self._id = secrets.token_bytes(8)
        self._channels: dict[str, Channel] = {}
        self._out_of_step: dict[str, None] = {}
        self._changed = trio.Event()
        self._publications: dict[bytes, _Publication] = {}
        #: Scopes in which the backend is asked for a last message; cancelled when the hub ends.
        self._recalling: set[trio.CancelScope] = set()
        self._last = LastMessages()
        self._notify = notify or Notifier()
        #: Messages published so far, for their ids.
        self._published = 0
        #: Why it cannot be used; None while it is running.
        self._closed: str | None = "the hub is not running yet"

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Run the hub, and its backend, while the context lasts."""
        async with self._backend.running(self._deliver), trio.open_nursery() as nursery:
            nursery.start_soon(self._keep_in_step)
            nursery.start_soon(self._notify.failures.run)
            self._closed = None
            try:
                yield
            finally:
                self._end()
                self._notify.failures.tell()
            nursery.cancel_scope.cancel()

    def _end(self) -> None:
        self._closed = "the hub has ended"
        for channel in self._channels.values():
            channel.ready.set()
        self._channels.clear()
        self._last.clear()
        for scope in (*(p.scope for p in self._publications.values()), *self._recalling):
            scope.cancel()

    def _check_running(self) -> None:
        if self._closed is not None:
            raise HubClosed(self._closed)

    async def publish(
        self, channel: str, message: str | bytes | Message, *, sender: Subscriber | None = None
    ) -> int:
        """Send a message to all subscribers of a channel, here and elsewhere.

        Args:
            channel: its key, for example ``broadcast:news``; any text that is not empty.
            message: text or binary by its type; of a `Message` the payload.
            sender: a subscriber that does not get it; None: all do.

        Returns:
            How many subscribers of this hub it was delivered to.

        Raises:
            BackendError: it may not have reached all of them.
            HubClosed: that, because the hub has ended; or it was not running.
            TypeError: the message is neither text nor bytes, or the key is no text.
            ValueError: the key is empty, or it or the message cannot be encoded.
        """
        self._check_running()
        _check_key(channel)
        if isinstance(message, Message):
            message = message.payload
        named = Message(message, self._id + _NUMBER.pack(self._published + 1))
        self._published += 1
        if (tell := self._notify.published) is not None:
            tell(channel)
        publication = self._publications[named.id] = _Publication(sender)
        try:
            with publication.scope:
                await self._backend.publish(channel, named, expire=self._expire)
                return publication.delivered
        except BackendError:
            self._check_running()
            raise
        finally:
            del self._publications[named.id]
        raise HubClosed(self._closed)

    async def subscribe(self, subscriber: Subscriber, channels: Iterable[str]) -> None:
        """Deliver channels to a subscriber, beginning with the last message of each.

        A subscriber that subscribes to a channel again, or names it twice, still gets each message
        once, and the last one not again. It hears the channel until it has unsubscribed as often.

        Args:
            subscriber: gets the messages.
            channels: their keys.

        Raises:
            BackendError: none of them is subscribed.
            HubClosed: that, because the hub has ended, perhaps meanwhile; or it was not running.
            TypeError: a key is no text, or `channels` is one; none of them is subscribed.
            ValueError: a key is empty, or cannot be encoded; none of them is subscribed.
        """
        held: list[tuple[str, Channel]] = []
        recalled: dict[Channel, Message | None] = {}
        self._check_running()
        _check_several(channels)
        try:
            for key in channels:
                _check_key(key)
                held.append((key, self._hold(key)))
                channel = held[-1][1]
                await channel.ready.wait()
                self._check_running()
                if channel.error is not None:
                    raise BackendError(  # noqa: TRY301 - what is held is given back below
                        f"cannot subscribe to {key!r}"
                    ) from channel.error
                asked = b""
                # Again where another one came meanwhile, and was dropped as well.
                while channel.forgotten and asked != channel.kept_id:
                    asked = channel.kept_id
                    recalled[channel] = await self._recall(key)
        except BaseException:
            for key, channel in held:
                self._release(key, channel)
            raise
        for _, channel in held:
            if channel.join(subscriber) and trio.current_time() < channel.latest_expires:
                self._give_latest(subscriber, channel, recalled.get(channel))

    async def _recall(self, key: str) -> Message | None:
        """Ask the backend for the last message of a channel once more; None: it has none."""
        scope = trio.CancelScope()
        self._recalling.add(scope)
        try:
            with scope:
                last = await self._backend.last(key)
                return None if last is None else last.message
        finally:
            self._recalling.discard(scope)
        raise HubClosed(self._closed)

    def _give_latest(
        self, subscriber: Subscriber, channel: Channel, recalled: Message | None
    ) -> None:
        if channel.latest is not None:
            subscriber.deliver_nowait(channel.latest)
        elif recalled is not None and recalled.id == channel.kept_id:
            # Another one would be on its way.
            subscriber.deliver_nowait(recalled)

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
            channel = self._channels.get(key)
            if channel is not None and channel.leave(subscriber):
                self._release(key, channel)

    @asynccontextmanager
    async def subscribed(self, subscriber: Subscriber, *channels: str) -> AsyncIterator[None]:
        """Subscribe while the context lasts; subscriptions are counted, see `subscribe`.

        Args:
            subscriber: gets the messages.
            channels: their keys.

        Raises:
            BackendError: none of them is subscribed.
            HubClosed: that, because the hub has ended, perhaps meanwhile; or it was not running.
        """
        await self.subscribe(subscriber, channels)
        try:
            yield
        finally:
            self.unsubscribe(subscriber, channels)

    def statistics(self) -> HubStatistics:
        """The hub at this moment."""
        channels = self._channels.values()
        subscriptions = sum(len(channel.subscribers) for channel in channels)
        counters = self._notify.counters
        return HubStatistics(
            len(channels), subscriptions, counters.published_count, counters.delivered_count
        )

    def _hold(self, key: str) -> Channel:
        channel = self._channels.get(key)
        if channel is None:
            channel = self._channels[key] = Channel()
            self._ask(key)
        channel.holders += 1
        return channel

    def _release(self, key: str, channel: Channel) -> None:
        channel.holders -= 1
        if not channel.holders and self._channels.get(key) is channel:
            self._ask(key)

    def _ask(self, key: str) -> None:
        self._out_of_step[key] = None
        self._changed.set()

    async def _keep_in_step(self) -> None:
        """Subscribe to the channels that are held, and unsubscribe from those that are not."""
        while True:
            await self._changed.wait()
            self._changed = trio.Event()
            while self._out_of_step:
                key = next(iter(self._out_of_step))
                del self._out_of_step[key]
                channel = self._channels.get(key)
                if channel is None:
                    continue
                if not channel.holders:
                    self._last.drop(channel)
                    del self._channels[key]
                    if channel.ready.is_set():
                        await self._backend.unsubscribe(key)
                elif not channel.ready.is_set():
                    await self._subscribe(key, channel)

    async def _subscribe(self, key: str, channel: Channel) -> None:
        # What came until now came by a former subscription: behind it there may be a gap.
        self._last.drop(channel)
        channel.latest_id = channel.kept_id = b""
        try:
            await self._backend.subscribe(key)
            last = await self._backend.last(key)
        except BackendError as exc:
            channel.error = exc
            self._last.drop(channel)
            del self._channels[key]
            await self._backend.unsubscribe(key)
        else:
            if last is not None and not channel.kept_id:
                self._last.note(channel, last.message, last.expires_in)
        channel.ready.set()
        del channel  # its error's traceback keeps this frame

    async def _deliver(self, key: str, message: Message) -> None:
        channel = self._channels.get(key)
        if channel is None or channel.latest_id == message.id:
            return
        publication = self._publications.get(message.id)
        sender = None if publication is None else publication.sender
        self._last.note(channel, message, self._expire)
        latest_id = channel.latest_id
        subscribers = [other for other in channel.subscribers if other is not sender]
        if (tell := self._notify.delivered) is not None:
            tell(key, len(subscribers))
        if publication is not None:
            publication.delivered = len(subscribers)
        for begin in range(0, len(subscribers), _TURN):
            if begin:
                await trio.lowlevel.cancel_shielded_checkpoint()
            for subscriber in subscribers[begin : begin + _TURN]:
                # Not to one that has unsubscribed since then, even if it has subscribed again.
                if channel.subscribers.get(subscriber, latest_id) is not latest_id:
                    subscriber.deliver_nowait(message)


def _check_several(channels: Iterable[str]) -> None:
    if isinstance(channels, str):  # each of its letters would be a channel
        raise TypeError(f"channels is {channels!r}; it must be several texts, as [{channels!r}]")


def _check_key(key: str) -> None:
    check_text("channel", key)
    if not key:
        raise ValueError("channel is empty; it must be a text such as broadcast:news")


def open_hub(
    backend: str | Backend = "memory://",
    *,
    expire: float = 3600.0,
    observer: Observer | None = None,
) -> AbstractAsyncContextManager[Hub]:
    """Open a hub and run it while the context lasts.

    What the block raises comes through as it is. What the backend's own tasks raise cancels the
    block and comes out in its place. Once the context is left, what still waits in the hub, or
    comes later, raises `HubClosed`.

    Args:
        backend: its URL, or one that is made already and used for nothing else.
        expire: seconds for which the last message of a channel is kept; 0: not at all.
        observer: is told what is published and delivered; None: it is only counted.

    Raises:
        BackendError: the backend cannot be made, or cannot start. On entering the context.
        TypeError: an argument is of another type.
        ValueError: `expire` is negative, or not a number.
    """
    check_kind("backend", backend, (str, Backend), "a URL, or a Backend")
    check_seconds("expire", expire, zero=True, endless=True)
    return Plain(_open_hub(backend, expire, Notifier(observer)))


@asynccontextmanager
async def _open_hub(backend: str | Backend, expire: float, notify: Notifier) -> AsyncIterator[Hub]:
    made = backend_from_url(backend) if isinstance(backend, str) else backend
    hub = Hub(made, expire, notify)
    async with hub.running():
        yield hub


def _refuse(engine: Engine, exc: BackendError) -> None:
    # Not a warning for each of many: what happens to the backend, the backend says.
    _log.info("%s refused: %s (%r)", engine.peer, exc, exc.__cause__)
    engine.end_nowait(EndReason.REFUSED, 1013, "backend is away, try again later")


class HubConsumer(Consumer):
    """Connects a connection to a hub, as its URL asks for.

    Args:
        hub: where its channels are.
        channels: which they are.
    """

    __slots__ = ("_channels", "_hub")

    def __init__(self, hub: Hub, channels: Channels) -> None:
        self._hub = hub
        self._channels = channels

    async def opened(self, engine: Engine) -> None:
        try:
            await self._hub.subscribe(engine, self._channels.subscribe)
        except BackendError as exc:
            _refuse(engine, exc)

    def received_nowait(self, message: str | bytes) -> bool:
        return not self._channels.publish

    async def received(self, engine: Engine, message: str | bytes) -> None:
        sender = None if self._channels.echo else engine
        try:
            for channel in self._channels.publish:
                await self._hub.publish(channel, message, sender=sender)
        except BackendError as exc:
            _refuse(engine, exc)

    def closed(self, engine: Engine) -> None:
        self._hub.unsubscribe(engine, self._channels.subscribe)
