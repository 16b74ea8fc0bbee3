"""A Django project with django-websocket-redis, and hubs on the same broker.

It publishes with `RedisPublisher` and `RedisMessage`, and fetches with `fetch_message`.
"""

from __future__ import annotations

import json
from contextlib import AbstractAsyncContextManager
from typing import Any

import pytest
import trio

from tests.support.broker_port import port
from tests.support.peer import dial
from tests.support.serving import serving
from tests.support.ws4redis import django
from trio_beat import Hub, Message, channel_key, open_hub

__all__ = ["port"]  # a fixture

pytestmark = pytest.mark.real

NEWS = channel_key("broadcast", "news")
BINARY = b"\xff\xd8\xff\xe0 a picture"
#: Each audience: what a publisher is given, the key, and what a request must have to fetch.
AUDIENCES: list[tuple[dict[str, Any], str, dict[str, str]]] = [
    ({"broadcast": True}, NEWS, {}),
    ({"users": ["john"]}, channel_key("user", "news", "john"), {"user": "john"}),
    ({"groups": ["all of us"]}, channel_key("group", "news", "all of us"), {"group": "all of us"}),
    ({"sessions": ["tfo4x"]}, channel_key("session", "news", "tfo4x"), {"session": "tfo4x"}),
]
PAYLOADS: list[str | bytes] = [
    "hello",
    json.dumps({"text": "h\u00e9", "of": [1, None]}),
    json.dumps({"text": "h\u00e9"}, ensure_ascii=False),
    "\u65e5\u672c\u8a9e \U0001f389 \0 \r\n",
    "",
    BINARY,
    bytes(range(256)),
]


class Listener:
    """Records what is delivered to it."""

    def __init__(self) -> None:
        self.payloads: list[str | bytes] = []
        self._more = trio.Event()

    def deliver_nowait(self, message: Message) -> None:
        self.payloads.append(message.payload)
        self._more.set()
        self._more = trio.Event()

    def gap_nowait(self) -> None:
        pytest.fail("messages may have been lost")

    async def received(self, count: int) -> list[str | bytes]:
        """What it has got, once that is so many messages."""
        with trio.fail_after(10):
            while len(self.payloads) < count:
                await self._more.wait()
        return self.payloads


def hub_on(port: int, prefix: str = "") -> AbstractAsyncContextManager[Hub]:
    """A hub on the broker; without a prefix where it is empty."""
    query = f"?prefix={prefix}" if prefix else ""
    return open_hub(f"redis://127.0.0.1:{port}/0{query}", expire=60)


@pytest.mark.parametrize("prefix", ["", "myapp"])
async def test_what_it_publishes_reaches_subscribers(port: int, prefix: str) -> None:
    async with django(port, TEST_REDIS_PREFIX=prefix) as project, hub_on(port, prefix) as hub:
        for audience, key, _ in AUDIENCES:
            listener, other = Listener(), Listener()
            async with hub.subscribed(listener, key), hub.subscribed(other, "broadcast:other"):
                for payload in PAYLOADS:
                    await project.publish(payload, "news", **audience)
                assert await listener.received(len(PAYLOADS)) == PAYLOADS
                assert other.payloads == []


@pytest.mark.parametrize("prefix", ["", "myapp"])
async def test_it_fetches_our_last_messages(port: int, prefix: str) -> None:
    async with django(port, TEST_REDIS_PREFIX=prefix) as project, hub_on(port, prefix) as hub:
        for (_, key, request), name in zip(
            AUDIENCES, ("broadcast", "user", "group", "session"), strict=True
        ):
            for payload in PAYLOADS:
                await hub.publish(key, payload)
                data = payload.encode() if isinstance(payload, str) else payload
                # An empty one it takes for none.
                assert await project.fetch("news", name, **request) == (data or None)
            assert await project.fetch("elsewhere", name, **request) is None
        assert await project.fetch("news", "any", user="john") == PAYLOADS[-1]


async def test_binary_that_could_be_taken_for_text_is_marked(port: int) -> None:
    async with django(port) as project, hub_on(port) as one, hub_on(port) as other:
        listener = Listener()
        async with other.subscribed(listener, NEWS):
            await one.publish(NEWS, b"text?")
            assert await listener.received(1) == [b"text?"]
        marked = await project.fetch("news", "broadcast")
        assert marked is not None
        assert marked.endswith(b"text?")
        assert len(marked) > len(b"text?") + 1


async def test_its_last_message_comes_first(port: int) -> None:
    async with django(port) as project, hub_on(port) as hub:
        await project.publish("kept", "news", broadcast=True)
        await project.publish("not kept", "news", broadcast=True, expire=0)
        listener = Listener()
        async with hub.subscribed(listener, NEWS):
            await project.publish("later", "news", broadcast=True, expire=1)
            assert await listener.received(2) == ["kept", "later"]


async def test_prefixes_separate_channels_and_databases_do_not(port: int) -> None:
    async with (
        hub_on(port, "one") as hub,
        django(port, TEST_REDIS_PREFIX="one", TEST_REDIS_DATABASE="1") as same_prefix,
        django(port, TEST_REDIS_PREFIX="two") as same_database,
    ):
        early, late = Listener(), Listener()
        async with hub.subscribed(early, NEWS):
            await same_database.publish("two", "news", broadcast=True)
            await same_prefix.publish("one", "news", broadcast=True)
            assert await early.received(1) == ["one"]
        # The last message is that of a database.
        async with hub.subscribed(late, NEWS):
            await hub.publish(NEWS, "from the hub")
            assert await late.received(1) == ["from the hub"]
        assert await same_prefix.fetch("news") == b"one"


async def test_its_urls_work_on_every_server(port: int) -> None:
    async with (
        django(port) as project,
        hub_on(port) as hub,
        hub_on(port) as other_hub,
        serving(hub=hub) as server,
        serving(hub=other_hub) as other_server,
    ):
        target = "/ws/caf%C3%A9?Subscribe-Broadcast=1&PUBLISH-BROADCAST"
        await project.publish("kept", "caf\u00e9", broadcast=True)
        one = await dial(server.port, target)
        two = await dial(server.port, target)
        elsewhere = await dial(other_server.port, target + "&Echo")
        for peer in (one, two, elsewhere):
            assert await peer.text() == "kept"
        await one.send_text("same")
        for peer in (two, elsewhere):
            assert await peer.text() == "same"
        # By content alone it would not come: equal texts of others are those of others.
        await two.send_text("same")
        for peer in (one, elsewhere):
            assert await peer.text() == "same"
        await elsewhere.send_text("with echo")
        for peer in (one, two, elsewhere):
            assert await peer.text() == "with echo"
        assert await project.fetch("caf\u00e9") == b"with echo"
        for peer in (one, two, elsewhere):
            await peer.aclose()
