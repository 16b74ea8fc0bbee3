"""Checks that reject arguments where they are given.

Each raises TypeError for a value of another type, and ValueError for one outside of its range. The
message names the argument, its value, and what is allowed.
"""

from __future__ import annotations

import inspect
import math
import os
import re
import ssl
from collections.abc import Awaitable, Iterable
from typing import Final, TypeVar

import trio

_T = TypeVar("_T")

#: The name of a header, a subprotocol (RFC 9110, section 5.6.2).
TOKEN: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_LAST_PORT: Final = 65535
_ALL_MODES: Final = 0o777
#: Seconds, some 30,000 years: small enough that no computation with them overflows.
LONGEST: Final = 10**12
#: Missed beats in a row, for the same reason.
MOST_MISSES: Final = 10**9
#: A second: rates with which no computation loses what it counts.
SLOWEST: Final = 0.001
FASTEST: Final = 10**10
#: A path that is the same before and after percent-decoding (RFC 3986, section 3.3).
_PREFIX: Final = re.compile(r"/|/[A-Za-z0-9/._~!$&'()*+,;=:@-]*/")


def check_kind(name: str, value: object, kind: type | tuple[type, ...], expected: str) -> None:
    """Check the type of a value; a bool is no number.

    Args:
        name: the argument's, for the message.
        value: the argument.
        kind: what it must be an instance of.
        expected: what is allowed, for the message.
    """
    if not isinstance(value, kind) or isinstance(value, bool):
        raise TypeError(f"{name} is {value!r}; it must be {expected}")


def check_async(name: str, answer: Awaitable[_T]) -> Awaitable[_T]:
    """Check that a function of the application is an async one, and return what it gave.

    Args:
        name: the argument's that the function was, for the message.
        answer: what calling it gave, which is not quoted: it may be secret.
    """
    if not inspect.isawaitable(answer):
        kind = type(answer).__name__
        raise TypeError(f"{name}() gave a {kind} at once; it must be an async function")
    return answer


def in_trio() -> bool:
    """Whether Trio runs the caller."""
    return trio.lowlevel.in_trio_run() and trio.lowlevel.in_trio_task()


def check_trio() -> None:
    """Check that Trio runs the caller; what Trio itself raises elsewhere does not say so.

    Raises:
        RuntimeError: asyncio does, or nothing.
    """
    if not in_trio():
        raise RuntimeError("trio_beat runs under Trio, and not under asyncio: see trio.run")


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
    # False for NaN.
    enough = value >= 0 if zero else value > 0
    if not enough or (value > LONGEST and not (endless and value == math.inf)):
        least = ", 0 or more" if zero else " > 0"
        most = f" and no more than {LONGEST:g}" if LONGEST < value < math.inf else ""
        raise ValueError(f"{name} is {value!r}; it must be a number of seconds{least}{most}")


def check_rate(name: str, value: float) -> None:
    """Check a rate, in something a second; 0: none."""
    check_kind(name, value, (int, float), "a number")
    if value != 0 and not SLOWEST <= value <= FASTEST:  # false for NaN
        raise ValueError(f"{name} is {value!r}; it must be 0, or {SLOWEST:g} to {FASTEST:g}")


def check_text(name: str, value: str) -> None:
    """Check a text that must be encodable as UTF-8."""
    check_kind(name, value, str, "a text")
    encode(name, value)


def encode(name: str, value: str) -> bytes:
    """Encode a text as UTF-8.

    Raises:
        ValueError: it has surrogates, which UTF-8 cannot encode (RFC 3629, section 3).
    """
    try:
        return value.encode()
    except UnicodeEncodeError as exc:
        where = f"{value[exc.start]!r} at position {exc.start}"
        raise ValueError(f"{name} has a surrogate, {where}, which UTF-8 cannot encode") from None


