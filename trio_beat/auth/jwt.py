"""JSON Web Tokens: who a peer is, as an issuer has signed it (RFC 7519, RFC 7515, RFC 8725).

1. Only the signature is the library's; the header and the claims are checked here, since libraries
   let more through than a server should (`claims`). It is asked for the algorithm alone: where it
   takes a token apart, it refuses what others make, such as a header of more than 512 bytes.
2. The header chooses among the keys that are there, by ``alg`` and ``kid``, and nothing else: keys
   and addresses in it (``jwk``, ``jku``, ``x5u``) are not looked at, and ``crit`` is refused.
3. Signatures take time to check, and anyone can send wrong ones. So one is checked at a time, and
   other tasks run in between. A token that several keys may fit waits again for each of them.
"""

from __future__ import annotations

import base64
import os
import re
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final
from urllib.parse import parse_qsl

import trio
from joserfc.jws import JWSRegistry

from .._checks import check_kind, check_seconds, check_text
from .._exceptions import Refused
from .._identity import Identity
from .._log import get_logger
from .._protocol.refusal import unauthorized
from .._protocol.request import Request
from .claims import ClaimError, Expected, identify, parse
from .credentials import offered_token
from .keys import Key, read_keys_again

_log = get_logger("trio_beat.auth")

_COMPACT: Final = re.compile(r"([A-Za-z0-9_-]+)\.([A-Za-z0-9_-]+)\.([A-Za-z0-9_-]+)")
#: Seconds from one reading of the keys for a ``kid`` that is not known to the next.
_AGAIN: Final = 60.0


