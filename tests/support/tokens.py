"""Keys, tokens made by another implementation than the one that verifies them, and requests."""

from __future__ import annotations

import base64
import json
import time
from typing import Any, Final

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from trio_beat import Refused, Request
from trio_beat.auth import JWT

SECRET: Final = b"a secret of thirty-two characters"

PrivateKey = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey


def rsa_key(bits: int = 2048) -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(65537, bits)


def p256_key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


def ed25519_key() -> ed25519.Ed25519PrivateKey:
    return ed25519.Ed25519PrivateKey.generate()


def public_pem(key: Any) -> bytes:
    data: bytes = key.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return data


def private_pem(key: Any, password: bytes | None = None) -> bytes:
    encryption: serialization.KeySerializationEncryption = serialization.NoEncryption()
    if password is not None:
        encryption = serialization.BestAvailableEncryption(password)
    data: bytes = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption
    )
    return data


def jwk(key: Any, **members: Any) -> dict[str, Any]:
    """A key as a JWK; a secret is given as bytes."""
    if isinstance(key, bytes):
        return {"kty": "oct", "k": encoded(key)} | members
    kinds: list[tuple[tuple[type, ...], Any]] = [
        ((rsa.RSAPublicKey, rsa.RSAPrivateKey), jwt.algorithms.RSAAlgorithm),
        ((ec.EllipticCurvePublicKey, ec.EllipticCurvePrivateKey), jwt.algorithms.ECAlgorithm),
        ((object,), jwt.algorithms.OKPAlgorithm),
    ]
    algorithm = next(algorithm for classes, algorithm in kinds if isinstance(key, classes))
    return dict(algorithm.to_jwk(key, as_dict=True)) | members


def jwks(*keys: dict[str, Any]) -> bytes:
    return json.dumps({"keys": keys}).encode()


def claims(**members: Any) -> dict[str, Any]:
    """What a token says; a member that is None is left out."""
    all_of_it = {"sub": "bob", "exp": int(time.time()) + 3600} | members
    return {name: value for name, value in all_of_it.items() if value is not None}


def token(
    key: Any = SECRET,
    algorithm: str = "HS256",
    headers: dict[str, Any] | None = None,
    **members: Any,
) -> str:
    return jwt.encode(claims(**members), key, algorithm, headers)


def encoded(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def signed(header: bytes, payload: bytes, secret: bytes = SECRET) -> str:
    """A token of any bytes, signed with HS256."""
    algorithm = jwt.get_algorithm_by_name("HS256")
    start = f"{encoded(header)}.{encoded(payload)}"
    return f"{start}.{encoded(algorithm.sign(start.encode(), secret))}"


def requesting(*headers: tuple[str, str], query: str = "") -> Request:
    return Request.of(f"/ws/news?{query}", headers, peer="192.0.2.1:5")


def bearing(given: str) -> Request:
    return requesting(("Authorization", f"Bearer {given}"))


async def refusal(verifier: JWT, request: Request) -> str:
    """Why a request is refused; the answer must have all that belongs to it."""
    with pytest.raises(Refused) as caught:
        await verifier(request)
    refused = caught.value
    assert refused.status == 401
    [(name, value)] = refused.headers
    assert name == "WWW-Authenticate"
    assert value.startswith('Bearer error="invalid_')
    assert refused.__cause__ is None
    assert refused.__context__ is None or refused.__suppress_context__
    return refused.text
