"""Watches without an epoll."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import NamedTuple

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from tests.support.harness import HANGS
from tests.support.turns import make_turns
from trio_beat._transports import Event
from trio_beat._transports.readiness import Poller, Watch


class Watched(NamedTuple):
    ours: socket.socket
    theirs: socket.socket
    watch: Watch
    poller: Poller

    def take(self) -> list[Event] | None:
        """Asked of whatever comes; what is no letter does not wake the reader."""
        text = self.theirs.recv(100).decode()
        return [text] if text.isalpha() else None


@asynccontextmanager
async def watched() -> AsyncIterator[Watched]:
    ours, theirs = socket.socketpair()
    theirs.setblocking(False)
    turns = make_turns()
    with trio.fail_after(HANGS), ours, theirs, Poller(turns) as poller:
        async with trio.open_nursery() as nursery:
            await nursery.start(poller.run)
            await nursery.start(turns.run)
            it = Watched(ours, theirs, poller.watch(theirs), poller)
            assert poller.watches == 1
            yield it
            if poller.watches:
                it.watch.close()
            nursery.cancel_scope.cancel()
    assert poller.watches == 0


async def wakes(it: Watched) -> bool:
    with trio.move_on_after(1):
        await it.watch.wait()
        return True
    return False


async def test_waits_until_there_is_something_for_the_reader(autojump_clock: MockClock) -> None:
    async with watched() as it, trio.open_nursery() as nursery:
        got: list[object] = []

        async def read() -> None:
            got.extend(await it.watch.wait(it.take))

        nursery.start_soon(read)
        for text in (b"1", b"2", b"three"):
            await wait_all_tasks_blocked()
            assert not got
            it.ours.send(text)
        await wait_all_tasks_blocked()
        assert got == ["three"]


async def test_tells_of_bytes_for_as_long_as_they_lie_there(autojump_clock: MockClock) -> None:
    async with watched() as it:
        assert not await wakes(it)
        it.ours.send(b"x")
        assert await wakes(it)
        assert await wakes(it)
        assert it.take() == ["x"]
        assert not await wakes(it)


async def test_more_makes_the_next_wait_return_unless_nothing_was_found(
    autojump_clock: MockClock,
) -> None:
    async with watched() as it:
        it.watch.more()
        assert await wakes(it)
        assert not await wakes(it)
        it.watch.more()
        it.watch.empty()
        assert not await wakes(it)


async def test_a_busy_reader_takes_a_turn(autojump_clock: MockClock) -> None:
    ours, theirs = socket.socketpair()
    turns = make_turns()  # not given yet
    with ours, theirs, Poller(turns) as poller:
        watch = poller.watch(theirs)
        it = Watched(ours, theirs, watch, poller)
        async with trio.open_nursery() as nursery:
            await nursery.start(poller.run)
            watch.busy()
            ours.send(b"x")
            assert not await wakes(it)
            nursery.start_soon(turns.run)
            assert await wakes(it)
            nursery.cancel_scope.cancel()
        watch.close()


async def test_a_reader_that_is_woken_reads_at_its_next_turn(autojump_clock: MockClock) -> None:
    async with watched() as it, trio.open_nursery() as nursery:
        done: list[str] = []

        async def read() -> None:
            await it.watch.wait()
            done.append("read")

        nursery.start_soon(read)
        await wait_all_tasks_blocked()
        it.watch.wake()
        await wait_all_tasks_blocked()
        assert done == ["read"]
        assert await wakes(it)
        assert not await wakes(it)


async def test_closing_wakes_the_task_that_waits_with_an_error(autojump_clock: MockClock) -> None:
    async with watched() as it, trio.open_nursery() as nursery:

        async def read() -> None:
            with pytest.raises(ConnectionAbortedError):
                await it.watch.wait()

        nursery.start_soon(read)
        await wait_all_tasks_blocked()
        it.watch.close()


async def test_a_closed_watch_asks_and_then_fails(autojump_clock: MockClock) -> None:
    async with watched() as it:
        it.watch.close()
        assert await it.watch.wait() == ()
        with pytest.raises(ConnectionAbortedError):
            await it.watch.wait()
