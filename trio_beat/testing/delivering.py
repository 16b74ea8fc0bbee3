"""Conditions of messages: that they come, what they are, and from whom."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import trio

from .._exceptions import BackendError
from .._protocol.messages import Message
from .hub import Foreign, Hub, Make, Sender, fresh, open_nursery, running
from .sentences import LIMIT, SETTLE, Broken, Sentence, check, promptly

#: Each may mean something to some broker: separators, patterns, white space, ends of strings.
NAMES: Final = (
    "plain",
    "Plain",
    "user:bob:news",
    "a b",
    " ",
    "*",
    "[a-z]?",
    "a/b?c=d&e#f%20",
    "line\r\nbreak",
    "zero\0zero",
    "'\"\\",
    "caf\u00e9",
    "cafe\u0301",
    "\U0001f409",
    "long" * 256,
)
#: Each may be taken for another one: by its kind, or where one ends that has no length.
MESSAGES: Final = (
    Message(""),
    Message(b""),
    Message("\0"),
    Message(b"\0"),
    Message("12"),
    Message(b"12"),
    Message("line\r\nbreak"),
    Message(b"\r\n"),
    Message("".join(map(chr, range(256)))),
    Message(bytes(range(256))),
    Message("e\u0301, \u00e9, \u20ac and \U0001f409"),
    Message("e\u0301, \u00e9, \u20ac and \U0001f409".encode()),
    Message(b"\xff\xd8\xff\xe0"),
    Message("\U0001f409" * 2**16),
    Message(b"\xff" * 2**18),
)
#: What others may publish, and what that is.
FOREIGN: Final[Sequence[tuple[bytes, str | bytes]]] = (
    (b"hello", "hello"),
    (b"", ""),
    (b"\0", "\0"),
    (b"12\r\n", "12\r\n"),
    ("\u20ac and \U0001f409".encode(), "\u20ac and \U0001f409"),
    *((bytes([first]), bytes([first])) for first in range(0x80, 0x100)),
    (b"\xff\xd8\xff\xe0", b"\xff\xd8\xff\xe0"),
    # Half of a character, a surrogate, one character too long, and what is beyond Unicode.
    *((data, data) for data in (b"x\xe2\x82", b"\xed\xa0\x80", b"\xc0\x80", b"\xf4\x90\x80\x80")),
    (bytes(range(256)), bytes(range(256))),
    (b"\xff" * 2**18, b"\xff" * 2**18),
)
#: Channels of a large batch.
BATCH: Final = 1000


async def check_delivery(make: Make) -> None:
    """Messages of a channel come while it is subscribed, own ones with their senders."""
    async with running(make) as hub:
        channel, other = fresh("channel"), fresh("other")
        await hub.publish_unheard(channel, Sentence.EACH)
        for turn in range(2):
            await hub.hear(channel)
            first = Message(f"first {turn}")
            await hub.publish_heard(channel, first, Sentence.SUBSCRIBED)
            for number in range(5):
                message = Message(f"{number} in turn {turn}")
                await hub.publish_heard(channel, message, Sentence.EACH)
            await hub.publish_unheard(other, Sentence.EACH)
            hub.check()
            await hub.unsubscribe(channel)
            await hub.publish_unheard(channel, Sentence.UNSUBSCRIBED)
        hub.check_channels({channel}, Sentence.EACH)


async def check_names(make: Make) -> None:
    """A channel may have any name."""
    async with running(make) as hub:
        channels = [name + fresh("") for name in NAMES]
        await hub.hear(*channels)
        for number, channel in enumerate(channels):
            await hub.publish(channel, Message(f"{number}"), expire=LIMIT)
        await trio.sleep(SETTLE)
        for number, channel in enumerate(channels):
            message = Message(f"{number}")
            await hub.until_number(channel, 1)
            came = hub.messages(channel)
            check(came == [message], Sentence.ANY, f"there came {came!r} on {channel!r}")
            await hub.check_kept(channel, message, Sentence.ANY)
        hub.check_channels(channels, Sentence.ANY)


async def check_messages(make: Make) -> None:
    """A message may be anything, and comes as it was; also as the last one."""
    async with running(make) as hub:
        channel = fresh("channel")
        await hub.hear(channel)
        for message in MESSAGES:
            await hub.publish(channel, message, expire=LIMIT)
            await hub.check_kept(channel, message, Sentence.SAME)
        came = await hub.until_count(channel, len(MESSAGES), Sentence.SAME)
        for got, sent in zip(came, MESSAGES, strict=True):
            check(got.message == sent, Sentence.SAME, f"{sent!r} came as {got.message!r}")


async def check_equal(make: Make) -> None:
    """Equal messages that follow one another come once each, with their senders."""
    async with running(make) as hub:
        channel, same = fresh("channel"), Message("same")
        await hub.hear(channel)
        senders = [Sender() if turn % 3 else None for turn in range(12)]
        for turn, sender in enumerate(senders):
            await hub.publish(channel, same, expire=LIMIT * (turn % 2), sender=sender)
        came = await hub.until_count(channel, len(senders), Sentence.EACH)
        hub.check(equal=True)
        for got, sent in zip(came, senders, strict=True):
            check(got.sender is sent, Sentence.SENDER, f"{sent!r} came back as {got.sender!r}")


async def check_batches(make: Make) -> None:
    """Many channels are subscribed in one call, and none."""
    async with running(make) as hub:
        channels = [fresh("") for _ in range(BATCH)]
        await hub.hear()
        await hub.hear(*channels)
        await hub.hear()
        with promptly(Sentence.MANY, f"publishing to {BATCH} channels"):
            async with open_nursery() as nursery:
                for begin in range(0, BATCH, 50):
                    nursery.start_soon(_publish_to_each, hub, channels[begin : begin + 50])
        for channel in channels:
            await hub.until_number(channel, 1)
            came, sent = hub.messages(channel), [Message(channel)]
            check(came == sent, Sentence.SUBSCRIBED, f"there came {came!r} on one of a batch")
        await hub.last()
        last = await hub.last(*channels)
        for channel in channels:
            message = Message(channel)
            check(last[channel] == message, Sentence.TOLD, f"{message!r} is {last[channel]!r}")
        # Every second one goes.
        await hub.unsubscribe()
        await hub.unsubscribe(*channels[::2])
        for channel in channels[-4:]:
            await hub.publish(channel, Message("again"))
        staying = channels[-3::2]
        for channel in staying:
            came_again = await hub.until_number(channel, 2)
            check(came_again, Sentence.SUBSCRIBED, "one that was not unsubscribed is not heard")
        await trio.sleep(SETTLE)
        gone = [channel for channel in channels[-4::2] if hub.begun(channel) > 1]
        check(not gone, Sentence.UNSUBSCRIBED, "one of a batch is still heard")
        hub.check()


async def _publish_to_each(hub: Hub, channels: Sequence[str]) -> None:
    for channel in channels:
        message = Message(channel)
        await hub.publish(channel, message, expire=LIMIT, sentence=Sentence.MANY)


async def check_refused(make: Make, refused: str) -> None:
    """A channel that the broker refuses is refused alone."""
    async with running(make) as hub:
        first, second = fresh("first"), fresh("second")
        for channels in ((first, refused, second), (refused,)):
            try:
                result = await hub.subscribe(*channels, sentence=Sentence.REFUSED)
            except BackendError as exc:
                raise Broken(Sentence.REFUSED, f"{exc!r} was raised, not returned") from exc
            check(set(result) == {refused}, Sentence.REFUSED, f"refused were {set(result)!r}")
            for channel in (first, second):
                message = Message(f"to {len(channels)} of them")
                await hub.publish_heard(channel, message, Sentence.REFUSED)


async def check_foreign(make: Make, foreign: Foreign) -> None:
    """What others publish comes, whatever it is, and is nobody's own copy."""
    async with running(make) as hub:
        channel = fresh("channel")
        await hub.hear(channel)
        for data, _ in FOREIGN:
            await foreign(channel, data)
        came = await hub.until_count(channel, len(FOREIGN), Sentence.FOREIGN)
        for got, (data, payload) in zip(came, FOREIGN, strict=True):
            sent = data[:40]
            check(got.message == Message(payload), Sentence.FOREIGN, f"{sent!r} came as {got!r}")
        hub.check(equal=True)
        # Equal texts of both sides, at the same time.
        same, senders = Message("same"), [Sender() for _ in range(20)]
        async with open_nursery() as nursery:
            nursery.start_soon(_publish_raw, foreign, channel, b"same", len(senders))
            for sender in senders:
                await hub.publish(channel, same, sender=sender)
        number = len(FOREIGN) + 2 * len(senders)
        came = await hub.until_count(channel, number, Sentence.FOREIGN)
        check_own(hub, channel, senders)


async def _publish_raw(foreign: Foreign, channel: str, data: bytes, times: int) -> None:
    for _ in range(times):
        await foreign(channel, data)


def check_own(hub: Hub, channel: str, senders: Sequence[Sender]) -> None:
    """Check that own copies came with these senders, in this order, and nothing else did."""
    hub.check(equal=True)
    got = hub.own(channel)
    kept = len(got) == len(senders) and all(a is b for a, b in zip(got, senders, strict=True))
    seen = f"{len(senders)} messages with a sender were published one after the other"
    check(kept, Sentence.SENDER, f"{seen}, there came {len(got)}, or in another order")