def check_token(name: str, value: str) -> None:
    """Check a name that a header may contain without quotes (RFC 9110, section 5.6.2)."""
    check_kind(name, value, str, "a text")
    if not TOKEN.fullmatch(value):
        raise ValueError(f"{name} {value!r} is not a token (RFC 9110, section 5.6.2)")


def check_subprotocols(value: Iterable[str], *, secret: bool = False) -> tuple[str, ...]:
    """Check names of subprotocols (RFC 6455, section 4.1), and return them as a tuple.

    Args:
        secret: whether a name may be one, such as a token that a client offers; no message has it.
    """
    if isinstance(value, str):
        shown = "a text" if secret else repr(value)
        text = f"subprotocols is {shown}; it must be a sequence of names"
        raise ValueError(text)  # noqa: TRY004 - a text is a sequence of texts
    names = tuple(value)
    for number, name in enumerate(names, 1):
        if secret and not (isinstance(name, str) and TOKEN.fullmatch(name)):
            kind = TypeError if not isinstance(name, str) else ValueError
            raise kind(f"subprotocol {number} is not a token (RFC 9110, section 5.6.2)")
        check_token("subprotocol", name)
    # A header would format an enumeration's members by their names.
    return tuple(map(str.__str__, names))


def check_prefix(value: str) -> None:
    """Check a prefix of paths."""
    check_kind("path_prefix", value, str, "a text")
    if not (value.startswith("/") and value.endswith("/")):
        raise ValueError(f"path_prefix is {value!r}; it must begin and end with a slash")
    if not _PREFIX.fullmatch(value):
        allowed = "letters and digits of ASCII and -._~!$&'()*+,;=:@/"
        raise ValueError(f"path_prefix is {value!r}; it may have {allowed}")


def check_server_context(value: ssl.SSLContext, expected: str) -> None:
    """Check the TLS context of a server."""
    check_kind("ssl_context", value, ssl.SSLContext, expected)
    if value.protocol is ssl.PROTOCOL_TLS_CLIENT:
        raise ValueError("ssl_context is a client's; see ssl.Purpose.CLIENT_AUTH")


def check_port(value: int) -> None:
    """Check a TCP port; the system would silently use the lower 16 bits of a larger number."""
    check_whole("port", value, least=0)
    if value > _LAST_PORT:
        raise ValueError(f"port is {value!r}; it must be {_LAST_PORT} or less")


def check_hosts(value: str | Iterable[str] | None) -> list[str]:
    """Check the hosts of a server, and return them as a list; an empty name means all addresses."""
    hosts = [value or ""] if value is None or isinstance(value, str) else value
    if isinstance(hosts, bytes) or not isinstance(hosts, Iterable):
        raise TypeError(f"host is {value!r}; it must be a text, several, or None")
    names = list(hosts)
    if not names:
        raise ValueError(f"host is {value!r}; it must be a text, one or more, or None")
    for name in names:
        check_kind("host", name, str, "a text, several, or None")
    return names


def check_path(name: str, value: str | os.PathLike[str]) -> str:
    """Check the path of a Unix socket, and return it as a text."""
    check_kind(name, value, (str, os.PathLike), "a path, or None")
    path = os.fspath(value)
    check_kind(name, path, str, "a path of text, or None")
    if not path:
        raise ValueError(f"{name} is empty; it must be a path")
    if path[0] in "@\0":
        text = "an abstract socket has no mode, and lets in every user of the machine"
        raise ValueError(f"{name} is {path!r}; {text}: give a path, such as './@x', or open it")
    if "\0" in path:
        raise ValueError(f"{name} is {path!r}; no path has a NUL")
    return path


def check_mode(name: str, value: int) -> None:
    """Check the mode of a file (chmod(2)); 660 is not what 0o660 is."""
    check_kind(name, value, int, "a mode, such as 0o660")
    if not 0 <= value <= _ALL_MODES:
        raise ValueError(f"{name} is {value!r}; it must be from 0 to 0o777, such as 0o660")
