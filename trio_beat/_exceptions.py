"""How a connection ends, and all exceptions of the package.

::

    TrioBeatError
    ├── ConnectionClosed        the connection has ended; `.closed` says how
    │   └── ConnectionLost      neither side closed it: the peer is dead, lost, or broke the rules
    ├── ConnectFailed           a client could not connect
    │   ├── ConnectTimeout      it took too long
    │   ├── Unreachable         no such name, no route, or no server at the address
    │   ├── TLSFailed           the TLS handshake failed, or the certificate is not trusted
    │   ├── HandshakeFailed     the server does not speak WebSocket, or left during the handshake
    │   └── HandshakeDeclined   the server answered with an HTTP status
    │       ├── HandshakeRefused    this address or this client is rejected
    │       └── ServerUnavailable   the server, or a proxy in front of it, cannot serve now
    ├── StartupFailed           the ASGI application of a server did not start
    ├── Refused                 no error, but the answer to a request that is not admitted
    └── BackendError            the backend could not do what was asked
        ├── HubClosed           the hub is not running
        └── UnknownBackend      no backend for this URL is installed
"""

from __future__ import annotations

import enum
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Final, NamedTuple

from ._checks import check_kind, check_text, check_token, check_whole
from ._plain import leaves
from ._text import public_backend

#: Statuses that `Refused` may have: client and server errors, and those that send elsewhere. Any
#: other one has no body, or is not the last answer.
_FIRST_ERROR, _LAST_ERROR = 400, 599
_REDIRECTS: Final = frozenset({301, 302, 303, 307, 308})
#: A header's value, without what some recipients read otherwise (RFC 9110, section 5.5).
_HEADER_VALUE: Final = re.compile(r"[\t -~]*")
#: What the body decides.
_FRAMING: Final = frozenset({"content-length", "content-encoding", "transfer-encoding"})


class EndReason(enum.StrEnum):
    """Why a connection ended; every connection has exactly one reason."""

    PEER = "peer"  #: the peer closed it
    MISSED_BEATS = "missed-beats"  #: the peer fell silent
    #: the peer did not read what was sent to it, or did not finish a message
    SLOW = "slow"
    HANDLER = "handler"  #: the application closed it, or its handler returned or raised
    SHUTDOWN = "shutdown"  #: the server is shutting down
    PROTOCOL_ERROR = "protocol-error"  #: the peer violated RFC 6455
    TOO_BIG = "too-big"  #: the peer sent a message over the size limit
    TOO_FAST = "too-fast"  #: the peer sent over its rate for too long
    #: messages came faster than the application took them, over a server that cannot hold the peer
    #: back (ASGI)
    INBOX_FULL = "inbox-full"
    REFUSED = "refused"  #: the hub could not subscribe it, or not publish its message
    #: messages of its channels may have been lost while the backend was away
    BACKEND_LOST = "backend-lost"
    EXPIRED = "expired"  #: the peer's identity has expired, or is another one now
    DISCONNECTED = "disconnected"  #: the application disconnected the peer's user or session
    LOST = "lost"  #: the socket failed
    INTERNAL_ERROR = "internal-error"  #: this package met an exception that it did not expect


class Closed(NamedTuple):
    """How a connection ended."""

    by: EndReason
    #: The close code: the peer's where the peer closed, else ours; 1006 where no close frame was
    #: exchanged (RFC 6455, section 7.1.5).
    code: int
    reason: str

    def __str__(self) -> str:
        # The reason may come from the peer: escaped, it cannot end a line of the log.
        return (
            f"{self.by} ({self.code} {self.reason!r})"
            if self.reason
            else f"{self.by} ({self.code})"
        )


def _made_before(exc_class: type[TrioBeatError], args: tuple[object, ...]) -> TrioBeatError:
    return exc_class.__new__(exc_class, *args)


class TrioBeatError(Exception):
    """Root of the exceptions of this package.

    All of them can be copied and pickled.
    """

    def __reduce__(self) -> tuple[object, ...]:
        # By default `__init__` would be called with the text alone.
        return _made_before, (type(self), self.args), self.__dict__


class ConnectionClosed(TrioBeatError):  # noqa: N818 - an everyday event, not an error
    """The connection has ended.

    Attributes:
        closed: how it ended.
    """

    def __init__(self, closed: Closed) -> None:
        super().__init__(f"connection ended by {closed}")
        self.closed = closed


class ConnectionLost(ConnectionClosed):
    """The connection has ended, and neither side wanted to close it.

    The peer fell silent, its socket failed or ended without a close frame, it did not read what was
    sent to it, it violated the protocol or a limit, or this package failed.
    """


class ConnectFailed(TrioBeatError):  # noqa: N818 - says what happened
    """A client could not connect; the cause, where there is one, is kept as ``__cause__``."""


class ConnectTimeout(ConnectFailed):
    """The server did not answer, or did not complete its answer, in time."""


class Unreachable(ConnectFailed):
    """There is no TCP connection: no such name, no route, or no server at the address."""


class TLSFailed(ConnectFailed):
    """The TLS handshake failed, or the server's certificate is not trusted.

    Attributes:
        untrusted: whether the certificate is not trusted, so that another attempt fails as well.
    """

    def __init__(self, text: str, *, untrusted: bool) -> None:
        super().__init__(text)
        self.untrusted = untrusted


class HandshakeFailed(ConnectFailed):
    """The server does not speak WebSocket, or left before the handshake was complete."""


