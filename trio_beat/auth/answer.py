"""What an application's answer says about a peer.

1. An identity is taken whole or not at all: what is not understood is an error of the application.
2. No message quotes a value, which may be a session's key. Names are quoted.
"""

from __future__ import annotations

import codecs
import json
import math
import re
from collections.abc import Iterable
from typing import Any, Final, NoReturn

from .._exceptions import Refused
from .._identity import Identity
from .._text import printable

#: Bytes of an identity, and of the text of a refusal.
MOST_JSON: Final = 64 * 1024
MOST_TEXT: Final = 1024
#: Lists and objects within one another. The parser's own limit depends on the stack that it is
#: called with, and is more than others can print or copy.
_DEEPEST: Final = 50
#: Digits of an integer: as many as 64 bits need.
_DIGITS: Final = 20
#: Characters of a name that is quoted.
_NAME: Final = 40
#: What each name may have.
_KINDS: Final[dict[str, tuple[tuple[type, ...], str]]] = {
    "user": ((str,), "a text"),
    "groups": ((list,), "a list of texts"),
    "session": ((str,), "a text"),
    "expires_at": ((int, float), "a number: seconds since 1970"),
    "subscribe": ((list,), "a list of texts"),
    "publish": ((list,), "a list of texts"),
    "info": ((object,), "anything"),
}
#: The value of a header that can be sent.
_SENDABLE: Final = re.compile(r"[\t -~]*[!-~][\t -~]*")
_TEXTS: Final = {
    401: "the application does not take these credentials",
    403: "the application forbids it",
}


def identity_of(body: bytes) -> Identity:
    """Read an identity: a JSON object (RFC 8259) of the arguments of `Identity`.

    A name that is null is as good as not there.

    Args:
        body: UTF-8.

    Raises:
        ValueError: it is none; says why and what is allowed.
    """
    found = _load(body)
    if not isinstance(found, dict):
        raise ValueError("not a JSON object")  # noqa: TRY004 - it is the application's mistake
    given = {name: value for name, value in found.items() if value is not None}
    for name in found:
        if name not in _KINDS:
            expected = ", ".join(_KINDS)
            raise ValueError(f"unknown name {_shown(name)}; it may have {expected}")
    for name, value in given.items():
        kinds, expected = _KINDS[name]
        if not isinstance(value, kinds) or (isinstance(value, bool) and name != "info"):
            raise ValueError(f"{name} is {_kind(value)}; it must be {expected}, or null")
    try:
        return Identity(**given)
    except TypeError as exc:
        text = str(exc)
    raise ValueError(text)


def refusal_of(status: int, headers: Iterable[tuple[str, str]], body: bytes) -> Refused:
    """Make the refusal of an application that answers 401 or 403.

    Args:
        status: 401 or 403.
        headers: of the answer.
        body: its beginning; what is no ``text/plain`` is not passed on.
    """
    pairs = [(name.lower(), value) for name, value in headers]
    text = _text(body) if is_text(pairs) else ""
    return Refused(
        status,
        text or _TEXTS[status],
        [("WWW-Authenticate", challenge) for challenge in _challenges(status, pairs)],
        logged="refused by the application",  # its text may quote a credential
    )


def is_text(headers: Iterable[tuple[str, str]]) -> bool:
    """Whether an answer is plain text (RFC 9110, section 8.3).

    Args:
        headers: of the answer.
    """
    types = [value for name, value in headers if name.lower() == "content-type"]
    return [value.partition(";")[0].strip().lower() for value in types] == ["text/plain"]


def _challenges(status: int, headers: list[tuple[str, str]]) -> list[str]:
    """What a 401 must have (RFC 9110, section 15.5.2)."""
    if status != 401:
        return []
    found = [value for name, value in headers if name == "www-authenticate"]
    sendable = all(_SENDABLE.fullmatch(value) for value in found)
    return found if found and sendable and sum(map(len, found)) <= MOST_TEXT else ["Bearer"]


def _text(body: bytes) -> str:
    # What is cut off within a character leaves no trace of it.
    decoded = codecs.getincrementaldecoder("utf-8")("replace").decode(body[:MOST_TEXT])
    # Escaping makes it longer.
    safe = printable(" ".join(decoded.split())).encode()
    return safe[:MOST_TEXT].decode(errors="ignore")


def _load(body: bytes) -> Any:
    try:
        text = body.decode()
        found = json.loads(
            text,
            object_pairs_hook=_object,
            parse_int=_integer,
            parse_float=_float,
            parse_constant=_constant,
        )
    except UnicodeDecodeError as exc:
        wrong = f"no JSON: not UTF-8 at byte {exc.start}"
    except json.JSONDecodeError as exc:
        wrong = f"no JSON: wrong at character {exc.pos}" if text.strip() else "no JSON: empty"
    except RecursionError:
        wrong = _too_deep()
    else:
        _check_depth_and_texts(found)
        return found
    # Not in a handler: what the parser raises keeps the whole text.
    raise ValueError(wrong)


def _too_deep() -> str:
    return f"nested too deeply; at most {_DEEPEST} lists and objects may be within one another"


def _check_depth_and_texts(found: Any) -> None:
    level, depth = [found], 0
    while level:
        inner: list[Any] = []
        for value in level:
            if isinstance(value, dict):
                inner += (*value.keys(), *value.values())
            elif isinstance(value, list):
                inner += value
            elif isinstance(value, str):
                _check_text(value)
        depth += any(isinstance(value, dict | list) for value in level)
        if depth > _DEEPEST:
            raise ValueError(_too_deep())
        level = inner


def _check_text(text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError:
        pass
    else:
        return
    raise ValueError("a text has half of a surrogate pair (RFC 8259, section 8.2)")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"name {_shown(twice)} more than once (RFC 8259, section 4)")
    return found


def _integer(digits: str) -> int:
    if len(digits.lstrip("-")) > _DIGITS:
        raise ValueError(f"an integer of more than {_DIGITS} digits")
    return int(digits)


def _float(digits: str) -> float:
    number = float(digits)
    if not math.isfinite(number):
        raise ValueError("a number beyond those of 64 bits (RFC 8259, section 6)")
    return number


def _constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number of JSON (RFC 8259, section 6)")


def _shown(name: str) -> str:
    return repr(name if len(name) <= _NAME else f"{name[:_NAME]}...")


def _kind(value: object) -> str:
    """The type of a value in the words of JSON."""
    match value:
        case bool():
            return "a boolean"
        case int() | float():
            return "a number"
        case str():
            return "a text"
        case list():
            return "a list"
        case _:
            return "an object"
