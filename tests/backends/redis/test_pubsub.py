from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Literal, NamedTuple

import pytest
import trio
import trio.testing
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.played_broker import BrokerEnd, error, message, push, reply
from tests.support.receivers import Recorder
from trio_beat import Message
from trio_beat.backends.redis.errors import Disconnected, ReplyError
from trio_beat.backends.redis.opening import Greeting
from trio_beat.backends.redis.pubsub import KEPT, READ, SMALL, PubSub

BEHIND = Greeting("valkey", (9, 1, 2), "standalone", "master")
BEFORE = Greeting("redis", (7, 0, 15), "standalone", "master")
GREETINGS = [pytest.param(BEHIND, id="behind"), pytest.param(BEFORE, id="before")]


class Opened(NamedTuple):
    pubsub: PubSub
    broker: BrokerEnd
    told: Recorder
    not_kept: list[str]
    ended: list[str]


@asynccontextmanager
async def opened(greeting: Greeting = BEHIND, prefix: bytes = b"") -> AsyncIterator[Opened]:
    """A connection to a broker that the test plays."""
    ours, theirs = trio.testing.memory_stream_pair()
    told, not_kept, ended = Recorder(), list[str](), list[str]()
    pubsub = PubSub(
        ours,
        name="broker",
        timeout=5,
        receiver=told,
        prefix=prefix,
        not_kept=lambda channel, _: not_kept.append(channel),
        ended=lambda connection: ended.append(str(connection.error)),
    )
    pubsub.greeted(greeting)
    async with pubsub.running():
        yield Opened(pubsub, BrokerEnd(theirs), told, not_kept, ended)


async def subscribed(there: Opened, *channels: str) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(there.pubsub.subscribe_to, channels)
        for channel in channels:
            command, name = await there.broker.command()
            assert (command, name) == (b"SUBSCRIBE", channel.encode())
            await there.broker.send(push(b"subscribe", name, 1))


async def published(there: Opened) -> None:
    await there.pubsub.publish("news", Message("x"), expire=0, sender="me")


Step = tuple[Literal["own", "refused", "foreign", "subscribe", "unsubscribe", "get"], bytes]
STEPS = st.lists(
    st.tuples(
        st.sampled_from(
            ["own", "own", "refused", "foreign", "foreign", "subscribe", "unsubscribe"]
        ),
        st.sampled_from([b"a", b"b"]),
    ),
    max_size=20,
)


def played(steps: list[Step], greeting: Greeting) -> tuple[bytes, list[tuple[object, ...]]]:
    """What a broker writes, and what of it is to be delivered: payloads and senders."""
    written, delivered = b"", list[tuple[object, ...]]()
    heard = False
    for number, (kind, payload) in enumerate(steps):
        copy = message(b"news", payload) if heard else b""
        if kind == "own":
            answer = reply(1)
            written += copy + answer if greeting is BEFORE else answer + copy
            delivered += [(payload.decode(), number)] if heard else []
        elif kind == "foreign":
            written += copy
            delivered += [(payload.decode(), None)] if heard else []
        elif kind == "refused":
            written += error("OOM command not allowed")
        else:
            heard = kind == "subscribe"
            written += push(kind.encode(), b"news", int(heard))
    return written, delivered


async def called(there: Opened, number: int, step: Step) -> None:
    kind, payload = step
    if kind == "subscribe":
        assert await there.pubsub.subscribe_to(["news"]) == {}
    elif kind == "unsubscribe":
        await there.pubsub.unsubscribe_from(["news"])
    elif kind == "own":
        sent = Message(payload.decode())
        await there.pubsub.publish("news", sent, expire=number % 2, sender=number)
    elif kind == "refused":
        sent = Message(payload.decode())
        with pytest.raises(ReplyError, match="OOM"):
            await there.pubsub.publish("news", sent, expire=number % 2, sender=number)


@pytest.mark.parametrize("greeting", GREETINGS)
@given(steps=STEPS, size=st.integers(1, 400))
@settings(deadline=None)
def test_own_copies_are_known_among_equal_messages_of_others(
    greeting: Greeting, steps: list[Step], size: int
) -> None:
    async def play() -> None:
        written, delivered = played(steps, greeting)
        async with opened(greeting) as there:
            async with trio.open_nursery() as nursery:
                for number, step in enumerate(steps):
                    nursery.start_soon(called, there, number, step)
                    await trio.testing.wait_all_tasks_blocked()  # in this order
                for begin in range(0, len(written), size):
                    await there.broker.send(written[begin : begin + size])
            # All calls have returned; one that was held back waits for what comes next.
            await there.broker.send(push(b"invalidate", b""))
            await trio.testing.wait_all_tasks_blocked()
            assert there.told.delivered == delivered
            assert there.pubsub.error is None

    trio.run(play)


