"""A hub whose backend loses channels, is away, and comes back."""

from __future__ import annotations

from collections.abc import Collection
from functools import partial
from itertools import count

import pytest
import trio
import trio.testing
from trio.testing import MockClock

from tests.support.hub import AskedBackend, Listener, remembered, settled
from trio_beat import BackendError, BackendLost, Hub, HubClosed, open_hub
from trio_beat._channels.gaps import SPREAD
from trio_beat.testing import cancelled_at

GRACE = 10.0


async def test_listeners_of_lost_channels_are_told_once_they_are_heard_again(
    autojump_clock: MockClock,
) -> None:
    backend = AskedBackend()
    async with open_hub(backend) as hub:
        lost, other, late = Listener(), Listener(), Listener()
        await hub.subscribe(lost, ["a", "b"])
        await hub.subscribe(other, ["c"])
        backend.lose("a", "b")
        await hub.subscribe(late, ["a"])
        await trio.sleep(2 * SPREAD)
        assert [len(listener.gaps) for listener in (lost, other, late)] == [1, 0, 0]
        assert backend.subscribed == {*"abc"}
        await hub.publish("a", "x")
        assert (lost.texts, late.texts) == (["x"], ["x"])
        assert hub.statistics().gaps == 1
        assert hub.statistics().outages == 0


@pytest.mark.parametrize("outage", [GRACE - 1, GRACE + 1])
async def test_listeners_are_told_on_return_or_when_the_grace_is_over(
    outage: float, autojump_clock: MockClock
) -> None:
    backend = AskedBackend()
    async with open_hub(backend, backend_grace=GRACE) as hub:
        listener = Listener()
        await hub.subscribe(listener, ["a"])
        began = trio.current_time()
        backend.go_away()
        assert not hub.available
        await trio.sleep(outage)
        backend.come_back()
        await trio.sleep(2 * SPREAD)
        assert listener.gaps == [pytest.approx(began + min(outage, GRACE))]
        await settled(hub, 1, 1)
        assert (hub.available, backend.subscribed) == (True, {"a"})
        assert hub.statistics().outages == 1


async def test_listeners_are_told_spread_over_time(autojump_clock: MockClock) -> None:
    backend = AskedBackend()
    async with open_hub(backend) as hub:
        listeners = [Listener() for _ in range(500)]
        for listener in listeners:
            await hub.subscribe(listener, ["a"])
        began = trio.current_time()
        backend.lose()
        await trio.sleep(2 * SPREAD)
        times = [at - began for listener in listeners for at in listener.gaps]
        assert len(times) == 500
        assert SPREAD * 0.9 < max(times) <= SPREAD
        assert max(map(times.count, times)) == 10


async def test_kept_listeners_are_told_nothing_but_a_refusal(autojump_clock: MockClock) -> None:
    backend = AskedBackend()
    async with open_hub(backend, backend_lost=BackendLost.KEEP, backend_grace=GRACE) as hub:
        kept, refused = Listener(), Listener()
        await hub.subscribe(kept, ["a"])
        await hub.subscribe(refused, ["b"])
        backend.go_away()
        await trio.sleep(2 * GRACE)
        backend.refused.add("b")
        backend.come_back()
        await trio.sleep(2 * SPREAD)
        assert [len(kept.gaps), len(refused.gaps)] == [0, 1]
        await hub.publish("a", "x")
        assert kept.texts == ["x"]
        hub.unsubscribe(refused, ["b"])
        await settled(hub, 1, 1)


async def test_each_outage_is_told(autojump_clock: MockClock) -> None:
    backend = AskedBackend()
    async with open_hub(backend, backend_grace=GRACE) as hub:
        listener = Listener()
        await hub.subscribe(listener, ["a"])
        for number in (1, 2):
            backend.go_away()
            await trio.sleep(2 * GRACE)
            backend.come_back()
            await trio.sleep(2 * SPREAD)
            assert len(listener.gaps) == hub.statistics().outages == number


