from __future__ import annotations

import gc
import traceback
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from functools import partial
from itertools import count
from typing import Any

import pytest
import trio
import trio.testing

from tests.support.hub import AskedBackend, Listener, reached, settled
from trio_beat import BackendError, Hub, open_hub
from trio_beat._channels.subscriptions import Channel
from trio_beat.backends import Receiver, Told
from trio_beat.backends.memory import MemoryBackend
from trio_beat.testing import cancelled_at


async def test_delivers_text_as_text_and_bytes_as_bytes() -> None:
    async with open_hub() as hub:
        listener = Listener()
        await hub.subscribe(listener, ["news"])
        for message in ("text", b"bytes", "", b"", "caf\u00e9", bytes(70_000)):
            assert await reached(hub, "news", message) == 1
            (delivered,) = listener.messages
            assert delivered.payload == message
            assert delivered.kind == ("text" if isinstance(message, str) else "binary")
            listener.messages.clear()


async def test_delivers_a_message_only_to_the_subscribers_of_its_channel() -> None:
    async with open_hub() as hub:
        one, two, both = Listener(), Listener(), Listener()
        await hub.subscribe(one, ["one"])
        await hub.subscribe(two, ["two"])
        await hub.subscribe(both, ["one", "two"])
        assert await reached(hub, "one", "1") == 2
        assert await reached(hub, "two", "2") == 2
        assert await reached(hub, "three", "3") == 0
        assert [one.texts, two.texts, both.texts] == [["1"], ["2"], ["1", "2"]]


async def test_a_sender_does_not_get_its_own_message() -> None:
    async with open_hub() as hub:
        sender, other = Listener(), Listener()
        await hub.subscribe(sender, ["news"])
        await hub.subscribe(other, ["news"])
        assert await reached(hub, "news", "hello", sender=sender) == 1
        assert [sender.texts, other.texts] == [[], ["hello"]]
        assert await reached(hub, "news", "echo", sender=None) == 2
        assert [sender.texts, other.texts] == [["echo"], ["hello", "echo"]]


async def test_equal_texts_of_two_senders_reach_the_other() -> None:
    async with open_hub() as hub:
        one, two = Listener(), Listener()
        await hub.subscribe(one, ["news"])
        await hub.subscribe(two, ["news"])
        async with trio.open_nursery() as nursery:
            for sender in (one, two):
                nursery.start_soon(partial(hub.publish, "news", "same", sender=sender))
        assert [one.texts, two.texts] == [["same"], ["same"]]


async def test_counts_subscriptions_and_messages() -> None:
    async with open_hub() as hub:
        one, two = Listener(), Listener()
        async with hub.subscribed(one, "a", "b"):
            async with hub.subscribed(two, "b"):
                await hub.publish("b", "x")
                await hub.publish("c", "x")
                assert hub.statistics()[:4] == (2, 3, 2, 2)
            await hub.publish("b", "x", sender=one)
            assert hub.statistics()[:4] == (2, 2, 3, 2)
        await settled(hub, 0, 0)
        assert hub.statistics()[:4] == (0, 0, 3, 2)


async def test_asks_the_backend_once_for_a_channel() -> None:
    backend = AskedBackend()
    async with open_hub(backend) as hub:
        listeners = [Listener() for _ in range(3)]
        async with trio.open_nursery() as nursery:
            for listener in listeners:
                nursery.start_soon(hub.subscribe, listener, ["news"])
        asked = ["+news", "?news", "?news", "?news"]
        assert backend.asked == asked
        for listener in listeners:
            await trio.testing.wait_all_tasks_blocked()
            assert backend.asked == asked
            hub.unsubscribe(listener, ["news"])
        await settled(hub, 0, 0)
        assert backend.asked == [*asked, "-news"]


async def test_subscribing_before_the_backend_was_told_finds_the_channel_as_it_was() -> None:
    backend = AskedBackend()
    async with open_hub(backend) as hub:
        one, two = Listener(), Listener()
        await hub.subscribe(one, ["news"])
        hub.unsubscribe(one, ["news"])
        await hub.subscribe(two, ["news"])
        await settled(hub, 1, 1)
        assert backend.asked == ["+news", "?news", "?news"]
        assert await reached(hub, "news", "x") == 1


async def test_subscribing_while_the_channel_is_unsubscribed_waits_and_hears_it() -> None:
    backend = AskedBackend()
    async with open_hub(backend) as hub, trio.open_nursery() as nursery:
        one, two = Listener(), Listener()
        await hub.subscribe(one, ["news"])
        gate = backend.gates["-news"] = trio.Event()
        hub.unsubscribe(one, ["news"])
        await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(hub.subscribe, two, ["news"])
        await settled(hub, 1, 0)
        gate.set()
        await settled(hub, 1, 1)
        assert backend.asked == ["+news", "?news", "-news", "+news", "?news"]
        assert await reached(hub, "news", "x") == 1
        assert [one.texts, two.texts] == [[], ["x"]]


