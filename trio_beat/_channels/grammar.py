"""The grammar of a connection's URL, that of ws4redis.

::

    /ws/<facility>?subscribe-broadcast&publish-broadcast&echo

1. Names of parameters are read as there: percent-decoded, a plus being a space, without the spaces
   around them, in any case. Their values are ignored.
2. Unlike there, a misspelt audience is refused: who asks for it would else wait for ever.

This module parses only: `permissions` decides what a connection may do.
"""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache
from typing import Final, NamedTuple
from urllib.parse import unquote, unquote_plus

AUDIENCES: Final = ("broadcast", "user", "group", "session")
#: Longest target that is cached, in characters: peers choose targets, and may send 8 KiB each time.
SHARED: Final = 256
_VERBS: Final = ("subscribe-", "publish-")


class Target(NamedTuple):
    """What a connection's URL asks for."""

    facility: str
    subscribe: tuple[str, ...]  #: audiences that it wants to hear
    publish: tuple[str, ...]  #: audiences that its messages are to go to
    echo: bool  #: it wants its own messages back


class ChannelError(ValueError):
    """A URL asks for channels that do not exist, or are not permitted.

    Attributes:
        status: HTTP status code of the refusal.
    """

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


def below(path: str, prefix: str) -> str | None:
    """The rest of a path behind a prefix; None where it does not begin with it.

    The path is compared decoded, once (RFC 3986, section 6.2.2.2): of ``/w%73/a%2Fb`` below
    ``/ws/`` the rest is ``a%2Fb``.

    Args:
        path: as sent, without its query.
        prefix: decoded.
    """
    match = _spellings(prefix).match(path)
    return None if match is None else path[match.end() :]


@lru_cache(maxsize=16)
def _spellings(prefix: str) -> re.Pattern[str]:
    """Matches each way to write the prefix; a byte stands for itself or is percent-encoded."""
    bytewise = prefix.encode()
    return re.compile("".join(f"(?:{re.escape(chr(byte))}|(?i:%{byte:02x}))" for byte in bytewise))


def parse_facility(quoted: str) -> str:
    """Decode and check a facility's name as it stands in a URL's path.

    Raises:
        ChannelError: 400; it is missing, not UTF-8, or has control characters.
    """
    try:
        facility = unquote(quoted, errors="strict")
    except UnicodeDecodeError:
        raise ChannelError(400, f"facility {quoted!r} is not UTF-8") from None
    if not facility:
        raise ChannelError(400, "facility missing, expected /<prefix>/<facility>")
    if any(unicodedata.category(character) == "Cc" for character in facility):
        raise ChannelError(400, f"facility {facility!r} has control characters")
    return facility


def parse_target(target: str, prefix: str) -> Target:
    """Parse a request's target.

    Equal targets of a usual length give the same object: many connections share it.

    Args:
        target: path and query, as sent.
        prefix: what the path begins with.

    Returns:
        What it asks for; unknown parameters are ignored.

    Raises:
        ChannelError: 404 for another prefix, 400 for a bad facility or a misspelt audience.
    """
    if len(target) + len(prefix) > SHARED:
        return _parse(target, prefix)
    return _parse_shared(target, prefix)


@lru_cache(maxsize=1024)
def _parse_shared(target: str, prefix: str) -> Target:
    return _parse(target, prefix)


def _parse(target: str, prefix: str) -> Target:
    path, _, query = target.partition("?")
    quoted = below(path, prefix)
    if quoted is None:
        raise ChannelError(404, f"nothing at {path!r}, expected {prefix}<facility>")
    facility = parse_facility(quoted)
    chosen: dict[str, list[str]] = {verb: [] for verb in _VERBS}
    echo = False
    for parameter in query.split("&"):
        sent = parameter.partition("=")[0]
        name = unquote_plus(sent).strip().lower()
        if name == "echo":
            echo = True
        elif name.startswith(_VERBS):
            audience = name.partition("-")[2]
            verb = name.removesuffix(audience)
            if audience not in AUDIENCES:
                allowed = ", ".join(verb + known for known in AUDIENCES)
                raise ChannelError(400, f"unknown parameter {sent!r}, allowed are {allowed}")
            if audience not in chosen[verb]:
                chosen[verb].append(audience)
    subscribe, publish = (tuple(chosen[verb]) for verb in _VERBS)
    return Target(facility, subscribe, publish, echo)
