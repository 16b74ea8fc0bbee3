"""Names that are refused for a time."""

from __future__ import annotations

import pytest

from tests.support.hub import Disconnect
from trio_beat._server.blocks import Blocks


def block(name: str, seconds: float) -> Disconnect:
    return Disconnect("user", name, 4003, "", seconds)


def blocked(blocks: Blocks, now: float, names: str) -> str:
    return "".join(name for name in names if blocks.get("user", name, now) is not None)


def test_lasts_for_its_time() -> None:
    blocks = Blocks()
    blocks.add(block("a", 10), 100)
    blocks.add(block("b", 0), 100)
    assert blocked(blocks, 100, "abc") == blocked(blocks, 109.9, "abc") == "a"
    assert blocked(blocks, 110, "abc") == ""
    assert blocks.get("session", "a", 100) is None


def test_the_latest_end_counts() -> None:
    blocks = Blocks()
    blocks.add(block("a", 10), 100)
    blocks.add(block("a", 2), 105)
    assert blocked(blocks, 109, "a") == "a"
    blocks.add(block("a", 20), 106)
    assert blocked(blocks, 125, "a") == "a"
    assert blocked(blocks, 126, "a") == ""


def test_those_that_are_over_are_forgotten() -> None:
    blocks = Blocks()
    for now in range(1000):
        blocks.add(block(f"{now}", 10), now)
        assert len(blocks) <= 10


@pytest.mark.parametrize("seconds", [1e-9, 1e12])
def test_extreme_times(seconds: float) -> None:
    blocks = Blocks()
    blocks.add(block("a", seconds), 1e9)
    assert len(blocks) == (seconds > 1)


def test_the_one_that_ends_first_makes_room(caplog: pytest.LogCaptureFixture) -> None:
    blocks = Blocks(3)
    for name, seconds in (("a", 30), ("b", 20), ("c", 40), ("a", 50)):
        blocks.add(block(name, seconds), 0)
    assert not caplog.records
    blocks.add(block("d", 60), 0)
    assert blocked(blocks, 0, "abcd") == "acd"
    blocks.add(block("e", 10), 0)
    assert blocked(blocks, 0, "abcde") == "acd"
    [record] = caplog.records
    assert record.getMessage().startswith("more than 3 names are blocked")


def test_a_block_that_is_made_longer_again_and_again_takes_no_room() -> None:
    blocks = Blocks(3)
    for seconds in range(1, 1000):
        blocks.add(block("a", seconds), 0)
        assert len(blocks._ends) <= 7
    blocks.add(block("b", 1), 0)
    assert blocked(blocks, 0.5, "ab") == "ab"
    assert blocked(blocks, 998.5, "ab") == "a"
