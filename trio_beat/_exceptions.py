"""How a connection ends, and every exception of the package.

::

    TrioBeatError
    ├── ConnectionClosed      an operation on a connection that has ended; `.closed` says how
    └── BackendError          the backend could not do what was asked
        └── UnknownBackend    nobody provides a backend for this URL
"""

from __future__ import annotations

import enum
from typing import NamedTuple


class EndReason(enum.StrEnum):
    """Why a connection ended; each has exactly one."""

    PEER = "peer"  #: the peer closed it
    MISSED_BEATS = "missed-beats"  #: the peer fell silent
    SLOW = "slow"  #: the peer did not take what was sent to it, and its outbox was full
    HANDLER = "handler"  #: the application closed it, or its handler returned or raised
    SHUTDOWN = "shutdown"  #: the server is going away
    PROTOCOL_ERROR = "protocol-error"  #: the peer violated RFC 6455
    TOO_BIG = "too-big"  #: the peer sent a message over the size limit
    REFUSED = "refused"  #: it was not let in
    LOST = "lost"  #: the socket failed


class Closed(NamedTuple):
    """How a connection ended."""

    by: EndReason
    #: The close code: the peer's where it closed, else ours; 1006 where no close frame was
    #: exchanged (RFC 6455, section 7.1.5).
    code: int
    reason: str

    def __str__(self) -> str:
        # The reason may be a peer's: it must not break out of a log's line.
        return (
            f"{self.by} ({self.code} {self.reason!r})"
            if self.reason
            else f"{self.by} ({self.code})"
        )


class TrioBeatError(Exception):
    """Root of the exceptions of this package."""


class ConnectionClosed(TrioBeatError):  # noqa: N818 - an everyday event, not an error
    """The connection has ended.

    Attributes:
        closed: how it ended.
    """

    def __init__(self, closed: Closed) -> None:
        super().__init__(f"connection ended by {closed}")
        self.closed = closed


class BackendError(TrioBeatError):
    """The backend could not do what was asked; its cause is kept as ``__cause__``."""


class UnknownBackend(BackendError):  # noqa: N818 - the name says what is wrong
    """No backend of this name is installed.

    Attributes:
        url: the URL that was asked for.
        known: the schemes that are installed, sorted.
    """

    def __init__(self, url: str, known: list[str]) -> None:
        schemes = ", ".join(f"{scheme}://" for scheme in known)
        super().__init__(f"no backend for {url!r}; installed are {schemes}")
        self.url = url
        self.known = known
