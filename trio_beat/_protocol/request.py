"""The request with which a peer asks for a WebSocket, as an application sees it.

1. A request keeps its head as bytes, since thousands of connections keep their requests. Headers
   and cookies are parsed at each access, and not kept.
2. While a request is being admitted it also has its parsed headers, which the handshake needed:
   `release` drops them.
3. A request is the same for every way in: where another server has parsed the head, `Request.of`
   writes one.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, MutableMapping
from http.cookies import SimpleCookie
from types import MappingProxyType
from typing import Any, Final

from websockets import datastructures

from .._checks import TOKEN, check_kind
from .._exceptions import Refused
from .._text import public_url
from .head import Head, fields, find_head
from .headers import Headers

_LINE_BREAKS: Final = (b"\r", b"\n", b"\0")
#: Of the standard library's cookies only what decodes a value is of use: a parser that meets one
#: bad cookie drops all that follow it.
_COOKIES: Final = SimpleCookie()


class Request:
    """The request with which a peer asks for a WebSocket.

    It is immutable, and equal to itself only, so that it can be a key of a dictionary. Headers,
    cookies and subprotocols are parsed at each access: keep what is needed more than once.

    The server makes requests; `parse` makes one from bytes, `of` from what another server has
    parsed.
    """

    __slots__ = ("__weakref__", "_fields", "_head", "_peer", "_scope", "_secure", "_target")

    def __init__(
        self, head: Head, peer: str, *, secure: bool, parsed: datastructures.Headers | None = None
    ) -> None:
        self._head = head.raw
        self._target = head.target
        self._fields = parsed
        self._peer = peer
        self._secure = secure
        self._scope: MutableMapping[str, Any] | None = None

    @classmethod
    def parse(cls, head: bytes, *, peer: str, secure: bool = False) -> Request:
        """Make a request from its line and headers.

        Args:
            head: with the blank line behind the headers.
            peer: the peer's address, for people.
            secure: whether it came over TLS.

        Raises:
            TypeError: an argument is of another type.
            ValueError: the head is not that of a request, or not all of it, or something follows.
        """
        check_kind("head", head, bytes, "bytes")
        check_kind("peer", peer, str, "a text")
        try:
            found = find_head(head)
            if found is None or found.raw != head:
                raise ValueError("head must be the whole head of a request, and nothing else")
            fields(head)
        except Refused as exc:
            raise ValueError(exc.logged) from None
        return cls(found, peer, secure=secure)

    @classmethod
    def of(
        cls,
        target: str,
        headers: Iterable[tuple[str | bytes, str | bytes]],
        *,
        peer: str,
        secure: bool = False,
    ) -> Request:
        """Make a request from what another server has parsed.

        Args:
            target: path and query, as they were sent.
            headers: names and values, one pair for each line; texts are Latin-1.
            peer: the peer's address, for people.
            secure: whether it came over TLS.

        Raises:
            TypeError: an argument is of another type.
            ValueError: they make no request, or a name or a value would begin another line.
        """
        lines = [b"GET " + _encoded(target) + b" HTTP/1.1"]
        for name, value in headers:
            encoded = _encoded(name)
            if not TOKEN.fullmatch(encoded.decode("latin-1")):
                raise ValueError(f"header {name!r} is not a token (RFC 9110, section 5.6.2)")
            lines.append(encoded + b": " + _encoded(value))
        return cls.parse(b"\r\n".join([*lines, b"", b""]), peer=peer, secure=secure)

    @property
    def target(self) -> str:
        """Path and query, as they were sent (RFC 9112, section 3.2)."""
        return self._target

    @property
    def path(self) -> str:
        """What stands before the first ``?`` of the target, not decoded."""
        return self._target.partition("?")[0]

    @property
    def query(self) -> str:
        """What stands behind the first ``?`` of the target, not decoded; it may be empty."""
        return self._target.partition("?")[2]

    @property
    def headers(self) -> Headers:
        """All headers."""
        return Headers(self._fields or fields(self._head))

    @property
    def cookies(self) -> Mapping[str, str]:
        """The cookies by name (RFC 6265, section 4.2.1).

        What is no cookie is passed over and hides no other one. Of several with one name the first
        counts: a browser sends that of the longest path first (section 5.4).
        """
        found: dict[str, str] = {}
        for value in self.headers.get_all("Cookie"):
            for pair in value.split(";"):
                name, equals, content = pair.partition("=")
                if equals and (name := name.strip(" \t")):
                    found.setdefault(name, _COOKIES.value_decode(content.strip(" \t"))[0])
        return MappingProxyType(found)

    @property
    def subprotocols(self) -> tuple[str, ...]:
        """What the peer offers, in its order (RFC 6455, section 4.1)."""
        values = self.headers.get_all("Sec-WebSocket-Protocol")
        names = [name.strip(" \t") for value in values for name in value.split(",")]
        return tuple(name for name in names if name)

    @property
    def peer(self) -> str:
        """The peer's address, for people; the client's, without a port, where a trusted proxy told.

        It is that of a proxy which is not trusted (`trio_beat.serve`, ``trusted_proxies``).
        """
        return self._peer

    @property
    def secure(self) -> bool:
        """Whether it came over TLS; where a trusted proxy told, whether it came to that so."""
        return self._secure

    @property
    def scope(self) -> MutableMapping[str, Any] | None:
        """The ASGI scope that it came with, see `trio_beat.asgi`; None: it came another way."""
        return self._scope

    def __repr__(self) -> str:
        # Query, cookies and other headers may be secret.
        over = " over TLS" if self._secure else ""
        return f"<Request for {public_url(self._target)!r} from {self._peer}{over}>"


def release(request: Request, peer: str) -> None:
    """Let go of what a request does not need once it is admitted.

    Its headers are parsed from now on when they are asked for.

    Args:
        request: it.
        peer: the same text as its own, of which one is kept.
    """
    request._fields = None
    request._peer = peer  # noqa: SLF001 - of this module


def _encoded(text: str | bytes) -> bytes:
    check_kind("a target or a header", text, (str, bytes, bytearray, memoryview), "a text or bytes")
    data = text.encode("latin-1") if isinstance(text, str) else bytes(text)
    if any(character in data for character in _LINE_BREAKS):
        raise ValueError("a target or a header has a line break or a NUL")
    return data


def keep_scope(request: Request, scope: MutableMapping[str, Any]) -> None:
    """Let a request have the ASGI scope that it came with."""
    request._scope = scope  # noqa: SLF001 - of this module
