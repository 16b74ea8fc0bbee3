"""The signals that a command obeys, also where there is another set of them."""

from __future__ import annotations

import signal

from trio_beat._command import signals


def test_a_break_ends_a_command_where_there_is_one() -> None:
    expected = {"SIGINT", "SIGTERM"} | ({"SIGBREAK"} if hasattr(signal, "SIGBREAK") else set())
    assert {number.name for number in signals.STOPPING} == expected


def test_what_ends_a_server_at_once_and_what_renews_are_others() -> None:
    numbers = [*signals.STOPPING, *signals.QUITTING, *signals.RENEWING]
    assert len(numbers) == len(set(numbers))
    assert signal.SIGQUIT in signals.QUITTING
