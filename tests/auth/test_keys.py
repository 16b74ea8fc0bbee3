"""The keys of tokens: which can be used, what for, and which are refused."""

from __future__ import annotations

import base64
import codecs
import json
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed448
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509 import load_pem_x509_certificate

from tests.support.certificates import ServerFiles
from tests.support.tokens import (
    SECRET,
    ed25519_key,
    encoded,
    jwk,
    jwks,
    p256_key,
    private_pem,
    public_pem,
    rsa_key,
)
from trio_beat.auth.keys import KeyFileError, read_keys, read_signing_key

RSA, P256, ED = rsa_key(), p256_key(), ed25519_key()
P384 = ec.generate_private_key(ec.SECP384R1())
K1 = ec.generate_private_key(ec.SECP256K1())
ED448 = ed448.Ed448PrivateKey.generate()
ASYMMETRIC = [(RSA, ("RS256",)), (P256, ("ES256",)), (ED, ("EdDSA", "Ed25519"))]


@pytest.mark.parametrize(("private", "algorithms"), ASYMMETRIC)
def test_a_key_decides_the_algorithm(private: Any, algorithms: tuple[str, ...]) -> None:
    for data in (
        public_pem(private),
        b"# our key\n\n" + public_pem(private),
        json.dumps(jwk(private.public_key(), kid="k", use="sig", alg=algorithms[-1])).encode(),
        b"\n" + jwks(jwk(private.public_key(), kid="k")),
    ):
        [key] = read_keys(data)
        assert key.algorithms == algorithms
        assert key.kid == ("k" if b"{" in data else None)
    for data in (private_pem(private), json.dumps(jwk(private)).encode()):
        assert read_signing_key(data).algorithms == algorithms
        with pytest.raises(KeyFileError, match=r"a private key: only the issuer"):
            read_keys(data)
    with pytest.raises(KeyFileError, match="no private key"):
        read_signing_key(public_pem(private))


@pytest.mark.parametrize("end", [b"", b"\n", b"\r\n"])
def test_anything_else_is_a_secret(end: bytes) -> None:
    for read in (lambda data: read_keys(data)[0], read_signing_key):
        key = read(SECRET + end)
        assert (key.algorithms, key.kid) == (("HS256",), None)
        assert key.key.raw_value == SECRET
    assert read_keys(SECRET + b"\n\n")[0].key.raw_value == SECRET + b"\n"
    assert read_keys(jwks(jwk(SECRET)))[0].algorithms == ("HS256",)


def test_a_file_of_a_secret_in_windows() -> None:
    assert read_keys(b"\xff" * 32 + b"\r\n")[0].key.raw_value == b"\xff" * 32


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"", "a secret of 0 bytes; it must have 32 or more"),
        (b"x" * 31 + b"\n", "a secret of 31 bytes"),
        (jwks(jwk(b"x" * 31)), "a secret of 31 bytes"),
        (b'{"keys": ', "it begins like JSON, and is none"),
        (b'{"a":' * 100_000, "it begins like JSON, and is none"),
        (b'{"keys": {}}', "keys is no list of objects"),
        (b'{"keys": [5]}', "keys is no list of objects"),
        (jwks(*[jwk(SECRET)] * 65), "65 keys; there may be 64 at most"),
        (b'{"keys": []}', "no key that can be used"),
        (b"{}", "no key that can be used"),
        (jwks(jwk(RSA.public_key(), use="enc")), "no key that can be used"),
        (jwks(jwk(RSA.public_key(), alg="RS512")), "no key that can be used"),
        (jwks(jwk(RSA.public_key(), alg="none")), "no key that can be used"),
        (jwks(jwk(RSA.public_key(), alg="HS256")), "no key that can be used"),
        (jwks(jwk(RSA.public_key(), key_ops=["encrypt"])), "no key that can be used"),
        (jwks(jwk(P384.public_key())), "no key that can be used"),
        (jwks(jwk(K1.public_key())), "no key that can be used"),
        (jwks({"kty": "new"}, {"kty": 5}, {"kty": ["oct"]}), "no key that can be used"),
        (jwks({"kty": "EC", "crv": ["P-256"]}), "no key that can be used"),
        (jwks(jwk(SECRET), {"kty": "RSA", "n": "x"}), "key 2 cannot be read"),
        (jwks({"kty": "RSA", "n": 5, "e": "AQAB"}), "key 1 cannot be read"),
        (jwks({"kty": "EC", "crv": "P-256", "x": "AA", "y": "AA"}), "key 1 cannot be read"),
        (jwks({"kty": "OKP", "crv": "Ed25519", "x": "AA"}), "key 1 cannot be read"),
        (jwks({"kty": "oct", "k": "\u00e9" * 40}), "key 1 cannot be read"),
        (jwks({"kty": "oct"}), "key 1 cannot be read"),
        (public_pem(rsa_key(1024)), "a key of RSA with 1024 bits; it must have 2048 or more"),
        (jwks(jwk(rsa_key(1024).public_key())), "a key of RSA with 1024 bits"),
        (public_pem(P384), "a key of another kind; it must be a secret"),
        (public_pem(K1), "a key of another kind"),
        (public_pem(ED448), "a key of another kind"),
        (public_pem(RSA) + public_pem(P256), "more than one key in PEM; a set of JWKs may"),
        (b"-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n", "no key in PEM"),
    ],
)
def test_what_cannot_be_used_is_told(data: bytes, text: str) -> None:
    with pytest.raises(KeyFileError, match=f"^{text}") as caught:
        read_keys(data)
    assert "\n" not in str(caught.value)
    assert caught.value.__cause__ is None


