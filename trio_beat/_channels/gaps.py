"""Telling subscribers that they may have missed messages.

They are told spread over time: each will connect again, and ask for the last message.
"""

from __future__ import annotations

import enum
import math
from collections import OrderedDict
from typing import Final

import trio

from .subscriptions import Channel, Subscriber

#: Seconds over which all subscribers of a hub are told, and from some of them to the next.
SPREAD: Final = 5.0
PAUSE: Final = 0.1


class BackendLost(enum.StrEnum):
    """What happens to subscribers that may have missed messages while the backend was away."""

    CLOSE = "close"  #: their connections are closed with 1012, and may come again
    KEEP = "keep"  #: nothing: they go on with the next message


class Gaps:
    """Tells subscribers of gaps.

    Args:
        lost: whether they are told.

    Attributes:
        told: subscribers that were told so far.
    """

    def __init__(self, lost: BackendLost = BackendLost.CLOSE) -> None:
        self._lost = lost
        #: With the channels that have a gap. Not more than there are subscriptions, and emptied
        #: within `SPREAD`.
        self._waiting: OrderedDict[Subscriber, list[Channel]] = OrderedDict()
        self._wanted = trio.Event()
        self.told = 0

    def tell(self, channel: Channel, *, refused: bool = False) -> None:
        """Tell the subscribers of a channel of its last loss; once of each.

        Args:
            channel: that was lost.
            refused: it will not be heard again: they are told in any case.
        """
        if channel.told == channel.gap or (self._lost is BackendLost.KEEP and not refused):
            return
        channel.told = channel.gap
        for subscriber in channel.subscribers:
            if channel.has_missed(subscriber):
                self._waiting.setdefault(subscriber, []).append(channel)
                self._wanted.set()

    async def run(self) -> None:
        """Tell them, until cancelled."""
        while True:
            await self._wanted.wait()
            self._wanted = trio.Event()
            share = 0
            while self._waiting:
                share = max(share, math.ceil(len(self._waiting) * PAUSE / SPREAD))
                for _ in range(min(share, len(self._waiting))):
                    subscriber, channels = self._waiting.popitem(last=False)
                    # It may have left meanwhile, and even have joined again.
                    if any(channel.has_missed(subscriber) for channel in channels):
                        self.told += 1
                        subscriber.gap_nowait()
                await trio.sleep(PAUSE)
