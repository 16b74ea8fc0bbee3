"""The tokens of the API, as the options and their file name them.

The file is TOML, a table for each token, whose name is the table's::

    [shop]
    token = "a long and random text"
    publish = ["broadcast:*", "user:*:orders"]

No error quotes anything of it: a token may stand in the wrong place.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from .._log import get_logger
from .._site.tokens import ALONE, Token, Tokens, check_sendable, digest
from .arguments import ConfigurationError
from .settings import Settings

_log = get_logger("trio_beat")

#: Bytes of the file, and tokens in it: each request is compared with all of them.
_LARGEST: Final = 2**20
_MOST: Final = 1000
_NAME: Final = re.compile(r"[A-Za-z0-9_-]{1,64}")
_SHA256: Final = re.compile(r"[0-9A-Fa-f]{64}")
_MEMBERS: Final = ("token", "sha256", "publish", "disconnect")
_WHERE: Final = re.compile(r"\(at [^()]*\)\Z")


class APITokens:
    """The tokens of the API.

    Args:
        settings: the options.

    Attributes:
        tokens: in use; None: there are none, and no API.

    Raises:
        ConfigurationError: they cannot be used.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self.tokens: Tokens | None = None
        for name in ("api_rate", "api_byte_rate"):
            if name in settings.model_fields_set and not self._given:
                option = f"--{name.replace('_', '-')}"
                text = "is of no use without --api-tokens or --publish-token"
                raise ConfigurationError(f"{option}: {text}")
        if self._given:
            rates = {"requests": settings.api_rate, "size": settings.api_byte_rate}
            try:
                self.tokens = Tokens(self._read(), **rates)
            except (OSError, ValueError) as exc:
                raise ConfigurationError(f"--api-tokens: {_why(exc)}") from None

    @property
    def _given(self) -> bool:
        settings = self._settings
        return settings.api_tokens is not None or settings.publish_token is not None

    def renew(self) -> bool:
        """Read the file again at SIGHUP, and log it.

        Returns:
            False where the tokens in use stay: there is no file, or it cannot be used.
        """
        if self.tokens is None or self._settings.api_tokens is None:
            return False
        try:
            self.tokens.replace(self._read())
        except (OSError, ValueError) as exc:
            _log.error("SIGHUP: the tokens in use stay: --api-tokens: %s", _why(exc))
            return False
        _log.info("SIGHUP: read the file of --api-tokens again")
        return True

    def _read(self) -> list[Token]:
        tokens = []
        if (path := self._settings.api_tokens) is not None:
            tokens += parse_tokens(_text(path))
        if (alone := self._settings.publish_token) is not None:
            made = digest(alone.get_secret_value().encode())
            tokens.append(Token(name=ALONE, digest=made))
        if len({token.digest for token in tokens}) < len(tokens):
            raise ValueError("two tokens are the same; each bearer needs one of its own")
        return tokens


def _why(exc: OSError | ValueError) -> str:
    if isinstance(exc, OSError):
        return f"cannot read {exc.filename}: {exc.strerror}"
    return str(exc)


def _text(path: Path) -> str:
    with path.open("rb") as file:
        data = file.read(_LARGEST + 1)
    if len(data) > _LARGEST:
        raise ValueError(f"the file has more than {_LARGEST:,} bytes")
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise ValueError("the file is not UTF-8") from None


def parse_tokens(text: str) -> list[Token]:
    """Read the text of the file.

    Raises:
        ValueError: it is wrong; the message quotes nothing of it.
    """
    try:
        tables = tomllib.loads(text)
    except (ValueError, RecursionError) as exc:
        where = _WHERE.search(str(exc))
        raise ValueError(f"the file is not TOML {where[0] if where else ''}".rstrip()) from None
    if not tables:
        raise ValueError("the file has no token")
    if len(tables) > _MOST:
        raise ValueError(f"the file has {len(tables):,} tokens; there may be {_MOST:,} at most")
    return list(_tokens(tables))


def _tokens(tables: dict[str, Any]) -> Iterator[Token]:
    for number, (name, table) in enumerate(tables.items(), 1):
        try:
            yield _token(name, table)
        except ValueError as exc:
            raise ValueError(f"token {number} {exc}") from None


def _token(name: str, table: object) -> Token:
    if not isinstance(table, dict):
        raise ValueError('is no table; write [NAME], and token = "..." below it')  # noqa: TRY004
    if not _NAME.fullmatch(name):
        raise ValueError("has another name than 1 to 64 letters of ASCII, digits, '_' and '-'")
    if name == ALONE:
        raise ValueError(f"has the name {ALONE!r}, which is that of --publish-token")
    if not set(table) <= set(_MEMBERS):
        raise ValueError(f"has an unknown member; there are {', '.join(_MEMBERS)}")
    publish, disconnect = table.get("publish"), table.get("disconnect", False)
    if publish is not None and not (
        isinstance(publish, list) and all(isinstance(it, str) and it for it in publish)
    ):
        raise ValueError('has a publish that is no list of patterns, such as ["broadcast:*"]')
    if not isinstance(disconnect, bool):
        raise ValueError("has a disconnect that is neither true nor false")  # noqa: TRY004
    patterns = None if publish is None else tuple(publish)
    return Token(name=name, digest=_digest(table), publish=patterns, disconnect=disconnect)


def _digest(table: dict[str, Any]) -> bytes:
    given = {kind: table[kind] for kind in ("token", "sha256") if kind in table}
    if len(given) != 1:
        raise ValueError("needs exactly one of token and sha256")
    (kind, value), *_ = given.items()
    if not isinstance(value, str):
        raise ValueError(f"has a {kind} that is no text")  # noqa: TRY004 - of the file
    if kind == "sha256":
        if not _SHA256.fullmatch(value):
            raise ValueError("has a sha256 that is not 64 hexadecimal digits")
        return bytes.fromhex(value)
    check_sendable(value)
    return digest(value.encode())
