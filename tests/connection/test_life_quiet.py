"""A quiet connection switches to none of its tasks; what needs a judgement or a wait does."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked
from websockets.frames import Frame, Opcode

from tests.support.harness import INTERVAL, Link, idle, linked, take_all
from trio_beat import EndReason, Heartbeat
from trio_beat._connection.connection import Connection
from trio_beat._connection.life import Life

READER, HEARTBEAT = "reader", "trio_beat heartbeat"


class Switches(trio.abc.Instrument):
    """Counts the steps of a connection's tasks, by their names."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self.steps: Counter[str] = Counter()

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        if task is self._link.task:
            self.steps[READER] += 1
        elif task in self.tasks():
            self.steps[task.name] += 1

    def tasks(self) -> frozenset[trio.lowlevel.Task]:
        """What stands in the connection's nursery, beside the reader."""
        assert self._link.task is not None
        nurseries = self._link.task.child_nurseries
        return nurseries[0].child_tasks if nurseries else frozenset()


@asynccontextmanager
async def watched(link: Link) -> AsyncIterator[Switches]:
    switches = Switches(link)
    trio.lowlevel.add_instrument(switches)
    try:
        yield switches
    finally:
        trio.lowlevel.remove_instrument(switches)


secured = pytest.mark.parametrize("secure", [False, True], ids=["tcp", "tls"])


@secured
@pytest.mark.needs_epoll
@pytest.mark.parametrize("message", [None, "--heartbeat--"], ids=["ping", "text"])
async def test_a_hundred_quiet_intervals_switch_to_no_task(
    secure: bool, message: str | None, autojump_clock: MockClock
) -> None:
    async with linked(secure=secure, heartbeat=Heartbeat(INTERVAL, message=message)) as link:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(link.answer)
            await trio.sleep(1.5 * INTERVAL)
            async with watched(link) as switches:
                before = switches.tasks()
                await trio.sleep(100 * INTERVAL)
                assert not switches.steps
                assert switches.tasks() == before
                assert HEARTBEAT in {task.name for task in before}
                nursery.cancel_scope.cancel()
        async with watched(link) as switches:
            # What is silent is known at the end of an interval that began with a PING.
            await trio.sleep(2 * INTERVAL)
            assert switches.steps == {HEARTBEAT: 1}
            assert link.connection.statistics().missed_beats == 1
        await trio.sleep(2 * INTERVAL)
        assert (await link.ended()).by is EndReason.MISSED_BEATS


@secured
@pytest.mark.needs_epoll
async def test_a_peer_that_is_heard_again_is_quiet_again(
    secure: bool, autojump_clock: MockClock
) -> None:
    async with linked(secure=secure) as link:
        await trio.sleep(2.5 * INTERVAL)
        assert link.connection.statistics().missed_beats > 0
        async with trio.open_nursery() as nursery:
            nursery.start_soon(link.answer)
            await trio.sleep(2 * INTERVAL)
            assert link.connection.statistics().missed_beats == 0
            async with watched(link) as switches:
                await trio.sleep(10 * INTERVAL)
                assert not switches.steps
            nursery.cancel_scope.cancel()


@pytest.mark.needs_epoll
async def test_with_one_miss_allowed_each_beat_is_judged(autojump_clock: MockClock) -> None:
    """The first silent one ends the connection, and has to be compared with the one before."""
    async with linked(heartbeat=Heartbeat(INTERVAL, misses=1)) as link:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(link.answer)
            await trio.sleep(1.5 * INTERVAL)
            async with watched(link) as switches:
                await trio.sleep(10 * INTERVAL)
                assert switches.steps == {HEARTBEAT: 10}
            nursery.cancel_scope.cancel()


