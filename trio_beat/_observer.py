"""What happens in a server or a hub is told in one place: to an observer.

1. An event is told by a plain call, in the task in which it happens; `Observer` says when. Nothing
   is queued.
2. `Notifier` joins the package's own counts (`Counters`) and an application's observer. An event
   that neither of them overrides is None there: it costs one check, and calls nothing.
3. An exception of an application's observer is logged, and ends nothing. The package's own counts
   come first, and are right whatever the other one does.
"""

from __future__ import annotations

import inspect
from collections import Counter
from collections.abc import Callable
from typing import Any, Final, Literal, NamedTuple, Protocol, get_args

import trio

from ._checks import check_kind
from ._exceptions import Closed, EndReason
from ._log import get_logger
from ._summary import Summary

_log = get_logger("trio_beat.observer")


#: The limits of an address, a user or a connection, by their names in `Limits`.
LimitName = Literal[
    "connections_per_address",
    "connections_per_user",
    "handshake_rate",
    "message_rate",
    "byte_rate",
    "channels",
]
LIMITS: Final[tuple[LimitName, ...]] = get_args(LimitName)


class ObservedConnection(Protocol):
    """A connection as an observer sees it."""

    @property
    def peer(self) -> str:
        """The peer's address, for people."""

    @property
    def path(self) -> str:
        """The target of its request, with the query; empty where it failed before it was read."""

    @property
    def latency(self) -> float | None:
        """Seconds that the last answered PING took to come back; None before the first."""

    @property
    def closed(self) -> Closed | None:
        """How it ended; None while it is open."""


class FailedSocket(NamedTuple):
    """A socket that failed inside the package before it was a connection."""

    peer: str
    path: str = ""
    latency: float | None = None
    closed: Closed = Closed(EndReason.INTERNAL_ERROR, 1006, "internal error")


class Observer:
    """What happens in a server or a hub; to be subclassed.

    The methods of this class do nothing. One that is not overridden is never called, and costs
    nothing. A method is called in the task in which the event happens. It must not wait, and should
    be quick, since all other tasks wait for it. It must not send to the connection or end it, and
    should keep no reference to one that has ended.

    An `Exception` that a method raises is logged with its traceback, and ends nothing; after twenty
    in a second the rest of them are summed up in one line. `SystemExit` and the like are not
    caught.

    An observer may be given to several servers and hubs of one thread. A hub tells `published`,
    `delivered`, `away` and `back`, a server all others.
    """

    def opened(self, connection: ObservedConnection) -> None:
        """A handshake was accepted.

        Told in the connection's task, before the response is sent and the handler starts. `ended`
        follows, once.

        Args:
            connection: the new one.
        """

    def ended(self, connection: ObservedConnection, closed: Closed) -> None:
        """A connection has ended.

        Told in the connection's task, after its handler has ended and its socket is closed. A
        socket that fails inside the package before its handshake was accepted is told here, too,
        without `opened`.

        Args:
            connection: the one that ended; its `latency` is the last one.
            closed: how it ended.
        """

    def beat(self, connection: ObservedConnection, missed: int, latency: float | None) -> None:
        """A beat was judged; told once per connection and interval.

        Beats of a peer that was heard are told as well; then `missed` is 0. Told before the next
        PING is sent, in the task of the shared clock or of the connection's heartbeat. This is the
        hot path of idle connections: it is called for each of them once an interval.

        Args:
            connection: the one that was judged.
            missed: beats missed in a row so far; with `Heartbeat.misses` of them the peer is dead.
            latency: seconds that the last answered PING took; None before the first.
        """

    def dropped(self, connection: ObservedConnection, count: int) -> None:
        """Messages were dropped, since the outbox was full and the policy is ``drop-oldest``.

        Told in the task that sends the message that needed the room.

        Args:
            connection: the one whose peer does not get them.
            count: how many; 1 or more.
        """

    def refused(self, peer: str, status: int) -> None:
        """A socket was refused: the server answers with another status than 101.

        Told before the answer is sent, in the task of the socket, or, where the server is full, in
        the task that accepts sockets. What an `app` answers is not told.

        Args:
            peer: the peer's address, for people.
            status: the HTTP status.
        """

    def limited(self, peer: str, limit: str) -> None:
        """A peer has met a limit of its address, its user or its connection.

        Told before `refused`, in the same task; or, where a connection is over its rate, in its
        task before it waits, and again only after a break of a second.

        Args:
            peer: the peer's address, for people.
            limit: the name of the field of `Limits`: ``connections_per_address``,
                ``connections_per_user``, ``handshake_rate``, ``message_rate``, ``byte_rate`` or
                ``channels``.
        """

    def handler_failed(self, connection: ObservedConnection, exc: BaseException) -> None:
        """A handler raised, and its connection is closed with 1011.

        Told in the handler's task, and only with ``handler_errors="close"``: otherwise the
        exception propagates out of `serve`.

        Args:
            connection: the handler's.
            exc: what the handler raised; may be a group.
        """

    def published(self, channel: str) -> None:
        """A message is published by this hub.

        Told in the publisher's task, before the backend is given the message, which may fail.

        Args:
            channel: its key.
        """

    def delivered(self, channel: str, subscribers: int) -> None:
        """A message, of this hub or of another one, goes out to the subscribers of this hub.

        Told before it is written to them, in the task in which the backend delivers. The last
        message that a new subscriber gets is not told.

        Args:
            channel: its key.
            subscribers: how many get it; 0 or more.
        """

    def away(self, why: str) -> None:
        """The backend cannot be used, since its broker does not answer; `back` may follow.

        Told once an outage, in a task of the backend's.

        Args:
            why: for people.
        """

    def back(self) -> None:
        """The backend can be used again.

        Told once for each `away`, in a task of the backend's.
        """


