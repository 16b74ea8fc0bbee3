"""The bearer tokens of the API (RFC 6750): what each may do, and how much.

1. A token is kept as its digest (SHA-256), so that no dump of memory, repr or error has it. It is
   long and random, so a hash that is slow on purpose would protect nothing, and cost time at each
   request.
2. What a request offers is compared with all of them, each in constant time: how long it takes
   tells neither whether one is near nor which one it is.
3. A token may be overdrawn once: a request that begins while it is not is served whole, and those
   that come before the debt is paid are refused. So a body that is longer than the rate gets
   through.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

from .._channels.keys import matches
from .._server.http_pace import Bucket

#: The name of the one that is given by itself.
ALONE: Final = "publish-token"
#: How many seconds' worth of a rate may come at once after a rest.
_BURST: Final = 2.0
#: What a header may have behind ``Bearer`` (RFC 6750, section 2.1).
_SENDABLE: Final = re.compile(r"[A-Za-z0-9._~+/-]+=*")
#: Characters of the shortest one that a file may have; a random one of 32 hexadecimal digits has
#: 128 bits.
SHORTEST: Final = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Token:
    """What the bearer of a token may do.

    Args:
        name: for the log.
        digest: the token's, as `digest` makes it.
        publish: patterns of the channels that it may publish to; None: all.
        disconnect: whether it may disconnect users and sessions.
    """

    name: str
    digest: bytes = field(repr=False)
    publish: tuple[str, ...] | None = None
    disconnect: bool = False

    def may_publish(self, key: str) -> bool:
        """Whether it may publish to the channel with this key."""
        return self.publish is None or any(matches(pattern, key) for pattern in self.publish)


def digest(token: bytes) -> bytes:
    """What is kept of a token."""
    return hashlib.sha256(token).digest()


def check_sendable(token: str) -> None:
    """Raise `ValueError` for a token that no header may have, or that is soon guessed."""
    if not _SENDABLE.fullmatch(token):
        raise ValueError("has characters that no header may have (RFC 6750, section 2.1)")
    if len(token) < SHORTEST:
        raise ValueError(f"has {len(token)} characters; it must have {SHORTEST} or more")


class Tokens:
    """The tokens that the API takes.

    Args:
        tokens: these; their names differ, and so do their digests.
        requests: of one token a second; 0: as many as come.
        size: bytes of bodies of one token a second; 0: as many as come.
    """

    def __init__(self, tokens: Iterable[Token], *, requests: float, size: float) -> None:
        self._rates = (requests, size)
        self._tokens: tuple[Token, ...] = ()
        #: By their names, also when they are replaced: reading a file again gives nobody more.
        self._allowances: dict[str, Allowance] = {}
        self.replace(tokens)

    def replace(self, tokens: Iterable[Token]) -> None:
        """Take these from now on, and no others."""
        self._tokens = tuple(tokens)
        self._allowances = {
            token.name: self._allowances.get(token.name) or Allowance(*self._rates)
            for token in self._tokens
        }

    def find(self, offered: bytes) -> Token | None:
        """The token that a request offers; None: it is none of these."""
        wanted, found = digest(offered), None
        for token in self._tokens:
            if hmac.compare_digest(token.digest, wanted):
                found = token
        return found

    def allowance(self, token: Token) -> Allowance:
        """How much a token that was found may still send."""
        # It may have been taken away since.
        return self._allowances.get(token.name) or Allowance(*self._rates)


class Allowance:
    """What the bearer of a token may still send.

    Args:
        requests: a second; 0: as many as come.
        size: bytes a second; 0: as many as come.
    """

    __slots__ = ("_requests", "_size")

    def __init__(self, requests: float, size: float) -> None:
        self._requests = Bucket(requests, max(1.0, requests * _BURST)) if requests else None
        self._size = Bucket(size, size * _BURST) if size else None

    def wait(self, now: float) -> float:
        """Seconds until a further request is served; 0: it is served now."""
        buckets = (self._requests, self._size)
        return max(0.0 if bucket is None else bucket.take(0, now) for bucket in buckets)

    def take(self, now: float, *, requests: int = 0, size: int = 0) -> None:
        """Count what is being served."""
        for bucket, count in ((self._requests, requests), (self._size, size)):
            if bucket is not None:
                bucket.take(count, now)
