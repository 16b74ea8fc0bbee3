"""Tokens: where they come from, which are believed, and every lie that is known."""

from __future__ import annotations

import base64
import json
import logging
import time
from pathlib import Path
from typing import Any

import jwt as pyjwt
import pytest
import trio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from trio.testing import MockClock

from tests.support.tokens import (
    SECRET,
    bearing,
    claims,
    ed25519_key,
    encoded,
    jwk,
    jwks,
    p256_key,
    public_pem,
    refusal,
    rsa_key,
    signed,
    token,
)
from trio_beat import Identity, Refused
from trio_beat.auth import JWT

RSA, P256, ED = rsa_key(), p256_key(), ed25519_key()
PUBLIC = public_pem(RSA)


@pytest.mark.parametrize(
    ("key", "algorithm", "public"),
    [
        (SECRET, "HS256", SECRET),
        (RSA, "RS256", PUBLIC),
        (P256, "ES256", public_pem(P256)),
        (ED, "EdDSA", public_pem(ED)),
        (RSA, "RS256", jwks(jwk(RSA.public_key()))),
        (P256, "ES256", jwks(jwk(P256.public_key()))),
        (ED, "EdDSA", jwks(jwk(ED.public_key(), alg="Ed25519"))),
        (SECRET, "HS256", jwks(jwk(SECRET))),
    ],
)
async def test_a_token_is_believed(key: Any, algorithm: str, public: bytes) -> None:
    jwt = JWT(public)
    end = int(time.time()) + 60
    given = token(key, algorithm, groups=["staff"], sid="k3y", exp=end)
    identity = Identity(user="bob", groups=["staff"], session="k3y", expires_at=end + 10)
    assert await jwt(bearing(given)) == identity
    head, body, signature = given.split(".")
    for wrong in (
        f"{head}.{encoded(json.dumps(claims(sub='eve')).encode())}.{signature}",
        f"{head}.{body}.{signature[:-8]}AAAAAAAA",
        f"{head}.{body}.{signature[:8]}",
        f"{head}.{body}.{encoded(bytes(64))}",
        f"{head}.{body}.{encoded(bytes(256))}",
    ):
        assert await refusal(jwt, bearing(wrong)) == "the token's signature is wrong"


async def test_eddsa_has_a_newer_name() -> None:
    """RFC 9864; the other implementation does not know it yet."""
    body = encoded(json.dumps(claims()).encode())
    start = encoded(b'{"alg": "Ed25519"}') + f".{body}"
    given = f"{start}.{encoded(ED.sign(start.encode()))}"
    for public in (public_pem(ED), jwks(jwk(ED.public_key(), alg="EdDSA"))):
        identity = await JWT(public)(bearing(given))
        assert identity is not None
        assert identity.user == "bob"


def write(path: Path, data: bytes) -> None:
    path.write_bytes(data)


def remove(path: Path) -> None:
    path.unlink()


def header(**members: Any) -> bytes:
    return json.dumps({"alg": "HS256", "typ": "JWT"} | members).encode()


BODY = json.dumps({"sub": "bob", "exp": 4e9}).encode()
NONES = ["none", "None", "NONE", "nOnE", "", " none", "none ", "n\u043ene"]