class Counters(Observer):
    """The package's own counts: what `statistics()` of a server and a hub read from."""

    def __init__(self) -> None:
        self.opened_count = 0
        #: Invariant: has each reason, in the order of the enumeration.
        self.ended_by: dict[EndReason, int] = dict.fromkeys(EndReason, 0)
        self.dropped_count = 0
        #: By HTTP status.
        self.refused_with: Counter[int] = Counter()
        #: Invariant: has each limit.
        self.limited_by: dict[str, int] = dict.fromkeys(LIMITS, 0)
        self.handler_errors = 0
        self.published_count = 0
        self.delivered_count = 0
        self.outages = 0

    def opened(self, connection: ObservedConnection) -> None:
        self.opened_count += 1

    def ended(self, connection: ObservedConnection, closed: Closed) -> None:
        self.ended_by[closed.by] += 1

    def dropped(self, connection: ObservedConnection, count: int) -> None:
        self.dropped_count += count

    def refused(self, peer: str, status: int) -> None:
        self.refused_with[status] += 1

    def limited(self, peer: str, limit: str) -> None:
        self.limited_by[limit] += 1

    def handler_failed(self, connection: ObservedConnection, exc: BaseException) -> None:
        self.handler_errors += 1

    def published(self, channel: str) -> None:
        self.published_count += 1

    def delivered(self, channel: str, subscribers: int) -> None:
        self.delivered_count += subscribers

    def away(self, why: str) -> None:
        self.outages += 1


_EVENTS: Final = (
    "opened",
    "ended",
    "beat",
    "dropped",
    "refused",
    "limited",
    "handler_failed",
    "published",
    "delivered",
    "away",
    "back",
)


class Notifier:
    """Where the package tells events; each is a function, or None where it is not overridden.

    Args:
        observer: the application's; None: events are only counted.

    Attributes:
        counters: the package's own counts.
        failures: sums up the failing calls of the observer; run it, and let it tell the last ones.

    Raises:
        TypeError: `observer` is no observer, or one of its methods is an async function.
    """

    __slots__ = (*_EVENTS, "counters", "failures")

    opened: Callable[[ObservedConnection], None] | None
    ended: Callable[[ObservedConnection, Closed], None] | None
    beat: Callable[[ObservedConnection, int, float | None], None] | None
    dropped: Callable[[ObservedConnection, int], None] | None
    refused: Callable[[str, int], None] | None
    limited: Callable[[str, LimitName], None] | None
    handler_failed: Callable[[ObservedConnection, BaseException], None] | None
    published: Callable[[str], None] | None
    delivered: Callable[[str, int], None] | None
    away: Callable[[str], None] | None
    back: Callable[[], None] | None

    def __init__(self, observer: Observer | None = None) -> None:
        if observer is not None:
            check_kind("observer", observer, Observer, "an Observer, or None")
        self.counters = Counters()
        # One that always fails may do so at each beat of each connection.
        self.failures = Summary(_log, "calls of the observer failed")
        for name in _EVENTS:
            ours, theirs = _overridden(self.counters, name), _overridden(observer, name)
            if theirs is not None:
                theirs = _guarded(theirs, name, self.failures)
            setattr(self, name, _both(ours, theirs) if ours and theirs else ours or theirs)


_Method = Callable[..., None]


def _overridden(observer: Observer | None, name: str) -> _Method | None:
    """A method of an observer, unless it is that which does nothing."""
    if observer is None:
        return None
    method: _Method = getattr(observer, name)
    if getattr(method, "__func__", None) is getattr(Observer, name):
        return None
    if inspect.iscoroutinefunction(method):
        raise TypeError(f"{name} of {observer!r} is an async function; an observer must not wait")
    return method


def _guarded(method: _Method, name: str, failures: Summary) -> _Method:
    def guarded(*told: Any) -> None:
        try:
            method(*told)
        except Exception:
            if failures.alone(name, trio.current_time()):
                _log.exception("%s of the observer failed", name)

    return guarded


def _both(first: _Method, second: _Method) -> _Method:
    def both(*told: Any) -> None:
        first(*told)
        second(*told)

    return both
