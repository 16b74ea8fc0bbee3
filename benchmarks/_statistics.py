"""The suite's arithmetic: percentiles, spreads and ratios."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence


def percentile(ordered: Sequence[float], rank: float) -> float:
    """The smallest value that `rank` per cent of all do not exceed (nearest rank).

    Args:
        ordered: values, ascending; at least one.
        rank: from 0 to 100.
    """
    return ordered[max(0, math.ceil(rank / 100 * len(ordered)) - 1)]


def median(values: Sequence[float | None]) -> float | None:
    """The median; None where nothing, or in one of the rounds nothing, was measured."""
    present = _all(values)
    return statistics.median(present) if present else None


def worst(values: Sequence[float | None]) -> float | None:
    """The largest; None where `median` is."""
    present = _all(values)
    return max(present) if present else None


def spread(values: Sequence[float | None]) -> float | None:
    """Half the distance between the extremes; None where `median` is."""
    present = _all(values)
    return (max(present) - min(present)) / 2 if present else None


def _all(values: Sequence[float | None]) -> list[float]:
    present = [value for value in values if value is not None]
    return present if len(present) == len(values) else []


def ratio(ours: float | None, theirs: float | None) -> float | None:
    """Ours by theirs; None where one of them is, or theirs is 0."""
    return ours / theirs if ours is not None and theirs else None


def unevenness(histogram: Sequence[int]) -> float:
    """How unevenly beats fall: their standard deviation over the parts of an interval, by mean.

    0 is even; the square root of (parts - 1) means that all fall into one part.
    """
    return statistics.pstdev(histogram) / statistics.fmean(histogram)