class TestLies:
    @pytest.mark.parametrize("name", NONES)
    @pytest.mark.parametrize("signature", ["", "AA", encoded(bytes(32))])
    @pytest.mark.parametrize("key", [SECRET, PUBLIC], ids=["secret", "public"])
    async def test_unsigned(self, name: str, signature: str, key: bytes) -> None:
        given = f"{encoded(header(alg=name))}.{encoded(BODY)}.{signature}"
        assert await refusal(JWT(key), bearing(given))

    @pytest.mark.parametrize(
        ("private", "alg", "size"), [(RSA, "RS256", 256), (P256, "ES256", 64), (ED, "EdDSA", 64)]
    )
    async def test_signatures_of_no_key(self, private: Any, alg: str, size: int) -> None:
        """Zeros pass for any message where a verifier of ECDSA does not look (CVE-2022-21449)."""
        der_of_zeros = bytes.fromhex("3006020100020100")
        for signature in (bytes(size), b"\xff" * size, b"\0", bytes(2 * size), der_of_zeros):
            given = f"{encoded(header(alg=alg))}.{encoded(BODY)}.{encoded(signature)}"
            text = await refusal(JWT(public_pem(private)), bearing(given))
            assert text == "the token's signature is wrong"

    @pytest.mark.parametrize("public", [PUBLIC, PUBLIC.strip(), public_pem(P256), public_pem(ED)])
    async def test_a_public_key_is_no_secret(self, public: bytes) -> None:
        """The confusion of RS256 and HS256: everybody has the public key."""
        for secret in (public, public.strip(), public + b"\n"):
            given = signed(header(), BODY, secret)
            text = await refusal(JWT(public.strip() + b"\n"), bearing(given))
            assert text == "no key of the server fits the token's alg and kid"

    async def test_a_key_of_its_own(self) -> None:
        """Keys and addresses in the header are not looked at."""
        mine = rsa_key()
        public = jwk(mine.public_key(), kid="mine")
        for members in (
            {"jwk": public},
            {"jwk": public, "kid": "mine"},
            {"jku": "http://127.0.0.1:1/jwks.json"},
            {"x5u": "http://127.0.0.1:1/cert.pem"},
            {"x5c": [encoded(b"x")]},
        ):
            given = token(mine, "RS256", members)
            assert await refusal(JWT(PUBLIC), bearing(given)) == "the token's signature is wrong"

    @pytest.mark.parametrize(
        "members",
        [
            {"crit": ["exp"]},
            {"crit": []},
            {"crit": None},
            {"crit": ["b64"], "b64": False},
            {"b64": False},
            {"b64": True},
        ],
    )
    async def test_extensions(self, members: dict[str, Any]) -> None:
        text = await refusal(JWT(SECRET), bearing(signed(header(**members), BODY)))
        assert "extensions that are not understood" in text

    @pytest.mark.parametrize(
        "kid", ["../../dev/null", "/dev/null", "' OR 1=1 --", "|id", "", "\x00", "x" * 5000]
    )
    async def test_a_name_of_a_key_is_only_compared(self, kid: str) -> None:
        keys = JWT(jwks(jwk(SECRET, kid="good")))
        for secret in (b"", b"\0", SECRET):
            given = signed(header(kid=kid), BODY, secret or b"\0")
            text = await refusal(keys, bearing(given))
            assert text == "no key of the server fits the token's alg and kid"

    @pytest.mark.parametrize("kid", [5, None, ["good"], {"a": 1}, True])
    async def test_a_name_of_a_key_is_a_text(self, kid: Any) -> None:
        given = signed(header(kid=kid), BODY)
        assert "alg of the token must be a text" in await refusal(JWT(SECRET), bearing(given))

    @pytest.mark.parametrize("alg", [None, 5, ["HS256"], {"HS256": 1}, True])
    async def test_an_algorithm_is_a_text(self, alg: Any) -> None:
        text = await refusal(JWT(SECRET), bearing(signed(header(alg=alg), BODY)))
        assert "alg of the token must be a text" in text

    @pytest.mark.parametrize("alg", ["HS384", "HS512", "hs256", "RS256", "PS256", "ES256K", "dir"])
    async def test_an_algorithm_is_one_of_the_key(self, alg: str) -> None:
        text = await refusal(JWT(SECRET), bearing(signed(header(alg=alg), BODY)))
        assert text == "no key of the server fits the token's alg and kid"

    async def test_an_algorithm_of_the_same_key(self) -> None:
        for algorithm in ("RS384", "RS512", "PS256"):
            given = token(RSA, algorithm)
            assert await refusal(JWT(PUBLIC), bearing(given))

    @pytest.mark.parametrize(
        "given",
        [
            "x",
            "a.b",
            "a.b.c.d",
            "a.b.c.d.e",  # encrypted (RFC 7516)
            "..",
            "a..c",
            " a.b.c",
            "a.b.c=",
            "a+b.c.d",
            "a.b.\u00e9",
            "eyJ.b.c",
            "A.B.C",
            '{"payload":"","signatures":[]}',
        ],
    )
    async def test_shapes(self, given: str) -> None:
        assert await refusal(JWT(SECRET), bearing(given))

    async def test_a_truncated_one(self) -> None:
        given = token()
        for length in range(0, len(given), 7):
            assert await refusal(JWT(SECRET), bearing(given[:length]))

    async def test_a_huge_one(self) -> None:
        """Larger ones are no request: a header block has 16 KiB at most."""
        given = signed(header(), json.dumps(claims(info="[" * 9_000)).encode(), b"x" * 32)
        assert await refusal(JWT(SECRET), bearing(given)) == "the token's signature is wrong"

    @pytest.mark.parametrize(
        "data",
        [
            b"[]",
            b"5",
            b"\xff\xfe",
            b'{"alg": "HS256"',
            b'{"a": ' + b"[" * 5000,
            b'{"alg": "HS256", "x": NaN}',
            b'{"alg": "HS256", "x": ' + b"1" * 5000 + b"}",
        ],
    )
    async def test_what_is_no_json(self, data: bytes) -> None:
        text = await refusal(JWT(SECRET), bearing(signed(data, BODY)))
        assert text.startswith("the token's header is no ")
        text = await refusal(JWT(SECRET), bearing(signed(header(), data)))
        assert text.startswith("the token is no ")

    async def test_members_that_come_twice(self) -> None:
        """The last counts, for the header as for the claims."""
        body = b'{"sub": "eve", "exp": 4e9, "sub": "bob"}'
        identity = await JWT(SECRET)(bearing(signed(b'{"alg":"none","alg":"HS256"}', body)))
        assert identity is not None
        assert identity.user == "bob"
        assert await refusal(JWT(SECRET), bearing(signed(b'{"alg":"HS256","alg":"none"}', body)))
        twice = b'{"sub": "bob", "exp": 4e9, "exp": 5}'
        assert "expired" in await refusal(JWT(SECRET), bearing(signed(header(), twice)))

    @pytest.mark.parametrize(
        ("members", "text"),
        [
            ({"exp": 5}, "the token has expired"),
            ({"exp": "4000000000"}, "exp of the token is no finite number"),
            ({"exp": None}, "the token has no exp; it must expire"),
            ({"sub": ""}, "sub of the token must be a text that is not empty"),
            ({"aud": "them"}, "the token is for another audience (aud) than this server"),
        ],
    )
    async def test_claims(self, members: dict[str, Any], text: str) -> None:
        given = signed(header(), json.dumps(claims(**members)).encode())
        assert await refusal(JWT(SECRET), bearing(given)) == text

    async def test_no_answer_quotes_a_token(self) -> None:
        given = pyjwt.encode({"sub": "s3cret"}, b"x" * 32, "HS256", {"kid": "s3cret"})
        parts = [given, *given.split(".")]
        text = await refusal(JWT(SECRET), bearing(given))
        assert not any(part in text for part in [*parts, "s3cret"])

    # The first text of all takes long on a machine that has other things to do.
    @settings(suppress_health_check=[HealthCheck.too_slow])
    @given(
        st.dictionaries(
            st.sampled_from(
                ["alg", "kid", "typ", "cty", "jwk", "jku", "x5c", "x5u", "x5t", "zip", "p2c"]
            ),
            st.none() | st.integers() | st.text() | st.lists(st.text()),
        ),
        st.binary(max_size=40),
    )
    def test_anything(self, members: dict[str, Any], body: bytes) -> None:
        head = json.dumps({"alg": "HS256"} | members).encode()
        for made in (signed(head, body), signed(body, head)):
            with pytest.raises(Refused) as caught:
                trio.run(JWT(SECRET), bearing(made))
            assert caught.value.status == 401


