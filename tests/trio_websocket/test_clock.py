from __future__ import annotations

from contextlib import AbstractContextManager
from itertools import pairwise

import trio
import trio.testing

from trio_beat.trio_websocket.clock import beats


def clocks() -> list[str]:
    """The system tasks that beat."""
    root = trio.lowlevel.current_root_task()
    assert root is not None
    names = (task.name for nursery in root.child_nurseries for task in nursery.child_tasks)
    return sorted(name for name in names if name.startswith("trio_beat clock"))


async def test_those_of_one_interval_share_it(autojump_clock: trio.testing.MockClock) -> None:
    called: list[list[float]] = [[] for _ in range(3)]

    def note(number: int, interval: float) -> AbstractContextManager[None]:
        return beats(interval, lambda _: called[number].append(trio.current_time()))

    with note(0, 4.0), note(1, 4.0), note(2, 1.0):
        assert clocks() == ["trio_beat clock, 1 s", "trio_beat clock, 4 s"]
        await trio.sleep(12.1)
    assert [len(times) for times in called[:2]] == [3, 3]
    assert len(called[2]) in (12, 13)
    for times, interval in zip(called, (4.0, 4.0, 1.0), strict=True):
        assert times[0] <= interval
        gaps = {round(later - earlier, 6) for earlier, later in pairwise(times)}
        assert gaps == {interval}


async def test_it_ends_with_the_last(autojump_clock: trio.testing.MockClock) -> None:
    def ignore(_: object) -> None:
        raise AssertionError("it has been left")

    with beats(4.0, lambda _: None):
        with beats(4.0, ignore):
            pass
        await trio.sleep(8)
        assert clocks() == ["trio_beat clock, 4 s"]
    await trio.testing.wait_all_tasks_blocked()
    assert clocks() == []
    with beats(4.0, lambda _: None):  # and begins again
        assert clocks() == ["trio_beat clock, 4 s"]


async def test_one_that_leaves_in_its_beat_takes_none_with_it(
    autojump_clock: trio.testing.MockClock,
) -> None:
    beaten = 0
    scopes = [trio.CancelScope() for _ in range(8)]

    async def leave(scope: trio.CancelScope) -> None:
        with scope, beats(1.0, lambda _: [one.cancel() for one in scopes]):
            await trio.sleep_forever()

    def count(_: object) -> None:
        nonlocal beaten
        beaten += 1

    async with trio.open_nursery() as nursery:
        for scope in scopes:
            nursery.start_soon(leave, scope)
        with beats(1.0, count):
            await trio.sleep(10.1)
    assert beaten == 10
