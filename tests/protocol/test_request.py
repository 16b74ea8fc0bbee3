"""What an application sees of a request."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.requests import request as handshake_request
from trio_beat import Headers, Request
from trio_beat._protocol.head import fields, find_head
from trio_beat._protocol.request import release

PEER = "192.0.2.1:5000"


def made(*headers: tuple[str | bytes, str | bytes], target: str = "/ws/news") -> Request:
    return Request.of(target, [("Host", "localhost"), *headers], peer=PEER)


# The whole of it.


def test_a_request_is_made_of_bytes_or_of_pairs_alike() -> None:
    parsed = Request.parse(
        b"GET /ws/a%20b?x=1?&y HTTP/1.1\r\nHost: a\r\nX-One: 1\r\nx-one: 2\r\n\r\n",
        peer=PEER,
        secure=True,
    )
    pairs: list[tuple[str | bytes, str | bytes]] = [
        (b"Host", b"a"),
        (b"X-One", b"1"),
        ("x-one", "2"),
    ]
    of = Request.of("/ws/a%20b?x=1?&y", pairs, peer=PEER, secure=True)
    for request in (parsed, of):
        assert request.target == "/ws/a%20b?x=1?&y"
        assert (request.path, request.query) == ("/ws/a%20b", "x=1?&y")
        assert request.headers.pairs() == (("Host", "a"), ("X-One", "1"), ("x-one", "2"))
        assert (request.peer, request.secure) == (PEER, True)


def test_a_target_in_absolute_form_loses_its_origin() -> None:
    """RFC 9112, section 3.2.2."""
    assert made(target="ws://localhost/ws/news?a").target == "/ws/news?a"


@pytest.mark.parametrize(
    "head",
    [
        b"",
        b"hello\r\n\r\n",
        b"GET /",
        b"GET / HTTP/1.1\r\nHost: a\r\n",
        b"GET / HTTP/1.1\r\n\r\nbehind",
        b"GET / HTTP/2.0\r\n\r\n",
        b"GET / HTTP/1.1\r\nno colon\r\n\r\n",
        b"GET / HTTP/1.1\nHost: a\n\n",
        b"GET /\x7f HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\nX: " + b"x" * 17000 + b"\r\n\r\n",
    ],
)
def test_other_bytes_are_no_request(head: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        Request.parse(head, peer=PEER)


@pytest.mark.parametrize(
    ("target", "name", "value"),
    [
        ("/ HTTP/1.1\r\nX: y", "A", "b"),
        ("/ b", "A", "b"),
        ("/\u20ac", "A", "b"),
        ("/", "A\r\nB", "b"),
        ("/", "A: b", "c"),
        ("/", "A ", "b"),
        ("/", "", "b"),
        ("/", "A", "b\r\nC: d"),
        ("/", "A", "b\nc"),
        ("/", "A", "b\0"),
        ("/", "A", "\u20ac"),
        ("/", b"A", b"b\r\n\r\n"),
    ],
)
def test_pairs_cannot_make_other_lines(target: str, name: Any, value: Any) -> None:
    with pytest.raises(ValueError, match=r"."):
        Request.of(target, [(name, value)], peer=PEER)


@pytest.mark.parametrize(
    ("target", "name", "value"),
    [(1, "A", "b"), ("/", 1, "b"), ("/", "A", 10**15), ("/", "A", None)],
)
def test_pairs_are_texts_or_bytes(target: Any, name: Any, value: Any) -> None:
    with pytest.raises(TypeError, match="it must be a text or bytes"):
        Request.of(target, [(name, value)], peer=PEER)


@pytest.mark.parametrize("head", ["GET / HTTP/1.1\r\n\r\n", None])
def test_a_head_is_bytes(head: Any) -> None:
    with pytest.raises(TypeError, match="head is"):
        Request.parse(head, peer=PEER)


@pytest.mark.parametrize(
    "name",
    [
        *("target", "path", "query", "headers", "cookies", "subprotocols", "peer", "secure"),
        "another",
    ],
)
def test_a_request_cannot_be_changed(name: str) -> None:
    with pytest.raises(AttributeError):
        setattr(made(), name, "x")
    with pytest.raises(TypeError):
        made().headers["X"] = "y"  # type: ignore[index]
    with pytest.raises(TypeError):
        made().cookies["x"] = "y"  # type: ignore[index]


def test_a_request_is_equal_to_itself_alone() -> None:
    one, two = made(), made()
    assert {one: 1, two: 2}[one] == 1
    assert one != two


def test_what_it_is_shown_as_has_no_secrets() -> None:
    request = made(
        ("Cookie", "session=s3cret"),
        ("Authorization", "s3cret"),
        target="/ws/news?token=s3cret",
    )
    assert repr(request) == f"<Request for '/ws/news' from {PEER}>"
    assert repr(request.headers) == "<Headers host, cookie, authorization>"
    secure = Request.of("/", [], peer=PEER, secure=True)
    assert repr(secure) == f"<Request for '/' from {PEER} over TLS>"


def test_headers_that_are_parsed_already_are_used_and_then_let_go() -> None:
    data = handshake_request("X: 1")
    head = find_head(data)
    assert head is not None
    parsed = fields(data)
    request = Request(head, PEER, secure=False, parsed=parsed)
    parsed["Y"] = "2"  # shows which ones it has
    assert request.headers["y"] == "2"
    release(request, PEER)
    assert "y" not in request.headers
    assert request.headers["x"] == "1"


# Headers.


def test_names_of_headers_are_compared_without_case() -> None:
    headers = made(("X-Name", "Value")).headers
    assert headers["x-name"] == headers["X-NAME"] == "Value"
    assert "x-NAME" in headers
    assert headers.get("other") is None
    assert "other" not in headers
    assert 1 not in headers  # type: ignore[comparison-overlap]
    with pytest.raises(KeyError):
        headers["other"]


def test_headers_that_come_again_are_kept() -> None:
    headers = made(("A", "1"), ("b", "2"), ("a", "3"), ("Cookie", "x=1"), ("Cookie", "y=2")).headers
    assert headers.get_all("A") == ("1", "3")
    assert headers.get_all("other") == ()
    assert headers["A"] == "1, 3"
    assert headers["Cookie"] == "x=1; y=2"
    assert list(headers) == ["host", "a", "b", "cookie"]
    assert len(headers) == 4
    assert dict(headers) == {"host": "localhost", "a": "1, 3", "b": "2", "cookie": "x=1; y=2"}


@pytest.mark.parametrize("value", [b"caf\xc3\xa9", b"\xff\x80", b"plain"])
def test_bytes_beyond_ascii_are_read_as_latin_1(value: bytes) -> None:
    headers = made(("X", value)).headers
    assert headers["X"].encode("latin-1") == value
    assert headers.pairs()[1] == ("X", value.decode("latin-1"))
    headers["X"].encode()  # no surrogates


@given(
    st.lists(
        st.tuples(
            st.from_regex(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,10}", fullmatch=True),
            st.text(st.characters(max_codepoint=255, exclude_characters="\r\n\0"), max_size=20),
        ),
        max_size=20,
    )
)
def test_all_headers_come_out_as_they_went_in(pairs: list[tuple[str, str]]) -> None:
    try:
        request = Request.of("/", pairs, peer=PEER)
    except ValueError:
        assert any(not value.isprintable() for _, value in pairs)
        return
    assert isinstance(request.headers, Headers)
    assert request.headers.pairs() == tuple((name, value.strip(" \t")) for name, value in pairs)


# Cookies and subprotocols.


@pytest.mark.parametrize(
    ("values", "cookies"),
    [
        ([], {}),
        ([""], {}),
        (["a=1"], {"a": "1"}),
        (["a=1; b=2"], {"a": "1", "b": "2"}),
        (["a=1;b=2 ;\tc = 3 "], {"a": "1", "b": "2", "c": "3"}),
        (["a=1", "b=2"], {"a": "1", "b": "2"}),
        (["a="], {"a": ""}),
        (["a=b=c"], {"a": "b=c"}),
        (['a="b c"'], {"a": "b c"}),
        (['a="b\\"c\\054"'], {"a": 'b"c,'}),
        (["a=%20"], {"a": "%20"}),
        (["path=/x; expires=never"], {"path": "/x", "expires": "never"}),
        (["$Version=1; a=1"], {"$Version": "1", "a": "1"}),
        # One bad cookie does not hide the others.
        (["bad; a=1"], {"a": "1"}),
        (["=bad; a=1"], {"a": "1"}),
        (["a[b]=c,d; e=1"], {"a[b]": "c,d", "e": "1"}),
        (['a="x; b=1'], {"a": '"x', "b": "1"}),
        ([";;; a=1;;"], {"a": "1"}),
        # That of the longest path stands first.
        (["a=first; a=second", "a=third"], {"a": "first"}),
        (["A=1; a=2"], {"A": "1", "a": "2"}),
    ],
)
def test_cookies(values: list[str], cookies: dict[str, str]) -> None:
    assert made(*(("Cookie", value) for value in values)).cookies == cookies


@given(
    before=st.text(st.characters(max_codepoint=255, exclude_categories=["Cc"])),
    behind=st.text(st.characters(max_codepoint=255, exclude_categories=["Cc"])),
)
def test_no_cookie_hides_another_one(before: str, behind: str) -> None:
    cookies = made(("Cookie", f"{before};s3=cret;{behind}")).cookies
    assert "s3" in cookies
    if "s3" not in before:
        assert cookies["s3"] == "cret"


@pytest.mark.parametrize(
    ("values", "offered"),
    [
        ([], ()),
        (["b"], ("b",)),
        (["b, a,c"], ("b", "a", "c")),
        (["b", "c ,\ta", ""], ("b", "c", "a")),
        ([", b,"], ("b",)),
    ],
)
def test_subprotocols_are_those_offered_in_their_order(
    values: list[str], offered: tuple[str, ...]
) -> None:
    assert made(*(("Sec-WebSocket-Protocol", value) for value in values)).subprotocols == offered
