from __future__ import annotations

import pytest

from trio_beat.auth.pause import Outcome, Pause

ANSWERED, AWAY, NOTHING = Outcome.ANSWERED, Outcome.AWAY, Outcome.NOTHING


def attempt(pause: Pause, outcome: Outcome, now: float = 0.0) -> bool:
    return pause.end(pause.begin(now), outcome, now)


def opened(now: float = 0.0) -> Pause:
    pause = Pause()
    assert [attempt(pause, AWAY, now) for _ in range(5)] == [False] * 4 + [True]
    assert pause.is_open
    return pause


def test_five_failures_in_a_row_open_it_for_five_seconds() -> None:
    pause = opened(100.0)
    waits = [pause.wait(now) for now in (100.0, 100.5, 104.0, 104.9, 105.0)]
    assert waits == [5, 5, 1, 1, 0]


def test_any_answer_resets_the_count() -> None:
    pause = Pause()
    for _ in range(10):
        for outcome in (AWAY, AWAY, AWAY, AWAY, ANSWERED):
            assert not attempt(pause, outcome)
    assert pause.wait(0.0) == 0


def test_what_came_to_nothing_neither_counts_nor_resets() -> None:
    pause = Pause()
    for outcome in (AWAY, NOTHING, AWAY, AWAY, NOTHING, AWAY):
        assert not attempt(pause, outcome)
    assert attempt(pause, AWAY)


def test_one_attempt_is_made_while_others_wait() -> None:
    pause = opened()
    trial = pause.begin(5.0)
    assert pause.wait(5.0) == pause.wait(1000.0) == 1
    assert pause.end(trial, ANSWERED, 6.0)
    assert not pause.is_open
    assert pause.wait(6.0) == 0


def test_a_trial_that_fails_opens_it_again() -> None:
    pause = opened()
    assert not attempt(pause, AWAY, 5.0)  # it was open
    assert pause.is_open
    assert [pause.wait(now) for now in (5.0, 9.9, 10.0)] == [5, 1, 0]
    assert attempt(pause, ANSWERED, 10.0)


def test_a_trial_that_comes_to_nothing_lets_the_next_one_try() -> None:
    pause = opened()
    assert not attempt(pause, NOTHING, 5.0)
    assert pause.wait(5.0) == 0
    assert attempt(pause, ANSWERED, 5.0)


def test_the_count_begins_anew_behind_a_pause() -> None:
    pause = opened()
    assert attempt(pause, ANSWERED, 5.0)
    assert [attempt(pause, AWAY, 6.0) for _ in range(5)] == [False] * 4 + [True]


@pytest.mark.parametrize("outcome", Outcome)
def test_what_was_begun_before_a_pause_decides_nothing_in_or_behind_it(outcome: Outcome) -> None:
    pause = Pause()
    late = [pause.begin(0.0) for _ in range(10)]
    for _ in range(5):
        attempt(pause, AWAY)
    assert not any(pause.end(one, outcome, 1.0) for one in late[:5])
    assert pause.is_open
    trial = pause.begin(5.0)
    assert not pause.end(late[5], outcome, 5.5)
    assert pause.wait(5.5) == 1  # the trial still runs
    assert pause.end(trial, ANSWERED, 6.0)
    assert not any(pause.end(one, outcome, 7.0) for one in late[6:])
    assert not pause.is_open


def test_a_trial_that_has_ended_decides_nothing_more() -> None:
    pause = opened()
    trial = pause.begin(5.0)
    assert not pause.end(trial, NOTHING, 5.0)
    following = pause.begin(6.0)
    assert not pause.end(trial, ANSWERED, 6.0)
    assert pause.is_open
    assert pause.end(following, ANSWERED, 6.0)
