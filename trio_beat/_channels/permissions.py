"""What a connection may do: from what its URL asks for to keys of channels.

1. Names are those of the peer's identity: the grammar has no place for the name of another.
2. What is not allowed is named by its audience. The answer depends on the identity and the request
   alone, so it tells nothing of which channels there are.
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Final, Literal, NamedTuple, TypeAlias

from .._identity import Identity
from .._protocol.request import Request
from .grammar import SHARED, ChannelError, Target
from .keys import OPEN, Patterns, channel_key, check_colons

Action: TypeAlias = Literal["subscribe", "publish"]
#: An application's decision about one channel.
Decide: TypeAlias = Callable[[Identity | None, Action, str, Request], bool | Awaitable[bool]]
_ACTIONS: Final[tuple[Action, ...]] = ("subscribe", "publish")
#: What everybody may do unless `Permissions` say otherwise.
EVERYTHING: Final = tuple(f"{action}-{OPEN}" for action in _ACTIONS)


class Channels(NamedTuple):
    """What a connection may do."""

    subscribe: tuple[str, ...]  #: keys of the channels that it hears
    publish: tuple[str, ...]  #: keys of the channels that its messages go to
    echo: bool  #: it gets its own messages back


@dataclass(frozen=True, slots=True, kw_only=True)
class Permissions:
    """What peers may do of what their URLs ask for.

    A peer's own channels are those of its user, of each of its groups, and of its session; no URL
    can name another's. By default it may do there what it asks for, and to ``broadcast`` what
    `allow` says. Patterns of its identity (`Identity.subscribe` and `Identity.publish`) take the
    place of both for the action that they are about.

    Args:
        allow: what everybody may do to ``broadcast``: ``subscribe-broadcast`` and
            ``publish-broadcast``.
        decide: called with the identity (None: anonymous), the action (``subscribe`` or
            ``publish``), the key of the channel, and the request; returns whether it is allowed, or
            an awaitable of that. It is asked once for each channel at the handshake, and never for
            a message. It may raise `Refused`; anything else that it raises is logged and answered
            with 500. None: the default above.
        denied: ``refuse``: a peer that asks for what it may not do is refused with 403, which names
            the audience. ``drop``: it gets what is allowed, and no word about the rest.

    Raises:
        TypeError: an argument is of another type.
        ValueError: `allow` or `denied` is none of those.
    """

    allow: Iterable[str] = EVERYTHING
    decide: Decide | None = None
    denied: Literal["refuse", "drop"] = "refuse"

    def __post_init__(self) -> None:
        if isinstance(self.allow, str):
            raise TypeError(f"allow is {self.allow!r}; it must be several texts, such as a list")
        object.__setattr__(self, "allow", frozenset(self.allow))
        for name in self.allow:
            if name not in EVERYTHING:
                raise ValueError(f"allow has {name!r}; there are {' and '.join(EVERYTHING)}")
        if self.decide is not None and not callable(self.decide):
            raise TypeError(f"decide is {self.decide!r}; it must be a function, or None")
        if self.denied not in ("refuse", "drop"):
            raise ValueError(f"denied is {self.denied!r}; it must be 'refuse' or 'drop'")


class _Wanted(NamedTuple):
    """A channel that a target asks for."""

    action: Action
    audience: str
    key: str


class TooManyChannelsError(ChannelError):
    """A peer may hear or publish to more channels than one connection may have."""


class Permit:
    """Decides what connections may do.

    Args:
        permissions: by these.
        most: channels of a connection; 0: any number.
    """

    def __init__(self, permissions: Permissions, most: int = 0) -> None:
        self._permissions = permissions
        self._most = most
        self._allow = frozenset(permissions.allow)
        # Many connections share the result, which may be long.
        self._shared = lru_cache(maxsize=1024)(self._permit_anyone)

    @property
    def waits(self) -> bool:
        """Whether the application is asked, which may take time."""
        return self._permissions.decide is not None

    def permit_nowait(self, target: Target, identity: Identity | None) -> Channels:
        """Decide by the default.

        Equal targets of a usual length give the same object where the identity does not matter.

        Args:
            target: what the peer asks for.
            identity: who it is; None: it is anonymous.

        Raises:
            ChannelError: 400 where a key would be ambiguous at this facility; 403 for what is not
                allowed, and for more channels than are (`TooManyChannelsError`).
        """
        if identity is None or _is_open(target, identity):
            shared = len(target.facility) <= SHARED
            return self._shared(target) if shared else self._permit_anyone(target)
        return self._permit(target, identity)

    async def permit(self, target: Target, identity: Identity | None, request: Request) -> Channels:
        """Decide, and ask the application where it has a function for that.

        Raises:
            ChannelError: as `permit_nowait`.
            TypeError: the application's function returned no bool.
        """
        decide = self._permissions.decide
        if decide is None:
            return self.permit_nowait(target, identity)
        allowed, keys = [], set[str]()
        for wanted in self._wanted(target, identity):
            answer = decide(identity, wanted.action, wanted.key, request)
            if inspect.isawaitable(answer):
                answer = await answer
            if not isinstance(answer, bool):
                kind = type(answer).__name__
                raise TypeError(f"decide returned an object of type {kind}; it must be a bool")
            if answer:
                self._count(keys, wanted)
                allowed.append(wanted)
            else:
                self._deny(wanted.action, wanted.audience)
        return _channels(target, allowed)

    def _permit_anyone(self, target: Target) -> Channels:
        return self._permit(target, None)

    def _permit(self, target: Target, identity: Identity | None) -> Channels:
        allowed, keys = [], set[str]()
        patterns = _patterns(identity)
        for wanted in self._wanted(target, identity):
            if self._is_allowed(wanted, patterns[wanted.action]):
                self._count(keys, wanted)
                allowed.append(wanted)
            else:
                self._deny(wanted.action, wanted.audience)
        return _channels(target, allowed)

    def _count(self, keys: set[str], wanted: _Wanted) -> None:
        """Count a channel once, though it may be heard and published to."""
        keys.add(wanted.key)
        if self._most and len(keys) > self._most:
            text = f"this is more than {self._most:,} channels, the most that a connection may have"
            raise TooManyChannelsError(403, text)

    def _is_allowed(self, wanted: _Wanted, patterns: Patterns | None) -> bool:
        if patterns is not None:
            return patterns.match(wanted.key)
        return wanted.audience != OPEN or f"{wanted.action}-{OPEN}" in self._allow

    def _wanted(self, target: Target, identity: Identity | None) -> Iterator[_Wanted]:
        """The channels that a target asks for; those that nobody can give it are denied here."""
        for action in _ACTIONS:
            for audience in target.subscribe if action == "subscribe" else target.publish:
                names = _names(audience, identity)
                if audience != OPEN and names is not None and ":" in target.facility:
                    if self._permissions.denied == "drop":
                        continue
                    check_colons(f"facility {target.facility!r}", target.facility)
                for name in names or ():
                    if name is not None and ":" in name:
                        self._deny(action, audience, f"the name of the {audience} has a colon")
                    else:
                        yield _Wanted(
                            action, audience, channel_key(audience, target.facility, name)
                        )
                if names is None:
                    self._deny(action, audience, _MISSING[audience])

    def _deny(self, action: Action, audience: str, why: str = "") -> None:
        if self._permissions.denied == "refuse":
            because = why and f": {why}"
            raise ChannelError(403, f"'{action}-{audience}' is not allowed{because}")


#: Why there is no channel of an audience for a peer.
_MISSING: Final = {
    "user": "this peer is no user",
    "group": "this peer is no user",
    "session": "this peer has no session",
}


def _patterns(identity: Identity | None) -> dict[Action, Patterns | None]:
    """An identity's patterns for each action; None: the default decides."""
    if identity is None:
        return dict.fromkeys(_ACTIONS)
    given = {"subscribe": identity.subscribe, "publish": identity.publish}
    return {
        action: None if (patterns := given[action]) is None else Patterns(patterns)
        for action in _ACTIONS
    }


def _names(audience: str, identity: Identity | None) -> Iterable[str | None] | None:
    """The names of a peer's channels in an audience; None: it can have none."""
    if audience == OPEN:
        return (None,)
    if identity is None:
        return None
    if audience == "group":
        # A user without groups hears nothing; a page asks for the groups of all users alike.
        if not identity.groups and identity.user is None:
            return None
        # One may be named twice, and a message is published once.
        return tuple(dict.fromkeys(identity.groups))
    name = identity.user if audience == "user" else identity.session
    return None if name is None else (name,)


def _is_open(target: Target, identity: Identity) -> bool:
    """Whether nothing depends on who the peer is."""
    patterns = identity.subscribe is not None or identity.publish is not None
    return not patterns and {*target.subscribe, *target.publish} <= {OPEN}


def _channels(target: Target, allowed: Iterable[_Wanted]) -> Channels:
    keys: dict[Action, list[str]] = {action: [] for action in _ACTIONS}
    one: dict[str, str] = {}  # one object for both actions: it may be long
    for wanted in allowed:
        keys[wanted.action].append(one.setdefault(wanted.key, wanted.key))
    return Channels(tuple(keys["subscribe"]), tuple(keys["publish"]), target.echo)
