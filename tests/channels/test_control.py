"""Disconnects on their way from one hub to the listeners of another."""

from __future__ import annotations

import json
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import count
from typing import Any

import pytest
import trio
import trio.testing
from trio.testing import MockClock

from tests.support.hub import AskedBackend, Listener, remembered, settled
from trio_beat import BackendError, Hub, HubClosed, Message, open_hub
from trio_beat._channels.control import (
    AGAIN,
    CONTROL,
    LONGEST_MESSAGE,
    LONGEST_NAME,
    Disconnect,
    from_message,
    order,
    to_message,
)
from trio_beat.testing import cancelled_at

BOB = Disconnect("user", "bob", 4003, "disconnected", 0.0)


class Heard:
    """Records what it is told.

    Attributes:
        missed_at: when it was told of a loss, on Trio's clock.
    """

    def __init__(self) -> None:
        self.orders: list[Disconnect] = []
        self.missed_at: list[float] = []

    def disconnect(self, disconnect: Disconnect) -> None:
        self.orders.append(disconnect)

    def missed(self) -> None:
        self.missed_at.append(trio.current_time())


@asynccontextmanager
async def listening(hub: Hub) -> AsyncIterator[Heard]:
    heard = Heard()
    async with trio.open_nursery() as nursery:
        await nursery.start(hub.control.listen, heard)
        yield heard
        nursery.cancel_scope.cancel()


async def test_tells_all_listeners() -> None:
    async with open_hub() as hub, listening(hub) as one, listening(hub) as two:
        await hub.control.wait_heard()
        await hub.disconnect(user="bob")
        await hub.disconnect(session="k3y", code=1000, reason="", block=5)
        assert one.orders == two.orders == [BOB, Disconnect("session", "k3y", 1000, "", 5)]
        assert one.missed_at == []


async def test_is_asked_for_only_while_there_are_listeners() -> None:
    backend = AskedBackend()
    async with open_hub(backend) as hub:
        await hub.disconnect(user="bob")
        assert backend.asked == [f"!{CONTROL}"]
        async with listening(hub), listening(hub):
            await trio.testing.wait_all_tasks_blocked()
        await settled(hub, 0, 0)
        assert backend.asked == [f"!{CONTROL}", f"+{CONTROL}", f"-{CONTROL}"]
        assert remembered(hub) == 0


async def test_is_not_counted() -> None:
    backend = AskedBackend()
    async with open_hub(backend) as hub, listening(hub):
        await hub.subscribe(Listener(), ["news"])
        before = hub.statistics()
        await hub.disconnect(user="bob")
        assert hub.statistics() == before
        assert before[:4] == (1, 1, 0, 0)
        backend.lose(CONTROL)
        await trio.testing.wait_all_tasks_blocked()
        assert hub.statistics() == before


async def test_is_heard_again_after_a_loss(autojump_clock: MockClock) -> None:
    backend = AskedBackend()
    async with open_hub(backend) as hub, listening(hub) as heard:
        await hub.control.wait_heard()
        backend.go_away()
        assert heard.missed_at == [trio.current_time()]
        async with trio.open_nursery() as nursery:
            nursery.start_soon(hub.control.wait_heard)
            await trio.sleep(5)
            backend.come_back()
        await hub.disconnect(user="bob")
        assert heard.orders == [BOB]
        # A channel of others is no loss here.
        await hub.subscribe(Listener(), ["news"])
        backend.lose("news")
        assert len(heard.missed_at) == 1


async def test_waiting_for_a_backend_that_is_away_ends(autojump_clock: MockClock) -> None:
    backend = AskedBackend()
    async with open_hub(backend, backend_grace=3) as hub:
        await hub.control.wait_heard()  # nobody listens: nothing to wait for
        backend.go_away()
        async with listening(hub):
            begun = trio.current_time()
            with pytest.raises(BackendError):
                await hub.control.wait_heard()
            assert trio.current_time() - begun == 3
            with pytest.raises(BackendError):
                await hub.disconnect(user="bob")


