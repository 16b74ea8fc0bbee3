"""The answer to a request that is not admitted."""

from __future__ import annotations

import enum
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from websockets.http11 import Response
from websockets.streams import StreamReader

from tests.support.requests import parse_response
from trio_beat import Refused
from trio_beat._protocol.refusal import (
    SECURITY_HEADERS,
    closing_response,
    refusal_response,
    unauthorized,
)


def test_refusal_is_a_whole_http_response() -> None:
    response = refusal_response(
        Refused(503, "server is full \u2013 try later", {"Retry-After": "30"})
    )
    status, headers, body = parse_response(response)
    assert status == "HTTP/1.1 503 Service Unavailable"
    assert body == "server is full \u2013 try later\n".encode()
    assert headers.pop("Date").endswith(" GMT")
    assert headers == {
        "Connection": "close",
        "Content-Length": str(len(body)),
        "Content-Type": "text/plain; charset=utf-8",
        "Retry-After": "30",
        **SECURITY_HEADERS,
    }


@pytest.mark.parametrize("name", ["Connection", "connection"])
def test_headers_of_a_refusal_replace_the_usual_ones(name: str) -> None:
    refused = Refused(426, "upgrade", {name: "Upgrade, close", "Content-Type": "text/html"})
    _, headers, _ = parse_response(refusal_response(refused))
    assert headers[name] == "Upgrade, close"
    assert headers["Content-Type"] == "text/html"
    assert sum(header.lower() == "connection" for header in headers) == 1


def test_headers_of_one_name_are_all_sent() -> None:
    refused = Refused(401, "", [("Set-Cookie", "a=1"), ("Set-Cookie", "b=2")])
    assert refused.headers == (("Set-Cookie", "a=1"), ("Set-Cookie", "b=2"))
    response = refusal_response(refused)
    assert b"\r\nSet-Cookie: a=1\r\nSet-Cookie: b=2\r\n" in response


def test_the_log_says_the_text_unless_it_is_told_otherwise() -> None:
    assert Refused(403, "no").logged == "no"
    refused = Refused(403, "no, ann", logged="a name")
    assert (refused.text, refused.logged, str(refused)) == ("no, ann", "a name", "no, ann")


@pytest.mark.parametrize("status", [400, 418, 499, 500, 599])
def test_errors_may_have_any_status(status: int) -> None:
    line, _, _ = parse_response(refusal_response(Refused(status, "no")))
    assert line.startswith(f"HTTP/1.1 {status} ")


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.parametrize("name", ["Location", "location"])
def test_a_redirect_says_where_to(status: int, name: str) -> None:
    _, headers, _ = parse_response(refusal_response(Refused(status, "", {name: "wss://b/ws"})))
    assert headers[name] == "wss://b/ws"
    with pytest.raises(ValueError, match=f"status is {status}"):
        Refused(status, "")


@pytest.mark.parametrize("status", [-1, 0, 99, 100, 101, 200, 204, 300, 304, 305, 399, 600, 1000])
def test_what_is_no_refusal_has_no_status_of_one(status: int) -> None:
    with pytest.raises(ValueError, match=r"status is"):
        Refused(status, "", {"Location": "/"})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("", "x"),
        ("a b", "x"),
        ("a:", "x"),
        ("a\r\nb", "x"),
        ("caf\u00e9", "x"),
        ("X", "a\r\nSet-Cookie: b"),
        ("X", "a\rb"),
        ("X", "a\nb"),
        ("X", "a\n"),
        ("X", "a\0"),
        ("X", "a\x7f"),
        ("X", "caf\u00e9"),
        ("X", "\u010d\u010a"),
        ("X", "\udc80"),
        ("Content-Length", "0"),
        ("content-length", "3"),
        ("Transfer-Encoding", "chunked"),
        ("Content-Encoding", "gzip"),
        ("Connection", "keep-alive"),
        ("Connection", "Upgrade"),
        ("Connection", "closed"),
    ],
)
def test_headers_that_would_break_the_response_are_refused(name: str, value: str) -> None:
    with pytest.raises(ValueError, match=r"header") as caught:
        Refused(403, "no", {name: value})
    assert "Set-Cookie" not in str(caught.value)


class Status(int, enum.Enum):
    GONE = 410


class Word(str, enum.Enum):  # noqa: UP042 - a StrEnum is formatted by its value
    MOVED = "moved"
    NAME = "X-Why"


def test_members_of_enumerations_are_sent_by_their_values() -> None:
    refused = Refused(Status.GONE, Word.MOVED, [(Word.NAME, Word.MOVED)])
    response = refusal_response(refused)
    assert response.startswith(b"HTTP/1.1 410 Gone\r\n")
    assert b"\r\nX-Why: moved\r\n" in response
    assert response.endswith(b"\r\n\r\nmoved\n")
    assert f"{refused.status} {refused.logged}" == "410 moved"


def test_a_text_that_cannot_be_encoded_is_refused() -> None:
    with pytest.raises(ValueError, match="text has a surrogate"):
        Refused(403, "\udc80")


@pytest.mark.parametrize(
    ("arguments", "more"),
    [
        (("403", "no"), {}),
        ((403.0, "no"), {}),
        ((True, "no"), {}),
        ((403, b"no"), {}),
        ((403, "no", {"X": 1}), {}),
        ((403, "no", {b"X": "1"}), {}),
        ((403, "no"), {"logged": b""}),
    ],
)
def test_arguments_have_their_types(arguments: Any, more: Any) -> None:
    with pytest.raises(TypeError):
        Refused(*arguments, **more)


@given(
    status=st.integers(400, 599),
    text=st.text(st.characters(exclude_categories=["Cs"])),
    headers=st.lists(
        st.tuples(
            st.from_regex(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+", fullmatch=True),
            st.text(st.characters(max_codepoint=255)),
        )
    ),
)
def test_what_is_accepted_is_one_whole_response(
    status: int, text: str, headers: list[tuple[str, str]]
) -> None:
    try:
        refused = Refused(status, text, headers)
    except ValueError:
        return
    reader = StreamReader()
    data = refusal_response(refused)
    reader.feed_data(data)
    reader.feed_eof()
    try:
        parsing = Response.parse(reader.read_line, reader.read_exact, reader.read_to_eof)
        next(parsing)
    except StopIteration as parsed:
        response = parsed.value
    assert (response.status_code, response.body) == (status, f"{text}\n".encode())
    for name, value in headers:
        assert value.strip(" \t") in response.headers.get_all(name)


def test_a_missing_credential_is_no_error_of_the_challenge() -> None:
    assert unauthorized("who is it?").headers == (("WWW-Authenticate", "Bearer"),)


@pytest.mark.parametrize(("status", "code"), [(401, 3000), (403, 4003)])
def test_a_close_frame_has_as_much_of_the_text_as_there_is_room_for(status: int, code: int) -> None:
    frame = closing_response(Refused(status, "\u00e9" * 100))
    assert frame[:2] == bytes([0x88, 2 + 122])
    assert int.from_bytes(frame[2:4]) == code
    assert frame[4:].decode() == "\u00e9" * 61