async def test_a_listener_that_left_one_lost_channel_is_told_of_the_other(
    autojump_clock: MockClock,
) -> None:
    backend = AskedBackend()
    async with open_hub(backend) as hub:
        first = [Listener() for _ in range(60)]
        for listener in first:
            await hub.subscribe(listener, ["a", "b"])
        backend.lose()
        await trio.testing.wait_all_tasks_blocked()
        for listener in first:
            hub.unsubscribe(listener, ["a"])
        await trio.sleep(2 * SPREAD)
        assert [len(listener.gaps) for listener in first] == [1] * 60


async def test_subscribing_waits_for_the_backend_within_the_grace(
    autojump_clock: MockClock,
) -> None:
    backend = AskedBackend()
    async with open_hub(backend, backend_grace=GRACE) as hub, trio.open_nursery() as nursery:
        backend.go_away()
        listener = Listener()
        nursery.start_soon(hub.subscribe, listener, ["a"])
        nursery.start_soon(hub.wait_available)
        await trio.sleep(GRACE - 1)
        assert backend.asked == []
        with pytest.raises(BackendError, match="no server"):
            await hub.publish("a", "x")
        backend.come_back()
        await settled(hub, 1, 1)
        await hub.publish("a", "y")
        assert (listener.texts, listener.gaps) == (["y"], [])


async def test_subscribing_fails_when_the_grace_is_over(autojump_clock: MockClock) -> None:
    backend = AskedBackend()
    async with open_hub(backend, backend_grace=GRACE) as hub:
        await hub.subscribe(Listener(), ["heard"])
        backend.go_away()
        began = trio.current_time()
        for waited in (GRACE, 0):
            with pytest.raises(BackendError, match="away"):
                await hub.subscribe(Listener(), ["a", "heard"])
            assert trio.current_time() - began == pytest.approx(waited)
            began = trio.current_time()
            with pytest.raises(BackendError, match="away"):
                await hub.wait_available()
        await settled(hub, 1, 1)


async def test_what_is_tried_while_away_leaves_nothing_behind(autojump_clock: MockClock) -> None:
    backend = AskedBackend()
    async with open_hub(backend, backend_grace=0) as hub:
        first = Listener()
        await hub.subscribe(first, ["first"])
        backend.go_away()
        await trio.sleep(1)
        for number in range(10_000):
            with pytest.raises(BackendError):
                await hub.subscribe(Listener(), [f"channel {number}"])
        hub.unsubscribe(first, ["first"])
        assert remembered(hub) == 0
        backend.come_back()
        await settled(hub, 0, 0)
        assert backend.asked == ["+first", "?first"]


async def test_subscribing_while_away_is_cancelled_anywhere(autojump_clock: MockClock) -> None:
    backend = AskedBackend()
    async with open_hub(backend, backend_grace=GRACE) as hub:
        for step in count():
            backend.go_away()
            async with trio.open_nursery() as nursery:

                async def come_back() -> None:
                    await trio.sleep(1)
                    backend.come_back()

                nursery.start_soon(come_back)
                listener = Listener()
                cancelled = await cancelled_at(step, partial(hub.subscribe, listener, [*"ab"]))
            if not cancelled:
                hub.unsubscribe(listener, [*"ab"])
            await settled(hub, 0, 0)
            assert backend.subscribed == set()
            if not cancelled:
                break
        assert step >= 2


async def test_the_end_of_the_hub_ends_the_wait_for_the_backend(autojump_clock: MockClock) -> None:
    backend = AskedBackend()

    async def subscribe(hub: Hub) -> None:
        with pytest.raises(HubClosed):
            await hub.subscribe(Listener(), ["a"])

    async with trio.open_nursery() as nursery:
        async with open_hub(backend, backend_grace=GRACE) as hub:
            backend.go_away()
            nursery.start_soon(subscribe, hub)
            await trio.testing.wait_all_tasks_blocked()
        assert trio.current_time() < GRACE


async def test_lost_between_the_answer_and_the_hub_is_subscribed_again() -> None:
    backend = AskedBackend()
    async with open_hub(backend) as hub, trio.open_nursery() as nursery:
        gate = backend.gates["answer"] = trio.Event()
        listener = Listener()
        nursery.start_soon(hub.subscribe, listener, ["a", "b"])
        await trio.testing.wait_all_tasks_blocked()
        backend.lose("a")
        gate.set()
        await settled(hub, 2, 2)
        assert [ask for ask in backend.asked if ask[0] == "+"] == ["+a", "+b", "+a"]


