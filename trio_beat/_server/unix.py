"""A listening Unix socket (unix(7)).

1. Nobody connects before its file has its mode: the socket listens last. Nothing is done to the
   umask, which other threads would have, too.
2. The file of a socket at which nobody listens any more is replaced; anything else is left alone.
3. Of servers that begin at once, one gets the path: they look and bind while they hold a lock. Its
   file is empty, so that another program's is told from one that a server has left.
4. It is removed by the process that made it, and not by those that were forked from it. One that
   another process has put in its place is left alone.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import stat
import sys
from collections.abc import Iterator
from typing import Final

from .._log import get_logger

assert sys.platform != "win32"

_log = get_logger("trio_beat.server")

#: Peers that may wait; the system makes it fewer where it allows less.
_BACKLOG: Final = 65535
#: Bytes of a path (``sun_path``), without the one that ends it.
_LONGEST: Final = 107 if sys.platform == "linux" else 103
#: Attempts to lock; each fails only where another server has begun or given up meanwhile.
_ATTEMPTS: Final = 10


class UnixListener(socket.socket):
    """Listens at a path; closing it removes the path.

    Args:
        path: where; its folder must be there.
        mode: of its file. Who may write to it, may connect.

    Raises:
        OSError: that cannot be; its ``filename`` is the path.
    """

    def __init__(self, path: str, mode: int) -> None:
        try:
            super().__init__(socket.AF_UNIX, socket.SOCK_STREAM)
        except OSError as exc:
            exc.filename = path
            raise
        self._path, self._maker = path, os.getpid()
        self._made: tuple[int, ...] | None = None
        self._file = path
        try:
            if not os.path.isabs(path):  # the process may be elsewhere when it removes it
                self._file = os.path.join(os.getcwd(), path)
            self.setblocking(False)
            check_length(path)
            with _alone(path):
                _make_way(path)
                self._bind(mode)
                self.listen(_BACKLOG)
        except OSError as exc:
            self.close()
            exc.filename, exc.strerror = path, exc.strerror or str(exc)
            raise
        except BaseException:
            self.close()
            raise

    def _bind(self, mode: int) -> None:
        # Linux makes the file with the mode of the socket, less the umask; other systems do not let
        # it be changed.
        with contextlib.suppress(OSError):
            os.fchmod(self.fileno(), mode)
        self.bind(self._path)
        self._made = _identity(self._file)
        if stat.S_IMODE(os.lstat(self._path).st_mode) != mode:
            _set_mode(self._path, mode)

    def close(self) -> None:
        """Remove the path, if it is still that of this socket and process, and close."""
        try:
            # First: a path at which nobody listens is another server's to take.
            self._remove()
        finally:
            super().close()

    def _remove(self) -> None:
        made, self._made = self._made, None
        if made is None or os.getpid() != self._maker:
            return
        try:
            if _identity(self._file) == made:
                os.unlink(self._file)
        except FileNotFoundError:
            pass
        except OSError as exc:
            _log.warning("cannot remove %s: %s", self._path, exc.strerror)


def check_way(path: str) -> None:
    """Raise `OSError` where a server could not begin at a path at which nobody listens.

    Nothing is left there, and the file of a socket that was left stays. It needs a folder.
    """
    with _alone(path), contextlib.suppress(FileNotFoundError):
        _check_removable(path)


def check_length(path: str) -> None:
    """Raise `OSError` where a path is too long for a socket."""
    length = len(os.fsencode(path))
    if length > _LONGEST:
        text = f"path too long: it has {length} bytes, a socket's at most {_LONGEST}"
        raise OSError(errno.ENAMETOOLONG, text)


@contextlib.contextmanager
def _alone(path: str) -> Iterator[None]:
    """Keep other servers from the path.

    The lock is a file beside it: folders are locked for other ends (systemd-tmpfiles(8)).
    """
    lock = f"{path}.lock"
    held = _lock(lock)
    try:
        yield
    finally:
        try:
            # Where it was removed meanwhile, another server may have made one of its own.
            if _is_at(held, lock):
                os.unlink(lock)
        finally:
            os.close(held)


def _lock(lock: str) -> int:
    import fcntl  # here, since a server without a path does without it

    for _ in range(_ATTEMPTS):
        held = _open_lock(lock)
        try:
            _check_lock(held, lock)
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
            ours = _is_at(held, lock)  # if not, another server has removed it meanwhile
        except BaseException as exc:
            os.close(held)
            if isinstance(exc, BlockingIOError):
                break
            raise
        if ours:
            return held
        os.close(held)
    raise OSError(errno.EADDRINUSE, "another server begins to listen there")


def _open_lock(lock: str) -> int:
    try:
        return os.open(lock, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    except OSError as exc:
        if os.path.lexists(lock):  # then it is not the folder that is wrong
            raise OSError(exc.errno, f"{lock} cannot be locked: {exc.strerror}") from exc
        raise


def _check_lock(held: int, lock: str) -> None:
    found = os.fstat(held)
    if not stat.S_ISREG(found.st_mode) or found.st_size:
        raise OSError(errno.EEXIST, f"{lock} is no lock of a server, which is an empty file")


def _is_at(descriptor: int, path: str) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), os.lstat(path))
    except FileNotFoundError:
        return False


def _make_way(path: str) -> None:
    """Remove the file of a socket at which nobody listens any more."""
    try:
        mode = os.lstat(path).st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise OSError(errno.EEXIST, "there is a file that is no socket")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            _check_removable(path)
            os.unlink(path)
        except BlockingIOError:  # more wait there than may
            raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE)) from None
        else:
            raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))


def _set_mode(path: str, mode: int) -> None:
    """Set the mode of a socket's file.

    Who may write to its folder may put a link in its place: where that leads, nothing is changed.
    """
    if sys.platform != "linux":
        os.chmod(path, mode, follow_symlinks=os.chmod not in os.supports_follow_symlinks)
        return
    held = os.open(path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        if not stat.S_ISSOCK(os.fstat(held).st_mode):
            raise OSError(errno.EEXIST, "another user has put a file there meanwhile")
        # Linux has no call for that of a descriptor without access (open(2), "O_PATH").
        os.chmod(f"/proc/self/fd/{held}", mode)
    except FileNotFoundError:  # there is no /proc, as in a bare chroot(2)
        os.chmod(path, mode)
    finally:
        os.close(held)


def _check_removable(path: str) -> None:
    """Raise `OSError` where this user may make files in a folder, and not remove this one."""
    file, folder = os.lstat(path), os.stat(os.path.dirname(path) or os.curdir)
    owners = (0, file.st_uid, folder.st_uid)
    if folder.st_mode & stat.S_ISVTX and os.geteuid() not in owners:
        text = "a server has left it that ran as another user, who alone may remove it"
        raise OSError(errno.EPERM, f"{text} ({os.path.dirname(path) or os.curdir} is sticky)")


def _identity(path: str) -> tuple[int, ...]:
    """What tells a file from others: its number is given anew once it is removed."""
    found = os.lstat(path)
    return found.st_dev, found.st_ino, found.st_mtime_ns
