"""Fixtures that many tests need."""

from __future__ import annotations

import gc
import itertools
import os
import signal
from collections.abc import Iterator

import hypothesis
import pytest
import trio.testing

from tests.support.broker import Broker, made_broker

# An example takes long where the machine is busy; that is no fault of what it shows.
hypothesis.settings.register_profile("default", deadline=None)
hypothesis.settings.register_profile("fast", max_examples=20, deadline=None)


@pytest.fixture
def patient_clock() -> trio.testing.MockClock:
    """A virtual clock for tests over TCP.

    It jumps only when nothing has happened for a moment of real time, so that bytes which the
    kernel is still carrying over loopback are not jumped over. (Over a socket pair they arrive
    within the call that sends them: there, `autojump_clock` will do.)
    """
    return trio.testing.MockClock(autojump_threshold=0.02)


@pytest.fixture
def very_patient_clock() -> trio.testing.MockClock:
    """Like `patient_clock`, for tests that fill what the kernel holds of a TCP connection.

    Then bytes wait for timers of the kernel: a delayed acknowledgment, or a probe of a window that
    was closed, comes after up to 0.2 s (RFC 9293, section 3.8.6).
    """
    return trio.testing.MockClock(autojump_threshold=0.5)


@pytest.fixture
def no_gc() -> Iterator[None]:
    """The cyclic collector does not run."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


@pytest.fixture(scope="session")
def valkey() -> Iterator[Broker]:
    """A broker for all tests that do it no harm, and keep their channels apart by `prefix`."""
    with made_broker() as broker:
        broker.start_blocking()
        yield broker


_counter = itertools.count()


@pytest.fixture
def prefix() -> str:
    """A prefix that no other test uses, for what it keeps in a broker that it shares."""
    return f"test-{next(_counter)}"


@pytest.fixture(autouse=True, scope="session")
def interruptible() -> None:
    """A shell starts what runs in its background with SIGINT ignored."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def no_leftovers() -> Iterator[None]:
    """No test leaves a file descriptor behind."""
    before = _descriptors()
    yield
    left = {fd: name for fd, name in _descriptors().items() if before.get(fd) != name}
    sockets = {fd: name for fd, name in left.items() if "socket:" in name}
    assert not sockets, f"sockets left open: {sockets}"


def _descriptors() -> dict[str, str]:
    names = {}
    for fd in os.listdir("/proc/self/fd"):
        try:
            names[fd] = os.readlink(f"/proc/self/fd/{fd}")
        except FileNotFoundError:  # the one that listed them
            continue
    return names
