"""Standard output and error that are not read: pipes, sockets, terminals, full disks."""

from __future__ import annotations

import fcntl
import os
import pty
import socket
import subprocess
import sys
import termios
import threading
import time
import tty
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

import pytest
import trio
import trio.testing

from trio_beat._command.streams import Descriptor, Lines

LINE = b"x" * 99 + b"\n"


class Kind(NamedTuple):
    """A descriptor to write to, and how to read what arrives."""

    fd: int
    read: Callable[[], bytes]
    leave: Callable[[], None]


def make(kind: str, stack: ExitStack) -> Kind:
    if kind == "socket":
        near, far = socket.socketpair()
        stack.callback(near.close)
        stack.callback(far.close)
        return Kind(near.fileno(), lambda: far.recv(65536), far.close)
    end = ExitStack()
    stack.enter_context(end)
    if kind == "terminal":
        far_fd, near_fd = pty.openpty()
        tty.setraw(near_fd)
    else:
        far_fd, near_fd = os.pipe()
    stack.callback(os.close, near_fd)
    end.callback(os.close, far_fd)
    return Kind(near_fd, lambda: os.read(far_fd, 65536), end.close)


@pytest.fixture(
    params=[
        "pipe",
        "pipe of another user",
        "socket",
        "pipe on another system",
        pytest.param("terminal", marks=pytest.mark.real),
        pytest.param("terminal on another system", marks=pytest.mark.real),
    ]
)
def kind(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Kind]:
    if request.param == "pipe of another user":

        def forbidden(*_: object) -> int:
            raise PermissionError

        monkeypatch.setattr("trio_beat._command.streams.os.open", forbidden)
    if request.param.endswith("on another system"):
        monkeypatch.setattr("trio_beat._command.streams.sys.platform", "darwin")
    with ExitStack() as stack:
        yield make(request.param.removesuffix(" on another system"), stack)


@pytest.fixture
def out(kind: Kind) -> Iterator[Descriptor]:
    descriptor = Descriptor(kind.fd)
    yield descriptor
    descriptor.close()
    os.fstat(kind.fd)  # is still open


def told(lost: int) -> bytes:
    return b"%d lost\n" % lost


def fill(out: Descriptor) -> int:
    """Write until nothing more is taken; returns how many bytes were."""
    size = refused = 0
    while refused < 10:
        data = b"." if refused else b"." * 4096
        rest = out.write_nowait(data)
        size += len(data) - len(rest)
        if rest and os.isatty(out._fd):
            time.sleep(0.01)  # the kernel hands on in a thread of its own
        refused = refused + 1 if rest else 0
    return size


def read(kind: Kind, size: int) -> bytes:
    data = b""
    while len(data) < size:
        data += kind.read()
    return data


async def read_on(kind: Kind, end: bytes) -> bytes:
    """Read, and let tasks write meanwhile, until this has come."""
    data = b""
    with trio.fail_after(20):
        while not data.endswith(end):
            data += await trio.to_thread.run_sync(kind.read)
    return data


class TestDescriptor:
    def test_takes_no_more_than_there_is_room_for(self, kind: Kind, out: Descriptor) -> None:
        assert out.write_nowait(LINE) == b""
        size = fill(out)
        assert out.write_nowait(LINE) == LINE
        assert read(kind, len(LINE) + size).startswith(LINE)
        assert out.write_nowait(LINE) == b""

    def test_leaves_the_flags_of_what_others_share(self, kind: Kind, out: Descriptor) -> None:
        fill(out)
        assert not fcntl.fcntl(kind.fd, fcntl.F_GETFL) & os.O_NONBLOCK

    async def test_sends_all_and_lets_others_run(self, kind: Kind, out: Descriptor) -> None:
        size = fill(out)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(out.send, LINE * 2000 + b"end\n")
            await trio.testing.wait_all_tasks_blocked()
            data = await read_on(kind, b"end\n")
        assert data[size:] == LINE * 2000 + b"end\n"

    def test_sends_all_without_a_loop(self, kind: Kind, out: Descriptor) -> None:
        size = fill(out)
        thread = threading.Thread(target=out.send_blocking, args=(LINE * 2000,))
        thread.start()
        data = read(kind, size + 2000 * len(LINE))
        thread.join()
        assert data[size:] == LINE * 2000

    def test_fails_where_nothing_can_read(self, kind: Kind, out: Descriptor) -> None:
        kind.leave()
        with pytest.raises(OSError, match=r"Broken pipe|Input/output error"):
            out.write_nowait(LINE)


def test_those_who_share_a_pipe_do_not_tear_lines() -> None:
    """Not those of a record with many lines, either, wherever the pipe gets full."""
    read, write = os.pipe()
    try:
        one, two = Descriptor(write), Descriptor(write)
        waiting = {one: b"", two: b""}
        records = {one: LINE * 60, two: (b"y" * 499 + b"\n") * 12}
        got, full = b"", False
        for number in range(200):
            out = (one, two)[number % 2]
            waiting[out] = out.write_nowait(waiting[out] or records[out])
            full |= bool(waiting[out])
            if number % 3 == 2:
                got += os.read(read, 5000 + number)
        one.close()
        two.close()
    finally:
        os.close(write)
        with open(read, "rb") as rest:
            got += rest.read()
    assert full
    assert {len(line) for line in got.splitlines()} == {99, 499}
    assert {len(set(line)) for line in got.splitlines()} == {1}