async def test_the_last_message_is_not_one_from_before_a_gap() -> None:
    """What comes while a channel is being unsubscribed may not be the last before it is again."""
    backend = AskedBackend()
    async with open_hub(backend) as hub, trio.open_nursery() as nursery:
        one, two = Listener(), Listener()
        await hub.subscribe(one, ["news"])
        unsubscribing = backend.gates["-news"] = trio.Event()
        hub.unsubscribe(one, ["news"])
        await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(hub.subscribe, two, ["news"])
        await trio.testing.wait_all_tasks_blocked()
        await hub.publish("news", "still heard")
        subscribing = backend.gates["+news"] = trio.Event()
        unsubscribing.set()
        await trio.testing.wait_all_tasks_blocked()
        await hub.publish("news", "in the gap")
        subscribing.set()
        await settled(hub, 1, 1)
        assert two.texts == ["in the gap"]


class WithoutLast(AskedBackend):
    """Does not tell the last messages of channels."""

    async def last(self, channels: Collection[str], told: Told) -> dict[str, BackendError]:
        return dict.fromkeys(channels, BackendError("not allowed"))


async def test_no_error_quotes_the_key_of_a_session() -> None:
    key = "session:s3cret:news"
    refusing = AskedBackend()
    refusing.refused.add(key)
    for backend in (refusing, WithoutLast()):
        async with open_hub(backend) as hub:
            with pytest.raises(BackendError, match=r"'session:\.\.\.:news'") as caught:
                await hub.subscribe(Listener(), [key])
            assert "s3cret" not in str(caught.value)
            with pytest.raises(TypeError) as wrong:
                await hub.subscribe(Listener(), key)
            assert "s3cret" not in str(wrong.value)


async def test_a_failing_backend_is_told_to_all_that_wait_and_later_it_works() -> None:
    backend = AskedBackend()
    async with open_hub(backend) as hub:
        backend.failing = True
        failed = []

        async def subscribe() -> None:
            with pytest.raises(BackendError, match="cannot subscribe to 'news'") as caught:
                await hub.subscribe(Listener(), ["news"])
            failed.append(str(caught.value.__cause__))

        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(subscribe)
        assert failed == ["no server"] * 3
        assert backend.asked == ["+news"]
        await settled(hub, 0, 0)
        with pytest.raises(BackendError, match="no server"):
            await hub.publish("news", "x")
        backend.failing = False
        listener = Listener()
        await hub.subscribe(listener, ["news"])
        assert await reached(hub, "news", "x") == 1
        assert listener.texts == ["x"]


async def test_what_a_failing_backend_raised_is_not_raised_again() -> None:
    backend = AskedBackend()
    async with open_hub(backend) as hub:
        gate = backend.gates["+news"] = trio.Event()
        errors: list[BackendError] = []

        async def subscribe() -> None:
            with pytest.raises(BackendError) as caught:
                await hub.subscribe(Listener(), ["news"])
            errors.append(caught.value)

        async with trio.open_nursery() as nursery:
            for _ in range(30):
                nursery.start_soon(subscribe)
            await trio.testing.wait_all_tasks_blocked()
            backend.failing = True
            gate.set()
        assert len(set(map(id, errors))) == 30
        (cause,) = {error.__cause__ for error in errors}
        assert cause is not None
        assert len(traceback.extract_tb(cause.__traceback__)) < 5


async def test_what_a_failing_backend_raised_keeps_no_channel() -> None:
    backend = AskedBackend()
    backend.failing = True
    gc.collect()
    gc.disable()
    try:
        async with open_hub(backend) as hub:
            for _ in range(10):
                with suppress(BackendError):
                    await hub.subscribe(Listener(), ["news"])
            # The task that keeps the hub in step may look at one still.
            assert sum(type(thing) is Channel for thing in gc.get_objects()) <= 1
    finally:
        gc.enable()


async def test_a_backend_that_cannot_tell_the_last_message_is_no_subscription() -> None:
    backend = AskedBackend()
    async with open_hub(backend) as hub:
        gate = backend.gates["?news"] = trio.Event()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_refused, hub)
            await trio.testing.wait_all_tasks_blocked()
            backend.failing = True
            gate.set()
        await settled(hub, 0, 0)
        assert backend.asked == ["+news", "?news", "-news"]


async def _refused(hub: Hub) -> None:
    with pytest.raises(BackendError):
        await hub.subscribe(Listener(), ["news"])


async def test_subscribes_to_all_channels_or_none() -> None:
    backend = AskedBackend()
    async with open_hub(backend) as hub, trio.open_nursery() as nursery:
        gate = backend.gates["+b"] = trio.Event()
        nursery.start_soon(_refused_two, hub)
        await trio.testing.wait_all_tasks_blocked()
        assert await reached(hub, "a", "too early") == 0
        backend.refused.add("b")
        gate.set()
        await settled(hub, 0, 0)
        assert backend.asked == ["+a", "+b", "!a", "-a"]


async def _refused_two(hub: Hub) -> None:
    with pytest.raises(BackendError, match="'b'"):
        await hub.subscribe(Listener(), ["a", "b"])


