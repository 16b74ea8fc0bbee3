"""A fan-out to subscribers of which some compress."""

from __future__ import annotations

from functools import partial

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from tests.support.deflating import PIECE, Deflate, Deflated, make_deflate, some_json
from tests.support.harness import linked
from tests.support.hub import Listener
from trio_beat import Message, open_hub
from trio_beat._channels.subscriptions import Channel
from trio_beat.testing import cancelled_at

LARGE = some_json(20 * PIECE)


class Compressing(Listener):
    """Records what a connection would send."""

    def __init__(self, deflate: Deflate) -> None:
        super().__init__()
        self.deflate = deflate
        self.sent: list[Message | Deflated] = []

    def deliver_nowait(self, message: Message) -> None:
        super().deliver_nowait(message)
        self.sent.append(self.deflate.of(message))


@pytest.mark.parametrize("text", [some_json(1000), LARGE])
async def test_a_message_is_compressed_once_for_each_window(text: str) -> None:
    wide, narrow = make_deflate(), make_deflate(window_bits=10)
    async with open_hub() as hub:
        ones = [Compressing(wide) for _ in range(300)]
        others = [Compressing(narrow) for _ in range(300)]
        plain = Listener()
        for listener in (*ones, plain, *others):
            await hub.subscribe(listener, ["news"])
        await hub.publish("news", text)
        assert plain.texts == [text]
        assert {len(listener.sent) for listener in (*ones, *others)} == {1}
        for listeners in (ones, others):
            first = listeners[0].sent[0]
            assert isinstance(first, Deflated)
            assert all(listener.sent[0] is first for listener in listeners)
    assert wide.counts.compressed == narrow.counts.compressed == 1


async def test_nothing_is_compressed_where_none_asks_for_it() -> None:
    async with open_hub() as hub:
        listener, message = Listener(), Message(LARGE)
        await hub.subscribe(listener, ["news"])
        await hub.publish("news", message)
        assert not message.deflated


async def test_the_order_of_a_channel_is_kept_and_others_run() -> None:
    async with open_hub() as hub, trio.open_nursery() as nursery:
        listener, plain, elsewhere = Compressing(make_deflate()), Listener(), Listener()
        await hub.subscribe(listener, ["news"])
        await hub.subscribe(plain, ["news"])
        await hub.subscribe(elsewhere, ["other"])
        nursery.start_soon(hub.publish, "news", LARGE)
        while not hub.statistics().published:
            await trio.lowlevel.checkpoint()
        for _ in range(3):
            await trio.lowlevel.checkpoint()
        nursery.start_soon(hub.publish, "news", "small")
        await hub.publish("other", "meanwhile")
        assert elsewhere.texts == ["meanwhile"]
        assert plain.texts == []
        await wait_all_tasks_blocked()
        assert listener.texts == plain.texts == [LARGE, "small"]


async def test_one_that_joins_while_a_message_is_compressed_gets_it_once() -> None:
    async with open_hub() as hub:
        await hub.subscribe(Compressing(make_deflate()), ["news"])
        for steps in range(1, 30):
            late = Compressing(make_deflate(window_bits=12))
            async with trio.open_nursery() as nursery:
                nursery.start_soon(hub.publish, "news", f"{steps}" + LARGE)
                for _ in range(steps):
                    await trio.lowlevel.checkpoint()
                await hub.subscribe(late, ["news"])
            assert late.texts.count(f"{steps}" + LARGE) == 1
            assert late.texts[-1] == f"{steps}" + LARGE
            hub.unsubscribe(late, ["news"])


async def test_a_publisher_that_is_cancelled_has_published_to_all_or_none() -> None:
    async with open_hub() as hub:
        listener, plain = Compressing(make_deflate()), Listener()
        await hub.subscribe(listener, ["news"])
        await hub.subscribe(plain, ["news"])
        for step in range(40):
            await cancelled_at(step, partial(hub.publish, "news", LARGE))
            await wait_all_tasks_blocked()
            assert len(listener.texts) == len(plain.texts)
        await hub.publish("news", "next")
        assert listener.texts[-1] == "next"


async def test_connections_of_handlers_are_counted(autojump_clock: MockClock) -> None:
    deflate = make_deflate()
    async with open_hub() as hub, linked(deflate=deflate) as one, linked() as two:
        for link in (one, two):
            await hub.subscribe(link.connection, ["news"])
        await hub.publish("news", LARGE)
        assert [await link.peer.text() for link in (one, two)] == [LARGE] * 2
        assert one.peer.received < len(LARGE) < two.peer.received
    assert deflate.counts.compressed == 1


def test_a_channel_counts_how_its_subscribers_compress() -> None:
    channel, wide, narrow = Channel(), make_deflate(), make_deflate(window_bits=10)
    one, two, three, plain = Compressing(wide), Compressing(wide), Compressing(narrow), Listener()
    for subscriber in (one, two, three, plain, one):
        channel.join(subscriber)
    assert channel.deflates == {wide: 2, narrow: 1}
    for subscriber in (one, plain, three):
        assert channel.leave(subscriber)
    assert channel.deflates == {wide: 2}
    assert channel.leave(one)
    assert not channel.leave(one)
    assert channel.deflates == {wide: 1}
    assert channel.leave(two)
    assert channel.deflates is None
