"""A listening Unix socket and its file."""

from __future__ import annotations

import os
import socket
import stat
from pathlib import Path

import pytest

from trio_beat._command.unix import listening_unix


def test_its_file_is_for_one_user_whatever_the_mask(tmp_path: Path) -> None:
    path = tmp_path / "x"
    before = os.umask(0)
    try:
        with listening_unix(str(path)) as listener:
            found = path.stat().st_mode
            assert (stat.S_ISSOCK(found), stat.S_IMODE(found)) == (True, 0o600)
            with socket.socket(socket.AF_UNIX) as client:
                client.connect(str(path))
                accepted, _ = listener.accept()
                accepted.close()
        assert os.umask(0) == 0
    finally:
        os.umask(before)
    assert not path.exists()


def test_one_that_is_in_use_is_left_alone(tmp_path: Path) -> None:
    path = str(tmp_path / "x")
    with listening_unix(path), pytest.raises(OSError, match="in use") as caught:
        with listening_unix(path):
            pass
    assert caught.value.filename == path
    assert not os.path.exists(path)


def test_what_was_put_in_its_place_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "x"
    with listening_unix(str(path)):
        path.unlink()
        path.write_text("of another")
    assert path.read_text() == "of another"
    path.unlink()
    with listening_unix(str(path)):
        path.unlink()


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    path, target = tmp_path / "x", tmp_path / "target"
    path.symlink_to(target)
    with pytest.raises(OSError, match="no socket"), listening_unix(str(path)):
        pass
    assert not target.exists()


def test_a_process_that_was_forked_leaves_the_file(tmp_path: Path) -> None:
    path = tmp_path / "x"
    read, write = os.pipe()
    with listening_unix(str(path)):
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
