"""What a token says: each claim by itself, and what others let through."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trio_beat import Identity
from trio_beat.auth.claims import ClaimError, Expected, identify, parse

NOW = 1_800_000_000.0
GOOD: dict[str, Any] = {"sub": "bob", "exp": NOW + 60}


def of(claims: dict[str, Any], **expected: Any) -> Identity:
    return identify(claims, Expected(**expected), NOW)


def test_they_become_an_identity() -> None:
    everything = GOOD | {
        "groups": ["staff", "ops"],
        "sid": "k3y",
        "subscribe": ["broadcast:*"],
        "publish": [],
        "info": {"name": "Bob"},
        "iat": NOW - 5,
        "nbf": NOW - 5,
        "iss": "somebody",
        "jti": "x",
    }
    assert of(everything) == Identity(
        user="bob",
        groups=["staff", "ops"],
        session="k3y",
        expires_at=NOW + 70,
        subscribe=["broadcast:*"],
        publish=[],
        info={"name": "Bob"},
    )
    assert of(GOOD) == Identity(user="bob", expires_at=NOW + 70)


def test_it_ends_with_the_leeway_that_let_it_in() -> None:
    late = GOOD | {"exp": NOW - 9}
    assert of(late).expires_at == NOW + 1
    assert of(GOOD, leeway=0).expires_at == NOW + 60
    for claims, leeway in ((GOOD | {"exp": NOW - 10}, 10), (GOOD | {"exp": NOW}, 0)):
        with pytest.raises(ClaimError, match="the token has expired"):
            of(claims, leeway=leeway)


def test_it_may_have_no_end_where_that_is_allowed() -> None:
    with pytest.raises(ClaimError, match="the token has no exp"):
        of({"sub": "bob"})
    assert of({"sub": "bob"}, require_expiry=False) == Identity(user="bob")
    with pytest.raises(ClaimError, match="the token has expired"):
        of({"sub": "bob", "exp": 5}, require_expiry=False)


NO_NUMBERS: list[Any] = [
    None,
    "1900000000",
    True,
    [],
    {},
    float("nan"),
    float("inf"),
    10**400,
    -(10**400),
]


@pytest.mark.parametrize("name", ["exp", "nbf", "iat"])
@pytest.mark.parametrize("value", NO_NUMBERS)
def test_a_time_is_a_finite_number(name: str, value: Any) -> None:
    with pytest.raises(ClaimError, match=f"{name} of the token is no finite number"):
        of(GOOD | {name: value}, require_expiry=False)


def test_one_that_is_not_valid_yet() -> None:
    assert of(GOOD | {"nbf": NOW + 10}).user == "bob"
    for nbf, leeway in ((NOW + 11, 10), (NOW + 1, 0)):
        with pytest.raises(ClaimError, match="not valid yet"):
            of(GOOD | {"nbf": nbf}, leeway=leeway)


@pytest.mark.parametrize("sub", ["", None, 5, ["bob"], True])
def test_the_user_is_a_text(sub: Any) -> None:
    with pytest.raises(ClaimError, match="sub of the token must be a text"):
        of(GOOD | {"sub": sub})


def test_the_user_is_needed() -> None:
    with pytest.raises(ClaimError, match="sub of the token must be a text"):
        of({"exp": NOW + 60, "sid": "k3y"})


@pytest.mark.parametrize("name", ["groups", "subscribe", "publish"])
@pytest.mark.parametrize("value", ["staff", None, [5], [""], [None], {"staff": 1}, [["a"]]])
def test_lists_are_lists_of_texts(name: str, value: Any) -> None:
    with pytest.raises(ClaimError, match=f"{name} of the token must be a list of texts"):
        of(GOOD | {name: value})


@pytest.mark.parametrize("sid", ["", None, 5])
def test_the_session_is_a_text(sid: Any) -> None:
    with pytest.raises(ClaimError, match="sid of the token must be a text"):
        of(GOOD | {"sid": sid})


@pytest.mark.parametrize("name", ["sub", "sid", "groups"])
def test_a_name_can_be_encoded(name: str) -> None:
    value = ["\ud800"] if name == "groups" else "\ud800"
    with pytest.raises(ClaimError, match="cannot be encoded"):
        of(GOOD | {name: value})


@pytest.mark.parametrize("iss", ["eve", None, 5, ["us"], ""])
def test_the_issuer_is_the_one_that_is_asked_for(iss: Any) -> None:
    assert of(GOOD | {"iss": "us"}, issuer="us").user == "bob"
    for claims in (GOOD, GOOD | {"iss": iss}):
        with pytest.raises(ClaimError, match="another issuer"):
            of(claims, issuer="us")
        assert of(claims).user == "bob"


def test_the_audience_is_one_that_is_asked_for() -> None:
    for aud in ("us", ["us"], ["them", "us"]):
        assert of(GOOD | {"aud": aud}, audience=("we", "us")).user == "bob"
        with pytest.raises(ClaimError, match="for another audience"):
            of(GOOD | {"aud": aud})
    for aud in ("them", [], ["them"], "u"):
        with pytest.raises(ClaimError, match="for another audience"):
            of(GOOD | {"aud": aud}, audience=("us",))
    wrong: list[Any] = [5, None, [5], {"us": 1}]
    for other in wrong:
        with pytest.raises(ClaimError, match="neither a text nor a list"):
            of(GOOD | {"aud": other}, audience=("us",))
    with pytest.raises(ClaimError, match="the token has no aud"):
        of(GOOD, audience=("us",))


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"", "x is no JSON"),
        (b"\xff", "x is no JSON"),
        (b'{"a": NaN}', "x is no JSON"),
        (b'{"a": -Infinity}', "x is no JSON"),
        ('{"a": 1}'.encode("utf-16"), "x is no JSON"),
        (b'{"a": ' + b"[" * 100_000, "x is no JSON"),
        (b'{"a": ' + b"9" * 5000 + b"}", "x is no JSON"),
        (b"[]", "x is no object of JSON"),
        (b'"a"', "x is no object of JSON"),
        (b"null", "x is no object of JSON"),
    ],
)
def test_what_is_no_object_is_told(data: bytes, text: str) -> None:
    with pytest.raises(ClaimError, match=f"^{text}$") as caught:
        parse(data, "x")
    assert caught.value.__cause__ is None


def test_of_two_of_one_name_the_last_counts() -> None:
    assert parse(b'{"a": 1, "a": 2}', "x") == {"a": 2}


json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)
names = st.sampled_from(
    ["sub", "exp", "nbf", "iat", "iss", "aud", "groups", "sid", "subscribe", "publish", "info"]
)


@given(st.dictionaries(names, json), st.booleans(), st.booleans())
def test_whatever_they_are(claims: dict[str, Any], good: bool, asked: bool) -> None:
    claims = (GOOD if good else {}) | claims
    try:
        identity = of(claims, issuer="us" if asked else None, audience=("us",) if asked else ())
    except ClaimError:
        return
    assert identity.user == claims["sub"]
    assert identity.expires_at is not None
    assert identity.expires_at > NOW
