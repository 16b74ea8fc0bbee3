"""Where a client connects to, and what it sends in its request: checked before it dials."""

from __future__ import annotations

import re
import ssl
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, TypeAlias

from websockets.exceptions import InvalidURI
from websockets.headers import build_host
from websockets.uri import WebSocketURI, parse_uri

from .._checks import TOKEN, check_kind, check_subprotocols
from .._protocol.client_handshake import OpeningHandshake
from .._protocol.compression import Compression
from .._text import public_url

#: What a request carries beside the handshake's own headers.
Headers: TypeAlias = Mapping[str, str] | Iterable[tuple[str, str]]

#: A request's target and the host of a URL, percent-encoded (RFC 3986); the value of a header
#: (RFC 9110, section 5.5).
TARGET: Final = re.compile(r"[!-~]+")
_HOST: Final = re.compile(r"[^\x00-\x20\x7f]+")
_VALUE: Final = re.compile(r"([!-~\x80-\xff]([\t -~\x80-\xff]*[!-~\x80-\xff])?)?")
#: Headers that the handshake itself sends.
_OWN: Final = re.compile(
    r"host|upgrade|connection|content-length|transfer-encoding|sec-websocket-.*", re.IGNORECASE
)


@dataclass(frozen=True, slots=True)
class Address:
    """Where a client connects to, and what it sends in its request."""

    # Not shown, as they may be secret: a query, a password, the values of headers, a token.
    uri: WebSocketURI = field(repr=False)
    headers: tuple[tuple[str, str], ...] = field(repr=False)
    subprotocols: tuple[str, ...] = field(repr=False)
    ssl_context: ssl.SSLContext | None  #: None exactly where the URL is not secure

    @property
    def place(self) -> str:
        """Host and port, for people."""
        return build_host(self.uri.host, self.uri.port, self.uri.secure, always_include_port=True)

    @property
    def target(self) -> str:
        """Path and query."""
        return self.uri.resource_name

    def handshake(self, compression: Compression | None = None) -> OpeningHandshake:
        """A new opening handshake; each connection needs one of its own.

        Args:
            compression: to offer; None: none is.
        """
        return OpeningHandshake(self.uri, self.headers, self.subprotocols, compression)


def make_address(
    url: str,
    headers: Headers,
    subprotocols: Sequence[str],
    ssl_context: ssl.SSLContext | None,
    default_context: Callable[[], ssl.SSLContext] = ssl.create_default_context,
) -> Address:
    """Check a client's URL and what goes with it; the arguments are those of `connect`.

    Args:
        default_context: makes a TLS context where the URL is secure and none is given.

    Raises:
        TypeError: an argument is of another type.
        ValueError: an argument can never be right; says which, and what is allowed.
    """
    uri = _parse(url)
    check_context(ssl_context)
    if ssl_context is not None and not uri.secure:
        shown = public_url(url)
        raise ValueError(f"ssl_context is given, but {shown!r} is not secure; expected wss://...")
    pairs = check_headers(headers)
    names = check_subprotocols(subprotocols, secret=True)
    if uri.secure and ssl_context is None:
        ssl_context = default_context()
    return Address(uri, pairs, names, ssl_context)


def _parse(url: str) -> WebSocketURI:
    if not isinstance(url, str):
        # Not quoted: its query may be secret.
        raise TypeError(f"url is a {type(url).__name__}; it must be a text")
    shown = public_url(url)
    try:
        uri = parse_uri(url)
    except (InvalidURI, ValueError):
        expected = "expected ws://host[:port]/path or wss://..."
        # Without the cause, which quotes the whole URL.
        raise ValueError(f"{shown!r} is not the URL of a WebSocket; {expected}") from None
    if not TARGET.fullmatch(uri.resource_name) or not _HOST.fullmatch(uri.host):
        raise ValueError(f"{shown!r} has characters that must be percent-encoded (RFC 3986)")
    return uri


def check_context(ssl_context: ssl.SSLContext | None) -> None:
    """Check the TLS context of a client.

    Raises:
        TypeError: it is of another type.
        ValueError: it is a server's.
    """
    if ssl_context is None:
        return
    check_kind("ssl_context", ssl_context, ssl.SSLContext, "an ssl.SSLContext, or None")
    if ssl_context.protocol is ssl.PROTOCOL_TLS_SERVER:
        raise ValueError("ssl_context is a server's; see ssl.create_default_context()")


def check_headers(headers: Headers) -> tuple[tuple[str, str], ...]:
    """Check the headers that a client adds to its request, and return them as pairs.

    Raises:
        TypeError: they are of another type.
        ValueError: a header cannot be sent, or is not the application's.
    """
    if isinstance(headers, str | bytes) or not isinstance(headers, Iterable):
        # Not quoted, here and below: it may be secret.
        kind = type(headers).__name__
        raise TypeError(f"headers is a {kind}; it must be a mapping, or pairs of texts")
    pairs = tuple(headers.items() if isinstance(headers, Mapping) else headers)
    for pair in pairs:
        if not isinstance(pair, Sequence) or isinstance(pair, str) or len(pair) != 2:
            raise TypeError("headers has what is no pair; it must be a mapping, or pairs of texts")
    check_fields(pairs)
    for name, _ in pairs:
        if _OWN.fullmatch(name):
            raise ValueError(f"header {name!r} is the handshake's own")
    # A header would format an enumeration's members by their names.
    return tuple((str.__str__(name), str.__str__(value)) for name, value in pairs)


def check_fields(pairs: Iterable[tuple[str, str]]) -> None:
    """Check the headers of a request. No message quotes a value, which may be secret.

    Raises:
        TypeError: a name or a value is not a text.
        ValueError: a header cannot be sent.
    """
    for name, value in pairs:
        check_kind("header", name, str, "a text")
        if not TOKEN.fullmatch(name):
            # Not quoted: where the colon is missing or misplaced, the name contains the value.
            raise ValueError("a header's name cannot be sent (RFC 9110, section 5.1)")
        if not isinstance(value, str):
            raise TypeError(f"the value of header {name!r} must be a text")
        if not _VALUE.fullmatch(value):
            raise ValueError(f"header {name!r} or its value cannot be sent (RFC 9110, section 5)")