class TestSets:
    async def test_a_name_chooses_the_key(self) -> None:
        other = p256_key()
        keys = JWT(
            jwks(
                jwk(P256.public_key(), kid="new"),
                jwk(other.public_key(), kid="old"),
                jwk(RSA.public_key(), kid="new"),
            )
        )
        for key, algorithm, kid in ((P256, "ES256", "new"), (other, "ES256", "old")):
            assert await keys(bearing(token(key, algorithm, {"kid": kid})))
            assert await keys(bearing(token(key, algorithm)))  # without a name all are tried
        assert await keys(bearing(token(RSA, "RS256", {"kid": "new"})))
        given = token(other, "ES256", {"kid": "new"})
        assert await refusal(keys, bearing(given)) == "the token's signature is wrong"

    async def test_a_key_without_a_name_does_for_any(self) -> None:
        assert await JWT(SECRET)(bearing(token(headers={"kid": "of the issuer"})))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "keys.json"
    write(path, jwks(jwk(SECRET, kid="one")))
    return path


class TestTurns:
    """What a flood of wrong tokens costs others."""

    async def test_a_right_token_waits_for_one_key_of_each_wrong_one(self) -> None:
        keys = [p256_key() for _ in range(8)]
        jwt = JWT(jwks(*[jwk(key.public_key(), kid=f"k{n}") for n, key in enumerate(keys)]))
        wrong = bearing(token(P256, "ES256"))
        right = bearing(token(keys[-1], "ES256", {"kid": "k7"}))
        answered: list[str] = []
        passes = 0

        async def other() -> None:
            nonlocal passes
            while len(answered) <= 10:
                passes += 1
                await trio.lowlevel.checkpoint()

        async def send_wrong() -> None:
            assert "signature is wrong" in await refusal(jwt, wrong)
            answered.append("wrong")

        async with trio.open_nursery() as nursery:
            for _ in range(10):
                nursery.start_soon(send_wrong)
            await trio.lowlevel.checkpoint()  # they have begun
            nursery.start_soon(other)
            assert await jwt(right)
            answered.append("right")
        assert answered[0] == "right"
        assert passes > 10 * len(keys)

    async def test_one_that_is_cancelled_leaves_its_turn(self) -> None:
        jwt = JWT(PUBLIC)
        good = bearing(token(RSA, "RS256"))
        for awaits in range(4):
            with trio.CancelScope() as scope:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(jwt, good)
                    for _ in range(awaits):
                        await trio.lowlevel.checkpoint()
                    scope.cancel()
            assert await jwt(good)


