"""When the load gives up a server."""

from __future__ import annotations

import pytest

from benchmarks._load import hopeless


@pytest.mark.parametrize(
    ("done", "count", "seconds", "expected"),
    [
        (0, 1000, 19, False),  # too early to tell
        (0, 1000, 21, True),
        (332, 1000, 21, True),
        (400, 1000, 21, False),
        (999, 1000, 59, False),
    ],
)
def test_a_server_that_admits_too_few_is_given_up_early(
    done: int, count: int, seconds: float, expected: bool
) -> None:
    assert hopeless(done, count, seconds) is expected
