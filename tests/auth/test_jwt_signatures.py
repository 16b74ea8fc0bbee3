"""Tokens: signatures and what they are over, whatever the library thinks of their size."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.support.tokens import (
    SECRET,
    bearing,
    ed25519_key,
    encoded,
    p256_key,
    public_pem,
    refusal,
    rsa_key,
    token,
)
from trio_beat.auth import JWT

RSA, P256, ED = rsa_key(), p256_key(), ed25519_key()
BODY = encoded(json.dumps({"sub": "bob", "exp": 4e9}).encode())


async def test_a_header_may_have_certificates() -> None:
    """The library would take 512 bytes."""
    for key, algorithm in ((RSA, "RS256"), (P256, "ES256"), (ED, "EdDSA"), (SECRET, "HS256")):
        public = key if isinstance(key, bytes) else public_pem(key)
        given = token(key, algorithm, {"x5c": ["M" * 4000], "typ": "at+jwt"})
        assert await JWT(public)(bearing(given))


async def test_a_signature_is_written_in_one_way() -> None:
    given = token()
    letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    for other in letters.replace(given[-1], ""):  # some differ in bits that are no part of it
        assert await refusal(JWT(SECRET), bearing(given[:-1] + other))


@pytest.mark.parametrize(
    ("key", "algorithm"), [(SECRET, "HS256"), (RSA, "RS256"), (P256, "ES256"), (ED, "Ed25519")]
)
@pytest.mark.parametrize("size", [1, 31, 32, 63, 64, 65, 255, 256, 257, 2000])
async def test_a_signature_of_any_size(key: Any, algorithm: str, size: int) -> None:
    public = key if isinstance(key, bytes) else public_pem(key)
    for data in (bytes(size), b"\xff" * size):
        given = f"{encoded(json.dumps({'alg': algorithm}).encode())}.{BODY}.{encoded(data)}"
        assert await refusal(JWT(public), bearing(given)) == "the token's signature is wrong"
