"""The observer: what is overridden is called, and what is not costs nothing."""

from __future__ import annotations

import inspect
import logging

import pytest
import trio
from trio.testing import MockClock

from trio_beat import Closed, EndReason, Observer
from trio_beat._observer import FailedSocket, Notifier

SOCKET = FailedSocket("192.0.2.1:5000")
CLOSED = Closed(EndReason.PEER, 1000, "")
#: Each event, and its arguments.
EVENTS: dict[str, tuple[object, ...]] = {
    "opened": (SOCKET,),
    "ended": (SOCKET, CLOSED),
    "beat": (SOCKET, 1, 0.5),
    "dropped": (SOCKET, 3),
    "refused": ("192.0.2.1:5000", 404),
    "limited": ("192.0.2.1:5000", "channels"),
    "handler_failed": (SOCKET, ValueError("x")),
    "published": ("broadcast:x",),
    "delivered": ("broadcast:x", 5),
    "away": ("no server",),
    "back": (),
}
COUNTED = EVENTS.keys() - {"beat", "back"}


def recorder(*names: str) -> tuple[Observer, list[tuple[object, ...]]]:
    """An observer that overrides these methods, and the calls of them."""
    told: list[tuple[object, ...]] = []

    def record(name: str) -> object:
        return lambda _, *arguments: told.append((name, *arguments))

    return type("Recorder", (Observer,), {name: record(name) for name in names})(), told


def tell(notifier: Notifier, name: str) -> None:
    """What the package does where something happens."""
    if (told := getattr(notifier, name)) is not None:
        told(*EVENTS[name])


def test_every_method_of_an_observer_is_an_event() -> None:
    methods = [name for name, _ in inspect.getmembers(Observer, inspect.isfunction)]
    assert sorted(methods) == sorted(EVENTS)
    assert {*EVENTS, "counters", "failures"} == set(Notifier.__slots__)


@pytest.mark.parametrize("name", EVENTS)
def test_methods_of_the_base_class_do_nothing(name: str) -> None:
    assert getattr(Observer(), name)(*EVENTS[name]) is None


@pytest.mark.parametrize("observer", [None, Observer()], ids=["none", "idle"])
@pytest.mark.parametrize("name", EVENTS)
def test_what_is_not_overridden_is_never_called(name: str, observer: Observer | None) -> None:
    notifier = Notifier(observer)
    counts = getattr(notifier.counters, name) if name in COUNTED else None
    assert getattr(notifier, name) == counts


@pytest.mark.parametrize("name", EVENTS)
def test_an_observer_is_told_what_it_overrides_and_nothing_else(name: str) -> None:
    observer, told = recorder(name)
    notifier = Notifier(observer)
    for event in EVENTS:
        tell(notifier, event)
    assert told == [(name, *EVENTS[name])]


def test_a_method_that_is_set_on_the_object_is_called_too() -> None:
    told: list[str] = []
    observer = Observer()
    observer.published = told.append  # type: ignore[assignment, method-assign]
    tell(Notifier(observer), "published")
    assert told == ["broadcast:x"]


def test_counters_count() -> None:
    notifier = Notifier()
    for _ in range(2):
        for name in EVENTS:
            tell(notifier, name)
    counters = notifier.counters
    assert counters.opened_count == 2
    assert counters.ended_by == dict.fromkeys(EndReason, 0) | {EndReason.PEER: 2}
    assert counters.dropped_count == 6
    assert counters.refused_with == {404: 2}
    assert counters.handler_errors == 2
    assert (counters.published_count, counters.delivered_count) == (2, 10)


@pytest.mark.parametrize("name", EVENTS)
async def test_what_an_observer_raises_is_logged_and_the_counts_are_right(
    name: str, caplog: pytest.LogCaptureFixture
) -> None:
    class Broken(Observer):
        pass

    def fail(*_: object) -> None:
        raise ZeroDivisionError

    setattr(Broken, name, fail)
    broken, whole = Notifier(Broken()), Notifier()
    for _ in range(3):
        tell(broken, name)
        tell(whole, name)
    assert vars(broken.counters) == vars(whole.counters)
    assert caplog.messages == [f"{name} of the observer failed"] * 3
    assert all(record.exc_info is not None for record in caplog.records)
    assert {record.name for record in caplog.records} == {"trio_beat.observer"}


async def test_failures_are_summed_up(
    caplog: pytest.LogCaptureFixture, autojump_clock: MockClock
) -> None:
    caplog.set_level(logging.INFO, "trio_beat")

    class Broken(Observer):
        def published(self, channel: str) -> None:
            raise ZeroDivisionError

    notifier = Notifier(Broken())
    for _ in range(100):
        tell(notifier, "published")
    notifier.failures.tell()
    assert caplog.messages == ["published of the observer failed"] * 20 + [
        "80 calls of the observer failed: published 80"
    ]


async def test_an_exit_is_not_caught() -> None:
    class Leaving(Observer):
        def published(self, channel: str) -> None:
            raise SystemExit(3)

    with pytest.raises(SystemExit):
        tell(Notifier(Leaving()), "published")


def test_an_observer_is_one() -> None:
    with pytest.raises(TypeError, match=r"^observer is 1; it must be an Observer, or None$"):
        Notifier(1)  # type: ignore[arg-type]


def test_an_observer_must_not_wait() -> None:
    class Waiting(Observer):
        async def opened(self, connection: object) -> None:  # type: ignore[override]
            await trio.sleep(1)

    with pytest.raises(TypeError, match=r"^opened of .* is an async function; an observer must"):
        Notifier(Waiting())


def test_a_failed_socket_ended_by_an_internal_error() -> None:
    assert SOCKET.closed.by is EndReason.INTERNAL_ERROR
    assert (SOCKET.path, SOCKET.latency) == ("", None)