async def test_what_was_held_back_is_of_others_where_the_publish_is_refused() -> None:
    async with opened(BEFORE) as there, trio.open_nursery() as nursery:
        await subscribed(there, "news")

        async def publish() -> None:
            with pytest.raises(ReplyError, match="OOM"):
                await published(there)

        nursery.start_soon(publish)
        await there.broker.command()
        await there.broker.send(message(b"news", b"x"))
        await trio.testing.wait_all_tasks_blocked()
        assert there.told.delivered == []
        await there.broker.send(error("OOM command not allowed"))
        await there.told.until(lambda: there.told.delivered == [("x", None)])


async def test_what_was_not_subscribed_is_passed_over() -> None:
    async with opened() as there:
        await subscribed(there, "news")
        await there.broker.send(message(b"other", b"x"), message(b"news", b"y"))
        await there.told.until(lambda: there.told.delivered == [("y", None)])


@pytest.mark.parametrize("greeting", GREETINGS)
async def test_publish_returns_when_its_copy_is_delivered(greeting: Greeting) -> None:
    async with opened(greeting) as there:
        await subscribed(there, "news")
        returned: list[tuple[object, ...]] = []

        async def publish() -> None:
            await there.pubsub.publish("news", Message("x"), expire=0, sender="me")
            returned.extend(there.told.delivered)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(publish)
            assert await there.broker.command() == [b"PUBLISH", b"news", b"x"]
            parts = [reply(1), message(b"news", b"x")]
            for part in parts if greeting is BEHIND else reversed(parts):
                await there.broker.send(part)
                await trio.testing.wait_all_tasks_blocked()
        assert returned == [("x", "me")]


async def test_publish_returns_where_no_copy_comes() -> None:
    # Perhaps what answers is no broker but something between.
    async with opened() as there:
        await subscribed(there, "news")
        for behind in (message(b"news", b"other"), push(b"invalidate", b""), reply(b"PONG")):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(published, there)
                await there.broker.command()
                nursery.start_soon(there.pubsub.call, "PING")
                await there.broker.command()
                pong = [] if behind == reply(b"PONG") else [reply(b"PONG")]
                await there.broker.send(reply(1), behind, *pong)
        assert there.told.delivered == [("other", None)]


async def test_what_is_confirmed_stays_so_when_the_connection_ends() -> None:
    async with opened() as there:
        await subscribed(there, "news")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(published, there)
            await there.broker.command()
            await there.broker.send(reply(1))
            await trio.testing.wait_all_tasks_blocked()
            await there.broker.stream.aclose()
        assert there.ended == ["broker has closed the connection"]
        assert there.told.delivered == []


@pytest.mark.parametrize("greeting", GREETINGS)
async def test_the_copy_of_a_publisher_that_has_gone_keeps_its_sender(greeting: Greeting) -> None:
    async with opened(greeting) as there:
        await subscribed(there, "news")
        with trio.move_on_after(1) as scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(published, there)
                await there.broker.command()
                scope.cancel()
        parts = [reply(1), message(b"news", b"x")]
        await there.broker.send(*(parts if greeting is BEHIND else reversed(parts)))
        await there.broker.send(message(b"news", b"x"))
        await there.told.until(lambda: len(there.told.delivered) == 2)
        assert there.told.delivered == [("x", "me"), ("x", None)]


async def _last(there: Opened, channel: str, payload: bytes) -> Message:
    """The last message that is told where the broker has this one."""
    messages: list[Message | None] = []
    async with trio.open_nursery() as nursery:
        told = lambda _, message: messages.append(message)  # noqa: E731
        nursery.start_soon(there.pubsub.last, [channel], told)
        if len(payload) > SMALL:
            await there.broker.command()
            await there.broker.send(reply(len(payload)))
        await there.broker.command()
        await there.broker.send(reply(payload))
    (message,) = messages
    assert message is not None
    assert message.payload == payload.decode()
    return message


async def test_a_last_message_is_made_once_for_all_who_are_told() -> None:
    """So it is compressed once, too."""
    async with opened() as there:
        first = await _last(there, "news", b"x" * SMALL)
        assert await _last(there, "news", b"x" * SMALL) is first
        assert await _last(there, "sports", b"x" * SMALL) is first
        for number in range(KEPT):
            await _last(there, "news", b"%d" % number)
        assert await _last(there, "news", b"x" * SMALL) is not first
        large = await _last(there, "news", b"x" * (SMALL + 1))
        assert await _last(there, "news", b"x" * (SMALL + 1)) is not large


async def test_a_message_is_kept_in_the_same_step(autojump_clock: trio.testing.MockClock) -> None:
    async with opened(prefix=b"site:") as there:
        for expire, milliseconds in ((1.5, b"1500"), (0.0001, b"1"), (float("inf"), b"")):
            async with trio.open_nursery() as nursery:

                async def publish(expire: float = expire) -> None:
                    await there.pubsub.publish("news", Message("x"), expire=expire, sender=None)

                nursery.start_soon(publish)
                command, _, *others = await there.broker.command()
                assert command == b"EVAL"
                assert others == [b"1", b"site:news", b"x", milliseconds]
                await there.broker.send(reply(1))
        assert there.not_kept == []


