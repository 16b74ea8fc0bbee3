"""Channels over one connection: messages, last messages, and this hub's own copies.

1. A channel, and the key of its last message, have the same name at the broker.
2. A publish that keeps the message is one script: value first, then message. A key of another type
   is no last message: it is not overwritten, and the message is published all the same.
3. A payload names no sender. But what this connection publishes to a channel that it has subscribed
   comes back beside the reply: behind it, or (Redis before 7.2) before it, and nothing comes
   between. So the own copy is known by its place, even among equal messages of others: where it
   comes first, a message that equals the publish to be replied next is held back until the next
   item tells.
4. Whether a channel is subscribed is known at each place of the stream by the confirmations.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from functools import lru_cache, partial
from typing import Any, Final

import trio
from hiredis import PushNotification

from ..._exceptions import BackendError
from ..._protocol.messages import Message
from .. import Receiver, Told
from .connection import Connection, pack
from .errors import ReplyError
from .opening import Greeting
from .payload import to_message, to_payload
from .replies import Batch, Pending, Reply

#: KEYS: the channel. ARGV: payload, milliseconds (empty: for ever). Returns whether it was kept.
SCRIPT: Final = b"""\
local kind = redis.call('TYPE', KEYS[1]).ok
local kept = kind == 'none' or kind == 'string'
if kept and ARGV[2] == '' then
  redis.call('SET', KEYS[1], ARGV[1])
elseif kept then
  redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
end
redis.call('PUBLISH', KEYS[1], ARGV[1])
return kept and 1 or 0
"""
#: KEYS: the channel. ARGV: bytes. Returns the last message; its size where it has more bytes; -1
#: where the key is of another type.
READ: Final = b"""\
local kind = redis.call('TYPE', KEYS[1]).ok
if kind == 'none' then
  return false
elseif kind ~= 'string' then
  return -1
