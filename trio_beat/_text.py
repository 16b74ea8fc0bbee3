"""Text from outside, made safe to log or print; and how many bytes a text takes."""

from __future__ import annotations

import os
import re
from typing import Final

#: The part of a URL before the host. RFC 3986 allows no slash in it, but people paste passwords
#: unencoded: text in the place of a port that is not a number begins a password.
_USERINFO: Final = re.compile(r"\A(?:[^/?#]*:(?!\d*(?:[/?#]|$)).*@|[^/?#]*@)", re.DOTALL)
_AFTER_PATH: Final = re.compile(r"[?#].*", re.DOTALL)
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


def without_userinfo(url: str) -> str:
    """Remove user and password from a URL.

    Args:
        url: need not be valid.
    """
    scheme, slashes, rest = url.partition("//")
    if not slashes or re.search(r"[/?#@]", scheme):
        scheme, slashes, rest = "", "", url
    return scheme + slashes + _USERINFO.sub("", rest, count=1)


def public_url(url: str) -> str:
    """Remove what may be secret from a URL or a request's target: userinfo, query and fragment.

    Args:
        url: need not be valid.
    """
    return _AFTER_PATH.sub("", without_userinfo(url), count=1)


def without_queries(text: str) -> str:
    """Replace each query string in a sentence that may quote a request with ``?...``."""
    return _QUERY.sub("?...", text)


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