class TestFiles:
    async def test_it_is_read_again(self, file: Path) -> None:
        jwt = JWT(file)
        other = b"another secret of many characters"
        given = token(other, headers={"kid": "one"})
        assert await refusal(jwt, bearing(given))
        write(file, jwks(jwk(other, kid="one")))
        jwt.reload()
        assert await jwt(bearing(given))
        assert await refusal(jwt, bearing(token(headers={"kid": "one"})))

    async def test_one_that_is_bad_changes_nothing(self, file: Path) -> None:
        jwt = JWT(str(file))
        write(file, b"{")
        with pytest.raises(ValueError, match="it begins like JSON"):
            jwt.reload()
        remove(file)
        with pytest.raises(FileNotFoundError):
            jwt.reload()
        assert await jwt(bearing(token(headers={"kid": "one"})))

    async def test_what_a_proxy_says_does_not_become_a_secret(
        self, tmp_path: Path, autojump_clock: MockClock
    ) -> None:
        # `curl ISSUER > FILE` while the issuer is away; everybody can make an unknown kid read it.
        said = b"upstream connect error or disconnect/reset before headers"
        keys = {RSA: jwks(jwk(RSA.public_key(), kid="one")), P256: public_pem(P256)}
        for key, data in keys.items():
            path = tmp_path / "keys"
            write(path, data)
            jwt = JWT(path)
            write(path, said)
            await trio.sleep(60)
            for kid in ("two", "one", None):
                forged = token(said, headers={"kid": kid} if kid else None)
                assert await refusal(jwt, bearing(forged))
            with pytest.raises(ValueError, match="neither PEM nor JSON, as before"):
                jwt.reload()
            algorithm = "RS256" if key is RSA else "ES256"
            assert await jwt(bearing(token(key, algorithm)))
            write(path, jwks(jwk(SECRET)))  # this one says what it is
            jwt.reload()
            assert await jwt(bearing(token()))

    async def test_a_secret_can_be_replaced_by_any_key(self, file: Path) -> None:
        write(file, SECRET)
        jwt = JWT(file)
        for data in (b"x" * 32, public_pem(RSA)):
            write(file, data)
            jwt.reload()
        assert await jwt(bearing(token(RSA, "RS256")))

    async def test_an_unknown_name_reads_it_at_most_once_a_minute(
        self, file: Path, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
    ) -> None:
        jwt = JWT(file)
        names = ["two", "three", "four"]
        given = [bearing(token(headers={"kid": name})) for name in names]
        known = [jwk(SECRET, kid="one")]
        for request, name in zip(given, names, strict=True):
            known.append(jwk(SECRET, kid=name))
            write(file, jwks(*known))
            if name != "two":
                assert await refusal(jwt, request)
                await trio.sleep(59)
                assert await refusal(jwt, request)
                await trio.sleep(1)
            assert await jwt(request)
        caplog.set_level(logging.ERROR)
        write(file, b"{")
        for _ in range(3):
            await trio.sleep(60)
            assert await refusal(jwt, bearing(token(headers={"kid": "five"})))
        [record] = caplog.records
        assert record.getMessage().endswith(f"cannot read {file}: it begins like JSON, and is none")
        assert await jwt(given[0])

    async def test_an_unknown_name_reads_a_key_without_one(
        self, tmp_path: Path, autojump_clock: MockClock
    ) -> None:
        file = tmp_path / "key.pem"
        write(file, PUBLIC)
        jwt = JWT(file)
        write(file, public_pem(P256))
        assert await refusal(jwt, bearing(token(P256, "ES256")))
        assert await jwt(bearing(token(P256, "ES256", {"kid": "new"})))

    async def test_a_wrong_signature_does_not_read_it(self, file: Path) -> None:
        jwt = JWT(file)
        remove(file)
        assert await refusal(jwt, bearing(token(b"x" * 32, headers={"kid": "one"})))
        assert await refusal(jwt, bearing(token(b"x" * 32)))


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        ({"leeway": -1}, ValueError, "leeway is -1"),
        ({"leeway": float("inf")}, ValueError, "leeway is inf"),
        ({"issuer": 5}, TypeError, "issuer is 5"),
        ({"audience": [5]}, TypeError, "audience is 5"),
        ({"query": 5}, TypeError, "query is 5"),
        ({"cookie": 5}, TypeError, "cookie is 5"),
    ],
)
def test_arguments_are_checked(
    arguments: dict[str, Any], error: type[Exception], text: str
) -> None:
    with pytest.raises(error, match=text):
        JWT(SECRET, **arguments)


def test_its_repr_has_no_key() -> None:
    assert repr(JWT(SECRET)) == "JWT(<1 keys: HS256>)"
    assert base64.b64encode(SECRET).decode() not in repr(JWT(jwks(jwk(SECRET))))


async def test_what_is_expected_is_asked_for() -> None:
    jwt = JWT(SECRET, issuer="us", audience="app", leeway=0, require_expiry=False)
    identity = await jwt(bearing(token(iss="us", aud=["app"], exp=None)))
    assert identity == Identity(user="bob")
    assert "another issuer" in await refusal(jwt, bearing(token(iss="them", aud="app")))
