"""Text from outside, made safe to log or print; and how many bytes a text takes."""

from __future__ import annotations

import os
import re
from typing import Final
from urllib.parse import SplitResult, urlsplit

#: The part of a URL before the host. RFC 3986 allows no slash in it, but people paste passwords
#: unencoded: text in the place of a port that is not a number begins a password.
_USERINFO: Final = re.compile(r"\A(?:[^/?#]*:(?!\d*(?:[/?#]|$)).*@|[^/?#]*@)", re.DOTALL)
_HOSTS: Final = re.compile(r"[^/?#]*")
#: Text in the place of a port that is no number; it may be a password without its ``@``.
_NO_PORT: Final = re.compile(r"((?:\A|(?<=,))(?:\[[^\],]*\]|[^:\[,]*)):(?!\d*(?:,|\Z))[^,]*")
_AFTER_PATH: Final = re.compile(r"[?#].*", re.DOTALL)
#: A URL's beginning, and several hosts.
_SEVERAL: Final = re.compile(
    r"((?:[A-Za-z][A-Za-z0-9+.-]*:)?//)([^/?#]*@)?([^/?#@]*,[^/?#@]*)(?=[/?#]|\Z)"
)
_QUERY: Final = re.compile(r"\?[^\s'\"]+")


def printable(text: str) -> str:
    """Escape characters that control a terminal, end a line, or cannot be encoded.

    Only characters that Unicode calls printable are kept. Control characters (C0, DEL, C1), line
    and paragraph separators, bidirectional controls and lone surrogates are escaped.

    Args:
        text: any text; escaping it twice is the same as once.
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def public_url(url: str) -> str:
    """Remove what may be secret from a URL or a request's target: userinfo, query and fragment.

    A path may have an ``@``, and is kept.

    Args:
        url: need not be valid.
    """
    scheme, rest = _split_scheme(url)
    return scheme + _without_tail(_USERINFO.sub("", rest, count=1))


def public_backend(url: str) -> str:
    """Remove what may be secret from a backend's URL: userinfo, query and fragment.

    An ``@`` stands behind a password and nowhere else, however that was written.

    Args:
        url: need not be valid.
    """
    scheme, rest = _split_scheme(url)
    return scheme + _without_tail(rest.rpartition("@")[2])


def _split_scheme(url: str) -> tuple[str, str]:
    """The scheme with its slashes, where there are any, and what follows."""
    scheme, slashes, rest = url.partition("//")
    if not slashes or re.search(r"[/?#@]", scheme):
        return "", url
    return scheme + slashes, rest


def _without_tail(rest: str) -> str:
    """Hosts and path, of a URL without scheme and userinfo."""
    hosts = _HOSTS.match(rest)
    assert hosts is not None  # it matches nothing, too
    end = hosts.end()
    return _NO_PORT.sub(r"\1:...", rest[:end]) + _AFTER_PATH.sub("", rest[end:], count=1)


def split_url(url: str) -> SplitResult:
    """Take a URL apart like `urllib.parse.urlsplit`, also one with several hosts.

    They are separated by commas. From Python 3.11.12, 3.12.9 and 3.13.2 on `urlsplit` refuses that
    where one of them is an IPv6 address.

    Raises:
        ValueError: it is no URL. The message may quote a part of it.
    """
    found = _SEVERAL.match(url)
    if found is None:
        return urlsplit(url)
    begin, userinfo, hosts = found.groups(default="")
    for host in hosts.split(","):
        urlsplit(f"//{host}")
    return urlsplit(f"{begin}{userinfo}host{url[found.end() :]}")._replace(netloc=userinfo + hosts)


def without_queries(text: str) -> str:
    """Replace each query string in a sentence that may quote a request with ``?...``."""
    return _QUERY.sub("?...", text)


def public_channel(key: str) -> str:
    """The key of a channel without the key of a session, which is as good as a password.

    Args:
        key: any text.
    """
    audience, colon, rest = key.partition(":")
    if audience != "session" or not colon:
        return key
    _, colon, facility = rest.rpartition(":")
    return f"session:...:{facility}" if colon else "session:..."


def utf8(text: str) -> str:
    """Decode an argument or environment variable as UTF-8 where the locale cannot (PEP 383).

    Raises:
        ValueError: it is not UTF-8.
    """
    try:
        text.encode()
    except UnicodeEncodeError:
        try:
            return os.fsencode(text).decode()
        except UnicodeError:
            raise ValueError("is not UTF-8") from None
    return text


def character_width(text: str) -> int:
    """Bytes that CPython keeps for each character of a text: as many as for its widest.

    (`sys.getsizeof` would also tell of a copy in UTF-8, which may come and go.)
    """
    if text.isascii():
        return 1
    # Characters beyond the Basic Multilingual Plane take two units of UTF-16.
    return 2 if len(text.encode("utf-16-le", "surrogatepass")) == 2 * len(text) else 4