async def test_what_the_backend_refuses_is_warned_about_and_asked_for_again(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    backend = AskedBackend()
    backend.refused.add(CONTROL)
    async with open_hub(backend) as hub, listening(hub) as heard:
        await hub.control.wait_heard()
        await hub.subscribe(Listener(), ["news"])
        await trio.testing.wait_all_tasks_blocked()
        assert "refuses 'trio-beat:control': no disconnect is heard here" in caplog.text
        assert "not allowed" in caplog.text
        backend.refused.clear()
        await trio.sleep(AGAIN + 1)
        await hub.disconnect(user="bob")
        assert heard.orders == [BOB]
        assert len([r for r in caplog.records if r.levelno == logging.WARNING]) == 1


async def test_listening_to_a_hub_that_ends(autojump_clock: MockClock) -> None:
    backend = AskedBackend()
    backend.refused.add(CONTROL)
    async with trio.open_nursery() as nursery:
        async with open_hub(backend) as hub:
            await nursery.start(hub.control.listen, Heard())
            await hub.control.wait_heard()
        with pytest.raises(HubClosed):
            await hub.control.wait_heard()
        with pytest.raises(HubClosed):
            await hub.disconnect(user="bob")
        await nursery.start(hub.control.listen, Heard())
        await trio.sleep(2 * AGAIN)
        nursery.cancel_scope.cancel()
    assert remembered(hub) == 0


async def test_can_be_cancelled_at_every_wait() -> None:
    async with open_hub(AskedBackend()) as hub:

        async def listen_and_wait() -> None:
            async with listening(hub):
                await hub.control.wait_heard()
                await hub.disconnect(user="bob")

        for step in count():
            cancelled = await cancelled_at(step, listen_and_wait)
            await settled(hub, 0, 0)
            assert remembered(hub) == 0
            if not cancelled:
                break
        assert step >= 3


@pytest.mark.parametrize("key", [CONTROL, "trio-beat:", "trio-beat:x"])
async def test_its_key_is_reserved(key: str) -> None:
    async with open_hub() as hub, listening(hub) as heard:
        with pytest.raises(ValueError, match="keys that begin with 'trio-beat:' are reserved"):
            await hub.publish(key, to_message(BOB))
        with pytest.raises(ValueError, match="are reserved"):
            await hub.subscribe(Listener(), ["news", key])
        hub.unsubscribe(Listener(), [key])
        await settled(hub, 0, 0)
        await hub.publish("trio-beat", "another")
        await hub.disconnect(user="bob")
        assert heard.orders == [BOB]


WRONG: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({}, ValueError, "exactly one of user and session"),
    ({"user": "a", "session": "b"}, ValueError, "exactly one of user and session"),
    ({"user": ""}, ValueError, "user is empty; it must be a text that is not empty"),
    ({"session": b"k3y"}, TypeError, "session is of type bytes; it must be"),
    ({"session": "k3y\ud800"}, ValueError, "session has a surrogate"),
    ({"user": "a" * (LONGEST_NAME + 1)}, ValueError, "user has 4,097 characters; at most 4,096"),
    ({"user": "a", "code": 1005}, ValueError, "close code 1005 may not be sent"),
    ({"user": "a", "code": True}, TypeError, "close code is True"),
    ({"user": "a", "reason": "r" * 124}, ValueError, "at most 123"),
    ({"user": "a", "block": -1}, ValueError, "block is -1; it must be a number of seconds, 0"),
    ({"user": "a", "block": float("nan")}, ValueError, "block is nan"),
    ({"user": "a", "block": float("inf")}, ValueError, "block is inf"),
    ({"user": "a", "block": "1"}, TypeError, "block is '1'"),
]


@pytest.mark.parametrize(("arguments", "kind", "text"), WRONG)
async def test_arguments_are_checked(
    arguments: dict[str, Any], kind: type[Exception], text: str
) -> None:
    async with open_hub() as hub:
        with pytest.raises(kind, match=text) as info:
            await hub.disconnect(**arguments)
        assert "k3y" not in repr(info.value)


@pytest.mark.parametrize(
    "made",
    [
        BOB,
        order(None, "\U0001f511" * LONGEST_NAME, 4999, "\0" * 123, 1e12),
        order("b\u00f6b\n", None, 1000, "", 0),
    ],
)
def test_an_order_comes_as_it_was_sent(made: Disconnect) -> None:
    assert from_message(to_message(made)) == made
    assert made.name not in repr(made)


GOOD = {"type": "disconnect", "user": "k3y", "code": 4003, "reason": "", "block": 0}
BAD: list[tuple[str | bytes, str]] = [
    (json.dumps(GOOD).encode(), "not text"),
    (json.dumps(GOOD) + " " * LONGEST_MESSAGE, "more than 65,536 characters"),
    ("", "not JSON"),
    ("k3y", "not JSON"),
    ("[" * 60_000, "not JSON"),
    ("9" * 60_000, "not JSON"),
    ('"k3y"', "no JSON object"),
    ("{}", "no JSON object"),
    (json.dumps(GOOD | {"type": ["disconnect"]}), "no JSON object"),
    (json.dumps(GOOD | {"k3y": 1}), "its members are not"),
    (json.dumps(GOOD | {"session": "k3y"}), "its members are not"),
    (json.dumps({"type": "disconnect", "code": 4003, "reason": "", "block": 0}), "its members"),
    (json.dumps(GOOD)[:-1] + ', "user": "eve"}', "names a member twice"),
    (json.dumps(GOOD)[:-2] + "NaN}", "not JSON"),
    (json.dumps(GOOD)[:-2] + "1e999}", "the value of a member is wrong"),
    (json.dumps(GOOD)[:-2] + "9" * 4000 + "}", "the value of a member is wrong"),
    *(
        (json.dumps(GOOD | changed), "the value of a member is wrong")
        for changed in (
            {"user": None},
            {"user": ["k3y"]},
            {"user": ""},
            {"user": "k3y\ud800"},
            {"user": "k3y" * LONGEST_NAME},
            {"code": "4003"},
            {"code": 4003.0},
            {"code": True},
            {"code": 1005},
            {"code": 10**300},
            {"reason": None},
            {"reason": "k3y" * 50},
            {"block": -1},
            {"block": True},
            {"block": "k3y"},
            {"block": 1e13},
        )
    ),
]


@pytest.mark.parametrize(("payload", "why"), BAD)
async def test_what_others_publish_is_checked(
    payload: str | bytes, why: str, caplog: pytest.LogCaptureFixture
) -> None:
    backend = AskedBackend()
    async with open_hub(backend) as hub, listening(hub) as heard:
        await hub.control.wait_heard()
        await backend.publish(CONTROL, Message(payload), expire=0)
        assert heard.orders == []
        [record] = caplog.records
        assert record.levelno == logging.WARNING
        assert why in record.getMessage()
        assert "k3y" not in caplog.text
        await backend.publish(CONTROL, Message(json.dumps(GOOD)), expire=0)
        assert [known.name for known in heard.orders] == ["k3y"]


async def test_many_bad_ones_are_summed_up(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    backend = AskedBackend()
    async with open_hub(backend) as hub, listening(hub):
        await hub.control.wait_heard()
        for _ in range(500):
            await backend.publish(CONTROL, Message("x"), expire=0)
        await trio.sleep(2)
        assert len(caplog.records) < 50
        assert "bad messages on the control channel: ignored 480" in caplog.text
