"""A listening Unix socket and its file."""

from __future__ import annotations

import errno
import functools
import logging
import os
import re
import socket
import stat
import sys
import threading
from pathlib import Path

import pytest

from trio_beat._server.unix import UnixListener, check_way

pytest.importorskip("fcntl", reason="locks a path")  # see `tests.support.hidden`


def leave_stale(path: Path) -> None:
    """Leave the file of a socket at which nobody listens any more."""
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(path))


@pytest.mark.parametrize("mode", [0o600, 0o660, 0o666])
@pytest.mark.parametrize("mask", [0, 0o22, 0o777])
def test_its_file_has_its_mode_whatever_the_mask(tmp_path: Path, mode: int, mask: int) -> None:
    path = tmp_path / "x"
    before = os.umask(mask)
    try:
        with UnixListener(str(path), mode) as listener:
            found = path.stat().st_mode
            assert (stat.S_ISSOCK(found), stat.S_IMODE(found)) == (True, mode)
            with socket.socket(socket.AF_UNIX) as client:
                client.connect(str(path))
                accepted, _ = listener.accept()
                accepted.close()
            assert os.listdir(tmp_path) == ["x"]
        assert os.umask(mask) == mask
    finally:
        os.umask(before)
    assert not path.exists()


def test_a_stale_one_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "x"
    leave_stale(path)
    with UnixListener(str(path), 0o600), socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("full", [False, True])
def test_one_that_is_in_use_is_left_alone(tmp_path: Path, full: bool) -> None:
    path = str(tmp_path / "x")
    with UnixListener(path, 0o600) as listener, socket.socket(socket.AF_UNIX) as waiting:
        if full:
            listener.listen(0)
            waiting.connect(path)
        with pytest.raises(OSError, match="in use") as caught:
            UnixListener(path, 0o600)
        assert (caught.value.errno, caught.value.filename) == (errno.EADDRINUSE, path)
        assert os.listdir(tmp_path) == ["x"]
    assert not os.path.exists(path)


