"""Token buckets that are one number."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trio_beat._rate import FULL, Rate


def passed(rate: Rate, times: list[float]) -> int:
    """How many of these moments find a token, each of which is taken."""
    bucket, count = FULL, 0
    for now in times:
        if rate.has(bucket, now):
            bucket = rate.take(bucket, now)
            count += 1
    return count


@pytest.mark.parametrize("begin", [0.0, 1e6, -5.0])
def test_a_burst_passes_and_then_the_rate(begin: float) -> None:
    rate = Rate(10, 20)
    assert passed(rate, [begin] * 100) == 20
    assert passed(rate, [begin + n / 1000 for n in range(10_000)]) == 20 + 99


def test_it_tells_when_there_is_a_token() -> None:
    rate = Rate(10, 20)
    bucket = rate.take(FULL, 100.0, 20)
    assert not rate.has(bucket, 100.0)
    assert rate.ready_at(bucket) == pytest.approx(100.1)
    assert rate.has(bucket, rate.ready_at(bucket))


def test_more_may_be_taken_than_there_is() -> None:
    rate = Rate(10, 20)
    bucket = rate.take(FULL, 100.0, 20)
    assert rate.tokens(bucket, 100.0) == 0
    bucket = rate.take(bucket, 100.0, 5)
    assert rate.tokens(bucket, 100.0) == -5
    assert rate.settled_at(bucket) == pytest.approx(100.5)
    assert rate.tokens(bucket, rate.settled_at(bucket)) == 0


@given(st.lists(st.floats(0, 100), max_size=200), st.integers(1, 50), st.integers(1, 100))
def test_no_window_has_more_than_the_burst_and_the_rate(
    times: list[float], per_second: int, burst: int
) -> None:
    rate, bucket = Rate(per_second, burst), FULL
    taken = []
    for now in sorted(times):
        if rate.has(bucket, now):
            bucket = rate.take(bucket, now)
            taken.append(now)
    for first in range(len(taken)):
        for last in range(first, len(taken)):
            most = burst + per_second * (taken[last] - taken[first])
            assert last - first + 1 <= most + 0.01
