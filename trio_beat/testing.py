"""Tests for a backend of your own: does it keep the contract?"""

from __future__ import annotations

import contextlib
import enum
import secrets
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from functools import partial
from itertools import count
from typing import Final

import trio

from ._plain import Plain
from ._protocol.messages import Message
from .backends import Backend

#: Seconds in which any call must return.
_LIMIT: Final = 30.0
#: Seconds in which a message that should not come would have come.
_SETTLE: Final = 0.1
#: Seconds for which a last message is kept, where its end is waited for.
_EXPIRE: Final = 1.0
#: Seconds by which a broker may round.
_ROUNDING: Final = 0.01

#: Each may mean something to some broker: separators, patterns, white space, ends of strings.
_NAMES: Final = (
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
#: Each may be taken for another one: by its kind, by its id, or where one ends that has no length.
_MESSAGES: Final = (
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
    Message("", b"id"),
    Message(b"", b"id"),
    Message("id", b""),
    Message("text", bytes(range(256))),
    Message(b"\0\r\n", b"\0\r\n"),
    Message("\U0001f409" * 2**16),
    Message(b"\xff" * 2**18, b"\xff" * 16),
)


class _Sentence(enum.StrEnum):
    """What the contract says, in the words of `Backend`."""

    ANY = "It knows channels (any non-empty text) and messages (any text or bytes, with any id)."
    SAME = "A message comes back with the payload, the kind and the id with which it was published."
    ORDER = "All hubs see the messages of one channel in the same order."
    EACH = "`deliver` is awaited for each message of a channel that is subscribed"
    ONE_AT_A_TIME = "one at a time for a channel"
    NEVER_AFTER = "That may happen before `publish` returns, never after."
    ONCE = "A message is delivered at most once"
    MANY = "`publish` and `last` may be called by many tasks at a time"
    CANCELLED = "Every method may be cancelled at any await"
    LEAVING = "Leaving `running` always closes everything."
    KEPT = "seconds for which it is kept as the channel's last message"
    NOT_KEPT = "0: it is not kept, and what was kept before stays."
    SUBSCRIBED = "When this returns, every later message is delivered."
    UNSUBSCRIBED = "Hear a channel no more."
    NO_LAST = "None where there is none or it has expired."


class _Broken(AssertionError):  # noqa: N818 - the contract is
    pass


class _Left(Exception):  # noqa: N818 - nothing is wrong
    pass


def _check(kept: bool, sentence: _Sentence, seen: str) -> None:
    if not kept:
        raise _Broken(f"contract broken: {sentence.value!r}: {seen}")


@contextlib.contextmanager
def _promptly(sentence: _Sentence, what: str) -> Iterator[None]:
    with trio.move_on_after(_LIMIT) as scope:
        yield
    _check(not scope.cancelled_caught, sentence, f"{what} took more than {_LIMIT:g} s")


class _Heard:
    """What a backend delivered.

    Like the hub's, its `deliver` lets other tasks run, and is not cut short by cancellation.
    """

    def __init__(self) -> None:
        self._begun: defaultdict[str, list[Message]] = defaultdict(list)
        self._done: defaultdict[str, list[Message]] = defaultdict(list)
        self._overlapped = False

    async def deliver(self, channel: str, message: Message) -> None:
        self._overlapped |= len(self._begun[channel]) > len(self._done[channel])
        self._begun[channel].append(message)
        for _ in range(3):
            await trio.lowlevel.cancel_shielded_checkpoint()
        self._done[channel].append(message)

    def on(self, channel: str) -> list[Message]:
        """What was delivered to the end, in order."""
        return list(self._done[channel])

    def check_channels(self, expected: set[str], sentence: _Sentence) -> None:
        came = {channel for channel, messages in self._begun.items() if messages}
        others = came - expected
        _check(not others, sentence, f"there came messages of {others!r}")

    def check(self) -> None:
        _check(not self._overlapped, _Sentence.ONE_AT_A_TIME, "`deliver` was called twice at once")
        for messages in self._begun.values():
            doubled = {message for message, times in Counter(messages).items() if times > 1}
            _check(not doubled, _Sentence.ONCE, f"{doubled!r} came more than once")


async def cancelled_at(step: int, call: Callable[[], Awaitable[object]]) -> bool:
    """Make a call, and cancel it at one of its awaits.

    Args:
        step: it is cancelled while it waits for the time of this number; 0: before it begins.
        call: what to call.

    Returns:
        Whether it was cancelled; False: it came to its end without waiting so often.
    """
    canceller = _Canceller(step)
    trio.lowlevel.add_instrument(canceller)
    try:
        with canceller.scope:
            await call()
    finally:
        trio.lowlevel.remove_instrument(canceller)
    return canceller.scope.cancelled_caught


class _Canceller(trio.abc.Instrument):
    def __init__(self, step: int) -> None:
        self.scope = trio.CancelScope()
        self._task = trio.lowlevel.current_task()
        self._left = step
        if step == 0:
            self.scope.cancel()

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        if task is self._task:
            self._left -= 1
            if self._left == 0:
                self.scope.cancel()


def _fresh(name: str) -> str:
    """A channel that was never used before, at a broker that others may use."""
    return name + secrets.token_hex(8)


@asynccontextmanager
async def _running(make: Callable[[], Backend]) -> AsyncIterator[tuple[Backend, _Heard]]:
    backend, heard = make(), _Heard()
    async with Plain(backend.running(heard.deliver)):
        yield backend, heard


async def _publish(
    backend: Backend, heard: _Heard, channel: str, message: Message, sentence: _Sentence
) -> None:
    """Publish to a channel that is subscribed, and check that it is heard."""
    with _promptly(sentence, "`publish`"):
        await backend.publish(channel, message, expire=0)
    in_time = message in heard.on(channel)
    if not in_time:
        await trio.sleep(_SETTLE)
        _check(message in heard.on(channel), sentence, f"{message!r} did not come")
    _check(in_time, _Sentence.NEVER_AFTER, f"{message!r} came after `publish` had returned")
    heard.check()


async def _publish_unheard(
    backend: Backend, heard: _Heard, channel: str, sentence: _Sentence
) -> None:
    """Publish to a channel that is not subscribed, and check that nothing is heard."""
    before = len(heard.on(channel))
    await backend.publish(channel, Message("no subscriber"), expire=0)
    await trio.sleep(_SETTLE)
    came = heard.on(channel)[before:]
    _check(not came, sentence, f"{came!r} came on a channel that is not subscribed")


async def _check_delivery(make: Callable[[], Backend]) -> None:
    async with _running(make) as (backend, heard):
        channel, other = _fresh("channel"), _fresh("other")
        await _publish_unheard(backend, heard, channel, _Sentence.EACH)
        for turn in range(2):
            await backend.subscribe(channel)
            first = Message(f"first {turn}")
            await _publish(backend, heard, channel, first, _Sentence.SUBSCRIBED)
            for number in range(5):
                message = Message(f"{number} in turn {turn}")
                await _publish(backend, heard, channel, message, _Sentence.EACH)
            await _publish_unheard(backend, heard, other, _Sentence.EACH)
            heard.check()
            await backend.unsubscribe(channel)
            await _publish_unheard(backend, heard, channel, _Sentence.UNSUBSCRIBED)
        heard.check_channels({channel}, _Sentence.EACH)


async def _check_names(make: Callable[[], Backend]) -> None:
    async with _running(make) as (backend, heard):
        channels = [name + _fresh("") for name in _NAMES]
        for channel in channels:
            await backend.subscribe(channel)
        for number, channel in enumerate(channels):
            await backend.publish(channel, Message(f"{number}"), expire=_LIMIT)
        await trio.sleep(_SETTLE)
        for number, channel in enumerate(channels):
            message = Message(f"{number}")
            came, last = heard.on(channel), await backend.last(channel)
            _check(came == [message], _Sentence.ANY, f"there came {came!r} on {channel!r}")
            _check(
                last is not None and last.message == message,
                _Sentence.ANY,
                f"the last message of {channel!r} is not what was sent to it",
            )
        heard.check_channels(set(channels), _Sentence.ANY)


async def _check_messages(make: Callable[[], Backend]) -> None:
    async with _running(make) as (backend, heard):
        channel = _fresh("channel")
        await backend.subscribe(channel)
        for message in _MESSAGES:
            await backend.publish(channel, message, expire=_LIMIT)
            await _check_kept(backend, channel, message, _LIMIT, _Sentence.SAME)
        await trio.sleep(_SETTLE)
        came = heard.on(channel)
        _check(len(came) == len(_MESSAGES), _Sentence.SAME, f"there came {came!r}")
        for got, sent in zip(came, _MESSAGES, strict=True):
            _check(got == sent, _Sentence.SAME, f"{sent!r} came as {got!r}")


async def _check_last(make: Callable[[], Backend]) -> None:
    async with _running(make) as (backend, _):
        channel = _fresh("channel")
        _check(await backend.last(channel) is None, _Sentence.NO_LAST, "a new channel has one")
        await backend.publish(channel, Message("not kept"), expire=0)
        _check(await backend.last(channel) is None, _Sentence.NOT_KEPT, "it was kept")
        second, third = Message("second"), Message("third")
        for message in (Message(b""), second):
            await backend.publish(channel, message, expire=_LIMIT)
            await _check_kept(backend, channel, message, _LIMIT, _Sentence.KEPT)
        await backend.publish(channel, Message("not kept"), expire=0)
        await _check_kept(backend, channel, second, _LIMIT, _Sentence.NOT_KEPT)
        await backend.publish(channel, third, expire=_EXPIRE)
        await _check_kept(backend, channel, third, _EXPIRE, _Sentence.KEPT)
        await trio.sleep(_EXPIRE / 2)
        await _check_kept(backend, channel, third, _EXPIRE / 2, _Sentence.KEPT)
        await trio.sleep(_EXPIRE / 2 + _ROUNDING)
        _check(await backend.last(channel) is None, _Sentence.NO_LAST, "it had expired")


async def _check_kept(
    backend: Backend, channel: str, message: Message, expire: float, sentence: _Sentence
) -> None:
    last = await backend.last(channel)
    _check(
        last is not None and last.message == message,
        sentence,
        f"expected {message!r} as the last message, got {last!r}",
    )
    assert last is not None
    _check(
        0 < last.expires_in <= expire + _ROUNDING,
        sentence,
        f"it expires in {last.expires_in:g} s, expected at most {expire:g}",
    )


async def _check_concurrency(make: Callable[[], Backend]) -> None:
    async with _running(make) as (backend, heard):
        channel = _fresh("channel")
        await backend.subscribe(channel)
        with _promptly(_Sentence.MANY, "it"):
            async with Plain(trio.open_nursery()) as nursery:
                for number in range(20):
                    nursery.start_soon(_publish_many, backend, channel, f"{number}")
        await trio.sleep(_SETTLE)
        heard.check()
        came = heard.on(channel)
        sent = {message for number in range(20) for message in _many(f"{number}")}
        _check(set(came) == sent, _Sentence.MANY, f"{sent.difference(came)!r} did not come")
        _check_series(came, [f"{number}" for number in range(20)])
        last = await backend.last(channel)
        _check(
            last is not None and last.message == came[-1],
            _Sentence.ORDER,
            f"the last message that came was {came[-1]!r}, the last one kept is {last!r}",
        )


def _many(prefix: str) -> list[Message]:
    return [Message(f"{prefix}/{number}") for number in range(5)]


async def _publish_many(backend: Backend, channel: str, prefix: str) -> None:
    for message in _many(prefix):
        await backend.publish(channel, message, expire=_LIMIT)
        await backend.last(channel)


def _check_series(came: Sequence[Message], prefixes: Sequence[str]) -> None:
    for prefix in prefixes:
        sent = _many(prefix)
        series = [message for message in came if message in sent]
        _check(series == sent, _Sentence.ORDER, f"one task's messages came as {series!r}")


async def _check_cancellation(make: Callable[[], Backend]) -> None:
    async with _running(make) as (backend, heard):
        channel, other = _fresh("channel"), _fresh("other")
        await backend.subscribe(channel)
        for step in count():
            call = partial(backend.publish, channel, Message(f"cancelled {step}"), expire=0)
            cancelled = await cancelled_at(step, call)
            await _publish(backend, heard, channel, Message(f"{step}"), _Sentence.CANCELLED)
            if not cancelled:
                break
        await trio.sleep(_SETTLE)
        heard.check()
        for step in count():
            cancelled = await cancelled_at(step, partial(backend.subscribe, other))
            with _promptly(_Sentence.CANCELLED, "`unsubscribe` or `subscribe`"):
                await backend.unsubscribe(other)
                await _publish_unheard(backend, heard, other, _Sentence.CANCELLED)
                await backend.subscribe(other)
            await _publish(backend, heard, other, Message(f"s{step}"), _Sentence.CANCELLED)
            await backend.unsubscribe(other)
            if not cancelled:
                break
        for step in count():
            await backend.subscribe(leaving := _fresh("leaving"))
            cancelled = await cancelled_at(step, partial(backend.unsubscribe, leaving))
            await _publish(backend, heard, channel, Message(f"u{step}"), _Sentence.CANCELLED)
            if not cancelled:
                break
        kept = Message("kept")
        await backend.publish(channel, kept, expire=_LIMIT)
        for step in count():
            cancelled = await cancelled_at(step, partial(backend.last, channel))
            with _promptly(_Sentence.CANCELLED, "`last`"):
                await _check_kept(backend, channel, kept, _LIMIT, _Sentence.CANCELLED)
            if not cancelled:
                break


async def _check_leaving(make: Callable[[], Backend]) -> None:
    for end in (_nothing, _cancel, _fail):
        backend, heard = make(), _Heard()
        channel = _fresh("channel")
        with _promptly(_Sentence.LEAVING, "it"):
            try:
                with trio.CancelScope() as scope:
                    async with backend.running(heard.deliver):
                        await backend.subscribe(channel)
                        await end(scope)
            except* _Left:
                pass
        # What that raises is for the backend to choose: a hub does not do it.
        with contextlib.suppress(Exception), trio.move_on_after(_LIMIT):
            await backend.publish(channel, Message("too late"), expire=0)
        await trio.sleep(_SETTLE)
        heard.check_channels(set(), _Sentence.LEAVING)


async def _nothing(scope: trio.CancelScope) -> None:
    pass


async def _cancel(scope: trio.CancelScope) -> None:
    scope.cancel()
    await trio.lowlevel.checkpoint()


async def _fail(scope: trio.CancelScope) -> None:
    raise _Left


async def _check_hubs(make: Callable[[], Backend]) -> None:
    channel = _fresh("channel")
    async with _running(make) as (one, heard_by_one):
        async with _running(make) as (two, heard_by_two):
            await one.subscribe(channel)
            await two.subscribe(channel)
            prefixes = [f"{number}" for number in range(10)]
            async with Plain(trio.open_nursery()) as nursery:
                for number, prefix in enumerate(prefixes):
                    nursery.start_soon(_publish_many, (one, two)[number % 2], channel, prefix)
            await trio.sleep(_SETTLE)
            sent = {message for prefix in prefixes for message in _many(prefix)}
            for heard in (heard_by_one, heard_by_two):
                heard.check()
                missing = sent.difference(heard.on(channel))
                _check(not missing, _Sentence.EACH, f"{missing!r} did not come to every hub")
                _check_series(heard.on(channel), prefixes)
            _check(
                heard_by_one.on(channel) == heard_by_two.on(channel),
                _Sentence.ORDER,
                "two hubs saw different orders",
            )
        await _publish_unheard(one, heard_by_two, channel, _Sentence.LEAVING)


async def check_backend(make: Callable[[], Backend], *, shared: bool = False) -> None:
    """Check that a backend keeps the contract that is written at `trio_beat.backends.Backend`.

    It may run on a virtual clock where the backend uses nothing outside of the process. On a
    real one it takes a few seconds, most of them to see that what should not come does not come.
    Channels have names that are used for nothing else. What happens while a broker is away is not
    checked.

    For example, with pytest-trio::

        async def test_it_keeps_the_contract(autojump_clock):
            await trio_beat.testing.check_backend(PigeonBackend)

    Args:
        make: makes a backend; called several times, for one object each.
        shared: what is published with one of those objects reaches the others, as with a broker
            that is a process of its own: then the order between hubs is checked as well.

    Raises:
        AssertionError: it does not; the message quotes the sentence of the contract that is
            broken, and says what was seen.
    """
    await _check_delivery(make)
    await _check_last(make)
    await _check_names(make)
    await _check_messages(make)
    await _check_concurrency(make)
    await _check_cancellation(make)
    await _check_leaving(make)
    if shared:
        await _check_hubs(make)