class JWT:
    """Tells who a peer is by its token: for ``admit`` of `trio_beat.serve`.

    The token is that of the header Authorization, else that behind the subprotocol ``bearer``, else
    that of the query, else that of the cookie. The first that is there counts, right or wrong.
    Pages need a server that has ``bearer`` as the last of its ``subprotocols``: browsers give up
    a connection whose offer is not answered.

    ``sub`` is the user, ``groups`` the groups, ``sid`` the session; ``subscribe``, ``publish`` and
    ``info`` are those of `Identity`. The identity ends at ``exp`` and the leeway.

    Args:
        key: what tokens are verified with: a public key (PEM), a JWK or a set of them (JSON), or
            a secret of 32 bytes or more. Bytes are that itself, everything else names a file. It
            decides the algorithm: HS256 for a secret, RS256, ES256 or EdDSA (also by the name
            Ed25519).
        issuer: ``iss`` that a token must have; None: any.
        audience: a name, or several, of which ``aud`` must have one; empty: a token that is for an
            audience is refused.
        leeway: seconds by which the issuer's clock may differ from this one.
        require_expiry: whether a token without ``exp`` is refused.
        query: name in a URL's query that may have the token; None: none. URLs are logged by many
            programs, though not by this package.
        cookie: name of a cookie that may have the token; None: none. Then ``allowed_origins`` of
            `serve` must have neither ``*`` nor ``null``.

    Raises:
        OSError: the file cannot be read.
        TypeError: an argument is of another type.
        ValueError: there is no key that can be used (`trio_beat.auth.keys.KeyFileError`), or an
            argument can never be right.
    """

    def __init__(
        self,
        key: bytes | str | os.PathLike[str],
        *,
        issuer: str | None = None,
        audience: str | Sequence[str] = (),
        leeway: float = 10.0,
        require_expiry: bool = True,
        query: str | None = None,
        cookie: str | None = None,
    ) -> None:
        names = (audience,) if isinstance(audience, str) else tuple(audience)
        for name in names:
            check_text("audience", name)
        for argument, value in (("issuer", issuer), ("query", query), ("cookie", cookie)):
            if value is not None:
                check_kind(argument, value, str, "a text, or None")
        check_seconds("leeway", leeway, zero=True)
        self._expected = Expected(
            issuer=issuer, audience=names, leeway=leeway, require_expiry=require_expiry
        )
        self._query = query
        self._cookie = cookie
        self._key = key if isinstance(key, bytes) else Path(key)
        self._keys: tuple[Key, ...] = ()
        self._looked_at = -_AGAIN
        self._failed: str | None = None
        self._turn = trio.Lock()
        self.reload()

    def __repr__(self) -> str:
        kinds = sorted({name for key in self._keys for name in key.algorithms})
        return f"JWT(<{len(self._keys)} keys: {', '.join(kinds)}>)"

    def reload(self) -> None:
        """Read the keys again; where that fails, those in use stay.

        Raises:
            OSError: the file cannot be read.
            ValueError: it has no key that can be used, or a secret where it had PEM or JSON.
        """
        key = self._key
        data = key if isinstance(key, bytes) else key.read_bytes()
        self._keys = read_keys_again(data, self._keys)
        self._failed = None

    async def __call__(self, request: Request) -> Identity | None:
        """Tell who a peer is.

        Args:
            request: with which it asks for a WebSocket.

        Returns:
            None where the request has no token.

        Raises:
            Refused: 401; its token is not right.
        """
        token = self._token(request)
        if token is None:
            await trio.lowlevel.checkpoint()
            return None
        try:
            return identify(await self._verified(token), self._expected, time.time())
        except ClaimError as exc:
            raise unauthorized(str(exc), error="invalid_token") from None

    def _token(self, request: Request) -> str | None:
        """The first token that a request has."""
        headers = request.headers.get_all("Authorization")
        if headers:
            scheme, _, behind = headers[0].partition(" ")
            if len(headers) > 1 or scheme.lower() != "bearer":
                raise _no_request("Authorization must be one header: Bearer <token>")
            return behind.strip(" ")
        token = offered_token(request)
        if token is None and self._query is not None:
            token = _only(
                [value for name, value in _pairs(request.query) if name == self._query],
                "the query",
            )
        if token is None and self._cookie is not None:
            token = request.cookies.get(self._cookie)
        return token

    async def _verified(self, token: str) -> dict[str, object]:
        """The claims of a token, once its signature is known to be right."""
        parts = _COMPACT.fullmatch(token)
        if parts is None:
            raise ClaimError("this is no token: expected three parts of base64url (RFC 7515)")
        async with self._turn:
            algorithm, kid = _named(parse(_decoded(parts[1]), "the token's header"))
        keys = self._fitting(algorithm, kid)
        signed = await self._is_signed_by(keys, token, algorithm)
        if not signed and self._is_unknown(kid) and self._reloaded():
            keys = self._fitting(algorithm, kid)
            signed = await self._is_signed_by(keys, token, algorithm)
        if not keys:
            raise ClaimError("no key of the server fits the token's alg and kid")
        if not signed:
            raise ClaimError("the token's signature is wrong")
        return parse(_decoded(parts[2]), "the token")

    async def _is_signed_by(self, keys: list[Key], token: str, algorithm: str) -> bool:
        for key in keys:
            async with self._turn:
                if _is_signed(token, algorithm, key):
                    return True
        return False

    def _is_unknown(self, kid: str | None) -> bool:
        return kid is not None and all(key.kid != kid for key in self._keys)

    def _fitting(self, algorithm: str, kid: str | None) -> list[Key]:
        """The keys for an algorithm that have a name, or else none; for no name, all."""
        keys = [key for key in self._keys if algorithm in key.algorithms]
        if kid is None:
            return keys
        return [key for key in keys if key.kid == kid] or [key for key in keys if key.kid is None]

    def _reloaded(self) -> bool:
        """Read the keys again for one that is not known, unless that was done just now."""
        now = trio.current_time()
        if isinstance(self._key, bytes) or now - self._looked_at < _AGAIN:
            return False
        self._looked_at = now
        try:
            self.reload()
        except (OSError, ValueError) as exc:
            failed = exc.strerror if isinstance(exc, OSError) else str(exc)
            if failed != self._failed:
                _log.error("the keys in use stay: cannot read %s: %s", self._key, failed)
            self._failed = failed
            return False
        return True


def _named(header: dict[str, Any]) -> tuple[str, str | None]:
    """The algorithm and the key that a token's header names."""
    algorithm, kid = header.get("alg"), header.get("kid")
    if "crit" in header or "b64" in header:
        raise ClaimError("the token's header has extensions that are not understood (crit)")
    if not isinstance(algorithm, str) or not isinstance(header.get("kid", ""), str):
        raise ClaimError("alg of the token must be a text, and kid where there is one")
    return algorithm, kid


def _no_request(text: str) -> Refused:
    return unauthorized(text, error="invalid_request")


def _pairs(query: str) -> list[tuple[str, str]]:
    return parse_qsl(query, keep_blank_values=True, errors="replace")


def _only(values: list[str], where: str) -> str | None:
    if len(values) > 1:
        raise _no_request(f"{where} has more than one token")
    return values[0] if values else None


def _decoded(part: str) -> bytes:
    """Bytes of base64url; each has one way to be written (RFC 4648, section 3.5)."""
    try:
        found = base64.urlsafe_b64decode(part + "=" * (-len(part) % 4))
    except ValueError:
        found = b""
    if base64.urlsafe_b64encode(found).rstrip(b"=").decode() != part:
        raise ClaimError("this is no token: a part of it is no base64url")
    return found


def _is_signed(token: str, algorithm: str, key: Key) -> bool:
    signed, _, signature = token.rpartition(".")
    verify = JWSRegistry.algorithms[algorithm].verify
    return verify(signed.encode(), _decoded(signature), key.key)
