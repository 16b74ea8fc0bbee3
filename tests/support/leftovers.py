"""What there is in memory."""

from __future__ import annotations

import gc
from collections import Counter

import trio

from trio_beat._protocol.messages import make_beat


def census(*packages: str) -> Counter[str]:
    """How many tasks, nurseries, and objects of these packages there are, by type."""
    make_beat.cache_clear()  # the last beats are kept for all connections
    return Counter(
        type(it).__qualname__
        for it in gc.get_objects()
        if isinstance(it, trio.lowlevel.Task | trio.Nursery)
        or str(type(it).__module__).startswith(packages)
    )
