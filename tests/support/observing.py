"""Observers that record their events."""

from __future__ import annotations

import inspect
import logging
from collections import Counter

from trio_beat import Closed, EndReason, ObservedConnection, Observer, ServerStatistics


class Tally(Observer):
    """Counts by itself what a server or a hub counts, and keeps the beats."""

    def __init__(self) -> None:
        self.opens = 0
        self.ends: Counter[EndReason] = Counter()
        #: Beats missed in a row and latency, for each connection by its path.
        self.beats: dict[str, list[tuple[int, float | None]]] = {}
        self.drops = 0
        self.refusals: Counter[int] = Counter()
        self.limits: Counter[str] = Counter()
        self.peers: set[str] = set()
        self.failures: list[BaseException] = []
        self.publications: Counter[str] = Counter()
        self.deliveries: Counter[str] = Counter()
        #: Why the backend was away; and how often it came back.
        self.outages: list[str] = []
        self.returns = 0

    def opened(self, connection: ObservedConnection) -> None:
        assert connection.closed is None
        self.peers.add(connection.peer)
        self.opens += 1

    def ended(self, connection: ObservedConnection, closed: Closed) -> None:
        assert connection.closed == closed
        self.ends[closed.by] += 1

    def beat(self, connection: ObservedConnection, missed: int, latency: float | None) -> None:
        assert connection.latency == latency
        self.beats.setdefault(connection.path, []).append((missed, latency))

    def dropped(self, connection: ObservedConnection, count: int) -> None:
        self.drops += count

    def refused(self, peer: str, status: int) -> None:
        self.peers.add(peer)
        self.refusals[status] += 1

    def limited(self, peer: str, limit: str) -> None:
        self.peers.add(peer)
        self.limits[limit] += 1

    def handler_failed(self, connection: ObservedConnection, exc: BaseException) -> None:
        self.failures.append(exc)

    def published(self, channel: str) -> None:
        self.publications[channel] += 1

    def delivered(self, channel: str, subscribers: int) -> None:
        self.deliveries[channel] += subscribers

    def away(self, why: str) -> None:
        self.outages.append(why)

    def back(self) -> None:
        self.returns += 1

    def check(self, statistics: ServerStatistics) -> None:
        """Check that it has seen what the server counts."""
        assert self.opens == statistics.accepted
        assert self.ends == {by: count for by, count in statistics.ended.items() if count}
        assert self.drops == statistics.dropped
        assert self.refusals == statistics.refused
        assert self.limits == {name: count for name, count in statistics.limited.items() if count}
        assert len(self.failures) == statistics.handler_errors


class Broken(Observer):
    """Raises at every event."""


def _fail(*_: object) -> None:
    raise ZeroDivisionError


for _name, _ in inspect.getmembers(Observer, inspect.isfunction):
    setattr(Broken, _name, _fail)


def failed_calls(records: list[logging.LogRecord]) -> set[str]:
    """The methods of which the log says that they failed, each in a line or in a summary."""
    names = set()
    for record in records:
        if record.name == "trio_beat.observer":
            names.update(vars(record).get("counts", [record.getMessage().split()[0]]))
    return names
