"""Conditions of the last message."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import trio

from .._protocol.messages import Message
from .hub import Hub, Make, fresh, open_nursery, running
from .sentences import LIMIT, Sentence, check, promptly

#: Seconds for which a last message is kept, where its end is waited for.
_EXPIRE: Final = 1.0
#: Seconds by which a broker may round.
_ROUNDING: Final = 0.05
#: Messages that are published while last messages are asked for.
_MESSAGES: Final = 40


async def check_last(make: Make) -> None:
    """The last message is kept for as long as it is to be."""
    async with running(make) as hub:
        channel = fresh("channel")
        await hub.hear(channel)
        await hub.check_kept(channel, None, Sentence.KEPT)
        await hub.publish(channel, Message("not kept"))
        await hub.check_kept(channel, None, Sentence.NOT_KEPT)
        second, third = Message("second"), Message("third")
        for message in (Message(b""), second):
            await hub.publish(channel, message, expire=LIMIT)
            await hub.check_kept(channel, message, Sentence.KEPT)
        await hub.publish(channel, Message("not kept"))
        await hub.check_kept(channel, second, Sentence.NOT_KEPT)
        await hub.publish(channel, third, expire=_EXPIRE)
        await hub.check_kept(channel, third, Sentence.KEPT)
        await trio.sleep(_EXPIRE / 2)
        await hub.check_kept(channel, third, Sentence.KEPT)
        await trio.sleep(_EXPIRE / 2 + _ROUNDING)
        await hub.check_kept(channel, None, Sentence.KEPT)


async def check_joining(make: Make, *, shared: bool) -> None:
    """Who joins while messages are published gets the last one, and each later one once."""
    async with running(make) as hub:
        await _check_joining(hub, hub)
        if shared:
            async with running(make) as other:
                await _check_joining(hub, other)
                await _check_joining(other, hub)


async def _check_joining(hub: Hub, publisher: Hub) -> None:
    for equal in (1, 4, _MESSAGES):  # so many equal messages follow one another
        sent = [Message(f"{number // equal}") for number in range(_MESSAGES)]
        for turn in range(4):
            channel = fresh("channel")
            joined: list[tuple[int, Message | None]] = []
            with promptly(Sentence.PLACE, "joining"):
                async with open_nursery() as nursery:
                    nursery.start_soon(_publish, publisher, channel, sent)
                    for _ in range(turn * turn):
                        await trio.lowlevel.checkpoint()
                    await hub.hear(channel)
                    for _ in range(4):
                        await _join(hub, channel, joined)
            end = Message("end")
            await publisher.publish(channel, end)
            came = await hub.until_heard(channel, end)
            check(came, Sentence.EACH, f"{end!r} did not come")
            hub.check(equal=True)
            _check_places([*sent, end], hub.messages(channel), joined)


async def _publish(hub: Hub, channel: str, messages: Sequence[Message]) -> None:
    for message in messages:
        await hub.publish(channel, message, expire=LIMIT)


async def _join(hub: Hub, channel: str, joined: list[tuple[int, Message | None]]) -> None:
    places: list[int] = []
    last = await hub.last(channel, at=lambda: places.append(hub.begun(channel)))
    joined.extend((place, last[channel]) for place in places)


def _check_places(
    sent: Sequence[Message],
    came: Sequence[Message],
    joined: Sequence[tuple[int, Message | None]],
) -> None:
    """Check what came since a channel was subscribed, and the last messages between.

    Args:
        sent: what was published, to the end.
        came: what was delivered.
        joined: at which place among that a last message was told, and which.
    """
    whole = len(came) <= len(sent) and list(came) == list(sent)[len(sent) - len(came) :]
    check(whole, Sentence.EACH, f"{sent!r} were published, there came {came!r}")
    for place, last in joined:
        later = len(came) - place
        before = len(sent) - later
        expected = sent[before - 1] if before else None
        seen = f"the last message was {last!r}, and those that came after it are {later}"
        check(last == expected, Sentence.PLACE, f"{seen} of {len(sent)}")