class HandshakeDeclined(ConnectFailed):
    """The server answered with another status than 101 (RFC 6455, section 4.1).

    Attributes:
        status: the HTTP status.
        headers: those of the answer; names in lower case.
        body: that of the answer, cut off after some KiB.
    """

    def __init__(
        self, text: str, status: int, headers: tuple[tuple[str, str], ...], body: bytes
    ) -> None:
        super().__init__(text)
        self.status = status
        self.headers = headers
        self.body = body


class HandshakeRefused(HandshakeDeclined):
    """The server rejects the handshake; it may accept another address or other credentials."""


class ServerUnavailable(HandshakeDeclined):
    """The server, or a proxy in front of it, cannot serve at the moment (502, 503 or 504)."""


class StartupFailed(TrioBeatError):  # noqa: N818 - the name says what is wrong
    """The ASGI application of a server did not start; the ``__cause__`` is what it raised."""


class Refused(TrioBeatError):  # noqa: N818 - an answer, not an error
    """The answer to a request that is not admitted (RFC 9110, section 15).

    Args:
        status: HTTP status code: 400 to 599, or 301, 302, 303, 307 or 308 with a header Location.
            Browsers follow no redirect of a WebSocket; other clients may.
        text: what was wrong and what is allowed, for the peer: the body, with a newline behind it.
        headers: of the answer, a mapping or pairs, in place of the usual ones of these names.
        logged: what the log says in place of `text`; None: `text`. Give it where the text has
            something that no log should: a header's value, a query, a name.

    Attributes:
        headers: of the answer, as pairs.

    Raises:
        TypeError: an argument is of another type.
        ValueError: the answer would be no HTTP: another status, surrogates in the text, a header
            with a name that is no token or a value beyond printable ASCII and tabs; or it would
            not end where it should: Content-Length, Content-Encoding, Transfer-Encoding, or a
            Connection without ``close``.
    """

    def __init__(
        self,
        status: int,
        text: str,
        headers: Mapping[str, str] | Iterable[tuple[str, str]] = (),
        *,
        logged: str | None = None,
    ) -> None:
        check_whole("status", status)
        check_text("text", text)
        if logged is not None:
            check_kind("logged", logged, str, "a text, or None")
        given = headers.items() if isinstance(headers, Mapping) else headers
        pairs = tuple(_answer_header(name, value) for name, value in given)
        located = any(name.lower() == "location" for name, _ in pairs)
        if not (_FIRST_ERROR <= status <= _LAST_ERROR or (status in _REDIRECTS and located)):
            allowed = "400 to 599, or 301, 302, 303, 307 or 308 with a Location"
            raise ValueError(f"status is {status!r}; it must be {allowed}")
        super().__init__(text)
        # An enumeration's members would be formatted by their names.
        self.status = int(status)
        self.text = str.__str__(text)
        self.headers = pairs
        self.logged = self.text if logged is None else logged


def _answer_header(name: str, value: str) -> tuple[str, str]:
    check_token("header", name)
    check_kind(f"header {name}", value, str, "a text")
    if not _HEADER_VALUE.fullmatch(value):
        # Not the value, which may be secret.
        raise ValueError(f"header {name} has more than printable ASCII and tabs")
    if name.lower() in _FRAMING:
        raise ValueError(f"header {name} is not to be given: the body decides it")
    options = {option.strip().lower() for option in value.split(",")}
    if name.lower() == "connection" and "close" not in options:
        raise ValueError("header Connection must have close: nothing follows the answer")
    return str.__str__(name), str.__str__(value)


class BackendError(TrioBeatError):
    """The backend could not do what was asked; the cause is kept as ``__cause__``."""


class HubClosed(BackendError):  # noqa: N818 - an everyday event, not an error
    """The hub is not running: its context is not entered yet, or was left."""


class UnknownBackend(BackendError):  # noqa: N818 - the name says what is wrong
    """No backend for this URL is installed.

    Attributes:
        url: as it was given, without what may be secret: user, password and query.
        known: the schemes of the installed backends, sorted.
    """

    def __init__(self, url: str, known: list[str]) -> None:
        schemes = ", ".join(f"{scheme}://" for scheme in known)
        shown = public_backend(url)
        super().__init__(f"no backend for {shown!r}; installed are {schemes}")
        self.url = shown
        self.known = known


def split(
    exc: BaseException, condition: Callable[[BaseException], bool]
) -> tuple[BaseException | None, BaseException | None]:
    """Split an exception, which may be a group, by a condition.

    Args:
        exc: the exception.
        condition: called with a group first, and then with what is in it.

    Returns:
        What meets the condition, and the rest; None where there is nothing.
    """
    if condition(exc):
        return exc, None
    if isinstance(exc, BaseExceptionGroup):
        match, rest = exc.split(condition)
        # Where nothing meets the condition, `rest` is a copy.
        return (None, exc) if match is None else (match, rest)
    return None, exc


def split_unexpected(
    exc: BaseException, expected: BaseException | None
) -> tuple[BaseException | None, BaseException | None]:
    """Split what ended the tasks of a connection.

    Args:
        exc: the exception.
        expected: what the application raised; None: nothing.

    Returns:
        What this package did not expect, and the rest: what the application raised, cancellations
        and exits.
    """
    # A group may come as a copy: Trio splits cancellations from it.
    known = set() if expected is None else set(map(id, leaves(expected)))
    rest, unexpected = split(
        exc, lambda e: id(e) in known or not isinstance(e, Exception | BaseExceptionGroup)
    )
    return unexpected, rest
