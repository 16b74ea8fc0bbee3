"""Last messages: they are the backend's, asked for at each joining."""

from __future__ import annotations

from functools import partial
from itertools import count

import pytest
import trio
import trio.testing

from tests.support.hub import AskedBackend, Listener, settled
from trio_beat import BackendError, Hub, HubClosed, open_hub
from trio_beat.testing import cancelled_at


async def heard(hub: Hub) -> Listener:
    """Make a channel that is heard, and has a last message; gives a subscriber of it."""
    first = Listener()
    await hub.subscribe(first, ["news"])
    await hub.publish("news", "last")
    return first


async def test_the_backend_is_asked_at_each_joining() -> None:
    backend = AskedBackend()
    async with open_hub(backend) as hub:
        await heard(hub)
        for _ in range(2):
            second = Listener()
            async with hub.subscribed(second, "news"):
                assert second.texts == ["last"]
                await hub.publish("news", "last")
            assert second.texts == ["last", "last"]
        assert backend.asked.count("?news") == 3


async def test_what_comes_while_it_asks_comes_once() -> None:
    backend = AskedBackend()
    async with open_hub(backend) as hub, trio.open_nursery() as nursery:
        first, second = await heard(hub), Listener()
        gate = backend.gates["?news"] = trio.Event()
        nursery.start_soon(hub.subscribe, second, ["news"])
        await trio.testing.wait_all_tasks_blocked()
        await hub.publish("news", "meanwhile")
        gate.set()
        await trio.testing.wait_all_tasks_blocked()
        await hub.publish("news", "after")
        assert first.texts == ["last", "meanwhile", "after"]
        assert second.texts == ["meanwhile", "after"]


async def test_what_has_expired_does_not_come(autojump_clock: trio.testing.MockClock) -> None:
    async with open_hub(AskedBackend(), expire=5) as hub:
        await heard(hub)
        await trio.sleep(5)
        second = Listener()
        await hub.subscribe(second, ["news"])
        assert second.texts == []


async def test_a_backend_that_fails_is_told() -> None:
    backend = AskedBackend()
    async with open_hub(backend) as hub:
        await heard(hub)
        backend.failing = True
        with pytest.raises(BackendError):
            await hub.subscribe(Listener(), ["news"])
        await settled(hub, 1, 1)


async def test_leaves_nothing_wherever_asking_is_cancelled() -> None:
    backend = AskedBackend()
    async with open_hub(backend) as hub:
        await heard(hub)
        for step in count():
            second = Listener()
            cancelled = await cancelled_at(step, partial(hub.subscribe, second, ["news"]))
            await settled(hub, 1, 1 + (not cancelled))
            assert second.texts == ["last"] * (not cancelled)
            if not cancelled:
                break
        assert step >= 1


async def test_asking_when_the_hub_ends_fails(autojump_clock: trio.testing.MockClock) -> None:
    backend = AskedBackend()

    async def subscribe(hub: Hub) -> None:
        with pytest.raises(HubClosed, match="the hub has ended"):
            await hub.subscribe(Listener(), ["news"])

    async with trio.open_nursery() as nursery:
        async with open_hub(backend) as hub:
            await heard(hub)
            backend.gates["?news"] = trio.Event()
            nursery.start_soon(subscribe, hub)
            await trio.testing.wait_all_tasks_blocked()
