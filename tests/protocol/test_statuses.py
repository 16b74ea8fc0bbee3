"""The names of HTTP statuses."""

from __future__ import annotations

import pytest

from trio_beat._protocol.statuses import name_status, phrase


@pytest.mark.parametrize(
    ("status", "text", "named"),
    [(403, "Forbidden", "403 Forbidden"), (499, "", "499"), (99, "", "99")],
)
def test_a_status_has_its_phrase_where_it_is_registered(status: int, text: str, named: str) -> None:
    assert phrase(status) == text
    assert name_status(status) == named
