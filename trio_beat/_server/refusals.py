"""The refusals of a server: they are told to the observer, and logged."""

from __future__ import annotations

from typing import Final

import trio

from .._exceptions import Refused
from .._log import get_logger
from .._observer import Notifier
from .._summary import Summary
from .._text import without_queries
from .limited import Limited
from .pending import PendingSocket

_log = get_logger("trio_beat.server")

#: What a peer is told while the server drains.
GOING_AWAY: Final = "server is shutting down"


def full() -> Refused:
    """Make the refusal of a server that has no room."""
    # A new one each time: an exception that is raised again keeps the frames of the first time.
    return Refused(503, "server is full, try again later", {"Retry-After": "30"})


def backend_away() -> Refused:
    """Make the refusal of a server whose hub cannot subscribe anyone."""
    return Refused(503, "backend is away, try again later", {"Retry-After": "5"})


def again_later() -> Refused:
    """Make the refusal of a server that may have missed an order to disconnect the peer."""
    return Refused(
        503, "cannot tell whether you were disconnected, try again later", {"Retry-After": "5"}
    )


class Refusals:
    """Tells the observer of refusals, and logs them.

    Args:
        notify: is told of each.
    """

    def __init__(self, notify: Notifier) -> None:
        self._notify = notify
        self.lines = Summary(_log, "peers refused")

    def note(self, peer: str, refusal: Refused) -> None:
        """Tell of a refusal, and log it unless too many are logged already.

        Args:
            peer: who is refused, for people.
            refusal: how.
        """
        if isinstance(refusal, Limited) and (limited := self._notify.limited) is not None:
            limited(peer, refusal.limit)
        if (tell := self._notify.refused) is not None:
            tell(peer, refusal.status)
        if not self.lines.alone(str(refusal.status), trio.current_time()):
            return
        # Some texts quote the request.
        text = without_queries(refusal.logged)
        fields = {"peer": peer, "status": refusal.status}
        _log.info("%s refused: %d %s", peer, refusal.status, text, extra=fields)

    def refuse_nowait(self, pending: PendingSocket, refusal: Refused) -> None:
        """Refuse a peer as far as that needs no waiting, and close its socket."""
        try:
            self.note(pending.peer, refusal)
        except BaseException:  # of an observer that exits
            pending.abort()
            raise
        pending.refuse_nowait(refusal)
