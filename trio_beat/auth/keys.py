"""The keys of tokens, and which algorithm each of them is for (RFC 7517, RFC 7518).

1. The key decides the algorithm, and never the token: a public key that is everybody's would else
   do as the secret of an HMAC.
2. A verifier needs no private key, and refuses one: its file should not be here.
3. What is neither PEM nor JSON is a secret. So a public key that is written in another way, or in
   another encoding, is looked for and refused: everybody could sign with it.
"""

from __future__ import annotations

import base64
import codecs
import json
import re
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Final, NamedTuple, TypeAlias

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import (
    load_der_private_key,
    load_der_public_key,
    load_pem_private_key,
    load_pem_public_key,
)
from cryptography.x509 import load_der_x509_certificate
from joserfc.errors import JoseError
from joserfc.jwk import ECKey, OctKey, OKPKey, RSAKey, import_key

JoseKey: TypeAlias = ECKey | OctKey | OKPKey | RSAKey

#: Bytes of a secret, at least: as many as its HMAC has (RFC 7518, section 3.2).
_SECRET: Final = 32
#: Bits of an RSA key, at least (RFC 7518, section 3.3).
_RSA_BITS: Final = 2048
#: Keys of one set: a token without `kid` is tried with all that fit.
_MOST: Final = 64
#: How public keys of SSH begin (OpenSSH, RFC 4716), and pages and addresses that stand where a key
#: should.
_NO_SECRET: Final = re.compile(
    rb"\s*(ssh-|ecdsa-|sk-ssh-|sk-ecdsa-|---- BEGIN |<!doctype |<html|<\?xml|https?://)",
    re.IGNORECASE,
)
_BASE64: Final = re.compile(rb"[A-Za-z0-9+/_-]+=*")
#: The algorithms of a key, by its kind (``kty``) and curve. RFC 9864 has the newer name of EdDSA.
_ALGORITHMS: Final[Mapping[tuple[str, str | None], tuple[str, ...]]] = {
    ("oct", None): ("HS256",),
    ("RSA", None): ("RS256",),
    ("EC", "P-256"): ("ES256",),
    ("OKP", "Ed25519"): ("EdDSA", "Ed25519"),
}
_KINDS: Final = "a secret (HS256), or a key of RSA (RS256), P-256 (ES256) or Ed25519 (EdDSA)"


class KeyFileError(ValueError):
    """What should be a key is none, or none that can be used. The text quotes nothing of it."""


class Key(NamedTuple):
    """A key and what it is for."""

    key: JoseKey
    algorithms: tuple[str, ...]  #: values of ``alg``
    kid: str | None  #: its name; None: it has none
    bare: bool = False  #: whether it is a secret without PEM or JSON around it


def read_keys(data: bytes) -> tuple[Key, ...]:
    """Read what tokens are verified with.

    Args:
        data: a public key (PEM), a JWK or a set of them (JSON), else a secret, of which one newline
            at its end does not count.

    Raises:
        KeyFileError: it is none of these, has a private key, or nothing that can be used.
    """
    if b"-----BEGIN " in data:
        if b"PRIVATE KEY-----" in data:
            raise KeyFileError("a private key: only the issuer of tokens should have it")
        if b"-----BEGIN CERTIFICATE-----" in data:
            raise KeyFileError("a certificate; its public key is needed (openssl x509 -pubkey)")
        if data.count(b"-----BEGIN ") > 1:  # all but the first would be passed over
            raise KeyFileError("more than one key in PEM; a set of JWKs may have several")
        return (_from_pem(data, private=False),)
    jwks = _jwks(data)
    if jwks is None:
        return (_from_secret(data),)
    keys = tuple(key for number, jwk in jwks if (key := _from_jwk(jwk, number, private=False)))
    if not keys:
        raise KeyFileError(f"no key that can be used to verify a token; it must be {_KINDS}")
    return keys


def read_keys_again(data: bytes, before: tuple[Key, ...]) -> tuple[Key, ...]:
    """Read what takes the place of keys.

    What once was PEM or JSON becomes no bare secret: it is rather what a proxy said when the file
    was fetched, which everybody can ask it for.

    Args:
        data: as for `read_keys`.
        before: the keys so far.

    Raises:
        KeyFileError: as `read_keys`, and for such a secret.
    """
    keys = read_keys(data)
    if keys[0].bare and any(not key.bare for key in before):
        raise KeyFileError("neither PEM nor JSON, as before; a secret is taken only at the start")
    return keys


def read_signing_key(data: bytes) -> Key:
    """Read what tokens are signed with: a private key (PEM or JWK), or a secret.

    Raises:
        KeyFileError: it is none of these.
    """
    if b"-----BEGIN " in data:
        if b"PRIVATE KEY-----" not in data:
            raise KeyFileError("no private key: a token cannot be signed with it")
        return _from_pem(data, private=True)
    jwks = _jwks(data)
    if jwks is None:
        return _from_secret(data)
    keys = [key for number, jwk in jwks if (key := _from_jwk(jwk, number, private=True))]
    if len(keys) != 1:
        raise KeyFileError(f"{len(keys)} keys that can sign a token; one is needed: {_KINDS}")
    return keys[0]


def _from_secret(data: bytes) -> Key:
    secret = data.removesuffix(b"\n").removesuffix(b"\r")
    _check_secret(len(secret))
    if any(map(_is_known, _readings(data))):
        raise KeyFileError(
            "no secret, but a key or a page in another form; a public key must be PEM, or a JWK or "
            "a set of them, in UTF-8 without a byte order mark"
        )
    return Key(OctKey.import_key(secret), _ALGORITHMS["oct", None], None, bare=True)


