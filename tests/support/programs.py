"""Programs that some tests need, and that Python does not install."""

from __future__ import annotations

import os
from typing import NoReturn

import pytest


def missing(reason: str) -> NoReturn:
    """Skip a test whose program is missing; with ``CI=true`` it fails.

    Args:
        reason: what is missing, and where it comes from.
    """
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)
