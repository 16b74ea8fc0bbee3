"""The suite's arithmetic."""

from __future__ import annotations

import math
import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks._statistics import median, percentile, ratio, spread, unevenness, worst

_NUMBERS = st.floats(-1e9, 1e9)


@pytest.mark.parametrize(
    ("rank", "expected"), [(0, 1), (1, 1), (50, 50), (50.5, 51), (99, 99), (99.1, 100), (100, 100)]
)
def test_percentile_is_the_nearest_rank(rank: float, expected: float) -> None:
    assert percentile(range(1, 101), rank) == expected


def test_percentile_of_one_value_is_that_value() -> None:
    assert [percentile([7.0], rank) for rank in (0, 50, 99, 100)] == [7.0] * 4


@given(st.lists(_NUMBERS, min_size=1), st.floats(0, 100))
def test_a_percentile_is_a_value_that_so_many_do_not_exceed(
    values: list[float], rank: float
) -> None:
    values.sort()
    found = percentile(values, rank)
    assert found in values
    # (Multiplied, since a division would round.)
    assert 100 * sum(value <= found for value in values) >= math.floor(rank * len(values))


def test_median_worst_and_spread() -> None:
    values = [3.0, 1.0, 8.0]
    assert (median(values), worst(values), spread(values)) == (3.0, 8.0, 3.5)


@pytest.mark.parametrize("values", [[], [None], [1.0, None, 2.0]])
def test_a_round_without_a_value_leaves_none(values: list[float | None]) -> None:
    assert (median(values), worst(values), spread(values)) == (None, None, None)


@given(st.lists(_NUMBERS, min_size=1))
def test_median_agrees_with_the_standard_library(values: list[float]) -> None:
    assert median(values) == statistics.median(values)


@pytest.mark.parametrize(
    ("ours", "theirs", "expected"),
    [(3.0, 4.0, 0.75), (0.0, 4.0, 0.0), (3.0, 0.0, None), (None, 4.0, None), (3.0, None, None)],
)
def test_ratio(ours: float | None, theirs: float | None, expected: float | None) -> None:
    assert ratio(ours, theirs) == expected


def test_even_beats_have_no_unevenness() -> None:
    assert unevenness([5, 5, 5, 5]) == 0.0


def test_beats_that_all_fall_together_have_the_most() -> None:
    assert unevenness([0, 0, 20, 0]) == pytest.approx(math.sqrt(3))
