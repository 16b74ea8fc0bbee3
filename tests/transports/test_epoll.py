"""Edges: each is reported once, and none may be lost."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import NamedTuple

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from tests.support.harness import HANGS, Steps
from tests.support.turns import make_turns
from trio_beat._transports import Event
from trio_beat._transports.polling import Poller, Watch


class Watched(NamedTuple):
    ours: socket.socket
    theirs: socket.socket
    watch: Watch

    def close(self) -> None:
        if self.theirs.fileno() != -1:
            self.watch.close()
            self.theirs.close()


@asynccontextmanager
async def watched() -> AsyncIterator[Watched]:
    ours, theirs = socket.socketpair()
    theirs.setblocking(False)
    turns = make_turns()
    with trio.fail_after(HANGS), ours, Poller(turns) as poller:
        async with trio.open_nursery() as nursery:
            await nursery.start(poller.run)
            await nursery.start(turns.run)
            it = Watched(ours, theirs, poller.watch(theirs))
            try:
                yield it
            finally:
                it.close()
            nursery.cancel_scope.cancel()


async def wait(watch: Watch) -> None:
    await watch.wait()


async def wakes(watch: Watch) -> bool:
    """Whether a wait returns without anything else happening."""
    with trio.move_on_after(1):
        await watch.wait()
        return True
    return False


async def test_data_wakes_the_task_that_waits(autojump_clock: MockClock) -> None:
    async with watched() as it, trio.open_nursery() as nursery:
        nursery.start_soon(wait, it.watch)
        await wait_all_tasks_blocked()
        it.ours.send(b"x")  # without it the nursery would wait for ever


async def test_silence_does_not(autojump_clock: MockClock) -> None:
    async with watched() as it:
        assert not await wakes(it.watch)


async def test_data_before_the_watch_is_told(autojump_clock: MockClock) -> None:
    ours, theirs = socket.socketpair()
    turns = make_turns()
    with ours, theirs, Poller(turns) as poller:
        ours.send(b"x")
        watch = poller.watch(theirs)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(poller.run)
            nursery.start_soon(turns.run)
            assert await wakes(watch)
            nursery.cancel_scope.cancel()
        watch.close()


async def test_data_that_comes_while_no_task_waits_is_kept(autojump_clock: MockClock) -> None:
    async with watched() as it:
        it.ours.send(b"x")
        await wait_all_tasks_blocked()
        assert await wakes(it.watch)


@pytest.mark.needs_epoll
async def test_an_edge_is_told_once(autojump_clock: MockClock) -> None:
    async with watched() as it:
        it.ours.send(b"x")
        assert await wakes(it.watch)
        assert not await wakes(it.watch)
        it.ours.send(b"x")
        assert await wakes(it.watch)


async def test_more_makes_the_next_wait_return(autojump_clock: MockClock) -> None:
    async with watched() as it:
        it.watch.more()
        assert await wakes(it.watch)
        assert not await wakes(it.watch)


async def test_busy_readers_wait_for_their_turn(autojump_clock: MockClock) -> None:
    turns = make_turns(2)
    pairs = [socket.socketpair() for _ in range(10)]
    order: list[int] = []
    passes = 0

    class Passes(trio.abc.Instrument):
        def before_io_wait(self, timeout: float) -> None:
            nonlocal passes
            passes += 1

    async def read(index: int, watch: Watch) -> None:
        if index:
            watch.busy()
        await watch.wait()
        order.append(index)
        woken_in[index] = passes

    woken_in: dict[int, int] = {}
    with Poller(turns) as poller:
        async with trio.open_nursery() as nursery:
            await nursery.start(poller.run)
            await nursery.start(turns.run)
            watches = [poller.watch(theirs) for _, theirs in pairs]
            async with trio.open_nursery() as readers:
                for index, watch in enumerate(watches):
                    readers.start_soon(read, index, watch)
                await wait_all_tasks_blocked()
                trio.lowlevel.add_instrument(instrument := Passes())
                for ours, _ in reversed(pairs):
                    ours.send(b"x")
            trio.lowlevel.remove_instrument(instrument)
            nursery.cancel_scope.cancel()
        for watch in watches:
            watch.close()
    # The one that is not busy is woken with its edge, and the others two at a time.
    assert woken_in[0] == min(woken_in.values())
    numbers = [woken_in[index] for index in range(1, 10)]
    assert max(numbers.count(number) for number in numbers) <= 2
    for ours, theirs in pairs:
        ours.close()
        theirs.close()


@pytest.mark.needs_epoll
async def test_a_busy_reader_that_is_cancelled_in_its_turn_loses_no_edge(
    autojump_clock: MockClock,
) -> None:
    ours, theirs = socket.socketpair()
    turns = make_turns()  # not given yet
    with ours, theirs, Poller(turns) as poller:
        watch = poller.watch(theirs)
        async with trio.open_nursery() as nursery:
            await nursery.start(poller.run)
            watch.busy()
            ours.send(b"x")
            assert not await wakes(watch)
            nursery.start_soon(turns.run)
            assert await wakes(watch)
            assert not await wakes(watch)
            nursery.cancel_scope.cancel()
        watch.close()


@pytest.mark.needs_epoll
async def test_what_stays_ready_does_so_until_a_read_finds_nothing(
    autojump_clock: MockClock,
) -> None:
    async with watched() as it:
        it.ours.send(b"!", socket.MSG_OOB)
        for _ in range(3):
            assert await wakes(it.watch)
        it.watch.empty()
        assert not await wakes(it.watch)


async def test_a_hang_up_is_told_to_every_wait(autojump_clock: MockClock) -> None:
    async with watched() as it:
        it.ours.shutdown(socket.SHUT_WR)
        for _ in range(3):
            assert await wakes(it.watch)


async def test_a_hang_up_while_no_task_waits_is_told_to_every_wait(
    autojump_clock: MockClock,
) -> None:
    async with watched() as it:
        it.ours.send(b"x")
        it.ours.close()
        await wait_all_tasks_blocked()
        for _ in range(3):
            assert await wakes(it.watch)


async def test_a_cancelled_wait_leaves_the_edge_to_the_next(autojump_clock: MockClock) -> None:
    async with watched() as it:
        assert not await wakes(it.watch)
        it.ours.send(b"x")
        assert await wakes(it.watch)


async def test_a_wait_that_is_cancelled_before_it_returns_takes_nothing(
    autojump_clock: MockClock,
) -> None:
    async with watched() as it:
        it.ours.send(b"x")
        await wait_all_tasks_blocked()
        with trio.CancelScope() as scope:
            scope.cancel()
            await it.watch.wait()
        assert scope.cancelled_caught
        assert await wakes(it.watch)


async def test_closing_wakes_the_task_that_waits_with_an_error(autojump_clock: MockClock) -> None:
    async with watched() as it, trio.open_nursery() as nursery:

        async def read() -> None:
            with pytest.raises(ConnectionAbortedError):
                await it.watch.wait()

        nursery.start_soon(read)
        await wait_all_tasks_blocked()
        it.close()


async def test_a_closed_watch_lets_no_task_wait(autojump_clock: MockClock) -> None:
    async with watched() as it:
        it.close()
        assert await wakes(it.watch)


async def test_a_descriptor_that_is_used_again_is_another_watch(
    autojump_clock: MockClock,
) -> None:
    async with watched() as it:
        fd = it.theirs.fileno()
        it.ours.send(b"for the one that is gone")
        it.close()
        ours, theirs = socket.socketpair()
        with ours, theirs:
            # The number may have gone to the other end of the new pair.
            again = theirs if theirs.fileno() == fd else ours
            assert again.fileno() == fd
            watch = it.watch._poller.watch(again)
            assert not await wakes(watch)
            (ours if again is theirs else theirs).send(b"x")
            assert await wakes(watch)
            watch.close()


async def test_many_sockets_wake_their_own_readers(autojump_clock: MockClock) -> None:
    poller = Poller(make_turns())
    pairs = [socket.socketpair() for _ in range(100)]
    woken: list[int] = []

    async def note(index: int, watch: Watch) -> None:
        await watch.wait()
        woken.append(index)

    async with trio.open_nursery() as nursery:
        await nursery.start(poller.run)
        watches = [poller.watch(theirs) for _, theirs in pairs]
        async with trio.open_nursery() as waiting:
            for index, watch in enumerate(watches):
                waiting.start_soon(note, index, watch)
            await wait_all_tasks_blocked()
            for ours, _ in pairs[::2]:
                ours.send(b"x")
            await wait_all_tasks_blocked()
            assert sorted(woken) == list(range(0, 100, 2))
            waiting.cancel_scope.cancel()
        nursery.cancel_scope.cancel()
    for (ours, theirs), watch in zip(pairs, watches, strict=True):
        watch.close()
        ours.close()
        theirs.close()
    assert not poller.watches


async def test_watches_may_outlive_the_poller_s_run() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs, Poller(make_turns()) as poller:
        watch = poller.watch(theirs)
        with trio.CancelScope() as scope:
            scope.cancel()
            await poller.run()
        watch.close()
    assert not poller.watches


class TestAsking:
    @pytest.mark.needs_epoll
    async def test_a_reader_that_sleeps_on_is_asked_at_each_edge(
        self, autojump_clock: MockClock
    ) -> None:
        taken: list[bytes] = []

        def take() -> list[Event] | None:
            taken.append(it.theirs.recv(100))
            return ["x"] if taken[-1] == b"2" else None

        async with watched() as it, trio.open_nursery() as nursery:
            steps = Steps("reader")

            async def read() -> None:
                assert await it.watch.wait(take) == ["x"]

            nursery.start_soon(read, name="reader")
            await wait_all_tasks_blocked()
            trio.lowlevel.add_instrument(steps)
            for number in range(3):
                it.ours.send(b"%d" % number)
                await wait_all_tasks_blocked()
                assert steps.count == (number == 2)
            trio.lowlevel.remove_instrument(steps)
        assert taken == [b"0", b"1", b"2"]

    async def test_what_a_read_leaves_wakes_the_reader(self, autojump_clock: MockClock) -> None:
        """It takes a turn for the rest, since the edge is not reported again."""
        taken: list[bytes] = []

        def take() -> list[Event] | None:
            taken.append(it.theirs.recv(1))
            it.watch.more()
            return None if len(taken) < 3 else []

        async with watched() as it:
            it.ours.send(b"abc")
            for _ in range(3):
                assert not await it.watch.wait(take)
        assert taken == [b"a", b"b", b"c"]

    @pytest.mark.needs_epoll
    async def test_a_reader_that_was_busy_is_not_asked_but_takes_a_turn(
        self, autojump_clock: MockClock
    ) -> None:
        where: list[str] = []

        def take() -> list[Event] | None:
            it.theirs.recv(100)
            it.watch.busy()
            where.append(trio.lowlevel.current_task().name)
            return None

        async def read() -> None:
            while True:
                await it.watch.wait(take)

        async with watched() as it, trio.open_nursery() as nursery:
            nursery.start_soon(read, name="reader")
            await wait_all_tasks_blocked()
            for _ in range(3):
                it.ours.send(b"x")
                await wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
        assert [name == "reader" for name in where] == [False, True, True]

    @pytest.mark.needs_epoll
    @pytest.mark.parametrize("told", [Watch.busy, Watch.large], ids=["frames", "bytes"])
    async def test_what_is_read_in_place_is_bounded_over_all_sockets_of_a_pass(
        self, told: Callable[[Watch], None], autojump_clock: MockClock
    ) -> None:
        pairs = [socket.socketpair() for _ in range(40)]
        taken = most = 0

        class Passes(trio.abc.Instrument):
            def before_io_wait(self, timeout: float) -> None:
                nonlocal taken, most
                taken, most = 0, max(most, taken)

        async def read(watch: Watch, sock: socket.socket) -> None:
            def take() -> list[Event]:
                nonlocal taken
                taken += 1
                sock.recv(100)
                told(watch)
                return []

            await watch.wait(take)

        with Poller(make_turns()) as poller:
            async with trio.open_nursery() as nursery:
                await nursery.start(poller.run)
                watches = [poller.watch(theirs) for _, theirs in pairs]
                async with trio.open_nursery() as readers:
                    for watch, (_, theirs) in zip(watches, pairs, strict=True):
                        readers.start_soon(read, watch, theirs)
                    await wait_all_tasks_blocked()
                    trio.lowlevel.add_instrument(passes := Passes())
                    for ours, _ in pairs:
                        ours.send(b"x")
                trio.lowlevel.remove_instrument(passes)
                nursery.cancel_scope.cancel()
            for watch, (ours, theirs) in zip(watches, pairs, strict=True):
                watch.close()
                ours.close()
                theirs.close()
        assert most == 4

    async def test_a_watch_that_is_closed_while_its_reader_is_asked(
        self, autojump_clock: MockClock
    ) -> None:
        def take() -> None:
            it.close()

        async with watched() as it:
            it.ours.send(b"x")
            assert await it.watch.wait(take) == ()
            with pytest.raises(OSError, match="Bad file descriptor"):
                await it.watch.wait(lambda: [it.theirs.recv(1)])
