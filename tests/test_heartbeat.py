"""The verdict: what counts as a missed beat, and when a peer is dead."""

from __future__ import annotations

import dataclasses
import math
from fractions import Fraction
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from trio_beat import Heartbeat
from trio_beat._heartbeat import Verdict


def test_defaults_are_those_of_the_design() -> None:
    assert Heartbeat() == Heartbeat(interval=4.0, misses=3, message=None)


@pytest.mark.parametrize("interval", [0, -1, math.inf, -math.inf, math.nan])
def test_interval_must_be_a_positive_number(interval: float) -> None:
    with pytest.raises(ValueError, match=r"^interval is .*; it must be a number of seconds > 0$"):
        Heartbeat(interval=interval)


@pytest.mark.parametrize("misses", [0, -1])
def test_misses_must_be_at_least_one(misses: int) -> None:
    with pytest.raises(ValueError, match=rf"^misses is {misses}; it must be 1 or more$"):
        Heartbeat(misses=misses)


def test_message_must_not_be_empty() -> None:
    with pytest.raises(ValueError, match=r"^message is empty; it must be a text"):
        Heartbeat(message="")


def test_heartbeat_is_immutable() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        Heartbeat().misses = 1  # type: ignore[misc]


def listening(misses: int = 3) -> Verdict:
    """A verdict whose reader has been waiting since the last beat."""
    verdict = Verdict(misses)
    verdict.listen()
    assert not verdict.beat()
    return verdict


def test_first_beat_is_a_part_of_one_and_never_missed() -> None:
    assert listening(misses=1).missed == 0


def test_peer_is_dead_at_the_last_beat_that_it_may_miss() -> None:
    verdict = listening(misses=3)
    assert [verdict.beat() for _ in range(3)] == [False, False, True]


def test_beat_during_which_listening_began_is_not_missed() -> None:
    verdict = Verdict(misses=1)
    assert not verdict.beat()
    verdict.listen()
    assert not verdict.beat()
    assert verdict.beat()


def test_beats_while_the_application_holds_the_reader_are_not_missed() -> None:
    verdict = listening()
    verdict.beat()
    verdict.heard()
    for _ in range(100):
        assert not verdict.beat()
    assert verdict.missed == 0


def test_bytes_forgive_all_beats_that_were_missed() -> None:
    verdict = listening(misses=3)
    verdict.beat()
    verdict.beat()
    assert verdict.missed == 2
    verdict.heard()
    verdict.listen()
    assert verdict.missed == 0
    assert [verdict.beat() for _ in range(4)] == [False, False, False, True]


def test_unfair_beat_neither_counts_nor_forgives() -> None:
    verdict = listening(misses=3)
    verdict.beat()
    for _ in range(100):
        assert not verdict.beat(fair=False)
    assert verdict.missed == 1
    assert [verdict.beat() for _ in range(2)] == [False, True]


class VerdictMachine(RuleBasedStateMachine):
    """Compares the verdict with what its rule says about the whole of the past."""

    @initialize(misses=st.integers(1, 4))
    def connect(self, misses: int) -> None:
        self.misses = misses
        self.verdict = Verdict(misses)
        self.past: list[str] = []

    def when(self, *events: str) -> list[int]:
        return [moment for moment, event in enumerate(self.past) if event in events]

    def waits(self) -> list[tuple[int, float]]:
        """The spans of time in which the reader waited and nothing came."""
        heard = self.when("heard")
        return [
            (begin, min((end for end in heard if end > begin), default=math.inf))
            for begin in self.when("listen")
        ]

    def missed_in_a_row(self) -> int:
        beats = self.when("beat", "unfair beat")
        last_heard = max(self.when("heard"), default=-1)
        missed = [
            end
            for begin, end in pairwise(beats)
            if self.past[end] == "beat" and any(a < begin and end < b for a, b in self.waits())
        ]
        return sum(end > last_heard for end in missed)

    def is_waiting(self) -> bool:
        return any(end == math.inf for _, end in self.waits())

    @precondition(lambda self: not self.is_waiting())
    @rule()
    def listen(self) -> None:
        self.past.append("listen")
        self.verdict.listen()

    @precondition(lambda self: self.is_waiting())
    @rule()
    def hear(self) -> None:
        self.past.append("heard")
        self.verdict.heard()
        assert self.verdict.missed == 0

    @rule(fair=st.sampled_from([True, True, True, False]))
    def beat(self, fair: bool) -> None:
        self.past.append("beat" if fair else "unfair beat")
        dead = self.verdict.beat(fair=fair)
        assert self.verdict.missed == self.missed_in_a_row()
        assert dead == (self.missed_in_a_row() >= self.misses)


TestVerdict = VerdictMachine.TestCase


def test_patience_is_that_with_the_silent() -> None:
    assert Heartbeat(4, misses=3).patience == 16


def _begin(misses: int) -> Verdict:
    verdict = Verdict(misses)
    verdict.listen()
    assert not verdict.beat()
    return verdict


@pytest.mark.parametrize("misses", [1, 2, 3, 7])
def test_a_lossy_network_is_granted_as_many_beats_in_a_row_as_may_be_missed(misses: int) -> None:
    verdict = _begin(misses)
    beats = 1
    while not verdict.beat(lossy=True):
        beats += 1
    assert beats == 2 * misses
    # The one that was no whole beat comes on top: 2 * misses + 1 intervals.


@pytest.mark.parametrize("granted_first", [False, True])
def test_grants_neither_count_nor_forgive(granted_first: bool) -> None:
    verdict = _begin(3)
    order = [True] * 3 + [False] * 3
    dead = [verdict.beat(lossy=lossy) for lossy in (order if granted_first else order[::-1])]
    assert dead == ([False] * 5 + [True] if granted_first else [False, False, *[True] * 4])


def test_a_peer_that_is_heard_has_all_grants_again() -> None:
    verdict = _begin(2)
    for _ in range(5):
        assert [verdict.beat(lossy=True) for _ in range(3)] == [False, False, False]
        verdict.heard()
        verdict.listen()
        assert not verdict.beat(lossy=True)


def test_a_beat_that_is_not_fair_takes_no_grant() -> None:
    verdict = _begin(1)
    for _ in range(10):
        assert not verdict.beat(fair=False, lossy=True)
    assert not verdict.beat(lossy=True)
    assert verdict.beat(lossy=True)


@given(
    misses=st.integers(1, 10),
    before=st.lists(st.sampled_from(["listen", "heard", "beat", "unfair beat"])),
    phase=st.fractions(0, 1).filter(bool),
)
def test_silent_peer_is_dead_after_more_than_misses_and_at_most_one_more_interval(
    misses: int, before: list[str], phase: Fraction
) -> None:
    verdict = Verdict(misses)
    for event in before:
        match event:
            case "listen":
                verdict.listen()
            case "heard":
                verdict.heard()
            case _:
                verdict.beat(fair=event == "beat")
    # The last byte comes now; the next beat is some share of an interval away.
    verdict.heard()
    verdict.listen()
    now = phase
    while not verdict.beat():
        now += 1
    assert misses < now <= misses + 1
