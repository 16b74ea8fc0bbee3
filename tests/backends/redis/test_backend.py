from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from urllib.parse import urlsplit

import pytest
import trio

from tests.support.broker import Kind, open_broker
from tests.support.redis_backend import last, lines, running
from trio_beat import BackendError, Message
from trio_beat.backends.redis import RedisBackend
from trio_beat.backends.redis.address import Address

pytestmark = pytest.mark.real

KINDS: list[Kind] = ["valkey", "redis"]


@pytest.mark.parametrize("kind", KINDS)
async def test_messages_come_to_all_and_with_their_senders(kind: Kind) -> None:
    async with (
        open_broker(kind) as broker,
        running(broker) as (one, one_told),
        running(broker) as (two, two_told),
    ):
        for backend in (one, two):
            assert await backend.subscribe(["news", "sport"]) == {}

        async def publish(backend: RedisBackend, number: int) -> None:
            for turn in range(20):
                # Both send equal messages, at the same time.
                sender = (number, turn)
                await backend.publish("news", Message("same"), expire=turn % 2, sender=sender)

        async with trio.open_nursery() as nursery:
            for number in range(10):
                for backend in (one, two):
                    nursery.start_soon(publish, backend, number)
        await broker.ask("PUBLISH", "news", "same")
        for told in (one_told, two_told):
            await told.until(lambda told=told: len(told.delivered) == 401)  # type: ignore[misc]
            senders = Counter(sender for _, sender in told.delivered)
            assert senders.pop(None) == 201
            assert senders == Counter((number, turn) for number in range(10) for turn in range(20))
        await one.unsubscribe(["news"])
        await two.publish("news", Message("more"), expire=0)
        await two.publish("sport", Message(b"more"), expire=0)
        await one_told.until(lambda: len(one_told.delivered) == 402)
        assert one_told.events[-1] == ("deliver", "sport", b"more", None)
        assert one_told.names() == []


@pytest.mark.parametrize("kind", KINDS)
async def test_last_messages_are_the_brokers(kind: Kind) -> None:
    async with open_broker(kind) as broker, running(broker, "?prefix=site") as (backend, _):
        await backend.subscribe(["a", "b", "c"])
        await backend.publish("a", Message("first"), expire=100)
        await backend.publish("a", Message("not kept"), expire=0)
        await backend.publish("b", Message(b"binary"), expire=float("inf"))
        assert await last(backend, "a", "b", "c") == {"a": "first", "b": b"binary", "c": None}
        assert await broker.ask("GET", "site:a") == b"first"
        assert 99_000 < await broker.ask("PTTL", "site:a") <= 100_000
        assert await broker.ask("PTTL", "site:b") == -1
        await broker.ask("SET", "site:c", b"\xff\xd8\xff")
        assert await last(backend, "c") == {"c": b"\xff\xd8\xff"}
        await backend.publish("c", Message("short"), expire=0.001)
        await trio.sleep(0.05)
        assert await last(backend, "c") == {"c": None}


async def test_a_key_of_another_type_is_left_alone(caplog: pytest.LogCaptureFixture) -> None:
    async with open_broker() as broker, running(broker) as (backend, told):
        await broker.ask("LPUSH", "list", "x")
        await backend.subscribe(["list"])
        for _ in range(3):
            assert await last(backend, "list") == {"list": None}
            await backend.publish("list", Message("x"), expire=10, sender=1)
        assert told.delivered == [("x", 1)] * 3
        assert await broker.ask("TYPE", "list") == b"list"
        assert len([line for line in lines(caplog) if "'list'" in line]) == 1


