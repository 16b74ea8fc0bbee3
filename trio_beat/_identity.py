"""Who a peer is, as the application's `admit` tells."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

from ._checks import check_kind, check_text

_NAME: Final = "a text that is not empty, or None"


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """Who a peer is, and what it may do.

    All of it may be left out: a session without a user suffices for the session's channels.

    Args:
        user: the user's name; None: not known.
        groups: the groups that the user belongs to.
        session: the key of a session; None: there is none. It is as good as a password, and not
            shown.
        expires_at: when it ends, in seconds since 1970 (as `time.time`); the connection is then
            closed with 3000. None: never.
        subscribe: patterns of the keys of channels that the peer may hear. ``*`` matches any text
            without a colon, everything else itself. None: what is usual, see ``permit`` of `serve`.
        publish: the same for channels that its messages may go to.
        info: anything else, for handlers; best of what JSON knows. It is not shown.

    Attributes:
        groups, subscribe, publish: are tuples.

    Raises:
        TypeError: an argument is of another type.
        ValueError: a name is empty or cannot be encoded, or `expires_at` is not finite.
    """

    user: str | None = None
    groups: tuple[str, ...] = ()
    session: str | None = None
    expires_at: float | None = None
    subscribe: tuple[str, ...] | None = None
    publish: tuple[str, ...] | None = None
    info: Any = None

    def __init__(
        self,
        *,
        user: str | None = None,
        groups: Iterable[str] = (),
        session: str | None = None,
        expires_at: float | None = None,
        subscribe: Iterable[str] | None = None,
        publish: Iterable[str] | None = None,
        info: Any = None,
    ) -> None:
        for name, text in (("user", user), ("session", session)):
            if text is not None:
                check_name(name, text, _NAME)
        if expires_at is not None:
            _check_time(expires_at)
        put = object.__setattr__  # since it is frozen
        put(self, "user", user)
        put(self, "groups", _names("groups", groups))
        put(self, "session", session)
        put(self, "expires_at", expires_at)
        put(self, "subscribe", None if subscribe is None else _names("subscribe", subscribe))
        put(self, "publish", None if publish is None else _names("publish", publish))
        put(self, "info", info)

    def __repr__(self) -> str:
        hidden = "" if self.session is None else ", session=..."
        return f"Identity(user={self.user!r}, groups={self.groups!r}{hidden})"


def check_name(name: str, text: str, expected: str) -> None:
    """Check a text that is not empty; `expected` says so. It is not quoted: it may be secret."""
    if not isinstance(text, str):
        raise TypeError(f"{name} is of type {type(text).__name__}; it must be {expected}")
    check_text(name, text)
    if not text:
        raise ValueError(f"{name} is empty; it must be {expected}")


def _names(name: str, texts: Iterable[str]) -> tuple[str, ...]:
    if isinstance(texts, str | bytes):  # each of its letters would be one
        raise TypeError(f"{name} must be several texts, such as a list")
    found = tuple(texts)
    for text in found:
        check_name(name, text, "several texts, none of them empty")
    return found


def _check_time(seconds: float) -> None:
    check_kind("expires_at", seconds, (int, float), "seconds since 1970, or None")
    try:
        finite = math.isfinite(seconds)
    except OverflowError:
        finite = False
    if not finite:
        raise ValueError("expires_at is not finite; it must be seconds since 1970, or None")
