"""The conformance suite over backends of one broker within this process."""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial

import pytest

from tests.support.backends import REFUSED, OpenBroker
from trio_beat.backends import Backend
from trio_beat.testing import check_backend
from trio_beat.testing.sentences import Sentence


async def check_with(
    make: Callable[[OpenBroker], Backend], broker: OpenBroker | None = None
) -> None:
    """Check all conditions.

    Args:
        make: makes a backend for the broker.
        broker: which; None: a new one.
    """
    broker = broker or OpenBroker()
    await check_backend(
        partial(make, broker),
        shared=True,
        foreign=broker.foreign,
        refused=REFUSED,
        outage=broker.outage,
        within=5,
    )


def assert_broken(sentence: Sentence) -> AbstractContextManager[object]:
    """Assert that a block finds a sentence of the contract broken."""
    return pytest.raises(AssertionError, match=re.escape(repr(sentence.value)))


async def assert_rejected(make: Callable[[OpenBroker], Backend], sentence: Sentence) -> None:
    """Assert that the suite finds a backend to break a sentence of the contract."""
    with assert_broken(sentence):
        await check_with(make)