def test_pipe_that_cannot_be_opened_again_fails_when_it_is_written() -> None:
    far, near = os.pipe()
    os.close(far)
    out = Descriptor(near)
    with pytest.raises(BrokenPipeError):
        out.write_nowait(LINE)
    out.close()
    os.close(near)


def test_where_nothing_tells_a_write_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on Windows."""
    monkeypatch.delattr(os, "O_NONBLOCK")
    far, near = os.pipe()
    out = Descriptor(near)
    assert out.wait_blocking(0)
    reader = threading.Thread(target=lambda: [os.read(far, 65536) for _ in range(4)])
    reader.start()
    assert out.write_nowait(b"x" * 2**18) == b""
    reader.join()
    out.close()
    os.fstat(near)  # is still open
    os.close(far)
    os.close(near)


def test_stopped_terminal_takes_nothing(tmp_path: Path) -> None:
    with ExitStack() as stack:
        terminal = make("terminal", stack)
        out = Descriptor(terminal.fd)
        stack.callback(out.close)
        termios.tcflow(terminal.fd, termios.TCOOFF)
        assert out.write_nowait(LINE) == LINE
        termios.tcflow(terminal.fd, termios.TCOON)
        assert out.write_nowait(LINE) == b""


class TestLines:
    @pytest.fixture
    def lines(self, out: Descriptor) -> Lines:
        return Lines(out, told)

    def test_writes_at_once(self, kind: Kind, lines: Lines) -> None:
        lines.put(b"1\n")
        assert read(kind, 2) == b"1\n"

    async def test_waits_for_the_reader(self, kind: Kind, out: Descriptor, lines: Lines) -> None:
        size = fill(out)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(lines.run)
            await trio.testing.wait_all_tasks_blocked()
            for number in range(500):
                lines.put(b"%d\n" % number)
            data = await read_on(kind, b"499\n")
            nursery.cancel_scope.cancel()
        assert data[size:] == b"".join(b"%d\n" % number for number in range(500))

    async def test_loses_what_is_too_much_and_tells_it_once(
        self, kind: Kind, out: Descriptor, lines: Lines
    ) -> None:
        size = fill(out)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(lines.run)
            for _ in range(10_000):
                lines.put(LINE)
            data = await read_on(kind, b" lost\n")
            lines.put(b"after\n")
            data += await read_on(kind, b"after\n")
            nursery.cancel_scope.cancel()
        *kept, loss, after = data[size:].splitlines(keepends=True)
        assert set(kept) == {LINE}
        assert after == b"after\n"
        assert loss == told(10_000 - len(kept))
        assert 300 < len(kept) < 700

    def test_last_lines_are_written_within_a_limit(
        self, kind: Kind, out: Descriptor, lines: Lines
    ) -> None:
        size = fill(out)
        lines.put(LINE)
        lines.finish(0.05)
        data = read(kind, size)
        lines.finish(5)
        assert (data + read(kind, len(LINE)))[size:] == LINE

    def test_reader_that_has_gone_costs_nothing(self, kind: Kind, lines: Lines) -> None:
        kind.leave()
        for _ in range(10_000):
            lines.put(LINE)
        lines.finish(5)

    async def test_another_thread_may_log(self, kind: Kind, out: Descriptor, lines: Lines) -> None:
        size = fill(out)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(lines.run)
            await trio.testing.wait_all_tasks_blocked()
            await trio.to_thread.run_sync(lines.put, LINE)
            assert (await read_on(kind, LINE))[size:] == LINE
            nursery.cancel_scope.cancel()
        lines.put(b"1\n")
        assert read(kind, 2) == b"1\n"


class Disk(Descriptor):
    """Takes so many bytes, and is full then."""

    def __init__(self, room: int) -> None:
        self.room = room
        self.data = b""

    def _write(self, data: bytes) -> int:
        if not self.room:
            raise OSError(28, "No space left on device")
        taken = data[: self.room]
        self.room -= len(taken)
        self.data += taken
        return len(taken)

    def wait_blocking(self, seconds: float | None) -> bool:
        return True


def test_full_disk_tears_one_line_and_is_told_when_there_is_room_again() -> None:
    disk = Disk(6)
    lines = Lines(disk, told)
    for line in (b"one\n", b"two\n", b"three\n"):
        lines.put(line)
    lines.finish(0.01)
    lines.put(b"four\n")
    assert disk.data == b"one\ntw"
    disk.room = 3
    lines.put(b"five\n")
    disk.room = 100
    lines.finish(5)
    lines.put(b"six\n")
    assert disk.data == b"one\ntw\n3 lost\nfive\nsix\n"


def test_full_device_loses_all() -> None:
    with Path("/dev/full").open("wb") as full:
        lines = Lines(Descriptor(full.fileno()), told)
        for _ in range(10_000):
            lines.put(LINE)
        lines.finish(5)


@pytest.mark.real
def test_missing_descriptors_become_such_as_fail() -> None:
    program = """
import os
from trio_beat._command.streams import open_missing
os.closerange(0, 3)
open_missing()
failed = 0
for fd in (1, 2):
    try:
        os.write(fd, b"x")
    except OSError:
        failed += 1
os._exit(failed)
"""
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 2
