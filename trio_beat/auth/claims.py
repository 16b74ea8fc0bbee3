"""What a token says, checked: from its claims to an identity (RFC 7519, section 4.1).

Each claim is checked strictly, also where libraries are lenient: a number in a text is none, and
what was not asked for is not passed over where it restricts (``aud``).
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import Any, NoReturn

from .._identity import Identity

_Claims = dict[str, Any]


class ClaimError(ValueError):
    """A token is not what it should be. The text quotes nothing of it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Expected:
    """What tokens must say.

    Args:
        issuer: ``iss``; None: any, and it may be missing.
        audience: of which ``aud`` must name one; empty: a token for an audience is refused.
        leeway: seconds by which the issuer's clock may differ from ours.
        require_expiry: a token without ``exp`` is refused.
    """

    issuer: str | None = None
    audience: tuple[str, ...] = ()
    leeway: float = 10.0
    require_expiry: bool = True


def parse(data: bytes, what: str) -> _Claims:
    """Parse an object of JSON; of several members of one name the last counts.

    Args:
        data: UTF-8.
        what: it is, for the message.

    Raises:
        ClaimError: it is none, or too deep, or has a number that is none.
    """
    try:
        found = json.loads(data.decode(), parse_constant=_refuse_constant)
    except (ValueError, RecursionError):
        raise ClaimError(f"{what} is no JSON") from None
    if not isinstance(found, dict):
        raise ClaimError(f"{what} is no object of JSON")
    return found


def _refuse_constant(_: str) -> NoReturn:
    raise ValueError  # NaN and Infinity, which JSON does not have


def identify(claims: _Claims, expected: Expected, now: float) -> Identity:
    """Tell who a token is about.

    Args:
        claims: of a token whose signature is right.
        expected: what it must say.
        now: seconds since 1970.

    Raises:
        ClaimError: it does not say that, or not now.
    """
    expires_at = _check_times(claims, expected, now)
    _check_issuer(claims, expected)
    _check_audience(claims, expected)
    try:
        return Identity(
            user=_text(claims, "sub", required=True),
            groups=_texts(claims, "groups") or (),
            session=_text(claims, "sid"),
            expires_at=expires_at,
            subscribe=_texts(claims, "subscribe"),
            publish=_texts(claims, "publish"),
            info=claims.get("info"),
        )
    except ClaimError:
        raise
    except ValueError:  # of surrogates
        raise ClaimError("a name in the token cannot be encoded as UTF-8") from None


def _check_times(claims: _Claims, expected: Expected, now: float) -> float | None:
    """Returns until when it lets its peer in; None: for ever."""
    _number(claims, "iat")
    not_before = _number(claims, "nbf")
    if not_before is not None and not_before - expected.leeway > now:
        raise ClaimError("the token is not valid yet (nbf)")
    expires = _number(claims, "exp")
    if expires is None:
        if expected.require_expiry:
            raise ClaimError("the token has no exp; it must expire")
        return None
    if expires + expected.leeway <= now:
        raise ClaimError("the token has expired")
    return expires + expected.leeway


def _number(claims: _Claims, name: str) -> float | None:
    if name not in claims:
        return None
    value = claims[name]
    if isinstance(value, int | float) and not isinstance(value, bool):
        try:
            number = float(value)
        except OverflowError:
            number = math.inf
        if math.isfinite(number):
            return number
    raise ClaimError(f"{name} of the token is no finite number")


def _check_issuer(claims: _Claims, expected: Expected) -> None:
    issuer = claims.get("iss")
    if expected.issuer is not None and issuer != expected.issuer:
        raise ClaimError("iss of the token is another issuer than the server asks for")


def _check_audience(claims: _Claims, expected: Expected) -> None:
    if "aud" not in claims:
        if expected.audience:
            raise ClaimError("the token has no aud; the server asks for one")
        return
    given = claims["aud"]
    audience = [given] if isinstance(given, str) else given
    if not isinstance(audience, list) or not all(isinstance(name, str) for name in audience):
        raise ClaimError("aud of the token is neither a text nor a list of them")
    if not set(audience) & set(expected.audience):
        raise ClaimError("the token is for another audience (aud) than this server")


def _text(claims: _Claims, name: str, *, required: bool = False) -> str | None:
    if name not in claims and not required:
        return None
    value = claims.get(name)
    if not isinstance(value, str) or not value:
        raise ClaimError(f"{name} of the token must be a text that is not empty")
    return value


def _texts(claims: _Claims, name: str) -> list[str] | None:
    if name not in claims:
        return None
    value = claims[name]
    if not isinstance(value, list) or not all(isinstance(it, str) and it for it in value):
        raise ClaimError(f"{name} of the token must be a list of texts, none of them empty")
    return value