async def test_leaves_nothing_wherever_subscribing_is_cancelled() -> None:
    backend = AskedBackend()
    async with open_hub(backend) as hub:
        for step in count():
            listener = Listener()
            cancelled = await cancelled_at(step, partial(hub.subscribe, listener, [*"abc"]))
            if not cancelled:
                hub.unsubscribe(listener, [*"abc"])
            await settled(hub, 0, 0)
            for channel in "abc":
                # In turns, and the last of them takes the first back.
                asked = [ask[0] for ask in backend.asked if ask[0] in "+-" and ask[1] == channel]
                assert asked == ["+", "-"] * (len(asked) // 2)
            assert await reached(hub, "a", "x") == 0
            if not cancelled:
                break
        assert step >= 3


async def test_a_subscriber_that_gives_up_waiting_takes_nothing_from_the_others() -> None:
    backend = AskedBackend()
    async with open_hub(backend) as hub, trio.open_nursery() as nursery:
        gate = backend.gates["+news"] = trio.Event()
        stays = Listener()
        scope = trio.CancelScope()

        async def give_up() -> None:
            with scope:
                await hub.subscribe(Listener(), ["news"])

        nursery.start_soon(give_up)
        nursery.start_soon(hub.subscribe, stays, ["news"])
        await trio.testing.wait_all_tasks_blocked()
        scope.cancel()
        gate.set()
        await settled(hub, 1, 1)
        await hub.publish("news", "x")
        assert stays.texts == ["x"]


async def test_subscribed_ends_with_its_context_whatever_ends_it() -> None:
    async with open_hub() as hub:
        with trio.CancelScope() as scope:
            async with hub.subscribed(Listener(), "a", "b"):
                await settled(hub, 2, 2)
                scope.cancel()
                await trio.sleep_forever()
        await settled(hub, 0, 0)
        with pytest.raises(ZeroDivisionError):
            async with hub.subscribed(Listener(), "a"):
                raise ZeroDivisionError
        await settled(hub, 0, 0)


async def test_subscribing_again_hears_it_once_and_to_the_last_end() -> None:
    backend = AskedBackend()
    async with open_hub(backend) as hub:
        one, two = Listener(), Listener()
        await hub.publish("a", "before")
        async with hub.subscribed(one, "a"):
            async with hub.subscribed(one, "a", "b"), hub.subscribed(two, "a"):
                await hub.publish("a", "within")
                await settled(hub, 2, 3)
            await hub.publish("a", "behind")
            await settled(hub, 1, 1)
        await settled(hub, 0, 0)
        assert await reached(hub, "a", "after") == 0
        # The last message comes with the first subscription alone.
        assert one.texts == ["before", "within", "behind"]
        assert two.texts == ["before", "within"]
        assert [ask for ask in backend.asked if ask[0] in "+-"] == ["+a", "+b", "-b", "-a"]


async def test_a_channel_that_is_named_twice_is_subscribed_twice() -> None:
    async with open_hub() as hub:
        listener = Listener()
        await hub.publish("a", "before")
        await hub.subscribe(listener, ["a", "a", "a"])
        await hub.publish("a", "1")
        hub.unsubscribe(listener, ["a", "a"])
        await hub.publish("a", "2")
        await settled(hub, 1, 1)
        hub.unsubscribe(listener, ["a"])
        await settled(hub, 0, 0)
        hub.unsubscribe(listener, ["a"])
        await hub.publish("a", "3")
        await hub.subscribe(listener, ["a"])
        await settled(hub, 1, 1)
        assert listener.texts == ["before", "1", "2", "3"]


async def test_unsubscribing_what_is_not_subscribed_does_nothing() -> None:
    async with open_hub() as hub:
        one, two = Listener(), Listener()
        await hub.subscribe(one, ["a"])
        hub.unsubscribe(two, ["a", "b"])
        hub.unsubscribe(one, ["b"])
        await settled(hub, 1, 1)
        hub.unsubscribe(one, ["a"])
        hub.unsubscribe(one, ["a"])
        await settled(hub, 0, 0)


async def test_leaving_a_hub_leaves_its_backend() -> None:
    left = []

    class Leaving(MemoryBackend):
        @asynccontextmanager
        async def running(self, receiver: Receiver) -> AsyncIterator[None]:
            async with super().running(receiver):
                yield
            left.append(self)

    backend = Leaving()
    async with open_hub(backend) as hub:
        await hub.subscribe(Listener(), ["a"])
        assert not left
    assert left == [backend]


@pytest.mark.parametrize("message", [{}, None, 3])
async def test_only_text_and_bytes_are_messages(message: Any) -> None:
    async with open_hub() as hub:
        with pytest.raises((TypeError, AttributeError)):
            await hub.publish("news", message)
        assert await reached(hub, "news", "x") == 0


@dataclass
class Unhashable(Listener):
    """Is equal to others that are like it, and so has no hash."""

    name: str = ""


@pytest.mark.parametrize("subscriber", [3, None, object(), Unhashable()])
async def test_what_nothing_can_be_delivered_to_is_no_subscriber(subscriber: Any) -> None:
    async with open_hub() as hub:
        await hub.publish("news", "last")
        with pytest.raises(TypeError, match=r"^subscriber is .*; it must be "):
            await hub.subscribe(subscriber, ["news"])
        assert hub.statistics().channels == 0