async def test_one_that_gives_up_while_others_are_unsubscribed_is_unsubscribed() -> None:
    backend = AskedBackend()
    async with open_hub(backend) as hub, trio.open_nursery() as nursery:
        old = Listener()
        await hub.subscribe(old, ["old"])
        gate = backend.gates["-old"] = trio.Event()
        hub.unsubscribe(old, ["old"])
        scope = trio.CancelScope()

        async def give_up() -> None:
            with scope:
                await hub.subscribe(Listener(), ["new"])

        nursery.start_soon(give_up)
        await trio.testing.wait_all_tasks_blocked()
        scope.cancel()
        await trio.testing.wait_all_tasks_blocked()
        gate.set()
        await settled(hub, 0, 0)
        assert backend.subscribed == set()


async def test_a_backend_that_is_away_and_has_lost_nothing_is_waited_for(
    autojump_clock: MockClock,
) -> None:
    backend = AskedBackend()
    async with open_hub(backend, backend_grace=GRACE) as hub:
        await hub.subscribe(Listener(), ["a"])
        assert backend.receiver is not None
        backend.is_away = True
        backend.receiver.away(BackendError("no server"))
        with trio.fail_after(2 * GRACE), pytest.raises(BackendError, match="away"):
            await hub.subscribe(Listener(), ["a"])
        await settled(hub, 1, 1)


async def test_one_that_left_a_refused_channel_is_told_nothing(autojump_clock: MockClock) -> None:
    backend = AskedBackend()
    async with open_hub(backend) as hub:
        listeners = [Listener() for _ in range(100)]
        for listener in listeners:
            await hub.subscribe(listener, ["a"])
        backend.refused.add("a")
        backend.lose("a")
        await trio.testing.wait_all_tasks_blocked()
        leaving = [listener for listener in listeners if not listener.gaps]
        assert len(leaving) == 98
        for listener in leaving:
            hub.unsubscribe(listener, ["a"])
        await trio.sleep(2 * SPREAD)
        assert sum(len(listener.gaps) for listener in listeners) == 2
        await settled(hub, 1, 2)


async def test_a_refused_channel_is_asked_for_again_by_the_next_one(
    autojump_clock: MockClock,
) -> None:
    backend = AskedBackend()
    async with open_hub(backend, backend_lost=BackendLost.KEEP) as hub:
        first, second = Listener(), Listener()
        await hub.subscribe(first, ["a"])
        backend.refused.add("a")
        backend.lose("a")
        with pytest.raises(BackendError, match="cannot subscribe to 'a'"):
            await hub.subscribe(second, ["a"])
        backend.refused.clear()
        await hub.subscribe(second, ["a"])
        await hub.publish("a", "x")
        assert (first.texts, second.texts) == (["x"], ["x"])
        await trio.sleep(2 * SPREAD)
        assert (len(first.gaps), len(second.gaps)) == (1, 0)
        hub.unsubscribe(first, ["a"])
        hub.unsubscribe(second, ["a"])
        await settled(hub, 0, 0)
        assert backend.subscribed == set()


class Failing(AskedBackend):
    """Fails once, when it is told to.

    Args:
        what: fails: "+" to subscribe, "?" to tell last messages.
    """

    def __init__(self, what: str) -> None:
        super().__init__()
        self.what = what
        self.fail = trio.Event()

    async def _ask(self, what: str, channels: Collection[str]) -> None:
        await super()._ask(what, channels)
        if what == self.what:
            self.what = ""
            await self.fail.wait()
            raise BackendError("connection lost")


@pytest.mark.parametrize("what", ["+", "?"])
async def test_an_outage_that_is_over_when_its_error_comes_is_no_refusal(what: str) -> None:
    backend = Failing(what)
    async with open_hub(backend) as hub, trio.open_nursery() as nursery:
        listener = Listener()
        nursery.start_soon(hub.subscribe, listener, ["a"])
        await trio.testing.wait_all_tasks_blocked()
        backend.fail.set()
        backend.go_away()
        backend.come_back()
        await settled(hub, 1, 1)
        await hub.publish("a", "x")
        assert listener.texts == ["x"]
