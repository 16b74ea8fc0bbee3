"""How the hold test shares connections among workers."""

from __future__ import annotations

import math

import pytest

from benchmarks.workers import even_share


@pytest.mark.parametrize("most", [100, 768, 3840, 19_744])
def test_a_worker_with_more_than_its_share_has_room_for_them(most: int) -> None:
    share = even_share(most)
    assert most - 2 * math.sqrt(most) < share + 8 * math.sqrt(share) <= most


def test_a_share_is_never_nothing() -> None:
    assert even_share(0) == even_share(1) == 1