async def test_what_is_remembered_for_the_log_is_bounded(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with open_broker() as broker, running(broker) as (backend, _):
        names = [f"list{number}" for number in range(1500)]
        async with broker.client() as client:
            for name in names:
                await client.ask("LPUSH", name, "x")
        for _ in range(2):
            assert set((await last(backend, *names)).values()) == {None}
        # The first ones were forgotten when they came again.
        assert 1500 < len(lines(caplog)) <= 3000


async def test_a_refusal_hits_its_own_channel_alone() -> None:
    config = ["user bob on >x resetchannels &news &sport* ~news ~sport* +@all"]
    async with open_broker(config=config) as broker:
        backend = RedisBackend(f"redis://bob:x@{broker.host}:{broker.port}/0")
        async with running(broker, backend=backend) as (_, told):
            refused = await backend.subscribe(["news", "secret", "sport1"])
            assert list(refused) == ["secret"]
            assert "NOPERM" in str(refused["secret"])
            found: dict[str, Message | None] = {}
            refused = await backend.last(["news", "secret", "sport1"], found.__setitem__)
            assert list(refused) == ["secret"]
            assert found == {"news": None, "sport1": None}
            for expire in (0, 1):
                with pytest.raises(BackendError, match="NOPERM"):
                    await backend.publish("secret", Message("x"), expire=expire)
                await backend.publish("news", Message("x"), expire=expire, sender=1)
            assert told.delivered == [("x", 1)] * 2


async def test_the_least_permissions_are_enough() -> None:
    commands = "+hello +ping +select +client|setname +subscribe +unsubscribe +publish +eval"
    rights = f"{commands} +get +set +strlen +type"
    config = [f"user bob on >x resetchannels &site:* ~site:* -@all {rights}"]
    for kind in KINDS:
        async with open_broker(kind, config=config) as broker:
            url = f"redis://bob:x@{broker.host}:{broker.port}/1?prefix=site"
            async with running(broker, backend=RedisBackend(url)) as (backend, told):
                assert await backend.subscribe(["news"]) == {}
                for expire in (0, 10):
                    await backend.publish("news", Message("x"), expire=expire, sender=1)
                assert await last(backend, "news") == {"news": "x"}
                await backend.unsubscribe(["news"])
                assert told.delivered == [("x", 1)] * 2


async def test_is_made_from_a_url_or_an_address() -> None:
    async with open_broker(config=["requirepass s3cret"]) as broker:
        url = f"{broker.url}/0"
        for backend in (
            RedisBackend.from_url(urlsplit(url.replace("//", "//:s3cret@"))),
            RedisBackend(Address.parse(urlsplit(url)), password="s3cret"),
        ):
            async with running(broker, backend=backend) as (_, told):
                assert told.events == []


async def test_each_call_may_be_cancelled() -> None:
    async with open_broker() as broker, running(broker) as (backend, told):
        await backend.subscribe(["news"])
        calls: Mapping[str, object] = {}
        for turn in range(30):
            for name in ("publish", "subscribe", "unsubscribe", "last"):
                with trio.CancelScope() as scope:
                    async with trio.open_nursery() as nursery:
                        if name == "publish":
                            message = Message(f"{turn}")
                            nursery.start_soon(
                                lambda: backend.publish("news", message, expire=1, sender=1)  # noqa: B023
                            )
                        elif name == "last":
                            nursery.start_soon(backend.last, ["news"], calls.get)  # type: ignore[arg-type]
                        else:
                            nursery.start_soon(getattr(backend, name), [f"other{turn}"])
                        for _ in range(turn % 5):
                            await trio.lowlevel.checkpoint()
                        scope.cancel()
            await backend.publish("news", Message("whole"), expire=1, sender=2)
            assert told.delivered[-1] == ("whole", 2)
            assert await last(backend, "news") == {"news": "whole"}
        assert told.names() == []


async def test_leaving_closes_everything() -> None:
    async with open_broker() as broker:
        async with running(broker) as (backend, told):
            await backend.subscribe(["news"])
            assert len(await broker.clients("trio-beat")) == 1
        with trio.fail_after(5):
            while await broker.clients():  # noqa: ASYNC110 - of another process
                await trio.sleep(0.01)
        with pytest.raises(BackendError, match="the backend is not running"):
            await backend.publish("news", Message("x"), expire=0)
        await backend.unsubscribe(["news"])
        assert told.events == []
        async with running(broker, backend=backend) as (_, again):
            await backend.subscribe(["news"])
            await backend.publish("news", Message("x"), expire=0, sender=1)
            assert again.delivered == [("x", 1)]


async def test_thousands_of_channels_are_subscribed_at_once() -> None:
    async with open_broker() as broker, running(broker) as (backend, _):
        names = [f"channel{number}" for number in range(20_000)]
        with trio.fail_after(60):
            assert await backend.subscribe(names) == {}
            assert set((await last(backend, *names)).values()) == {None}
        await backend.unsubscribe(names)
        assert await broker.ask("PUBSUB", "NUMSUB", names[0]) == [names[0].encode(), 0]


@pytest.mark.parametrize("password", [b"s3cret", 5])
def test_a_password_of_another_type_is_not_shown(password: object) -> None:
    with pytest.raises(TypeError, match="password must be a text") as caught:
        RedisBackend("redis://localhost", password=password)  # type: ignore[arg-type]
    assert "s3cret" not in str(caught.value)


def test_what_is_no_url_is_not_shown() -> None:
    with pytest.raises(ValueError, match="is not a URL") as caught:
        RedisBackend("redis://:s3cret@[::1")
    assert caught.value.__context__ is None
    with pytest.raises(TypeError):
        RedisBackend(5)  # type: ignore[arg-type]