end
local size = redis.call('STRLEN', KEYS[1])
return size > tonumber(ARGV[1]) and size or redis.call('GET', KEYS[1])
"""
#: Bytes of a message. A broker cuts off subscribers for whom more than 32 MB wait
#: (client-output-buffer-limit), and replies are counted like messages.
LARGEST: Final = 2**24
#: Last messages that are asked for at a time, and bytes of one; larger ones come one by one.
WINDOW: Final = 256
SMALL: Final = 2**15
#: Small last messages that are kept as they were told.
KEPT: Final = 64
#: Since this version of Redis an own copy comes behind the reply; with Valkey it always does.
_OWN_BEHIND: Final = (7, 2)
#: Seconds above which a message is kept for ever: some thousand years. A broker keeps milliseconds
#: in 63 bits.
_FOREVER: Final = 1e11
#: What a broker refuses everything with that has become a replica, or cannot serve now.
_UNUSABLE: Final = ("READONLY", "MASTERDOWN", "LOADING", "NOAUTH")


class _Publish(Pending):
    """A publish whose reply, or own copy, has not come."""

    __slots__ = ("key", "message", "payload", "reply", "sender")

    def __init__(self, key: bytes, payload: bytes, message: Message, sender: object | None) -> None:
        super().__init__(Batch(1))
        self.key = key
        self.payload = payload
        self.message = message
        self.sender = sender
        self.reply: Reply = None


class PubSub(Connection):
    """Carries messages of channels.

    Args:
        stream: see `Connection`.
        receiver: is told of messages; it is awaited by the reader.
        prefix: what all names at the broker begin with.
        not_kept: told of a channel whose key is no last message, and what it is instead.
        ended: called at once when the connection ends, before anything that waits for it goes on.

    Attributes:
        heard: the channels that are subscribed, by their names at the broker.
    """

    def __init__(
        self,
        stream: trio.abc.Stream,
        *,
        name: str,
        timeout: float,
        receiver: Receiver,
        prefix: bytes,
        not_kept: Callable[[str, str], object],
        ended: Callable[[PubSub], object],
    ) -> None:
        super().__init__(stream, name=name, timeout=timeout)
        self._receiver = receiver
        self._prefix = prefix
        self._not_kept = not_kept
        self._told_end = ended
        self._own_first = False
        self._greeted = False
        #: What the broker is; None: it has not said, or says no name.
        self.software: str | None = None
        self._window = trio.Semaphore(WINDOW)
        self._large = trio.Lock()
        #: Many who come back at once are told the same one, so that its frame, and what it is
        #: compressed to, are made once.
        self._small = lru_cache(KEPT)(to_message)
        self.heard: dict[bytes, str] = {}
        #: Confirmed, and to come next.
        self._own: _Publish | None = None
        #: A message that may be an own copy.
        self._held: tuple[bytes, bytes] | None = None

    def greeted(self, greeting: Greeting) -> None:
        """The broker has said what it is."""
        self._own_first = greeting.server == "redis" and greeting.version < _OWN_BEHIND
        self._greeted = True
        version = ".".join(map(str, greeting.version))
        self.software = f"{greeting.server} {version}".strip() or None

    def _key(self, channel: str) -> bytes:
        return self._prefix + channel.encode()

    def end(self, text: str, cause: BaseException | None = None) -> None:
        if self.error is None:
            super().end(text, cause)
            self._settle_own()
            self._held = None
            self._told_end(self)
            for _ in range(self._window.statistics().tasks_waiting):
                self._window.release()

    async def publish(
        self, channel: str, message: Message, *, expire: float, sender: object | None
    ) -> None:
        """Send a message; see `Backend.publish`.

        Returns once it is confirmed and, where the channel is subscribed, the own copy delivered.
        """
        key, payload = self._key(channel), to_payload(message)
        if len(payload) > LARGEST:
            text = f"the message has {len(payload)} bytes; {LARGEST} are allowed over {self.name}"
            raise BackendError(text)
        if expire > 0:
            milliseconds = b"" if expire > _FOREVER else max(1, round(expire * 1000))
            packed = pack((b"EVAL", SCRIPT, 1, key, payload, milliseconds))
        else:
            packed = pack((b"PUBLISH", key, payload))
        publish = _Publish(key, payload, message, sender)
        await self.exchange(publish.batch, [(packed, publish)])
        if isinstance(publish.reply, ReplyError):
            raise publish.reply
        if expire > 0 and publish.reply != 1:
            self._not_kept(channel, "no text")

    async def subscribe_to(self, channels: Collection[str]) -> Mapping[str, ReplyError]:
        """Subscribe; see `Backend.subscribe`."""
        refused: dict[str, ReplyError] = {}

        def take(channel: str, key: bytes, reply: Reply) -> None:
            if isinstance(reply, ReplyError):
                refused[channel] = reply
            else:
                self.heard[key] = channel

        await self._for_each(b"SUBSCRIBE", channels, take, confirmed=True)
        return refused

    async def unsubscribe_from(self, channels: Collection[str]) -> None:
        """Unsubscribe; see `Backend.unsubscribe`."""

        def take(_: str, key: bytes, reply: Reply) -> None:
            if not isinstance(reply, ReplyError):
                self.heard.pop(key, None)

        await self._for_each(b"UNSUBSCRIBE", channels, take, confirmed=True)

    async def last(self, channels: Collection[str], told: Told) -> Mapping[str, ReplyError]:
        """Tell last messages; see `Backend.last`."""
        refused: dict[str, ReplyError] = {}
        large: list[str] = []

        def take(channel: str, batch: Batch, reply: Reply) -> None:
            self._window.release()
            if batch.abandoned:
                return
            if isinstance(reply, ReplyError):
                refused[channel] = reply
            elif isinstance(reply, int) and reply > SMALL:
                large.append(channel)
            else:
                self._tell(channel, reply, told)

        batch = Batch(len(channels))
        for channel in channels:
            await self._window.acquire()
            try:
                self._check_working()
                packed = pack((b"EVAL", READ, 1, self._key(channel), SMALL))
                await self.send(packed, Pending(batch, partial(take, channel, batch)))
            except BaseException:
                batch.abandoned = True
                self._window.release()
                raise
        await self.receive(batch)
        for channel in large:
            await self._last_large(channel, told, refused)
        return refused

    async def _last_large(self, channel: str, told: Told, refused: dict[str, ReplyError]) -> None:
        batch = Batch(1)

        def take(reply: Reply) -> None:
            if batch.abandoned:
                return
            if isinstance(reply, ReplyError):
                refused[channel] = reply
            else:
                self._tell(channel, reply, told)

        async with self._large:
            packed = pack((b"EVAL", READ, 1, self._key(channel), LARGEST))
            await self.exchange(batch, [(packed, Pending(batch, take))])

    def _tell(self, channel: str, reply: bytes | int | None, told: Told) -> None:
        if isinstance(reply, int):
            self._not_kept(channel, "no text" if reply < 0 else f"larger than {LARGEST} bytes")
            reply = None
        if reply is None:
            told(channel, None)
        else:
            told(channel, self._small(reply) if len(reply) <= SMALL else to_message(reply))

    async def _for_each(
        self,
        command: bytes,
        channels: Collection[str],
        take: Callable[[str, bytes, Reply], object],
        *,
        confirmed: bool = False,
    ) -> None:
        """Send a command for each channel.

        Args:
            take: called with the channel, its name at the broker, and the reply.
        """
        several = Batch(len(channels))

        def send(channel: str) -> tuple[bytes, Pending]:
            key = self._key(channel)
            pending = Pending(several, partial(take, channel, key), confirmed=confirmed)
            return pack((command, key)), pending

        await self.exchange(several, map(send, channels))

    # What the reader does.

    async def _take(self, item: Any) -> None:
        if type(item) is PushNotification:
            await self._take_push(item)
            return
        self._settle_own()
        publish = self._pending[0] if self._pending else None
        if isinstance(publish, _Publish):
            await self._take_published(publish, item)
        else:
            await super()._take(item)
        if self._greeted and isinstance(item, ReplyError) and _makes_unusable(item):
            self.end(f"{self.name} cannot be used any more: {item}")

    async def _take_published(self, publish: _Publish, reply: Reply) -> None:
        self._pending.popleft()
        publish.reply = reply
        held, self._held = self._held, None
        if isinstance(reply, ReplyError):
            publish.batch.done()
            if held is not None:
                await self._deliver(*held)
        elif held is not None:
            await self._deliver_own(publish)
        elif publish.key in self.heard and not self._own_first:
            self._own = publish
        else:
            publish.batch.done()

    async def _take_push(self, item: Any) -> None:
        if self._held is not None:
            held, self._held = self._held, None
            await self._deliver(*held)
        if not (item and item[0] == b"message"):
            self._settle_own()
            await super()._take(item)
            return
        _, key, payload = item
        own = self._own
        if own is not None and own.key == key and own.payload == payload:
            self._own = None
            await self._deliver_own(own)
            return
        self._settle_own()
        first = self._pending[0] if self._own_first and self._pending else None
        if isinstance(first, _Publish) and first.key == key and first.payload == payload:
            self._held = key, payload
        else:
            await self._deliver(key, payload)

    def _settle_own(self) -> None:
        """The own copy does not come next: the publish is confirmed all the same."""
        if self._own is not None:
            self._own.batch.done()
            self._own = None

    async def _deliver_own(self, publish: _Publish) -> None:
        try:
            channel = self.heard.get(publish.key)
            if channel is not None:
                await self._receiver.deliver(channel, publish.message, publish.sender)
        finally:
            publish.batch.done()

    async def _deliver(self, key: bytes, payload: bytes) -> None:
        channel = self.heard.get(key)
        if channel is not None:
            await self._receiver.deliver(channel, to_message(payload), None)


def _makes_unusable(error: ReplyError) -> bool:
    # Redis 6 wraps what a script met in a text of its own.
    return error.code in _UNUSABLE or (error.code == "ERR" and "-READONLY " in str(error))
