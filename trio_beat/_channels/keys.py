"""The keys of channels: how they are written, and matched by patterns.

1. Keys are those of django-websocket-redis: ``broadcast:<facility>`` for all,
   ``user:<name>:<facility>``, ``group:<name>:<facility>`` and ``session:<key>:<facility>``.
2. Where a key has a name, neither the name nor the facility has a colon. Else a member of the group
   ``staff`` at the facility ``admins:x`` would hear the group ``staff:admins`` at ``x``, to which
   django-websocket-redis publishes without looking.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from .grammar import AUDIENCES, ChannelError

#: The audience that needs no identity, and has no name in its keys.
OPEN: Final = "broadcast"


def channel_key(audience: str, facility: str, name: str | None = None) -> str:
    """The key of an audience's channel at a facility, as django-websocket-redis writes it.

    Args:
        audience: ``broadcast``, ``user``, ``group`` or ``session``.
        facility: any text for ``broadcast``, and one without a colon for the others.
        name: of the user or the group, or the session's key; None for ``broadcast``, which has
            none.

    Raises:
        ValueError: the facility or the name is empty, or has a colon that could be taken for the
            one between them; there is no such audience, or it has no name, or lacks one.
    """
    if audience not in AUDIENCES:
        raise ValueError(f"no audience {audience!r}, there are {', '.join(AUDIENCES)}")
    if (audience == OPEN) != (name is None):
        needed = "has no name" if name is not None else "needs a name"
        raise ValueError(f"audience {audience!r} {needed}")
    if not facility:
        raise ChannelError(400, "a facility must not be empty")
    if name is None:
        return f"{audience}:{facility}"
    if not name:
        raise ChannelError(400, f"the name of a {audience} must not be empty")
    # Not quoted: the key of a session is as good as a password.
    check_colons(f"the name of a {audience}", name)
    check_colons(f"facility {facility!r}", facility)
    return f"{audience}:{name}:{facility}"


def check_colons(described: str, text: str) -> None:
    """Raise `ChannelError` where a name or a facility has a colon."""
    if ":" in text:
        why = f"only facilities of {OPEN!r} may have one, other keys would be ambiguous"
        raise ChannelError(400, f"{described} has a colon: {why}")


class Patterns:
    """Patterns, of which a key has to match any.

    Those without ``*`` are looked up: an application may list every channel of a peer with a
    thousand groups, and others would wait while each is compared with each.

    Args:
        patterns: as for `matches`.
    """

    def __init__(self, patterns: Iterable[str]) -> None:
        # Each once, in their order.
        several = dict.fromkeys(patterns)
        self._exact = frozenset(pattern for pattern in several if "*" not in pattern)
        self._others = tuple(pattern for pattern in several if "*" in pattern)

    def match(self, key: str) -> bool:
        """Whether one of them matches the key of a channel."""
        return key in self._exact or any(matches(pattern, key) for pattern in self._others)


def matches(pattern: str, key: str) -> bool:
    """Whether a pattern matches the key of a channel.

    ``*`` matches any text without a colon, also an empty one; everything else matches itself.

    Takes no longer than their lengths: peers choose keys.
    """
    parts, texts = pattern.split(":"), key.split(":")
    return len(parts) == len(texts) and all(map(_matches_part, parts, texts))


def _matches_part(pattern: str, text: str) -> bool:
    first, *inner = pattern.split("*")
    if not inner:
        return text == first
    last = inner.pop()
    if not text.startswith(first) or not text.endswith(last):
        return False
    at, end = len(first), len(text) - len(last)
    for piece in inner:
        at = text.find(piece, at, end)
        if at < 0:
            return False
        at += len(piece)
    return at <= end
