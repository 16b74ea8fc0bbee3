"""Hides what only Linux has: ``pytest -p tests.support.hidden``, or an import of this package.

trio_beat then finds what it would on another system: no epoll, no TCP_INFO, none of the modules
that Windows lacks. Trio itself goes on with epoll, whose interface is the same everywhere. The
Python processes that are started from here hide the same (``sitecustomize``).
"""

from __future__ import annotations

import os
import select
import selectors
import socket
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Final, NoReturn

import trio._core._io_epoll

if TYPE_CHECKING:
    import pytest

assert "trio_beat" not in sys.modules, "what it has found already cannot be hidden"

_HERE: Final = Path(__file__).parent
#: Why a test is skipped here.
REASONS: Final = {
    "needs_epoll": "about the watches of epoll",
    "needs_tcp_info": "about what only TCP_INFO tells",
}
#: Tests of the commands and of measurements, which need some of the hidden modules, and those that
#: say nothing of liveness and take long.
_NOT_HERE: Final = frozenset(
    {
        "benchmarks",
        "command",
        "site",
        "test_elsewhere.py",
        "test_http.py",
        "test_http_load.py",
        "test_http_pace.py",
        "test_http_slots.py",
        "test_leftovers.py",
        "test_lifespan.py",
        "test_shell_examples.py",
    }
)


class Missing:
    """An attribute that a class does not have, although one of its bases does."""

    def __get__(self, instance: object, owner: type) -> NoReturn:
        raise AttributeError


def hide() -> None:
    """Hide it for the rest of the process."""
    whole: Any = SimpleNamespace(**vars(select))
    for user in (trio._core._io_epoll, selectors):
        user.select = whole  # type: ignore[attr-defined]
    for module, names in (
        (select, [name for name in vars(select) if name.lower().startswith("epoll")]),
        (socket, ["TCP_INFO", "MSG_DONTWAIT"]),
    ):
        for name in names:
            delattr(module, name)
    socket.socket.sendmsg = Missing()  # type: ignore[assignment, method-assign]
    for name in ("fcntl", "termios", "resource"):
        sys.modules[name] = None  # type: ignore[assignment]
    os.environ["PYTHONPATH"] = f"{_HERE}{os.pathsep}{_HERE.parent.parent.parent}"


def pytest_ignore_collect(collection_path: Path) -> bool | None:
    return True if collection_path.name in _NOT_HERE else None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    import pytest

    for item in items:
        for name, reason in REASONS.items():
            if item.get_closest_marker(name) is not None:
                item.add_marker(pytest.mark.skip(reason=reason))


hide()