def _readings(data: bytes) -> Iterator[bytes]:
    """What is taken for a secret, and what it may have been before it was encoded."""
    yield data
    yield data.removeprefix(codecs.BOM_UTF8)
    # The tools of Windows write texts so, with a mark or without.
    for encoding in ("utf-16-le", "utf-16-be"):
        try:
            yield data.decode(encoding).lstrip("\ufeff").encode()
        except UnicodeError:
            continue


def _is_known(data: bytes) -> bool:
    """Whether bytes are a key in PEM, JSON, SSH's forms, DER, or base64 of that; or a page."""
    if b"-----BEGIN " in data or _NO_SECRET.match(data):
        return True
    if data.lstrip()[:1] in (b"{", b"["):
        try:
            json.loads(data)
        except (ValueError, RecursionError):
            pass
        else:
            return True
    if _is_der(data):
        return True
    # As Keycloak shows a key, and as a JWK has a certificate (x5c): PEM without its first and last
    # line.
    packed = b"".join(data.split())
    if not _BASE64.fullmatch(packed):
        return False
    padded = packed.rstrip(b"=") + b"=" * (-len(packed.rstrip(b"=")) % 4)
    try:
        return _is_der(base64.b64decode(padded.translate(bytes.maketrans(b"-_", b"+/"))))
    except ValueError:
        return False


def _is_der(data: bytes) -> bool:
    loads: tuple[Callable[[bytes], object], ...] = (
        load_der_public_key,
        load_der_x509_certificate,
        lambda key: load_der_private_key(key, None),
    )
    if not data.startswith(b"\x30"):  # a sequence (X.690, section 8.9), as all of them are
        return False
    for load in loads:
        try:
            load(data)
        except UnsupportedAlgorithm:
            return True
        except (ValueError, TypeError):
            continue
        return True
    return False


def _check_secret(size: int) -> None:
    if size < _SECRET:
        raise KeyFileError(f"a secret of {size} bytes; it must have {_SECRET} or more")


def _from_pem(data: bytes, *, private: bool) -> Key:
    try:
        found = load_pem_private_key(data, None) if private else load_pem_public_key(data)
    except TypeError:
        raise KeyFileError("a private key that is encrypted; it must not be") from None
    except (ValueError, UnsupportedAlgorithm):
        raise KeyFileError("no key in PEM") from None
    kind: type[RSAKey | ECKey | OKPKey]
    named: tuple[str, str | None]
    match found:
        case rsa.RSAPublicKey() | rsa.RSAPrivateKey():
            kind, named = RSAKey, ("RSA", None)
            _check_rsa(found.key_size)
        case ec.EllipticCurvePublicKey() | ec.EllipticCurvePrivateKey() if isinstance(
            found.curve, ec.SECP256R1
        ):
            kind, named = ECKey, ("EC", "P-256")
        case ed25519.Ed25519PublicKey() | ed25519.Ed25519PrivateKey():
            kind, named = OKPKey, ("OKP", "Ed25519")
        case _:
            raise KeyFileError(f"a key of another kind; it must be {_KINDS}")
    return Key(kind.import_key(data), _ALGORITHMS[named], None)


def _check_rsa(bits: int) -> None:
    if bits < _RSA_BITS:
        raise KeyFileError(f"a key of RSA with {bits} bits; it must have {_RSA_BITS} or more")


def _jwks(data: bytes) -> Iterable[tuple[int, dict[str, Any]]] | None:
    """JWKs with their numbers; None: it is no JSON."""
    if not data.lstrip().startswith(b"{"):
        return None
    try:
        found = json.loads(data.decode())
    except (ValueError, RecursionError):
        raise KeyFileError("it begins like JSON, and is none") from None
    jwks = found.get("keys", [found])
    if not isinstance(jwks, list) or not all(isinstance(jwk, dict) for jwk in jwks):
        raise KeyFileError("keys is no list of objects (RFC 7517, section 5)")
    if len(jwks) > _MOST:
        raise KeyFileError(f"{len(jwks)} keys; there may be {_MOST} at most")
    return enumerate(jwks, 1)


def _from_jwk(jwk: dict[str, Any], number: int, *, private: bool) -> Key | None:
    """Read a JWK; None for one that is for something else."""
    kind, kid, alg = jwk.get("kty"), jwk.get("kid"), jwk.get("alg")
    if not private and "d" in jwk:
        raise KeyFileError(f"key {number} is a private key: only the issuer should have it")
    curve = None if kind in ("oct", "RSA") else jwk.get("crv")
    if not isinstance(kind, str) or not isinstance(curve, str | None):
        return None
    algorithms = _ALGORITHMS.get((kind, curve), ())
    if "alg" in jwk and alg not in algorithms:
        return None
    operations = jwk.get("key_ops", ["verify", "sign"])
    needed = "sign" if private else "verify"
    usable = isinstance(operations, list) and needed in operations
    if not algorithms or not usable or jwk.get("use", "sig") != "sig":
        return None
    if private and kind != "oct" and "d" not in jwk:
        return None
    # What else it may have is of no use here, and may be wrong.
    names = ("kty", "crv", "n", "e", "x", "y", "k", "d", "p", "q", "dp", "dq", "qi")
    parts = {name: jwk[name] for name in names if name in jwk}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of keys that are too short, which is checked here
            key = import_key(parts)
            raw = key.raw_value
    except (JoseError, ValueError, TypeError, KeyError, AttributeError):
        raise KeyFileError(f"key {number} cannot be read (RFC 7518, section 6)") from None
    if isinstance(raw, bytes):
        _check_secret(len(raw))
    elif isinstance(raw, rsa.RSAPublicKey | rsa.RSAPrivateKey):
        _check_rsa(raw.key_size)
    return Key(key, algorithms, kid if isinstance(kid, str) else None)
