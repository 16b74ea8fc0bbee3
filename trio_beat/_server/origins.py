"""Which pages may connect: the origin that a browser tells (RFC 6455, section 10.2; RFC 6454).

A browser sends a visitor's cookies with a WebSocket that any page opens, and lets that page read
what comes. Only the server can stop that.

1. A request without an Origin is no page's, and passes.
2. A page of the server's own origin passes: one whose host and port are those of Host. Where Host
   has no port, it is the default of the Origin's scheme. The scheme itself counts only where it is
   known how the client reaches the server: a proxy may have ended TLS.
3. Beyond that, what is allowed by name passes. Schemes other than http and https have no default
   port and are never the server's own; nor is ``null``, which many pages share.
4. Names are compared as browsers send them: ASCII, without regard to case and to a dot at the end,
   which names the same host (RFC 3986, section 3.2.2). Ports are compared as numbers.
5. What is answered or logged was parsed before, or is escaped: it cannot end a line.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from ipaddress import IPv6Address
from typing import Final, NamedTuple

from websockets.datastructures import Headers

from .._checks import check_kind
from .._exceptions import Refused
from .._text import printable, public_url
from .proxies import Client

#: Lets every page in.
EVERYTHING: Final = "*"
#: The origin of pages that have none of their own: sandboxed ones, some local files.
NULL: Final = "null"

_PORTS: Final = {"http": 80, "https": 443}
_LAST_PORT: Final = 65535
#: What some programs write for them.
_SCHEMES: Final = {"ws": "http", "wss": "https"}
#: Longer than any name with its port (RFC 1035, section 2.3.4).
_LONGEST: Final = 300
_ORIGIN: Final = re.compile(r"(?P<scheme>[a-z][a-z0-9+.-]{0,62})://(?P<authority>[!-~]*)")
#: What no part of an origin has; ``@`` is behind a password.
_BEYOND: Final = re.compile(r"[/?#@\\]")
_HOST: Final = re.compile(
    r"(?:\[(?P<six>[0-9a-f:.]+)\]|(?P<name>[a-z0-9_-]+(?:\.[a-z0-9_-]+)*)\.?)(?::(?P<port>[0-9]*))?"
)
#: A number in the last place makes a host an address (https://url.spec.whatwg.org, "ends in a
#: number").
_NUMBER: Final = re.compile(r"(.*\.)?(\d+|0x[0-9a-f]*)")
_FORMS: Final = "SCHEME://HOST, SCHEME://HOST:PORT or null"
_ALLOWED: Final = (
    "should be SCHEME://HOST or SCHEME://HOST:PORT, HOST with or without a port (for http and "
    f"https), *.HOST for its subdomains, {NULL}, or {EVERYTHING} for all; no path, user or "
    "password; names of other scripts as browsers send them (xn--...)"
)


class Origin(NamedTuple):
    """An origin (RFC 6454, section 4), to be compared."""

    scheme: str  #: empty for ``null``
    host: str  #: in lower case; an IPv6 address has brackets
    port: int | None  #: None: the scheme has none that is known

    def __str__(self) -> str:
        if not self.scheme:
            return NULL
        port = "" if self.port in (None, _PORTS.get(self.scheme)) else f":{self.port}"
        return f"{self.scheme}://{self.host}{port}"


def parse_origin(text: str) -> Origin:
    """Read the value of an Origin header (RFC 6454, section 7).

    Raises:
        ValueError: it is none; the message does not quote it.
    """
    if text == NULL:
        return Origin("", "", None)
    found = _ORIGIN.fullmatch(text.lower()) if text.isascii() else None
    if found is None or _BEYOND.search(found["authority"]) or len(text) > _LONGEST:
        raise ValueError(f"should be {_FORMS}")
    scheme = _SCHEMES.get(found["scheme"], found["scheme"])
    default = _PORTS.get(scheme)
    if default is None:  # of an extension, an app or a file: to be compared as it stands
        return Origin(scheme, found["authority"], None)
    host, port = parse_host(found["authority"])
    return Origin(scheme, host, default if port is None else port)


def parse_host(text: str) -> tuple[str, int | None]:
    """Read the value of a Host header (RFC 9110, section 7.2).

    Returns:
        The host as in `Origin`, and its port; None where there is none.

    Raises:
        ValueError: it is none, or empty; the message does not quote it.
    """
    found = _HOST.fullmatch(text.lower()) if text.isascii() and len(text) <= _LONGEST else None
    if found is None:
        raise ValueError("should be HOST or HOST:PORT")
    host: str = found["name"]
    if found["six"] is not None:
        try:
            host = f"[{IPv6Address(found['six']).compressed}]"
        except ValueError:
            raise ValueError("should have an IPv6 address within its brackets") from None
    port = int(found["port"]) if found["port"] else None
    if port is not None and port > _LAST_PORT:
        raise ValueError(f"should have a port of 0 to {_LAST_PORT}")
    return host, port


class Allowed(NamedTuple):
    """What a text allows."""

    origins: tuple[Origin, ...]
    below: bool  #: their subdomains, and not they themselves


def parse_allowed(text: str) -> Allowed:
    """Read the name of an origin, or of several, that is allowed.

    Raises:
        ValueError: it is none; the message says what is possible, and does not quote it.
    """
    if text == EVERYTHING:
        return Allowed((), below=False)
    if text.lower() == NULL:
        return Allowed((parse_origin(NULL),), below=False)
    scheme, separator, authority = text.rpartition("://")
    below = authority.startswith("*.")
    rest = authority.removeprefix("*.")
    schemes = [scheme] if separator else [*_PORTS]
    try:
        origins = tuple(parse_origin(f"{name}://{rest}") for name in schemes)
    except ValueError:
        raise ValueError(_ALLOWED) from None
    if any("*" in origin.host for origin in origins):
        raise ValueError(_ALLOWED)
    if below and not all(_has_subdomains(origin) for origin in origins):
        raise ValueError("should have a name behind *. that can have subdomains")
    return Allowed(origins, below)


def _has_subdomains(origin: Origin) -> bool:
    return origin.port is not None and not (origin.host[0] == "[" or _NUMBER.fullmatch(origin.host))


class Origins:
    """Decides which pages may connect.

    Args:
        allowed: beside the server's own origin, ``https://example.com:8443`` for example. Without
            a scheme it is http and https, without a port the scheme's; ``*.example.com`` is every
            subdomain, and not the domain. ``null`` is what several kinds of pages share that have
            no origin of their own. ``*`` lets all in.
        option: by which a refusal says that more are allowed; None: the argument of `serve`.

    Raises:
        TypeError: what is allowed is no sequence of texts.
        ValueError: a text is none of these.
    """

    def __init__(self, allowed: Iterable[str] = (), *, option: str | None = None) -> None:
        if isinstance(allowed, str | bytes) or not isinstance(allowed, Iterable):
            kind = type(allowed).__name__
            raise TypeError(f"allowed_origins is of type {kind}; it must be a sequence of texts")
        self._option = option
        self._everything = False
        self._exact: set[Origin] = set()
        self._parents: set[Origin] = set()
        for text in allowed:
            check_kind("an item of allowed_origins", text, str, "a text")
            try:
                origins, below = parse_allowed(text)
            except ValueError as exc:
                shown = printable(public_url(text))
                raise ValueError(f"allowed_origins has {shown!r}; it {exc}") from None
            self._everything = self._everything or text == EVERYTHING
            (self._parents if below else self._exact).update(origins)

    def check(self, client: Client, headers: Headers) -> None:
        """Check from which page a request comes.

        Args:
            client: how the client calls the server, and whether over TLS.
            headers: the request's.

        Raises:
            Refused: 403 for a page of another origin; 400 for what cannot be read.
        """
        values = headers.get_all("Origin")
        if not values or self._everything:
            return
        try:
            (value,) = values
            origin = parse_origin(value)
        except ValueError:
            text = f"Origin {_quoted(', '.join(values))} is not one origin; expected {_FORMS}"
            raise Refused(400, text, logged="Origin is malformed") from None
        if origin in self._exact or self._is_below(origin):
            return
        try:
            host, port = parse_host(client.host)
        except ValueError as exc:
            text = f"bad request: Host {_quoted(client.host)} {exc}"
            raise Refused(400, text, logged="bad request: Host is malformed") from None
        own = Origin(client.scheme or origin.scheme, host, port)
        if port is None:
            own = own._replace(port=_PORTS.get(own.scheme))
        if own != origin or origin.scheme not in _PORTS:
            raise self._foreign(origin, own, client)

    def _is_below(self, origin: Origin) -> bool:
        """Whether it is of a subdomain that is allowed."""
        name = origin.host if self._parents else ""
        while "." in name:
            name = name.partition(".")[2]
            if origin._replace(host=name) in self._parents:
                return True
        return False

    def _foreign(self, origin: Origin, own: Origin, client: Client) -> Refused:
        reached = f"Host is {printable(client.host)}"
        if client.scheme is not None:
            reached = f"this server is {own}"
        allow = f'allowed_origins=["{origin}"]'
        if self._option is not None:
            allow = f"{self._option} {origin}"
        text = f"Origin {origin} is not allowed: {reached}; {allow} allows it"
        if (client.scheme, own.host, origin.scheme) == ("http", origin.host, "https"):
            # Only a proxy can have said so, and not the one that ends TLS.
            text += "; the proxy that ends TLS says so by X-Forwarded-Proto, and others hand it on"
        known = origin.scheme in _PORTS and client.scheme in (None, origin.scheme)
        if known and (own.host == origin.host or _is_upstream(own.host)):
            text += "; if a proxy has changed Host, nginx needs: proxy_set_header Host $http_host;"
        return Refused(403, text)


def _is_upstream(host: str) -> bool:
    """Whether a proxy may know the server by this name, and the public does not."""
    return "." not in host or _NUMBER.fullmatch(host) is not None


def _quoted(value: str) -> str:
    """A value that a peer has sent, for the peer."""
    cut = value if len(value) <= _LONGEST else f"{value[:_LONGEST]}..."
    return f"'{printable(cut)}'"
