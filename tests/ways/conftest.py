"""Each test of this package runs over every way to a connection."""

from __future__ import annotations

import pytest
from trio.testing import MockClock

from tests.support.ways import WAYS, Way


@pytest.fixture(params=WAYS, ids=str)
def way(request: pytest.FixtureRequest) -> Way:
    way = request.param
    assert isinstance(way, Way)
    return way


@pytest.fixture
def clock(way: Way) -> MockClock:
    return MockClock(autojump_threshold=way.threshold)
