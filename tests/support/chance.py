"""A generator of random numbers that are not random."""

from __future__ import annotations

import random


class Chance(random.Random):
    """Draws the same each time: 0 for the shortest that is possible, 1 for the longest."""

    def __init__(self, drawn: float) -> None:
        super().__init__()
        self._drawn = drawn

    def random(self) -> float:
        return self._drawn
