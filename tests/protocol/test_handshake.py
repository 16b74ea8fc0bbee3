"""The opening handshake: what is accepted, and what each refusal says."""

from __future__ import annotations

import pytest

from tests.support.requests import HEADERS, LINE, handshake, head_of, request
from trio_beat import Refused
from trio_beat._protocol.handshake import accept, check_framing


def refused(data: bytes) -> Refused:
    with pytest.raises(Refused) as caught:
        accept(head_of(data), ())
    return caught.value


# Answering it.


def test_answer_is_that_of_rfc_6455_section_1_3() -> None:
    headers, subprotocol = handshake(request())
    assert headers == {
        "Upgrade": "websocket",
        "Connection": "Upgrade",
        "Sec-WebSocket-Accept": "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=",
    }
    assert subprotocol is None


@pytest.mark.parametrize(
    "headers",
    [
        ("Upgrade: WebSocket", "Connection: keep-alive, upgrade"),
        ("UPGRADE:websocket", "connection:Upgrade  "),
        ("Upgrade: websocket", "Connection: keep-alive", "Connection: Upgrade"),
    ],
)
def test_names_and_tokens_are_compared_without_case(headers: tuple[str, ...]) -> None:
    data = "\r\n".join((LINE, HEADERS[0], *HEADERS[3:], *headers, "", "")).encode()
    assert handshake(data)[0]["Sec-WebSocket-Accept"] == "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="


def test_extensions_are_declined() -> None:
    headers, _ = handshake(request("Sec-WebSocket-Extensions: permessage-deflate"))
    assert "Sec-WebSocket-Extensions" not in headers


@pytest.mark.parametrize(
    ("offered", "spoken", "agreed"),
    [
        (["v1, v2"], ["v2", "v1"], "v2"),
        (["v1", "v2"], ["v2", "v1"], "v2"),
        (["v1"], ["v2", "v1"], "v1"),
        (["V1"], ["v1"], None),
        (["v3"], ["v2", "v1"], None),
        (["v1"], [], None),
        ([], ["v1"], None),
    ],
)
def test_subprotocol_is_the_first_of_ours_that_is_offered(
    offered: list[str], spoken: list[str], agreed: str | None
) -> None:
    more = [f"Sec-WebSocket-Protocol: {value}" for value in offered]
    headers, subprotocol = handshake(request(*more), *spoken)
    assert subprotocol == agreed
    assert headers.get("Sec-WebSocket-Protocol") == agreed


KEY = "Sec-WebSocket-Key"
VERSION = "Sec-WebSocket-Version"


@pytest.mark.parametrize(
    ("data", "status", "named"),
    [
        (request(without=KEY), 400, "missing Sec-WebSocket-Key"),
        (request(f"{KEY}: YWJj", without=KEY), 400, "invalid Sec-WebSocket-Key header: YWJj"),
        (request(f"{KEY}: ~", without=KEY), 400, "invalid Sec-WebSocket-Key header: ~"),
        (request(HEADERS[3]), 400, "invalid Sec-WebSocket-Key header: multiple values"),
        (request(without=VERSION), 426, "missing Sec-WebSocket-Version header; expected 13"),
        (
            request(f"{VERSION}: 8", without=VERSION),
            426,
            "invalid Sec-WebSocket-Version header: 8; expected 13",
        ),
        (request(HEADERS[4]), 426, "Sec-WebSocket-Version header: multiple values; expected 13"),
        (request(line="POST /ws/news HTTP/1.1"), 405, "unsupported HTTP method: POST"),
        (request(line="get /ws/news HTTP/1.1"), 405, "unsupported HTTP method: get"),
        (request(without="Host"), 400, "exactly one Host header is required"),
        (request("Host: other"), 400, "exactly one Host header is required"),
        (request(without="Upgrade"), 426, "missing Upgrade header"),
        (request("Upgrade: h2c", without="Upgrade"), 426, "invalid Upgrade header: h2c"),
        (request(without="Connection"), 426, "missing Connection header"),
        (
            request("Connection: close", without="Connection"),
            426,
            "invalid Connection header: close",
        ),
        (request(line="GET /ws/news HTTP/1.0"), 505, "unsupported HTTP version: HTTP/1.0"),
        (request(end="\n"), 400, "bad request: line without CRLF"),
        (request()[:-2] + b"\n", 400, "bad request: line without CRLF"),
        (request("no colon"), 400, "invalid HTTP header line: no colon"),
        (request("a b: c"), 400, "invalid HTTP header name: a b"),
        (request(" folded: line"), 400, "invalid HTTP header name:  folded"),
        (request("X: a\0b"), 400, r"invalid HTTP header value: a\x00b"),
        (request("X: a\rb"), 400, "invalid HTTP header value"),
        (request("X : a"), 400, "invalid HTTP header name: X "),
        (request("Content-Length: 0", "Transfer-Encoding: chunked"), 400, "transfer codings"),
        (request("Content-Length: 1"), 400, "unsupported request body"),
        (request("Transfer-Encoding: chunked"), 400, "transfer codings aren't supported"),
        (request("Sec-WebSocket-Protocol: a b"), 400, "invalid Sec-WebSocket-Protocol header"),
    ],
)
def test_bad_request_is_refused_with_what_is_wrong(data: bytes, status: int, named: str) -> None:
    refusal = refused(data)
    assert refusal.status == status
    assert named in refusal.text


