"""Whether an application that does not answer is asked again, decided without a clock.

1. While it answers, it is asked. Failures in a row are counted, and any answer resets the count.
2. Enough of them open a pause, in which it is not asked.
3. When the pause is over, one attempt is made, the trial, while others still wait. If it is
   answered the pause is closed, if it fails there is another one, and if it comes to nothing the
   next attempt is the trial.
4. What was begun before a pause opened or closed decides nothing behind that.
"""

from __future__ import annotations

import enum
import math
from typing import Final

#: Failures in a row that open a pause, and how many seconds it lasts.
FAILURES: Final = 5
SECONDS: Final = 5.0


class Outcome(enum.Enum):
    """What came of an attempt."""

    ANSWERED = enum.auto()  #: the application can be reached, whatever it says
    AWAY = enum.auto()  #: it cannot be reached, or not in time
    NOTHING = enum.auto()  #: it was given up, or says nothing about the application


class Attempt:
    """One attempt to ask, which `Pause.begin` begins and `Pause.end` ends."""

    __slots__ = ("era",)

    def __init__(self, era: int) -> None:
        self.era = era


class Pause:
    """Decides whether an application is asked.

    Args:
        failures: in a row, that open a pause.
        seconds: that a pause lasts.
    """

    def __init__(self, failures: int = FAILURES, seconds: float = SECONDS) -> None:
        self._most = failures
        self._seconds = seconds
        self._failed = 0
        #: When the pause is over; None: there is none.
        self._end: float | None = None
        #: The attempt that decides whether there is another pause.
        # Invariant: None while there is no pause.
        self._trial: Attempt | None = None
        #: Counts how often a pause was opened or closed.
        self._era = 0

    @property
    def is_open(self) -> bool:
        """Whether there is a pause, also while its trial runs."""
        return self._end is not None

    def wait(self, now: float) -> int:
        """Tell when the application can be asked.

        Args:
            now: seconds, on any clock that goes forward.

        Returns:
            0: it may be asked now. Else whole seconds, to wait before the next attempt.
        """
        if self._end is None or (self._trial is None and now >= self._end):
            return 0
        return max(1, math.ceil(self._end - now))

    def begin(self, now: float) -> Attempt:
        """Begin an attempt, which `wait` has permitted.

        Args:
            now: as for `wait`.
        """
        assert not self.wait(now), "there is a pause"
        attempt = Attempt(self._era)
        if self._end is not None:
            self._trial = attempt
        return attempt

    def end(self, attempt: Attempt, outcome: Outcome, now: float) -> bool:
        """End an attempt, once.

        Args:
            attempt: which `begin` has returned.
            outcome: what came of it.
            now: as for `wait`.

        Returns:
            Whether that opened a pause where there was none, or closed it: see `is_open`.
        """
        if attempt.era != self._era:
            return False
        if self._end is not None:
            return self._end_trial(attempt, outcome, now)
        if outcome is Outcome.ANSWERED:
            self._failed = 0
        elif outcome is Outcome.AWAY:
            self._failed += 1
        if self._failed < self._most:
            return False
        self._failed = 0
        self._end = now + self._seconds
        self._era += 1
        return True

    def _end_trial(self, attempt: Attempt, outcome: Outcome, now: float) -> bool:
        if attempt is not self._trial:
            return False
        self._trial = None
        if outcome is Outcome.AWAY:
            self._end = now + self._seconds
        if outcome is not Outcome.ANSWERED:
            return False
        self._end = None
        self._era += 1
        return True
