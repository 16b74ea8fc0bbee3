"""Sockets that a process was started with."""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
from collections.abc import Iterator

import pytest

from trio_beat._command import inherited
from trio_beat._command.arguments import ConfigurationError
from trio_beat._command.inherited import inherited_sockets

NAMES = ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES", "LISTEN_PIDFDID")


@contextlib.contextmanager
def listening(count: int) -> Iterator[int]:
    """So many listeners in a row, without close-on-exec; the first descriptor."""
    made = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    first = fcntl.fcntl(made[0].fileno(), fcntl.F_DUPFD, 200)
    for number, sock in enumerate(made):
        os.dup2(sock.fileno(), first + number)
        sock.close()
    try:
        yield first
    finally:
        for number in range(count):
            with contextlib.suppress(OSError):  # it was taken over, and closed
                os.close(first + number)


def activate(
    monkeypatch: pytest.MonkeyPatch, first: int, count: object, pid: object = None
) -> None:
    monkeypatch.setattr(inherited, "_FIRST", first)
    monkeypatch.setenv("LISTEN_FDS", str(count))
    monkeypatch.setenv("LISTEN_PID", str(os.getpid() if pid is None else pid))
    monkeypatch.setenv("LISTEN_FDNAMES", "a:b")
    monkeypatch.setenv("LISTEN_PIDFDID", "1")


def left() -> list[str]:
    return [name for name in NAMES if name in os.environ]


def test_those_of_systemd_are_taken_over(monkeypatch: pytest.MonkeyPatch) -> None:
    with listening(3) as first:
        activate(monkeypatch, first, 2)
        # One of them is named as well.
        sockets = inherited_sockets([first + 1, first + 2])
        assert [sock.fileno() for sock in sockets] == [first, first + 1, first + 2]
        assert not any(sock.get_inheritable() for sock in sockets)
        for sock in sockets:
            sock.close()
    assert left() == []
    assert inherited_sockets([]) == []


def test_those_of_another_process_are_not(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    with listening(1) as first:
        activate(monkeypatch, first, 1, os.getppid())
        assert inherited_sockets([]) == []
        assert os.get_inheritable(first)
    assert left() == []
    assert "LISTEN_FDS is ignored: it is meant for process" in caplog.text


def test_without_a_process_there_are_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LISTEN_FDS", "1")
    assert inherited_sockets([]) == []
    assert left() == []


@pytest.mark.parametrize(
    ("count", "pid", "words"),
    [
        ("x", None, "LISTEN_FDS: 'x' should be a number"),
        ("-1", None, "LISTEN_FDS: '-1' should be a number"),
        ("1", "me", "LISTEN_PID: 'me' should be a number"),
        ("9" * 5000, None, "LISTEN_FDS: '99999999999999999999' should be a number"),
    ],
)
def test_what_is_no_number_is_told(
    count: str, pid: str | None, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    activate(monkeypatch, 3, count, pid)
    with pytest.raises(ConfigurationError, match=words):
        inherited_sockets([])


def test_a_number_that_is_too_large_ends_at_the_first_that_is_not_there(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with listening(2) as first:
        activate(monkeypatch, first, 10**15)
        text = f"LISTEN_FDS: descriptor {first + 2} cannot be used: Bad file descriptor"
        with pytest.raises(ConfigurationError, match=text):
            inherited_sockets([])


def test_what_cannot_listen_is_told_and_left_open(monkeypatch: pytest.MonkeyPatch) -> None:
    read, write = os.pipe()
    ours, theirs = socket.socketpair()
    with ours, theirs, listening(1) as first:
        for descriptor, words in (
            (read, "cannot be used: Socket operation on non-socket"),
            (2**20, "cannot be used: Bad file descriptor"),
            (2**70, f"--fd: no descriptor is {2**70}"),
            (ours.fileno(), "is connected; it must be bound, or listen"),
        ):
            with pytest.raises(ConfigurationError, match="--fd: ") as caught:
                inherited_sockets([descriptor])
            assert words in str(caught.value)
        os.fstat(read)
        os.fstat(ours.fileno())
        activate(monkeypatch, first, 2)
        with pytest.raises(ConfigurationError, match=f"LISTEN_FDS: descriptor {first + 1} cannot"):
            inherited_sockets([])
    os.close(read)
    os.close(write)
