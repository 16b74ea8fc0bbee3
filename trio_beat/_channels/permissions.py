"""What a connection may do: from what its URL asks for to keys of channels.

An audience of all, ``broadcast``, has the key ``broadcast:<facility>``. The others need to know who
the peer is.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Final, NamedTuple

from .grammar import SHARED, ChannelError, Target

#: Audiences that need no identity.
_OPEN: Final = frozenset({"broadcast"})


class Channels(NamedTuple):
    """What a connection may do."""

    subscribe: tuple[str, ...]  #: keys of the channels that it hears
    publish: tuple[str, ...]  #: keys of the channels that its messages go to
    echo: bool  #: it gets its own messages back


def channel_key(audience: str, facility: str) -> str:
    """The key of an audience's channel at a facility, for an audience that needs no identity."""
    return f"{audience}:{facility}"


def permit(target: Target) -> Channels:
    """Decide what a connection may do, of which nothing but its target is known.

    Equal targets of a usual length give the same object: many connections share it.

    Args:
        target: what it asks for.

    Returns:
        The channels, all that it asks for.

    Raises:
        ChannelError: 403 for an audience that needs an identity.
    """
    return _permit_shared(target) if len(target.facility) <= SHARED else _permit(target)


def _permit(target: Target) -> Channels:
    for verb, audiences in (("subscribe", target.subscribe), ("publish", target.publish)):
        for audience in audiences:
            if audience not in _OPEN:
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