def test_of_many_that_begin_at_once_one_gets_the_path(tmp_path: Path) -> None:
    path = tmp_path / "x"
    for round_ in range(20):
        if round_ % 2:
            leave_stale(path)
        begin = threading.Barrier(8)
        winners: list[UnixListener] = []
        failures: list[int | None] = []

        def try_it() -> None:
            begin.wait(60)  # noqa: B023 - all end within the round
            try:
                winners.append(UnixListener(str(path), 0o600))  # noqa: B023
            except OSError as exc:
                failures.append(exc.errno)  # noqa: B023

        threads = [threading.Thread(target=try_it) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        [winner] = winners
        with winner, socket.socket(socket.AF_UNIX) as client:
            client.connect(str(path))
            assert failures == [errno.EADDRINUSE] * 7
            assert os.listdir(tmp_path) == ["x"]
    assert os.listdir(tmp_path) == []


def test_one_that_begins_is_waited_for_by_nobody(tmp_path: Path) -> None:
    fcntl = pytest.importorskip("fcntl")
    path = tmp_path / "x"
    with open(tmp_path / "x.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(OSError, match="another server begins to listen") as caught:
            UnixListener(str(path), 0o600)
    assert (caught.value.errno, caught.value.filename) == (errno.EADDRINUSE, str(path))
    # What a server that was killed just then has left is in nobody's way.
    with UnixListener(str(path), 0o600):
        assert os.listdir(tmp_path) == ["x"]


@pytest.mark.parametrize("kind", ["file", "folder", "fifo", "link"])
def test_a_lock_of_another_program_is_left_alone(kind: str, tmp_path: Path) -> None:
    lock = tmp_path / "x.lock"
    if kind == "file":
        lock.write_text("of another program")
    elif kind == "folder":
        lock.mkdir()
    elif kind == "fifo":
        os.mkfifo(lock)
    else:
        lock.symlink_to("elsewhere")
    with pytest.raises(OSError, match=re.escape(f"{lock} ")) as caught:
        UnixListener(str(tmp_path / "x"), 0o600)
    assert caught.value.filename == str(tmp_path / "x")
    assert os.listdir(tmp_path) == ["x.lock"]
    if kind == "file":
        assert lock.read_text() == "of another program"


def test_what_was_put_in_its_place_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "x"
    with UnixListener(str(path), 0o600):
        path.unlink()
        path.write_text("of another")
    assert path.read_text() == "of another"
    path.unlink()
    with UnixListener(str(path), 0o600):
        path.unlink()


def test_it_is_removed_from_wherever_the_process_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with UnixListener("x", 0o600) as listener:
        assert listener.getsockname() == "x"
        monkeypatch.chdir("/")
    assert os.listdir(tmp_path) == []


def test_a_path_that_cannot_be_removed_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "x"
    listener = UnixListener(str(path), 0o600)

    def refuse(_: str) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    with monkeypatch.context() as patch:
        patch.setattr(os, "unlink", refuse)  # root may always
        listener.close()
    assert listener.fileno() == -1
    [record] = caplog.records
    assert record.levelno == logging.WARNING
    assert record.getMessage() == f"cannot remove {path}: Permission denied"


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    path, target = tmp_path / "x", tmp_path / "target"
    path.symlink_to(target)
    with pytest.raises(OSError, match="no socket"):
        UnixListener(str(path), 0o600)
    assert not target.exists()
    path.unlink()
    target.write_text("precious")
    (tmp_path / "x.lock").symlink_to(target)
    with pytest.raises(OSError, match="symbolic links"):
        UnixListener(str(path), 0o600)
    assert target.read_text() == "precious"


def test_a_path_has_a_longest_length(tmp_path: Path) -> None:
    path = str(tmp_path / ("x" * (107 - len(os.fsencode(tmp_path)) - 1)))
    with UnixListener(path, 0o600):
        assert os.path.exists(path)
    with pytest.raises(OSError, match="it has 108 bytes, a socket's at most 107") as caught:
        UnixListener(path + "x", 0o600)
    assert caught.value.filename == path + "x"
    assert os.listdir(tmp_path) == []


def test_a_process_that_was_forked_leaves_the_file(tmp_path: Path) -> None:
    path = tmp_path / "x"
    read, write = os.pipe()
    with UnixListener(str(path), 0o600):
        pid = os.fork()
        if pid:
            os.waitpid(pid, 0)
    if not pid:  # the context was left here, too
        os.write(write, b"there" if path.exists() else b"gone")
        os._exit(0)
    assert os.read(read, 10) == b"there"
    assert not path.exists()
    os.close(read)
    os.close(write)


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere it is a race that is not won")
def test_a_link_that_is_put_in_its_place_leads_nowhere(tmp_path: Path) -> None:
    """The server may be root, and the folder another user's."""
    path, victim = tmp_path / "x", tmp_path / "victim"
    victim.touch(0o600)

    class Swapped(UnixListener):
        def bind(self, address: object, /) -> None:
            super().bind(str(address))
            path.unlink()
            path.symlink_to(victim)

    with pytest.raises(OSError, match="another user has put a file there"):
        Swapped(str(path), 0o666)
    assert stat.S_IMODE(victim.stat().st_mode) == 0o600


def test_it_has_its_mode_where_there_is_no_proc(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, change = tmp_path / "x", os.chmod

    def chmod(name: str, mode: int, **options: bool) -> None:
        change(f"{tmp_path}/none" if name.startswith("/proc") else name, mode, **options)

    monkeypatch.setattr(os, "chmod", chmod)
    with UnixListener(str(path), 0o666):
        assert stat.S_IMODE(path.stat().st_mode) == 0o666


@pytest.mark.parametrize("another", [False, True])
def test_a_lock_that_was_removed_meanwhile_ends_nothing(tmp_path: Path, another: bool) -> None:
    """What cleans up a folder may do that; then the next server makes a lock of its own."""
    path, lock = tmp_path / "x", tmp_path / "x.lock"

    class Robbed(UnixListener):
        def listen(self, backlog: int = 0, /) -> None:
            lock.unlink()
            if another:
                lock.touch()
            super().listen(backlog)

    with Robbed(str(path), 0o600), socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))
    assert lock.exists() is another


def test_what_another_user_has_left_in_a_shared_folder_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "x"
    leave_stale(path)
    tmp_path.chmod(0o1777)
    with monkeypatch.context() as patch:
        patch.setattr(os, "geteuid", lambda: 12345)  # root may remove everything
        for begin in (check_way, functools.partial(UnixListener, mode=0o600)):
            with pytest.raises(PermissionError, match="ran as another user") as caught:
                begin(str(path))
            assert caught.value.errno == errno.EPERM
            assert os.listdir(tmp_path) == ["x"]
    check_way(str(path))
    assert os.listdir(tmp_path) == ["x"]
    UnixListener(str(path), 0o600).close()
    assert os.listdir(tmp_path) == []
