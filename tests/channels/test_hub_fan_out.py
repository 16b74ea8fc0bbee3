"""Which subscriber gets which message, and in which order, during a fan-out."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable
from functools import partial
from itertools import pairwise

import pytest
import trio
import trio.testing

from tests.support.hub import MANY, AskedBackend, Listener, reached, settled
from trio_beat import Hub, Message, open_hub


class Acting(Listener):
    """Does something when a message comes to it."""

    def __init__(self, action: Callable[[], object]) -> None:
        super().__init__()
        self.action = action

    def deliver_nowait(self, message: Message) -> None:
        super().deliver_nowait(message)
        self.action()


async def subscribe_many(hub: Hub, channel: str = "news", number: int = MANY) -> list[Listener]:
    listeners = [Listener() for _ in range(number)]
    for listener in listeners:
        await hub.subscribe(listener, [channel])
    return listeners


async def test_joining_gets_the_last_message() -> None:
    async with open_hub() as hub:
        for _ in range(3):
            await hub.publish("news", "old")
        await hub.publish("news", "last")
        one, two = Listener(), Listener()
        await hub.subscribe(one, ["news"])
        await hub.subscribe(two, ["news", "empty"])
        assert [one.texts, two.texts] == [["last"], ["last"]]
        await hub.publish("news", "new")
        assert [one.texts, two.texts] == [["last", "new"], ["last", "new"]]


async def test_the_last_message_expires(autojump_clock: trio.testing.MockClock) -> None:
    async with open_hub(expire=10) as hub:
        stays = Listener()
        await hub.subscribe(stays, ["heard"])
        for channel in ("heard", "unheard"):
            await hub.publish(channel, channel)
        await trio.sleep(9.5)
        early, late = Listener(), Listener()
        await hub.subscribe(early, ["heard", "unheard"])
        assert early.texts == ["heard", "unheard"]
        await trio.sleep(0.5)
        await hub.subscribe(late, ["heard", "unheard"])
        assert late.texts == []


async def test_without_expire_there_is_no_last_message() -> None:
    async with open_hub(expire=0) as hub:
        one, two = Listener(), Listener()
        await hub.publish("news", "before")
        await hub.subscribe(one, ["news"])
        await hub.publish("news", "now")
        await hub.subscribe(two, ["news"])
        assert [one.texts, two.texts] == [["now"], []]


async def test_joining_during_a_fan_out_gets_the_message_once() -> None:
    async with open_hub() as hub, trio.open_nursery() as nursery:
        latecomer = Listener()
        first = Acting(lambda: nursery.start_soon(hub.subscribe, latecomer, ["news"]))
        await hub.subscribe(first, ["news"])
        others = await subscribe_many(hub)
        assert await reached(hub, "news", "x") == MANY + 1
        await settled(hub, 1, MANY + 2)
        assert [listener.texts for listener in (first, *others, latecomer)] == [["x"]] * (MANY + 2)


@pytest.mark.parametrize("expire", [0, 3600])
async def test_joining_in_a_pause_of_a_fan_out_gets_the_message_at_most_once(
    expire: float,
) -> None:
    async with open_hub(expire=expire) as hub, trio.open_nursery() as nursery:
        first, *_, last = await subscribe_many(hub)
        nursery.start_soon(hub.publish, "news", "x")
        while not first.texts:
            await trio.lowlevel.cancel_shielded_checkpoint()
        assert not last.texts, "the fan-out was over before anything could join"
        latecomer = Listener()
        await hub.subscribe(latecomer, ["news"])
        await settled(hub, 1, MANY + 1)
        assert latecomer.texts == (["x"] if expire else [])


async def test_leaving_during_a_fan_out_gets_nothing_more() -> None:
    async with open_hub() as hub:
        leaving = Listener()
        first = Acting(lambda: hub.unsubscribe(leaving, ["news"]))
        await hub.subscribe(first, ["news"])
        await hub.subscribe(leaving, ["news"])
        await hub.publish("news", "x")
        assert [first.texts, leaving.texts] == [["x"], []]


async def test_leaving_and_joining_during_a_fan_out_gets_the_message_once() -> None:
    async with open_hub() as hub, trio.open_nursery() as nursery:
        first, *_, last = await subscribe_many(hub)
        nursery.start_soon(hub.publish, "news", "x")
        while not first.texts:
            await trio.lowlevel.cancel_shielded_checkpoint()
        assert not last.texts
        hub.unsubscribe(last, ["news"])
        await hub.subscribe(last, ["news"])
        await settled(hub, 1, MANY)
        assert last.texts == ["x"]
        await hub.publish("news", "y")
        assert last.texts == ["x", "y"]


async def test_joining_between_publish_and_delivery_gets_the_message_once() -> None:
    backend = AskedBackend()
    async with open_hub(backend) as hub, trio.open_nursery() as nursery:
        joining = Listener()
        await hub.publish("news", "old")
        # A message comes when the backend has subscribed and its answer to what the last message
        # was is under way.
        gate = backend.gates["?news"] = trio.Event()
        nursery.start_soon(hub.subscribe, joining, ["news"])
        await trio.testing.wait_all_tasks_blocked()
        await hub.publish("news", "x")
        assert joining.texts == []
        gate.set()
        await settled(hub, 1, 1)
        assert joining.texts == ["x"]


async def test_equal_texts_in_a_row_all_come() -> None:
    async with open_hub() as hub:
        listener = Listener()
        await hub.publish("news", "x")
        await hub.subscribe(listener, ["news"])
        for _ in range(2):
            await hub.publish("news", "x")
        assert listener.texts == ["x"] * 3


async def test_what_others_publish_without_a_last_message_leaves_the_last_one() -> None:
    backend = AskedBackend()
    async with open_hub(backend) as hub:
        first, second = Listener(), Listener()
        await hub.subscribe(first, ["news"])
        await hub.publish("news", "kept")
        await backend.publish("news", Message("foreign"), expire=0)
        await hub.subscribe(second, ["news"])
        await hub.publish("news", "new")
        assert first.texts == ["kept", "foreign", "new"]
        assert second.texts == ["kept", "new"]


async def test_all_hear_concurrent_publishers_in_the_same_order() -> None:
    async with open_hub() as hub:
        listeners = await subscribe_many(hub)

        async def publish(name: str) -> None:
            for number in range(5):
                await hub.publish("news", f"{name}{number}")

        async with trio.open_nursery() as nursery:
            for name in "abcdefgh":
                nursery.start_soon(publish, name)
        order = listeners[0].texts
        assert len(order) == 40
        assert all(listener.texts == order for listener in listeners)
        for name in "abcdefgh":
            assert [x for x in order if x[0] == name] == [f"{name}{n}" for n in range(5)]
        latecomer = Listener()
        await hub.subscribe(latecomer, ["news"])
        assert latecomer.texts == order[-1:]


async def test_a_long_fan_out_lets_other_tasks_run_after_every_256() -> None:
    async with open_hub() as hub:
        listeners = await subscribe_many(hub)
        seen: list[int] = []

        class Turns(trio.abc.Instrument):
            def after_task_step(self, task: trio.lowlevel.Task) -> None:
                seen.append(sum(bool(listener.messages) for listener in listeners))

        turns = Turns()
        trio.lowlevel.add_instrument(turns)
        await hub.publish("news", "x")
        await trio.lowlevel.checkpoint()
        trio.lowlevel.remove_instrument(turns)
    assert list(dict.fromkeys(seen)) == [0, 256, 512, 600]


async def test_a_publisher_that_is_cancelled_does_not_cut_a_fan_out_short() -> None:
    async with open_hub() as hub:
        scope = trio.CancelScope()
        await hub.subscribe(Acting(scope.cancel), ["news"])
        listeners = await subscribe_many(hub)
        with scope:
            await hub.publish("news", "x")
        assert scope.cancel_called
        assert [listener.texts for listener in listeners] == [["x"]] * MANY
        assert await reached(hub, "news", "y") == MANY + 1


async def test_a_fan_out_does_not_delay_another_channel() -> None:
    async with open_hub() as hub, trio.open_nursery() as nursery:
        *_, last = await subscribe_many(hub, "long", 256 * 8)
        listener = Listener()
        await hub.subscribe(listener, ["short"])
        nursery.start_soon(hub.publish, "long", "x")
        await hub.publish("short", "y")
        assert listener.texts == ["y"]
        assert last.texts == []


async def test_a_message_is_framed_once_for_all() -> None:
    async with open_hub() as hub:
        listeners = await subscribe_many(hub, number=3)
        await hub.publish("news", "x")
        late = Listener()
        await hub.subscribe(late, ["news"])
        assert len({id(listener.messages[0]) for listener in (*listeners, late)}) == 1


async def test_a_sender_that_was_cancelled_is_forgotten() -> None:
    backend = AskedBackend()
    async with open_hub(backend) as hub:
        backend.gates["!news"] = trio.Event()
        sender = Listener()
        with trio.move_on_after(0):
            await hub.publish("news", "x", sender=sender)
        gone = weakref.ref(sender)
        del sender
        backend.gates.clear()
        assert await reached(hub, "news", "y") == 0
        gc.collect()
        assert gone() is None


async def test_a_sender_is_left_out_of_its_own_message_only() -> None:
    async with open_hub() as hub:
        listeners = await subscribe_many(hub, number=4)
        async with trio.open_nursery() as nursery:
            for number, sender in enumerate(listeners):
                nursery.start_soon(partial(hub.publish, "news", f"{number}", sender=sender))
        for number, listener in enumerate(listeners):
            assert sorted(listener.texts) == [f"{n}" for n in range(4) if n != number]


async def test_others_get_turns_while_a_backend_delivers_without_a_wait() -> None:
    backend = AskedBackend()
    async with open_hub(backend) as hub:
        listeners = await subscribe_many(hub, number=100)
        seen: list[int] = []

        class Turns(trio.abc.Instrument):
            def after_task_step(self, task: trio.lowlevel.Task) -> None:
                seen.append(sum(len(listener.messages) for listener in listeners))

        turns = Turns()
        trio.lowlevel.add_instrument(turns)
        assert backend.receiver is not None
        for number in range(20):
            await backend.receiver.deliver("news", Message(f"{number}"), None)
        await trio.lowlevel.checkpoint()
        trio.lowlevel.remove_instrument(turns)
    assert seen[-1] == 2000
    assert max(after - before for before, after in pairwise([0, *seen])) < 512