async def test_a_message_that_is_not_kept_is_told_of() -> None:
    async with opened() as there, trio.open_nursery() as nursery:
        nursery.start_soon(
            lambda: there.pubsub.publish("news", Message("x"), expire=1, sender=None)
        )
        await there.broker.command()
        await there.broker.send(reply(0))
    assert there.not_kept == ["news"]


async def test_a_refusal_hits_its_own_channel_alone() -> None:
    async with opened() as there:
        refused: list[dict[str, ReplyError]] = []

        async def subscribe() -> None:
            refused.append(dict(await there.pubsub.subscribe_to(["a", "b", "c"])))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(subscribe)
            for _ in range(3):
                await there.broker.command()
            await there.broker.send(
                push(b"subscribe", b"a", 1),
                error("NOPERM no permissions"),
                push(b"subscribe", b"c", 2),
            )
        assert {name: exc.code for name, exc in refused[0].items()} == {"b": "NOPERM"}
        assert there.pubsub.heard == {b"a": "a", b"c": "c"}


async def test_last_messages_stand_at_their_place() -> None:
    async with opened() as there:
        await subscribed(there, "a", "b", "c", "d")
        order: list[object] = []

        async def last() -> None:
            refused = await there.pubsub.last(
                ["a", "b", "c", "d"], lambda *told: order.append((told, len(there.told.events)))
            )
            order.append(sorted(refused))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(last)
            for _ in range(4):
                assert (await there.broker.command())[1] == READ
            await there.broker.send(
                message(b"a", b"0"),
                reply(b"0"),
                message(b"a", b"1"),
                reply(None),
                reply(-1),
                error("NOPERM no permissions"),
            )
        assert order == [
            (("a", Message("0")), 1),
            (("b", None), 2),
            (("c", None), 2),
            ["d"],
        ]
        assert there.not_kept == ["c"]


async def test_nothing_is_told_to_one_that_has_gone() -> None:
    async with opened() as there:
        told: list[object] = []
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(there.pubsub.last, ["a"], lambda *_: told.append(1))
                await there.broker.command()
                scope.cancel()
        await there.broker.send(reply(b"x"))
        await trio.testing.wait_all_tasks_blocked()
        assert told == []
        assert there.pubsub.error is None


async def test_nothing_is_delivered_behind_the_end() -> None:
    async with opened() as there:
        await subscribed(there, "news")
        await there.broker.send(message(b"news", b"1"), reply(1), message(b"news", b"2"))
        await there.pubsub.wait_ended()
        assert there.told.delivered == [("1", None)]


@pytest.mark.parametrize(
    "text",
    [
        "READONLY You can't write against a read only replica.",
        "ERR Error running script: @user_script:1: -READONLY You can't write",
        "MASTERDOWN Link with MASTER is down",
    ],
)
async def test_a_broker_that_is_of_no_use_any_more_is_left(text: str) -> None:
    async with opened() as there, trio.open_nursery() as nursery:

        async def publish() -> None:
            with pytest.raises(ReplyError):
                await there.pubsub.publish("news", Message("x"), expire=1, sender=None)

        nursery.start_soon(publish)
        await there.broker.command()
        await there.broker.send(error(text))
        await there.pubsub.wait_ended()
    assert there.ended == [f"broker cannot be used any more: {text}"]


async def test_the_end_is_told_before_those_that_wait_go_on() -> None:
    async with opened() as there:
        seen: list[list[str]] = []

        async def wait() -> None:
            with pytest.raises(Disconnected, match="broker has closed the connection"):
                await there.pubsub.subscribe_to(["a", "b"])
            seen.append(list(there.ended))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(wait)
            await there.broker.command()
            await there.broker.stream.aclose()
        assert seen == [["broker has closed the connection"]]


async def test_what_deliver_raises_comes_out() -> None:
    class Failing(Recorder):
        async def deliver(self, channel: str, message: Message, sender: object | None) -> None:
            raise ZeroDivisionError

    ours, theirs = trio.testing.memory_stream_pair()
    pubsub = PubSub(
        ours,
        name="broker",
        timeout=5,
        receiver=Failing(),
        prefix=b"",
        not_kept=lambda _, __: None,
        ended=lambda _: None,
    )
    there = Opened(pubsub, BrokerEnd(theirs), Recorder(), [], [])
    with pytest.raises(ZeroDivisionError):
        async with pubsub.running():
            await subscribed(there, "news")
            await there.broker.send(message(b"news", b"x"))
            await trio.sleep_forever()
