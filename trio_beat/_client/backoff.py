"""How long a client waits before it reconnects: jittered exponential backoff.

1. Each pause is random, up to a ceiling that doubles with each failure: clients that lost the same
   server at the same moment do not return in the same second.
2. The ceiling falls back only after a connection has lived for one interval: a server that accepts
   connections and ends them at once gets longer and longer pauses.
3. A server that asks to come later (1012, 1013) gets a longer pause.
4. A server that does not accept the client's credentials (401, or 3000 soon after the handshake)
   is asked again only with credentials that may be fresh, and only some times in a row.

The browser's client (``_site/static/trio-beat.js``) follows the same rules.
"""

from __future__ import annotations

import random
from typing import Final

from .._protocol.frames import UNAUTHORIZED

#: Seconds: the ceiling of the first pause, and the bounds of all pauses.
FIRST: Final = 4.0
SHORTEST: Final = 1.0
LONGEST: Final = 30.0
#: Seconds: the shortest pause where a server asks to come later.
BUSY: Final = 8.0

#: Times in a row that a client comes back with credentials that a server did not accept.
MOST_UNAUTHORIZED: Final = 3

#: Of HTTP (RFC 9110, section 15.5.2).
UNAUTHORIZED_STATUS: Final = 401

#: "Service restart" and "try again later" (the registry of RFC 6455, section 11.7).
_LATER: Final = frozenset({1012, 1013})
#: Statuses of HTTP that ask for the same (RFC 6585, section 4; RFC 9110, section 15.6.4).
_LATER_STATUS: Final = frozenset({429, 503})


def asks_for_time(code: int) -> bool:
    """Whether a close code, or the status of a refused handshake, asks to come later."""
    return code in _LATER or code in _LATER_STATUS


class Backoff:
    """The pauses of one client. Pure: it knows neither clock nor connection.

    Args:
        interval: seconds that a connection must have lived for the pauses to be short again.
        chance: gives numbers from 0 to below 1. None: a generator of its own.
    """

    def __init__(self, interval: float, chance: random.Random | None = None) -> None:
        self._interval = interval
        self._chance = chance or random.Random()  # noqa: S311 - spreads load, guards nothing
        self._failures = 0

    def pause(self, code: int, *, lived: float = 0.0) -> float:
        """Note that a connection has ended or an attempt has failed, and draw a pause.

        Args:
            code: the close code, or the status of a refused handshake; 1006 where there is none.
            lived: seconds for which the connection was open.

        Returns:
            Seconds to wait before the next attempt.
        """
        if lived >= self._interval:
            self._failures = 0
        longest: float = min(LONGEST, FIRST * 2**self._failures)
        shortest = BUSY if asks_for_time(code) else SHORTEST
        # The ceiling is reached after three failures; counting on would end in an overflow.
        self._failures = min(self._failures + 1, 8)
        return self._chance.uniform(shortest, max(longest, 2 * shortest))


class Credentials:
    """Whether a client may come back after its credentials were not accepted. Pure.

    Args:
        interval: seconds that a connection must have lived for its credentials to be good ones.
        fresh: whether the application is asked for credentials at each attempt.
    """

    def __init__(self, interval: float, *, fresh: bool) -> None:
        self._interval = interval
        self._most = MOST_UNAUTHORIZED if fresh else 0
        self._rejected = 0

    def ended(self, code: int, lived: float) -> bool:
        """Note that a connection has ended; whether to come back.

        Args:
            code: the close code; 1006 where the server did not close.
            lived: seconds for which the connection was open.
        """
        if lived >= self._interval:
            self._rejected = 0
            return True
        return code != UNAUTHORIZED or self.rejected()

    def rejected(self) -> bool:
        """Note that credentials were not accepted; whether to come back."""
        self._rejected = min(self._rejected + 1, self._most + 1)
        return self._rejected <= self._most