SECRET = "s3cret"


@pytest.mark.parametrize(
    "data",
    [
        request(f"{KEY}: {SECRET}", without=KEY),
        request(f"{VERSION}: {SECRET}", without=VERSION),
        request(f"Upgrade: {SECRET}", without="Upgrade"),
        request(f"Connection: {SECRET}", without="Connection"),
        request(f"Sec-WebSocket-Protocol: {SECRET} {SECRET}"),
        request(f"Authorization {SECRET}"),
        request(f"Authorization : {SECRET}"),
        request(f"Authorization: {SECRET}\0"),
        request(line=f"GET /ws/news?token=a {SECRET}"),
        request(line=f"GET /ws/news?token={SECRET}\x7f HTTP/1.1"),
        request(line=f"GET /ws/news?token=a b{SECRET} HTTP/1.1"),
    ],
)
def test_what_the_log_says_quotes_neither_header_nor_query(data: bytes) -> None:
    refusal = refused(data)
    assert SECRET not in refusal.logged
    assert refusal.logged


@pytest.mark.parametrize("without", ["Upgrade", "Connection", VERSION])
def test_426_says_what_to_upgrade_to(without: str) -> None:
    """RFC 9110, section 15.5.22, and RFC 6455, section 4.4."""
    assert dict(refused(request(without=without)).headers) == {
        "Connection": "Upgrade, close",
        "Upgrade": "websocket",
        "Sec-WebSocket-Version": "13",
    }


def test_405_says_which_method_is_allowed() -> None:
    assert refused(request(line="PUT / HTTP/1.1")).headers == (("Allow", "GET"),)


@pytest.mark.parametrize(
    "headers",
    [
        [],
        ["Content-Length: 0"],
        ["Content-Length: 12"],
        ["Transfer-Encoding: chunked"],
        ["transfer-encoding:\tChunked "],
    ],
)
def test_framing_without_doubt_is_let_through(headers: list[str]) -> None:
    check_framing(head_of(request(*headers)))


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (request("Content-Length: 5", "Transfer-Encoding: chunked"), 400),
        (request("Transfer-Encoding: chunked", "Content-Length: 0"), 400),
        (request("Content-Length: 5", "Content-Length: 6"), 400),
        (request("Content-Length: 5", "Content-Length: 5"), 400),
        (request("Content-Length: 5, 5"), 400),
        (request("Content-Length: +5"), 400),
        (request("Content-Length: -5"), 400),
        (request("Content-Length: 0x5"), 400),
        (request("Content-Length: \u00b2"), 400),
        (request("Content-Length:"), 400),
        (request("Transfer-Encoding: identity"), 400),
        (request("Transfer-Encoding: chunked, gzip"), 400),
        (request("Transfer-Encoding: chunked, chunked"), 400),
        (request("Transfer-Encoding: chunked", "Transfer-Encoding: chunked"), 400),
        (request("Transfer-Encoding: xchunked"), 400),
        (request("Transfer-Encoding:"), 400),
        (request("Transfer-Encoding: gzip, chunked"), 501),
        (request("Transfer-Encoding: chunked", line="POST / HTTP/1.0"), 400),
        (request(without="Host"), 400),
        (request("Host: other"), 400),
        (request("Host: other", line="GET / HTTP/1.0"), 400),
        (request("X: a", " folded: line"), 400),
        (request("X: a", "\tfolded: line"), 400),
        (request("X : a"), 400),
        (request("X\t: a"), 400),
        (request("X: a\rb: c"), 400),
        (request("X: a\nb: c"), 400),
        (request("X: a\0"), 400),
        (request("no colon"), 400),
        (request(": no name"), 400),
        (request(end="\n"), 400),
        (request()[:-2] + b"\n", 400),
    ],
)
def test_framing_in_doubt_is_refused(data: bytes, status: int) -> None:
    """RFC 9112, sections 2.2, 5 and 6."""
    with pytest.raises(Refused) as caught:
        check_framing(head_of(data))
    assert caught.value.status == status