@secured
@pytest.mark.needs_epoll
async def test_messages_that_a_handler_has_room_for_wake_the_handler_alone(
    secure: bool, autojump_clock: MockClock
) -> None:
    async with linked(take_all, secure=secure) as link:
        await wait_all_tasks_blocked()
        async with watched(link) as switches:
            for number in range(10):
                await link.peer.send_text(str(number))
                await link.peer.send(Frame(Opcode.PING, b"x").serialize(mask=True))
                await wait_all_tasks_blocked()
            assert set(switches.steps) == {"trio_beat._connection.handler.HandlerConsumer._run"}


@secured
@pytest.mark.needs_epoll
async def test_a_message_without_room_wakes_the_reader(
    secure: bool, autojump_clock: MockClock
) -> None:
    async with linked(idle, inbound=2, secure=secure) as link:
        await wait_all_tasks_blocked()
        async with watched(link) as switches:
            for _ in range(2):
                await link.peer.send_text("x")
                await wait_all_tasks_blocked()
            assert not switches.steps
            await link.peer.send_text("x")
            await wait_all_tasks_blocked()
            assert set(switches.steps) == {READER}
            # It waits for the handler, and so does not listen: the peer is not judged.
            await trio.sleep(10 * INTERVAL)
            assert link.running


async def test_a_message_that_the_reader_took_is_not_kept(autojump_clock: MockClock) -> None:
    """What comes later may all be taken in place, and puts no other one there."""
    taken: list[str | bytes] = []
    size = 1000

    async def late(connection: Connection) -> None:
        await trio.sleep(INTERVAL)
        async for message in connection:
            taken.append(message)
            del message

    async with linked(late, inbound=1) as link, trio.open_nursery() as nursery:
        nursery.start_soon(link.answer)
        for _ in range(2):
            await link.peer.send_text("x" * size)
        await trio.sleep(3 * INTERVAL)
        own = ["x" * size, "y" * size]
        assert [sys.getrefcount(text) for text in taken] == [sys.getrefcount(text) for text in own]
        nursery.cancel_scope.cancel()


async def test_a_beat_with_something_queued_is_the_heartbeat_s(autojump_clock: MockClock) -> None:
    async with linked() as link:
        await trio.sleep(0.01)
        link.clog()
        link.connection.send_nowait("x")
        async with watched(link) as switches:
            await trio.sleep(INTERVAL)
            assert switches.steps[HEARTBEAT] == 1


class UnexpectedError(Exception):
    """What no part of the package expects."""


@pytest.mark.needs_epoll
@pytest.mark.parametrize(("method", "whose"), [("_took", READER), ("send_beat", HEARTBEAT)])
async def test_what_a_function_raises_is_raised_in_its_own_task(
    method: str,
    whose: str,
    autojump_clock: MockClock,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Neither in the poller nor in the metronome, which go on."""
    first: list[dict[str, int]] = []

    def fail(*_: object) -> None:
        first.append(dict(switches.steps))
        raise UnexpectedError

    async with linked() as link:
        await wait_all_tasks_blocked()
        async with watched(link) as switches:
            monkeypatch.setattr(Life, method, fail)
            await link.peer.send_text("x")
            await trio.sleep(1.5 * INTERVAL)
        closed = await link.ended()
        assert closed.by is EndReason.INTERNAL_ERROR
        assert isinstance(link.error, ExceptionGroup)
        assert link.error.subgroup(UnexpectedError)
        assert first == [{}], "asked in place, and once"
        assert switches.steps[whose] >= 1


@secured
@pytest.mark.needs_epoll
async def test_an_edge_without_a_byte_is_no_life(secure: bool, autojump_clock: MockClock) -> None:
    """As EPOLLERR, EPOLLHUP and EPOLLRDHUP are, alone."""
    async with linked(secure=secure) as link, trio.open_nursery() as nursery:

        async def tell() -> None:
            while link.running:
                link.edge()
                await trio.sleep(INTERVAL / 10)

        nursery.start_soon(tell)
        closed = await link.ended()
        assert closed.by is EndReason.MISSED_BEATS
        assert trio.current_time() <= Heartbeat(INTERVAL).patience
        nursery.cancel_scope.cancel()
