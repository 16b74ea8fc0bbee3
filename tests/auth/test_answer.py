"""What an answer of the application says, decided from bytes."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import hypothesis
import hypothesis.strategies as st
import pytest

from trio_beat import Identity
from trio_beat.auth.answer import identity_of, refusal_of

PLAIN = [("Content-Type", "text/plain; charset=utf-8")]
BEARER = (("WWW-Authenticate", "Bearer"),)


def identity(**names: Any) -> Identity:
    return identity_of(json.dumps(names).encode())


def test_all_that_an_identity_has() -> None:
    told: dict[str, Any] = {
        "user": "bob",
        "groups": ["editors", "größer"],
        "session": "s3cret",
        "expires_at": 2_000_000_000.5,
        "subscribe": ["user:bob", "broadcast:*"],
        "publish": [],
        "info": {"name": ["Bob", None, True, 1.5]},
    }
    assert identity(**told) == Identity(**told)


def test_an_identity_without_a_user() -> None:
    assert identity_of(b"{}") == Identity()


def test_null_is_as_good_as_absent() -> None:
    names = ("user", "groups", "session", "expires_at", "subscribe", "publish", "info")
    assert identity(**dict.fromkeys(names)) == Identity()


@pytest.mark.parametrize(
    ("body", "wrong"),
    [
        (b"", "empty"),
        (b" \n", "empty"),
        (b"s3cret", "no JSON: wrong at character 0"),
        (b'{"user": s3cret}', "no JSON: wrong at character 9"),
        (b'{"user": "s3cret', "no JSON"),
        (b'{} {"user": "s3cret"}', "no JSON"),
        (b"\xef\xbb\xbf{}", "no JSON"),
        ('{"user": "s3cret"}'.encode("utf-16"), "not UTF-8 at byte 0"),
        (b'{"session": "s3cret\xff"}', "not UTF-8 at byte 19"),
        (b"null", "not a JSON object"),
        (b'["s3cret"]', "not a JSON object"),
        (b'"s3cret"', "not a JSON object"),
        (b'{"usr": "s3cret"}', "unknown name 'usr'; it may have user, groups, session"),
        (b'{"usr": null}', "unknown name 'usr'"),
        (b'{"User": "s3cret"}', "unknown name 'User'"),
        (b'{"%s": 1}' % (b"x" * 1000), r"unknown name 'x{40}\.\.\.'"),
        (b'{"user": ""}', "user is empty"),
        (b'{"session": ""}', "session is empty"),
        (b'{"groups": [""]}', "groups is empty"),
        (b'{"user": 424242}', "user is a number; it must be a text, or null"),
        (b'{"user": true}', "user is a boolean"),
        (b'{"user": ["s3cret"]}', "user is a list"),
        (b'{"user": {"s3cret": 1}}', "user is an object"),
        (b'{"groups": "s3cret"}', "groups is a text; it must be a list of texts"),
        (b'{"groups": {"s3cret": 1}}', "groups is an object"),
        (b'{"groups": [424242]}', "groups is of type int"),
        (b'{"groups": [null]}', "groups is of type NoneType"),
        (b'{"session": false}', "session is a boolean"),
        (b'{"expires_at": "424242"}', "expires_at is a text; it must be a number"),
        (b'{"expires_at": true}', "expires_at is a boolean"),
        (b'{"expires_at": 1e999}', "beyond those of 64 bits"),
        (b'{"info": -1e999}', "beyond those of 64 bits"),
        (b'{"expires_at": NaN}', "NaN is no number of JSON"),
        (b'{"info": [-Infinity]}', "-Infinity is no number of JSON"),
        (b'{"expires_at": 1%s}' % (b"0" * 400), "an integer of more than 20 digits"),
        (b'{"info": -1%s}' % (b"0" * 20), "an integer of more than 20 digits"),
        (b'{"info": 1%s}' % (b"0" * 60_000), "an integer of more than 20 digits"),
        (b'{"user": "bob", "user": "s3cret"}', "name 'user' more than once"),
        (b'{"user": "bob", "us\\u0065r": "s3cret"}', "name 'user' more than once"),
        (b'{"info": {"a": "s3cret", "a": 1}}', "name 'a' more than once"),
        (b'{"user": "s3cret\\ud800"}', "half of a surrogate pair"),
        (b'{"info": [{"\\udc00": 1}]}', "half of a surrogate pair"),
        (b'{"info": %s1%s}' % (b"[" * 50, b"]" * 50), "nested too deeply; at most 50"),
        (b"[" * 65_000, "nested too deeply"),
        (b'{"info":' * 7_000 + b"1" + b"}" * 7_000, "nested too deeply"),
    ],
)
def test_what_is_no_identity_is_told_without_values(body: bytes, wrong: str) -> None:
    with pytest.raises(ValueError, match=wrong) as caught:
        identity_of(body)
    assert "s3cret" not in str(caught.value)
    assert "424242" not in str(caught.value)
    assert len(str(caught.value)) < 200
    assert caught.value.__context__ is None  # the parser's error keeps all of the text


def test_what_is_at_the_limits_is_taken() -> None:
    assert identity_of(b'{"info": %s}' % (b"[" * 49 + b"]" * 49)).info
    assert identity_of(b'{"info": 18446744073709551615}').info == 2**64 - 1
    assert identity_of(b'{"info": "\\ud83d\\ude00"}').info == "\N{GRINNING FACE}"


@hypothesis.given(st.binary() | st.text().map(str.encode))
def test_garbage_is_a_value_error_and_nothing_else(body: bytes) -> None:
    with contextlib.suppress(ValueError):
        identity_of(body)


_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
)
_names = st.sampled_from(
    ["user", "groups", "session", "expires_at", "subscribe", "publish", "info", "other"]
)


@hypothesis.given(st.dictionaries(_names, _values))
def test_any_object_is_an_identity_or_a_value_error(told: dict[str, Any]) -> None:
    try:
        found = identity_of(json.dumps(told).encode())
    except ValueError:
        return
    assert found.user == told.get("user")
    assert found.info == told.get("info")


@pytest.mark.parametrize("status", [401, 403])
def test_text_of_the_application_is_passed_on(status: int) -> None:
    refused = refusal_of(status, PLAIN, "log in first: größer\n".encode())
    assert (refused.status, refused.text) == (status, "log in first: größer")
    assert refused.headers == (BEARER if status == 401 else ())
    assert refused.logged == "refused by the application"


@pytest.mark.parametrize(
    ("body", "text"),
    [
        (b"two\r\nlines\n\n  and more", "two lines and more"),
        (b"\x1b[31mred\x00\xe2\x80\xae", r"\x1b[31mred\x00\u202e"),
        (b"\xff", "�"),
        (b"x" * 2000, "x" * 1024),
        (b"x" + "ö".encode() * 1000, "x" + "ö" * 511),  # none is cut in half
        (b"\x00" * 2000, r"\x00" * 256),
    ],
)
def test_text_is_made_safe_and_short(body: bytes, text: str) -> None:
    assert refusal_of(403, PLAIN, body).text == text


@pytest.mark.parametrize(
    ("headers", "body"),
    [
        ([("Content-Type", "text/html")], b"<p>s3cret"),
        ([("Content-Type", "application/json")], b'{"s3cret": 1}'),
        ([], b"s3cret"),
        (PLAIN * 2, b"s3cret"),
        (PLAIN, b""),
        (PLAIN, b" \n"),
    ],
)
def test_what_is_no_text_is_replaced(headers: list[tuple[str, str]], body: bytes) -> None:
    assert refusal_of(401, headers, body).text == "the application does not take these credentials"
    assert refusal_of(403, headers, body).text == "the application forbids it"


@pytest.mark.parametrize(
    ("values", "sent"),
    [
        (["Basic realm=x"], ["Basic realm=x"]),
        (["Basic realm=x", "Bearer"], ["Basic realm=x", "Bearer"]),
        ([], ["Bearer"]),
        ([""], ["Bearer"]),
        (["Basic realm=\xe4"], ["Bearer"]),
        (["Basic realm=\x7f"], ["Bearer"]),
        (["Basic " + "x" * 2000], ["Bearer"]),
    ],
)
def test_a_401_has_a_challenge(values: list[str], sent: list[str]) -> None:
    headers = [("www-authenticate", value) for value in values]
    expected = tuple(("WWW-Authenticate", value) for value in sent)
    assert refusal_of(401, headers, b"").headers == expected
    assert refusal_of(403, headers, b"").headers == ()
