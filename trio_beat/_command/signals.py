"""The signals that a command obeys."""

from __future__ import annotations

import signal
import sys
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Final

import trio

#: End a command: on Windows also Control and Break, the only one that another process can send
#: there.
STOPPING: Final = (
    signal.SIGINT,
    signal.SIGTERM,
    *((signal.SIGBREAK,) if hasattr(signal, "SIGBREAK") else ()),
)
#: End the server at once, as a second one of those above does; Windows has none.
QUITTING: Final = (signal.SIGQUIT,) if hasattr(signal, "SIGQUIT") else ()
#: At these the server reads its certificate again; Windows has none.
RENEWING: Final = (signal.SIGHUP,) if hasattr(signal, "SIGHUP") else ()


@contextmanager
def caught(numbers: Iterable[int]) -> Iterator[AsyncIterator[int]]:
    """Catch signals. What comes later is ignored: the command has ended, and its exit code stands.

    Trio raises again what nothing took, when it ends to catch, and that is no end either.
    """
    numbers = tuple(numbers)
    for number in numbers:
        signal.signal(number, take_no_notice)
    try:
        with trio.open_signal_receiver(*numbers) as signals:
            yield signals
    finally:
        ignore(numbers)


@contextmanager
def held_back(numbers: Iterable[int]) -> Iterator[None]:
    """Let signals wait until the context ends, or they are let in (pthread_sigmask(3)).

    Windows has no such thing.
    """
    if sys.platform == "win32":
        yield
        return
    numbers = tuple(numbers)
    signal.pthread_sigmask(signal.SIG_BLOCK, numbers)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, numbers)


def ignore(numbers: Iterable[int]) -> None:
    """Ignore signals from now on, also while Python ends."""
    for number in numbers:
        signal.signal(number, signal.SIG_IGN)


def take_no_notice(number: int, frame: FrameType | None) -> None:
    """A handler that does nothing; unlike with ``SIG_IGN``, what is blocked still waits."""
