from __future__ import annotations

from itertools import pairwise

import trio
import trio.testing

from trio_beat.trio_websocket.clock import beats


def clocks(*nurseries: trio.Nursery) -> int:
    """How many clocks tick in some nurseries."""
    tasks = (task for nursery in nurseries for task in nursery.child_tasks)
    return sum(task.name == "trio_beat clock" for task in tasks)


def ignore(_: object) -> None:
    """Do nothing at a beat."""


async def test_those_of_one_interval_share_it(autojump_clock: trio.testing.MockClock) -> None:
    called: list[list[float]] = [[] for _ in range(3)]
    intervals = (4.0, 4.0, 1.0)
    async with trio.open_nursery() as nursery:
        with (
            beats(4.0, lambda _: called[0].append(trio.current_time()), nursery),
            beats(4.0, lambda _: called[1].append(trio.current_time()), nursery),
            beats(1.0, lambda _: called[2].append(trio.current_time()), nursery),
        ):
            assert clocks(nursery) == 2
            await trio.sleep(12.1)
        await trio.testing.wait_all_tasks_blocked()
        assert clocks(nursery) == 0
    assert [len(times) for times in called[:2]] == [3, 3]
    assert len(called[2]) in (12, 13)
    for times, interval in zip(called, intervals, strict=True):
        assert times[0] <= interval
        gaps = {round(later - earlier, 6) for earlier, later in pairwise(times)}
        assert gaps == {interval}


async def test_it_goes_on_where_the_one_that_ticked_has_left(
    autojump_clock: trio.testing.MockClock,
) -> None:
    times: list[float] = []
    async with trio.open_nursery() as first, trio.open_nursery() as second:
        with beats(4.0, lambda _: times.append(trio.current_time()), second):
            for pause in (0.1, 3.3, 7.7):
                with beats(4.0, ignore, first):
                    assert clocks(first, second) == 1
                    await trio.sleep(pause)
                await trio.testing.wait_all_tasks_blocked()
                assert clocks(first, second) == 1
            await trio.sleep(40)
        await trio.testing.wait_all_tasks_blocked()
        assert clocks(first, second) == 0
    gaps = {round(later - earlier, 6) for earlier, later in pairwise(times)}
    assert gaps == {4.0}
    assert len(times) in (12, 13)


async def test_it_goes_on_where_the_one_that_ticks_is_cancelled_and_slow(
    autojump_clock: trio.testing.MockClock,
) -> None:
    times: list[float] = []
    cancelled = trio.Event()

    async def stay(*, task_status: trio.TaskStatus[trio.CancelScope]) -> None:
        async with trio.open_nursery() as nursery:
            with beats(4.0, ignore, nursery):
                task_status.started(nursery.cancel_scope)
                with trio.CancelScope(shield=True):
                    await trio.sleep(30)
        cancelled.set()

    async with trio.open_nursery() as nursery:
        scope = await nursery.start(stay)
        other = await nursery.start(stay)
        with beats(4.0, lambda _: times.append(trio.current_time()), nursery):
            await trio.sleep(1)
            scope.cancel()
            other.cancel()
            await trio.sleep(20)
            assert not cancelled.is_set()
            assert len(times) in (5, 6)
            await trio.sleep(20)
            assert clocks(nursery) == 1
    gaps = {round(later - earlier, 6) for earlier, later in pairwise(times)}
    assert gaps == {4.0}


async def test_one_that_leaves_in_its_beat_takes_none_with_it(
    autojump_clock: trio.testing.MockClock,
) -> None:
    beaten = 0
    scopes = [trio.CancelScope() for _ in range(8)]

    async def leave(scope: trio.CancelScope) -> None:
        async with trio.open_nursery() as nursery:
            with scope, beats(1.0, lambda _: [one.cancel() for one in scopes], nursery):
                await trio.sleep_forever()

    def count(_: object) -> None:
        nonlocal beaten
        beaten += 1

    async with trio.open_nursery() as nursery:
        for scope in scopes:
            nursery.start_soon(leave, scope)
        await trio.testing.wait_all_tasks_blocked()
        with beats(1.0, count, nursery):
            await trio.sleep(10.1)
    assert beaten == 10
