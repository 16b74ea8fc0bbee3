"""Token buckets, each of them one number.

A bucket is told by the time at which it will be full again (the generic cell rate algorithm of
ITU-T I.371): a time that has passed is a full bucket. So a bucket that is full need not be kept,
and no timer fills it.
"""

from __future__ import annotations

import math
from typing import Final

#: The bucket that nothing was taken from.
FULL: Final = -math.inf
#: Of a token's time: what sums of many of them may be off by.
_ROUNDING: Final = 1e-3


class Rate:
    """How fast buckets fill. Pure: it knows no clock.

    Args:
        rate: tokens a second; more than 0.
        burst: tokens of a full bucket.

    Attributes:
        span: seconds in which an empty bucket becomes full.
    """

    __slots__ = ("_cost", "span")

    def __init__(self, rate: float, burst: float) -> None:
        self._cost = 1 / rate
        self.span = burst / rate

    def has(self, bucket: float, now: float) -> bool:
        """Whether there is a token."""
        return self.tokens(bucket, now) >= 1

    def tokens(self, bucket: float, now: float) -> int:
        """Whole tokens that there are; below 0: more were taken than there were."""
        return math.floor((now + self.span - max(bucket, now)) / self._cost + _ROUNDING)

    def take(self, bucket: float, now: float, tokens: int = 1) -> float:
        """Take tokens, also more than there are; returns what the bucket is then."""
        return (bucket if bucket > now else now) + tokens * self._cost

    def ready_at(self, bucket: float) -> float:
        """When there will be a token."""
        return bucket - self.span + self._cost

    def settled_at(self, bucket: float) -> float:
        """When nothing will be owed."""
        return bucket - self.span
