"""Messages that the application has not taken yet."""

from __future__ import annotations

import pytest
import trio
from trio.testing import assert_checkpoints, assert_no_checkpoints, wait_all_tasks_blocked

from trio_beat._connection.inbox import Inbox


async def test_messages_keep_their_order() -> None:
    inbox = Inbox(3)
    for message in ("a", b"b", "c"):
        await inbox.put(message)
    assert len(inbox) == 3
    assert [await inbox.get() for _ in range(3)] == ["a", b"b", "c"]
    assert len(inbox) == 0


async def test_putting_waits_only_when_it_is_full() -> None:
    inbox = Inbox(2)
    with assert_no_checkpoints():
        await inbox.put("a")
        await inbox.put("b")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(inbox.put, "c")
        await wait_all_tasks_blocked()
        assert len(inbox) == 2
        assert await inbox.get() == "a"
        await wait_all_tasks_blocked()
        assert len(inbox) == 2
    assert [await inbox.get(), await inbox.get()] == ["b", "c"]


async def test_putting_that_is_cancelled_adds_nothing() -> None:
    inbox = Inbox(1)
    await inbox.put("a")
    with trio.CancelScope() as scope:
        scope.cancel()
        await inbox.put("b")
    assert scope.cancelled_caught
    assert await inbox.get() == "a"
    assert len(inbox) == 0


async def test_taking_is_a_checkpoint_and_loses_nothing_when_cancelled() -> None:
    inbox = Inbox(2)
    await inbox.put("a")
    with trio.CancelScope() as scope:
        scope.cancel()
        await inbox.get()
    assert scope.cancelled_caught
    with assert_checkpoints():
        assert await inbox.get() == "a"


async def test_each_of_several_tasks_gets_another_message() -> None:
    inbox, got = Inbox(2), set[str | bytes]()

    async def take() -> None:
        got.add(await inbox.get())

    async with trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(take)
        await wait_all_tasks_blocked()
        for message in ("a", "b", "c"):
            await inbox.put(message)
            await wait_all_tasks_blocked()
    assert got == {"a", "b", "c"}


async def test_a_task_that_stopped_waiting_takes_nothing_from_the_others() -> None:
    inbox, got = Inbox(2), []

    async def take() -> None:
        got.append(await inbox.get())

    async with trio.open_nursery() as nursery:
        with trio.CancelScope() as scope:
            nursery.start_soon(take)
            await wait_all_tasks_blocked()
            scope.cancel()
            await inbox.get()
        assert scope.cancelled_caught
        await inbox.put("a")
    assert got == ["a"]


async def test_after_closing_what_waits_can_still_be_taken() -> None:
    inbox = Inbox(2)
    await inbox.put("a")
    inbox.close()
    inbox.close()
    assert await inbox.get() == "a"
    with pytest.raises(trio.EndOfChannel):
        await inbox.get()


@pytest.mark.parametrize("end", [Inbox.close, Inbox.discard])
async def test_a_task_that_waits_learns_that_none_will_come(end: object) -> None:
    inbox, ended = Inbox(2), 0

    async def take() -> None:
        nonlocal ended
        with pytest.raises(trio.EndOfChannel):
            await inbox.get()
        ended += 1

    async with trio.open_nursery() as nursery:
        nursery.start_soon(take)
        nursery.start_soon(take)
        await wait_all_tasks_blocked()
        assert callable(end)
        end(inbox)
    assert ended == 2


async def test_what_was_discarded_cannot_be_taken() -> None:
    inbox = Inbox(2)
    await inbox.put("a")
    inbox.discard()
    with pytest.raises(trio.EndOfChannel):
        await inbox.get()
