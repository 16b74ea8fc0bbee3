"""The pauses between two attempts."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.chance import Chance
from trio_beat._client.backoff import Backoff, Credentials, asks_for_time

INTERVAL = 5.0


def pauses(drawn: float, code: int, count: int) -> list[float]:
    backoff = Backoff(INTERVAL, Chance(drawn))
    return [backoff.pause(code) for _ in range(count)]


def test_double_up_to_thirty_seconds() -> None:
    assert pauses(1, 1006, 6) == [4, 8, 16, 30, 30, 30]
    assert pauses(0, 1006, 6) == [1] * 6


@pytest.mark.parametrize("code", [1012, 1013, 429, 503])
def test_are_longer_where_the_server_asks_for_time(code: int) -> None:
    assert pauses(0, code, 3) == [8, 8, 8]
    assert pauses(1, code, 5) == [16, 16, 16, 30, 30]


def test_are_short_again_after_a_connection_that_lived() -> None:
    backoff = Backoff(INTERVAL, Chance(1))
    assert [backoff.pause(1006) for _ in range(3)] == [4, 8, 16]
    assert backoff.pause(1006, lived=INTERVAL - 0.1) == 30
    assert backoff.pause(1006, lived=INTERVAL) == 4
    assert backoff.pause(1006) == 8


def test_of_many_are_not_the_same() -> None:
    drawn = [Backoff(INTERVAL).pause(1006) for _ in range(50)]
    fullest = max(sum(begin <= pause < begin + 1 for pause in drawn) for begin in drawn)
    assert fullest <= 35


@given(st.lists(st.tuples(st.sampled_from([1000, 1006, 1012, 503]), st.floats(0, 100))))
def test_are_always_in_bounds(ends: list[tuple[int, float]]) -> None:
    backoff = Backoff(INTERVAL)
    for code, lived in ends * 10:
        shortest = 8 if asks_for_time(code) else 1
        assert shortest <= backoff.pause(code, lived=lived) <= 30


class TestCredentials:
    @pytest.mark.parametrize(("fresh", "most"), [(True, 3), (False, 0)])
    def test_are_offered_so_often(self, fresh: bool, most: int) -> None:
        credentials = Credentials(INTERVAL, fresh=fresh)
        assert [credentials.rejected() for _ in range(10)] == [True] * most + [False] * (10 - most)

    def test_were_good_where_a_connection_lived(self) -> None:
        credentials = Credentials(INTERVAL, fresh=True)
        for _ in range(3):
            assert credentials.ended(3000, INTERVAL - 0.1)
        assert credentials.ended(1001, INTERVAL - 0.1)
        assert not credentials.ended(3000, INTERVAL - 0.1)
        assert credentials.ended(3000, INTERVAL)
        assert credentials.ended(3000, 0)