DER = RSA.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
SSH = ED.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH)
SET = jwks(jwk(RSA.public_key()))


@pytest.mark.parametrize(
    "data",
    [
        DER,
        base64.b64encode(DER),
        base64.b64encode(DER) + b"\n",
        base64.encodebytes(DER),
        base64.urlsafe_b64encode(DER).rstrip(b"="),
        SSH,
        b"---- BEGIN SSH2 PUBLIC KEY ----\nAAAAC3NzaC1lZDI1NTE5\n---- END SSH2 PUBLIC KEY ----\n",
        codecs.BOM_UTF8 + SET,
        SET.decode().encode("utf-16"),
        codecs.BOM_UTF16_BE + SET.decode().encode("utf-16-be"),
        SET.decode().encode("utf-16-be"),
        public_pem(RSA).decode().encode("utf-16"),
        json.dumps([jwk(RSA.public_key())], indent=2).encode(),
        b"https://issuer.example/.well-known/jwks.json\n",
        b"<html>\r\n<head><title>502 Bad Gateway</title></head>\r\n</html>\r\n",
    ],
)
def test_what_everybody_may_know_is_no_secret(data: bytes) -> None:
    # It would verify every token that is signed with it.
    for read in (read_keys, read_signing_key):
        with pytest.raises(KeyFileError, match=r"^no secret, but a key or a page in another form"):
            read(data)


def test_a_certificate_without_pem_is_no_secret(tmp_path: Path) -> None:
    pem = ServerFiles(tmp_path).certificate.read_bytes()
    certificate = load_pem_x509_certificate(pem).public_bytes(Encoding.DER)
    for data in (certificate, base64.b64encode(certificate)):
        with pytest.raises(KeyFileError, match="no secret, but a key"):
            read_keys(data)


@pytest.mark.parametrize(
    "secret",
    [
        b"\x30\x82" + b"x" * 40,
        base64.b64encode(b"\x30" + b"\xff" * 40),
        b"[a secret in brackets, thirty-two and more]",
        b"<a secret in angle brackets, thirty-two and more>",
        codecs.BOM_UTF8 + SECRET,
        codecs.BOM_UTF16_LE + b"\x00\xd8" * 20,
        b"0" * 64,
    ],
)
def test_a_secret_that_resembles_a_key(secret: bytes) -> None:
    assert read_keys(secret)[0].key.raw_value == secret


def test_a_key_for_something_else_is_passed_over() -> None:
    found = read_keys(
        jwks(
            jwk(RSA.public_key(), use="enc"),
            jwk(P384.public_key()),
            {"kty": "ML-DSA", "x": 5},
            jwk(P256.public_key(), kid=5, x5c="what is not needed"),
        )
    )
    assert [(key.algorithms, key.kid) for key in found] == [(("ES256",), None)]


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (private_pem(RSA, b"s3cret"), "a private key that is encrypted"),
        (private_pem(P384), "a key of another kind"),
        (jwks(jwk(RSA), jwk(P256)), "2 keys that can sign a token; one is needed"),
        (jwks(jwk(RSA.public_key())), "0 keys that can sign a token"),
        (b"short\n", "a secret of 5 bytes"),
    ],
)
def test_a_key_that_cannot_sign(data: bytes, text: str) -> None:
    with pytest.raises(KeyFileError, match=f"^{text}"):
        read_signing_key(data)


def test_a_certificate_is_no_key(tmp_path: Any) -> None:
    files = ServerFiles(tmp_path)
    with pytest.raises(KeyFileError, match="a certificate; its public key is needed"):
        read_keys(files.certificate.read_bytes())
    assert encoded(b"\xff\xff") == "__8"
