"""Last messages that a hub has dropped: it asks the backend for them."""

from __future__ import annotations

from functools import partial
from itertools import count

import pytest
import trio
import trio.testing

from tests.support.hub import AskedBackend, Listener, keep_last, settled
from trio_beat import BackendError, Hub, HubClosed, open_hub
from trio_beat.testing import cancelled_at


async def forgetful(hub: Hub) -> Listener:
    """A hub that has let go of the last message of a channel; gives a subscriber of it."""
    keep_last(hub, 0)
    first = Listener()
    await hub.subscribe(first, ["news"])
    await hub.publish("news", "last")
    return first


async def test_asks_the_backend_for_what_it_has_dropped() -> None:
    backend = AskedBackend()
    async with open_hub(backend) as hub:
        await forgetful(hub)
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
        first, second = await forgetful(hub), Listener()
        for keep, text in ((0, "forgotten"), (1000, "kept")):
            last = keep_last(hub, keep)
            gate = backend.gates["?news"] = trio.Event()
            nursery.start_soon(hub.subscribe, second, ["news"])
            await trio.testing.wait_all_tasks_blocked()
            await hub.publish("news", text)
            gate.set()
            await trio.testing.wait_all_tasks_blocked()
            await hub.publish("news", f"after {text}")
            hub.unsubscribe(second, ["news"])
            last.clear()
        assert first.texts == ["last", "forgotten", "after forgotten", "kept", "after kept"]
        # What was asked for is older than what came: nothing but the newer one is given.
        assert second.texts == ["forgotten", "after forgotten", "kept", "after kept"]


async def test_what_has_expired_is_not_asked_for(
    autojump_clock: trio.testing.MockClock,
) -> None:
    backend = AskedBackend()
    async with open_hub(backend, expire=5) as hub:
        await forgetful(hub)
        await trio.sleep(5)
        second = Listener()
        await hub.subscribe(second, ["news"])
        assert second.texts == []


async def test_a_backend_that_is_away_is_told() -> None:
    backend = AskedBackend()
    async with open_hub(backend) as hub:
        await forgetful(hub)
        backend.away = True
        with pytest.raises(BackendError):
            await hub.subscribe(Listener(), ["news"])
        await settled(hub, 1, 1)


async def test_leaves_nothing_wherever_asking_is_cancelled() -> None:
    backend = AskedBackend()
    async with open_hub(backend) as hub:
        await forgetful(hub)
        for step in count():
            second = Listener()
            cancelled = await cancelled_at(step, partial(hub.subscribe, second, ["news"]))
            await settled(hub, 1, 1 + (not cancelled))
            assert second.texts == ["last"] * (not cancelled)
            assert not hub._recalling
            if not cancelled:
                break
        assert step >= 2


async def test_asking_when_the_hub_ends_fails(autojump_clock: trio.testing.MockClock) -> None:
    backend = AskedBackend()

    async def subscribe(hub: Hub) -> None:
        with pytest.raises(HubClosed, match="the hub has ended"):
            await hub.subscribe(Listener(), ["news"])

    async with trio.open_nursery() as nursery:
        async with open_hub(backend) as hub:
            await forgetful(hub)
            backend.gates["?news"] = trio.Event()
            nursery.start_soon(subscribe, hub)
            await trio.testing.wait_all_tasks_blocked()
