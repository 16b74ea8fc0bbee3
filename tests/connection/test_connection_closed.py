"""Waiting for the end of a connection: in any task, at any time, and at no cost before that."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest
import trio
from trio.testing import MockClock, assert_checkpoints, wait_all_tasks_blocked

from tests.support.harness import FIRST_BEAT, INTERVAL, Link, linked
from trio_beat import Closed, Connection, EndReason


async def _fall_silent(link: Link) -> None:
    pass


async def _close(link: Link) -> None:
    await link.peer.send_close(1001, "bye")


async def _lose(link: Link) -> None:
    link.engine.end_nowait(EndReason.LOST, 1006, "no route to host")


async def _break_the_rules(link: Link) -> None:
    await link.peer.send(b"\xff\xff")


async def _end(link: Link) -> None:
    link.engine.end_nowait(EndReason.SHUTDOWN, 1001, "server is shutting down")


async def _cancel(link: Link) -> None:
    link.scope.cancel()


async def _fill(link: Link) -> None:
    with pytest.raises(Exception, match="slow"):
        while True:
            link.connection.send_nowait(b"\0" * 100_000)


ENDS: list[tuple[Callable[[Link], Awaitable[None]], EndReason]] = [
    (_fall_silent, EndReason.MISSED_BEATS),
    (_close, EndReason.PEER),
    (_lose, EndReason.LOST),
    (_break_the_rules, EndReason.PROTOCOL_ERROR),
    (_end, EndReason.SHUTDOWN),
    (_cancel, EndReason.SHUTDOWN),
    (_fill, EndReason.SLOW),
]


@pytest.mark.parametrize(("end", "by"), ENDS, ids=lambda it: getattr(it, "__name__", None))
async def test_every_task_that_waits_learns_how(
    end: Callable[[Link], Awaitable[None]], by: EndReason, autojump_clock: MockClock
) -> None:
    told: list[Closed] = []

    async def wait(connection: Connection) -> None:
        told.append(await connection.wait_closed())

    async with trio.open_nursery() as nursery, linked() as link:
        for _ in range(3):
            nursery.start_soon(wait, link.connection)
        await wait_all_tasks_blocked()
        assert not told
        await end(link)
        await link.ended()
        with assert_checkpoints():
            told.append(await link.connection.wait_closed())
        assert told[0].by is by
        assert told == [link.connection.closed] * 4


async def test_it_is_told_at_once_and_not_after_the_closing_handshake(
    autojump_clock: MockClock,
) -> None:
    async with linked() as link:
        await trio.sleep(1)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(link.connection.wait_closed)
            await wait_all_tasks_blocked()
            await link.connection.aclose(4000, "the peer will not answer")
        assert trio.current_time() == 1
        assert link.running


async def test_a_dead_peer_is_told_when_the_verdict_falls(autojump_clock: MockClock) -> None:
    async with linked() as link:
        assert await link.connection.wait_closed() == Closed(
            EndReason.MISSED_BEATS, 1006, "3 in a row"
        )
        assert trio.current_time() == FIRST_BEAT + 3 * INTERVAL


async def test_a_handler_that_only_waits_sees_how_its_peer_closed(
    autojump_clock: MockClock,
) -> None:
    told = []

    async def handler(connection: Connection) -> None:
        told.append(await connection.wait_closed())

    async with linked(handler) as link:
        await wait_all_tasks_blocked()
        await link.peer.send_close(1001)
        await link.ended()
        assert told == [Closed(EndReason.PEER, 1001, "")]


async def test_waiting_that_is_cancelled_leaves_nothing_behind(autojump_clock: MockClock) -> None:
    async with linked() as link:
        for _ in range(3):
            with trio.move_on_after(0.1) as scope:
                await link.connection.wait_closed()
            assert scope.cancelled_caught
        assert not link.followed
        async with trio.open_nursery() as nursery:
            nursery.start_soon(link.connection.wait_closed)
            await wait_all_tasks_blocked()
            with trio.CancelScope() as scope:
                scope.cancel()
                await link.connection.wait_closed()
            assert scope.cancelled_caught
            followed: list[int] = [link.followed]
            await link.connection.aclose()
        assert [*followed, link.followed] == [1, 0]
        with trio.CancelScope() as scope:
            scope.cancel()
            await link.connection.wait_closed()
        assert scope.cancelled_caught
