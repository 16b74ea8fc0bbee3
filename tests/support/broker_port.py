"""A broker for the length of a test that needs nothing of it but its port."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import pytest

from .broker import made_broker


@pytest.fixture(params=["valkey", "redis"])
def port(request: pytest.FixtureRequest) -> Iterator[int]:
    """The port of a new and empty broker: of Valkey, and of Redis."""
    kind: Literal["valkey", "redis"] = request.param
    with made_broker(kind) as broker:
        broker.start_blocking()
        yield broker.port
