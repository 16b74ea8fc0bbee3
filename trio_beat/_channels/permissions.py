"""What a connection may do: from what its URL asks for to keys of channels.

1. Keys are those of django-websocket-redis: ``broadcast:<facility>`` for all,
   ``user:<name>:<facility>``, ``group:<name>:<facility>`` and ``session:<key>:<facility>``.
2. Where a key has a name, neither the name nor the facility has a colon. Else a member of the group
   ``staff`` at the facility ``admins:x`` would hear the group ``staff:admins`` at ``x``, to which
   django-websocket-redis publishes without looking.
3. Audiences with a name need to know who the peer is.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Final, NamedTuple

from .grammar import AUDIENCES, SHARED, ChannelError, Target

#: The audience that needs no identity, and has no name in its keys.
_OPEN: Final = "broadcast"


class Channels(NamedTuple):
    """What a connection may do."""

    subscribe: tuple[str, ...]  #: keys of the channels that it hears
    publish: tuple[str, ...]  #: keys of the channels that its messages go to
    echo: bool  #: it gets its own messages back


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
    if (audience == _OPEN) != (name is None):
        needed = "has no name" if name is not None else "needs a name"
        raise ValueError(f"audience {audience!r} {needed}")
    if not facility:
        raise ChannelError(400, "a facility must not be empty")
    if name is None:
        return f"{audience}:{facility}"
    if not name:
        raise ChannelError(400, f"the name of a {audience} must not be empty")
    # Not quoted: the key of a session is as good as a password.
    _check_colons(f"the name of a {audience}", name)
    _check_colons(f"facility {facility!r}", facility)
    return f"{audience}:{name}:{facility}"


def _check_colons(described: str, text: str) -> None:
    if ":" in text:
        why = f"only facilities of {_OPEN!r} may have one, other keys would be ambiguous"
        raise ChannelError(400, f"{described} has a colon: {why}")


def permit(target: Target) -> Channels:
    """Decide what a connection may do, of which nothing but its target is known.

    Equal targets of a usual length give the same object: many connections share it.

    Args:
        target: what it asks for.

    Returns:
        The channels, all that it asks for.

    Raises:
        ChannelError: for an audience that needs an identity: 400 where its keys would be ambiguous
            at this facility, else 403.
    """
    return _permit_shared(target) if len(target.facility) <= SHARED else _permit(target)


def _permit(target: Target) -> Channels:
    for verb, audiences in (("subscribe", target.subscribe), ("publish", target.publish)):
        for audience in audiences:
            if audience != _OPEN:
                _check_colons(f"facility {target.facility!r}", target.facility)
                name = f"{verb}-{audience}"
                text = f"{name!r} needs an identity, which this server cannot give"
                raise ChannelError(403, text)
    # One object for both verbs: it may be long.
    keys = {
        audience: channel_key(audience, target.facility)
        for audience in (*target.subscribe, *target.publish)
    }
    subscribe = tuple(keys[audience] for audience in target.subscribe)
    publish = tuple(keys[audience] for audience in target.publish)
    return Channels(subscribe, publish, target.echo)


_permit_shared = lru_cache(maxsize=1024)(_permit)
