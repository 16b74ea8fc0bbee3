"""Connections without a network, beyond what `trio_beat.testing` has."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from trio_beat import HandshakeDeclined, open_hub
from trio_beat.testing import Pairs, open_pairs


@asynccontextmanager
async def hub_pairs(**options: Any) -> AsyncIterator[Pairs]:
    """A server with a hub of its own; the options are those of `open_pairs`."""
    async with open_hub() as hub, open_pairs(hub=hub, **options) as pairs:
        yield pairs


async def declined(pairs: Pairs, target: str = "/", **request: Any) -> HandshakeDeclined:
    """Open a connection that is declined; the arguments are those of `Pairs.connect`."""
    with pytest.raises(HandshakeDeclined) as caught:
        await pairs.connect(target, **request)
    return caught.value
