"""Parking: a function is asked first, and its task is woken only for what it does not do."""

from __future__ import annotations

import signal
from collections.abc import Callable

import outcome
import pytest
import trio
import trio.testing
from trio.testing import wait_all_tasks_blocked

from tests.support.harness import Steps
from trio_beat._parking import Parking

Ask = Callable[[int], str | None]


class Sleeper:
    """A task that parks."""

    def __init__(self, ask: Ask) -> None:
        self.parking: Parking[str, int] = Parking()
        self.scope = trio.CancelScope()
        self.got: list[object] = []
        self._ask = ask

    async def sleep(self) -> None:
        with self.scope:
            try:
                self.got.append(await self.parking.park(self._ask))
            except Exception as exc:
                self.got.append(exc)
            except trio.Cancelled:
                self.got.append("cancelled")
                raise


async def test_a_task_sleeps_on_where_its_function_returns_none() -> None:
    asked: list[int] = []
    sleeper = Sleeper(asked.append)
    steps = Steps("sleeper")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(sleeper.sleep, name="sleeper")
        await wait_all_tasks_blocked()
        trio.lowlevel.add_instrument(steps)
        for number in range(100):
            sleeper.parking.offer(number)
            await wait_all_tasks_blocked()
        trio.lowlevel.remove_instrument(steps)
        assert (asked, sleeper.got, steps.count) == (list(range(100)), [], 0)
        nursery.cancel_scope.cancel()


async def test_a_task_is_woken_with_what_its_function_returns() -> None:
    sleeper = Sleeper(lambda number: str(number) if number == 2 else None)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(sleeper.sleep)
        await wait_all_tasks_blocked()
        for number in range(3):
            assert sleeper.parking.parked
            sleeper.parking.offer(number)
        assert not sleeper.parking.parked
    assert sleeper.got == ["2"]


@pytest.mark.parametrize("exc", [ValueError("x"), KeyboardInterrupt()], ids=repr)
async def test_what_a_function_raises_is_raised_in_its_task_alone(exc: BaseException) -> None:
    raised: list[BaseException] = []

    def fail(_: int) -> str:
        raise exc

    async def sleep(parking: Parking[str, int]) -> None:
        try:
            await parking.park(fail)
        except BaseException as caught:
            raised.append(caught)
            if not isinstance(caught, type(exc)):
                raise

    parking: Parking[str, int] = Parking()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(sleep, parking)
        await wait_all_tasks_blocked()
        parking.offer(0)
        assert not parking.parked
    assert raised == [exc]


def test_an_interrupt_waits_until_the_task_is_woken() -> None:
    """It is raised where Trio raises it; neither the task nor what it gets is lost."""

    def interrupt(_: int) -> str:
        signal.raise_signal(signal.SIGINT)
        return "x"

    sleeper = Sleeper(interrupt)

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(sleeper.sleep)
            await wait_all_tasks_blocked()
            sleeper.parking.offer(0)
            assert not sleeper.parking.parked
            with pytest.raises(KeyboardInterrupt):
                await trio.sleep_forever()

    trio.run(main)
    assert sleeper.got == ["x"]


async def test_a_task_that_is_cancelled_is_parked_no_more() -> None:
    sleeper = Sleeper(lambda _: "x")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(sleeper.sleep)
        await wait_all_tasks_blocked()
        sleeper.scope.cancel()
        assert not sleeper.parking.parked
    assert sleeper.got == ["cancelled"]


@pytest.mark.parametrize(
    ("answer", "got"), [(None, "cancelled"), ("x", "x"), (ValueError("x"), "ValueError('x')")]
)
async def test_a_task_that_its_own_function_cancels(answer: object, got: str) -> None:
    """It is woken once, when the function is done; nothing that was raised is lost."""

    def cancel(_: int) -> str | None:
        sleeper.scope.cancel()
        assert not sleeper.parking.parked
        if isinstance(answer, Exception):
            raise answer
        assert answer is None or isinstance(answer, str)
        return answer

    sleeper = Sleeper(cancel)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(sleeper.sleep)
        await wait_all_tasks_blocked()
        sleeper.parking.offer(0)
        assert not sleeper.parking.parked
    assert [got if item == got else repr(item) for item in sleeper.got] == [got]


async def test_parked_again_the_new_function_is_asked(
    autojump_clock: trio.testing.MockClock,
) -> None:
    asked: list[str] = []
    parking: Parking[str, int] = Parking()

    def first(_: int) -> None:
        asked.append("first")

    def second(number: int) -> str:
        asked.append("second")
        return str(number)

    async def sleep() -> str:
        with trio.move_on_after(1):
            await parking.park(first)
        return await parking.park(second)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(sleep)
        await wait_all_tasks_blocked()
        parking.offer(1)
        await trio.sleep(1)
        await wait_all_tasks_blocked()
        parking.offer(2)
    assert asked == ["first", "second"]


@pytest.mark.parametrize("left", [outcome.Value("x"), outcome.Error(ValueError("x"))], ids=repr)
async def test_a_task_can_be_woken_without_asking(left: outcome.Outcome[str]) -> None:
    sleeper = Sleeper(lambda _: pytest.fail("asked"))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(sleeper.sleep)
        await wait_all_tasks_blocked()
        sleeper.parking.resume(left)
    assert repr(sleeper.got[0]) in ("'x'", "ValueError('x')")
