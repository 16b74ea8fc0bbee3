"""The signals that a command obeys, also where there is another set of them."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

from tests.support.command import clean_environment
from trio_beat._command import signals


def test_a_break_ends_a_command_where_there_is_one() -> None:
    expected = {"SIGINT", "SIGTERM"} | ({"SIGBREAK"} if hasattr(signal, "SIGBREAK") else set())
    assert {number.name for number in signals.STOPPING} == expected


def test_what_ends_a_server_at_once_and_what_renews_are_others() -> None:
    numbers = [*signals.STOPPING, *signals.QUITTING, *signals.RENEWING]
    assert len(numbers) == len(set(numbers))
    assert signal.SIGQUIT in signals.QUITTING


#: Signals that nothing takes: while they are caught, afterwards, and while Python ends.
_PROGRAM = """
import atexit, signal, sys, trio
from trio_beat._command.signals import STOPPING, caught

async def main(number):
    with caught(STOPPING) as signals:
        signal.raise_signal(number)
        async for taken in signals:
            assert taken == number
            break
        signal.raise_signal(number)

number = int(sys.argv[1])
trio.run(main, number)
signal.raise_signal(number)
atexit.register(signal.raise_signal, number)
print("ended")
sys.exit(7)
"""


@pytest.mark.real
@pytest.mark.parametrize("number", signals.STOPPING)
def test_one_more_at_the_end_changes_no_exit_code(number: int) -> None:
    result = subprocess.run(
        [sys.executable, "-c", _PROGRAM, str(int(number))],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
        env=clean_environment(),
    )
    assert (result.returncode, result.stdout, result.stderr) == (7, "ended\n", "")
