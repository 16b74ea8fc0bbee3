"""Arguments that can never work are refused where they are given.

Each check raises TypeError for what is of another kind, and ValueError for what is outside of its
range; the message names the argument, what it is, and what is allowed.
"""

from __future__ import annotations

import math
import re
import ssl
from collections.abc import Iterable
from typing import Final

#: The name of a header, a subprotocol (RFC 9110, section 5.6.2).
TOKEN: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_LAST_PORT: Final = 65535
#: Seconds, some 30,000 years: whatever is computed from them is a number still.
LONGEST: Final = 10**12
#: Missed beats in a row, for the same reason.
MOST_MISSES: Final = 10**9
#: What a path has that is compared before its percents are decoded, or after (RFC 3986, 3.3).
_PREFIX: Final = re.compile(r"/|/[A-Za-z0-9/._~!$&'()*+,;=:@-]*/")


def check_kind(name: str, value: object, kind: type | tuple[type, ...], expected: str) -> None:
    """Check that a value is of a type; a bool is no number."""
    if not isinstance(value, kind) or isinstance(value, bool):
        raise TypeError(f"{name} is {value!r}; it must be {expected}")


def check_whole(name: str, value: int, *, least: int = 1) -> None:
    """Check a whole number that is not smaller than `least`."""
    check_kind(name, value, int, "a whole number")
    if value < least:
        raise ValueError(f"{name} is {value!r}; it must be {least} or more")


def check_seconds(name: str, value: float, *, zero: bool = False, endless: bool = False) -> None:
    """Check a number of seconds.

    Args:
        zero: whether it may be 0.
        endless: whether it may be `math.inf`.
    """
    check_kind(name, value, (int, float), "a number of seconds")
    # What is not a number is not more than another one.
    enough = value >= 0 if zero else value > 0
    if not enough or (value > LONGEST and not (endless and value == math.inf)):
        least = ", 0 or more" if zero else " > 0"
        most = f" and no more than {LONGEST:g}" if LONGEST < value < math.inf else ""
        raise ValueError(f"{name} is {value!r}; it must be a number of seconds{least}{most}")


def check_text(name: str, value: str) -> None:
    """Check a text that has to become UTF-8."""
    check_kind(name, value, str, "a text")
    encode(name, value)


def encode(name: str, value: str) -> bytes:
    """Encode a text.

    Raises:
        ValueError: it has surrogates, which no UTF-8 has (RFC 3629, section 3).
    """
    try:
        return value.encode()
    except UnicodeEncodeError as exc:
        where = f"{value[exc.start]!r} at position {exc.start}"
        raise ValueError(f"{name} has a surrogate, {where}, which UTF-8 cannot encode") from None


def check_token(name: str, value: str) -> None:
    """Check a name that a header may have as it is (RFC 9110, section 5.6.2)."""
    check_kind(name, value, str, "a text")
    if not TOKEN.fullmatch(value):
        raise ValueError(f"{name} {value!r} is not a token (RFC 9110, section 5.6.2)")


def check_subprotocols(value: Iterable[str]) -> tuple[str, ...]:
    """Check names of subprotocols (RFC 6455, section 4.1); gives them as a tuple."""
    if isinstance(value, str):
        text = f"subprotocols is {value!r}; it must be a sequence of names"
        raise ValueError(text)  # noqa: TRY004 - a text is a sequence of texts
    names = tuple(value)
    for name in names:
        check_token("subprotocol", name)
    return names


def check_prefix(value: str) -> None:
    """Check what paths are to begin with."""
    check_kind("path_prefix", value, str, "a text")
    if not (value.startswith("/") and value.endswith("/")):
        raise ValueError(f"path_prefix is {value!r}; it must begin and end with a slash")
    if not _PREFIX.fullmatch(value):
        allowed = "letters and digits of ASCII and -._~!$&'()*+,;=:@/"
        raise ValueError(f"path_prefix is {value!r}; it may have {allowed}")


def check_server_context(value: ssl.SSLContext, expected: str) -> None:
    """Check what a server is to speak TLS with."""
    check_kind("ssl_context", value, ssl.SSLContext, expected)
    if value.protocol is ssl.PROTOCOL_TLS_CLIENT:
        raise ValueError("ssl_context is a client's; see ssl.Purpose.CLIENT_AUTH")


def check_port(value: int) -> None:
    """Check a TCP port: the system would take its lower 16 bits."""
    check_whole("port", value, least=0)
    if value > _LAST_PORT:
        raise ValueError(f"port is {value!r}; it must be {_LAST_PORT} or less")


def check_hosts(value: str | Iterable[str] | None) -> list[str]:
    """Check where a server is to listen; gives names or addresses, empty ones for all."""
    hosts = [value or ""] if value is None or isinstance(value, str) else value
    if isinstance(hosts, bytes) or not isinstance(hosts, Iterable):
        raise TypeError(f"host is {value!r}; it must be a text, several, or None")
    names = list(hosts)
    if not names:
        raise ValueError(f"host is {value!r}; it must be a text, one or more, or None")
    for name in names:
        check_kind("host", name, str, "a text, several, or None")
    return names
