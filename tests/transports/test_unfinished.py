"""What messages hold that are not finished: the oldest gives way, and none takes for ever."""

from __future__ import annotations

import pytest

from trio_beat._transports.unfinished import SLOWEST, Unfinished


class Holder:
    """Notes that it had to give way."""

    def __init__(self, unfinished: Unfinished) -> None:
        self.unfinished = unfinished
        self.gave_up: str | None = None

    def give_up(self, reason: str) -> None:
        self.unfinished.finished(self)
        self.gave_up = reason


class Desk:
    """An `Unfinished`, its clock, and five holders."""

    def __init__(self) -> None:
        self.now = 0.0
        self.unfinished = Unfinished(60, 1000, lambda: self.now)
        self.holders = [Holder(self.unfinished) for _ in range(5)]

    def beat(self, holder: Holder, seconds: float, *, listening: bool = True) -> None:
        self.now += seconds
        self.unfinished.look_at(holder, listening=listening)


def test_counts_what_is_held() -> None:
    desk = Desk()
    first, second, *_ = desk.holders
    for size in (10, 300, 200):
        desk.unfinished.holds(first, size)
    desk.unfinished.holds(second, 5)
    assert desk.unfinished.held == 205
    desk.unfinished.finished(first)
    desk.unfinished.finished(first)
    assert desk.unfinished.held == 5


def test_the_oldest_gives_way() -> None:
    desk = Desk()
    for holder in desk.holders:
        desk.unfinished.holds(holder, 100)
    desk.unfinished.holds(desk.holders[4], 650)
    assert [holder.gave_up is not None for holder in desk.holders] == [True, *[False] * 4]
    desk.unfinished.holds(desk.holders[1], 500)
    assert [holder.gave_up is not None for holder in desk.holders] == [True] * 2 + [False] * 3
    assert desk.unfinished.held == 100 + 100 + 650


def test_one_alone_may_be_the_oldest() -> None:
    desk = Desk()
    desk.unfinished.holds(desk.holders[0], 1001)
    assert desk.holders[0].gave_up == "too many unfinished messages"
    assert desk.unfinished.held == 0


def test_a_message_has_its_time() -> None:
    desk = Desk()
    holder = desk.holders[0]
    desk.unfinished.holds(holder, 0)
    for _ in range(15):
        desk.beat(holder, 4)
    assert holder.gave_up is None
    desk.beat(holder, 4)
    assert holder.gave_up == "message took too long"


def test_time_is_a_new_message_s_own() -> None:
    desk = Desk()
    holder = desk.holders[0]
    for _ in range(3):
        desk.unfinished.holds(holder, 10)
        desk.beat(holder, 40)
        desk.unfinished.finished(holder)
    assert holder.gave_up is None


def test_time_in_which_the_reader_does_not_listen_does_not_count() -> None:
    desk = Desk()
    holder = desk.holders[0]
    desk.unfinished.holds(holder, 10)
    desk.beat(holder, 1000, listening=False)
    desk.beat(holder, 59)
    assert holder.gave_up is None
    desk.beat(holder, 2)
    assert holder.gave_up is not None


@pytest.mark.parametrize(("rate", "lives"), [(SLOWEST, True), (SLOWEST // 2, False)])
def test_a_large_message_that_comes_steadily_has_more(rate: int, lives: bool) -> None:
    desk = Desk()
    desk.unfinished = Unfinished(60, 2**20, lambda: desk.now)
    holder = Holder(desk.unfinished)
    size = 0
    while size < 500_000 and holder.gave_up is None:
        size += 4 * rate
        desk.unfinished.holds(holder, size)
        desk.beat(holder, 4)
    assert (holder.gave_up is None) is lives
