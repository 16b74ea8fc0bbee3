"""What the service manager is told."""

from __future__ import annotations

import itertools
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio
import trio.testing

from trio_beat._command.notify import Manager, find_manager

NAMES = ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID")


@pytest.fixture
def address(tmp_path: Path) -> str:
    return str(tmp_path / "notify")


@pytest.fixture
def told(address: str) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(address)
        sock.setblocking(False)
        yield sock


def heard(sock: socket.socket) -> list[bytes]:
    """All that was told since."""
    lines = []
    while True:
        try:
            lines.append(sock.recv(1000))
        except BlockingIOError:
            return lines


def test_states_are_a_datagram_each(address: str, told: socket.socket) -> None:
    manager = Manager(address)
    manager.ready()
    with manager.reloading():
        pass
    manager.stopping()
    first, reloading, again, last = heard(told)
    assert (first, again, last) == (b"READY=1", b"READY=1", b"STOPPING=1")
    name, _, moment = reloading.partition(b"\nMONOTONIC_USEC=")
    assert name == b"RELOADING=1"
    assert moment.isdigit()
    manager.close()
    manager.stopping()
    manager.close()
    assert heard(told) == []


def test_files_that_are_read_before_it_serves_or_at_the_end_are_not_told(
    address: str, told: socket.socket
) -> None:
    """Its end would tell that the server is ready."""
    manager = Manager(address)
    with manager.reloading():
        pass
    assert heard(told) == []
    manager.ready()
    manager.stopping()
    with manager.reloading():
        pass
    assert heard(told) == [b"READY=1", b"STOPPING=1"]
    manager.close()


async def test_without_one_nothing_is_done() -> None:
    manager = Manager()
    assert manager.due == float("inf")
    manager.ready()
    manager.tick()
    await manager.run()


async def test_the_watchdog_is_told_in_time_as_long_as_the_loop_runs(
    address: str, told: socket.socket, autojump_clock: trio.testing.MockClock
) -> None:
    manager = Manager(address, 20.0, clock=trio.current_time)
    times = []
    with trio.move_on_after(100):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(manager.run)
            while True:
                await trio.sleep(0.25)
                times += [trio.current_time()] * len(heard(told))
    gaps = [b - a for a, b in itertools.pairwise(times)]
    assert len(gaps) >= 9
    assert 9 <= min(gaps) <= max(gaps) <= 11
    manager.close()


@pytest.mark.parametrize("watchdog", [0.01, 1.0, 3.0, 60.0])
def test_a_loop_that_ticks_when_it_is_due_is_in_time(
    watchdog: float, address: str, told: socket.socket
) -> None:
    now = 1000.0
    manager = Manager(address, watchdog, clock=lambda: now)
    last = now
    for _ in range(200):
        manager.tick()
        if heard(told):
            last = now
        assert now - last < watchdog * 0.8
        assert now < manager.due <= now + 1
        now = manager.due
    # What is not due does nothing, and one that is not alive is not told of.
    manager.tick(alive=False)
    manager.tick()
    now += watchdog * 2
    manager.tick(alive=False)
    assert heard(told) == []
    now += 1
    manager.tick()
    assert heard(told) == [b"WATCHDOG=1"]
    manager.close()


def test_what_was_not_taken_is_told_again(
    address: str, caplog: pytest.LogCaptureFixture, request: pytest.FixtureRequest
) -> None:
    now = 1000.0
    manager = Manager(address, clock=lambda: now)
    manager.ready()  # nobody is there
    for _ in range(3):
        now += 2
        manager.tick()
    [record] = caplog.records
    words = "cannot tell the service manager (NOTIFY_SOCKET): No such file or directory"
    assert record.getMessage() == words
    told: socket.socket = request.getfixturevalue("told")
    now += 2
    manager.tick()
    manager.tick()
    assert heard(told) == [b"READY=1"]
    now += 2
    manager.tick()
    assert heard(told) == []
    manager.close()


def test_one_that_takes_nothing_is_not_waited_for(address: str, told: socket.socket) -> None:
    now = 1000.0
    manager = Manager(address, clock=lambda: now)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as other:
        other.setblocking(False)
        with pytest.raises(BlockingIOError):
            while True:
                other.sendto(b"x", address)
    manager.ready()
    manager.stopping()
    assert set(heard(told)) == {b"x"}
    manager.tick()
    assert heard(told) == [b"STOPPING=1"]
    manager.close()


def find(monkeypatch: pytest.MonkeyPatch, **variables: str) -> Manager:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    manager = find_manager()
    assert not any(name in os.environ for name in NAMES)
    return manager


def test_it_is_found_in_the_environment(
    address: str, told: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    for variables, expected in (
        ({}, [b"READY=1"]),
        ({"WATCHDOG_USEC": "3000000"}, [b"READY=1", b"WATCHDOG=1"]),
        ({"WATCHDOG_USEC": "3000000", "WATCHDOG_PID": str(os.getpid())}, 2),
        ({"WATCHDOG_USEC": "3000000", "WATCHDOG_PID": str(os.getppid())}, 1),
        ({"WATCHDOG_USEC": "0"}, 1),
        ({"WATCHDOG_USEC": "x"}, 1),
        ({"WATCHDOG_USEC": "-1"}, 1),
        ({"WATCHDOG_USEC": "9" * 400}, 1),
        ({"WATCHDOG_USEC": "9" * 5000}, 1),
        ({"WATCHDOG_USEC": str(2**64 - 1)}, 2),  # "infinity" of systemd
    ):
        manager = find(monkeypatch, NOTIFY_SOCKET=address, **variables)
        manager.ready()
        manager.tick()
        lines = heard(told)
        assert expected in (lines, len(lines))
        manager.close()


def test_an_abstract_one_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    name = f"trio-beat-notify-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(f"\0{name}")
        sock.setblocking(False)
        manager = find(monkeypatch, NOTIFY_SOCKET=f"@{name}")
        manager.ready()
        assert heard(sock) == [b"READY=1"]
        manager.close()


@pytest.mark.parametrize("value", ["vsock:2:1234", "x", "@", "/", "/" + 200 * "x"])
def test_what_is_no_socket_ends_nothing(
    value: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    manager = find(monkeypatch, NOTIFY_SOCKET=value)
    manager.ready()
    assert len(caplog.records) == 1
    assert "None" not in caplog.text
    manager.close()


def test_without_variables_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in NAMES:
        monkeypatch.delenv(name, raising=False)
    assert find(monkeypatch).due == find(monkeypatch, NOTIFY_SOCKET="").due == float("inf")
