"""``python -m trio_beat token``: make a token for a user."""

from __future__ import annotations

import json
import re
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from joserfc import jws

from .._text import utf8
from ..auth.keys import KeyFileError, read_signing_key
from .arguments import ConfigurationError, Parser
from .streams import say

_UNITS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_DURATION: Final = re.compile(r"([1-9][0-9]{0,9})([smhd])")


def token(arguments: Sequence[str]) -> int:
    """Print a token.

    Args:
        arguments: the command line's, without the command.

    Returns:
        0; 1 where it cannot be printed.

    Raises:
        ConfigurationError: an option cannot be used.
        SystemExit: help was asked for, and has been printed.
    """
    options = _parser().parse_args(list(arguments))
    try:
        data = Path(options.key).read_bytes()
        key = read_signing_key(data)
    except OSError as exc:
        raise ConfigurationError(f"--key: cannot read {options.key}: {exc.strerror}") from exc
    except KeyFileError as exc:
        raise ConfigurationError(f"--key: {options.key}: {exc}") from exc
    now = int(time.time())
    claims: dict[str, Any] = {"sub": _text("--user", options.user), "iat": now}
    claims["exp"] = now + _seconds(options.expire)
    several = {"groups": options.group, "subscribe": options.subscribe, "publish": options.publish}
    one = {"sid": options.session, "iss": options.issuer, "aud": options.audience}
    names = {"groups": "--group", "sid": "--session", "iss": "--issuer", "aud": "--audience"}
    for name, values in several.items():
        if values is not None:
            claims[name] = [_text(names.get(name, f"--{name}"), value) for value in values]
    for name, value in one.items():
        if value is not None:
            claims[name] = _text(names[name], value)
    kid = key.kid if options.key_id is None else _text("--key-id", options.key_id)
    algorithm = key.algorithms[0]
    header: dict[str, Any] = {"typ": "JWT", "alg": algorithm} | ({"kid": kid} if kid else {})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of EdDSA by the name that most programs know
        made = jws.serialize_compact(header, json.dumps(claims), key.key, [algorithm])
    return 0 if say(made + "\n") else 1


def _parser() -> Parser:
    parser = Parser(
        prog="trio-beat token",
        description="Print a token (JWT) that a server with --auth jwt lets in. The key decides "
        "the algorithm: HS256 for a secret, RS256, ES256 or EdDSA for a private key.",
    )
    parser.add_argument(
        "--key", required=True, metavar="FILE", help="a private key (PEM or JWK), or a secret"
    )
    parser.add_argument("--user", required=True, help="the user (sub)")
    parser.add_argument("--group", action="append", help="a group of the user's; may be repeated")
    parser.add_argument("--session", help="the key of a session (sid)")
    parser.add_argument(
        "--expire", default="1h", help="how long it lives: 30s, 15m, 1h, 7d (default: 1h)"
    )
    parser.add_argument("--issuer", help="iss")
    parser.add_argument("--audience", help="aud")
    for action in ("subscribe", "publish"):
        parser.add_argument(
            f"--{action}",
            action="append",
            metavar="PATTERN",
            help=f"channels that it may {action}, such as broadcast:*; may be repeated",
        )
    parser.add_argument("--key-id", help="kid, where the server has several keys")
    return parser


def _text(option: str, value: str) -> str:
    try:
        text = utf8(value)
    except ValueError:
        raise ConfigurationError(f"{option}: is not UTF-8") from None
    if not text:
        raise ConfigurationError(f"{option}: is empty")
    return text


def _seconds(duration: str) -> int:
    found = _DURATION.fullmatch(duration)
    if found is None:
        raise ConfigurationError(f"--expire: {duration!r} should be like 30s, 15m, 1h or 7d")
    return int(found[1]) * _UNITS[found[2]]
