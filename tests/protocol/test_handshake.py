"""The opening handshake: what is let in, and what each refusal says."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trio_beat._protocol.handshake import (
    MAX_HEADERS,
    MAX_TARGET,
    SECURITY_HEADERS,
    Head,
    Refusal,
    accept,
    check_framing,
    find_head,
)

LINE = "GET /ws/news HTTP/1.1"
HEADERS = (
    "Host: localhost",
    "Upgrade: websocket",
    "Connection: Upgrade",
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
    "Sec-WebSocket-Version: 13",
)


def request(*more: str, line: str = LINE, without: str = "-", end: str = "\r\n") -> bytes:
    """A request.

    Args:
        more: headers that it has besides the usual ones.
        line: its first line.
        without: the name of a usual header that it does not have.
        end: what ends a line.
    """
    usual = [header for header in HEADERS if not header.startswith(f"{without}:")]
    return "".join(part + end for part in (line, *usual, *more, "")).encode("latin-1")


def head_of(data: bytes) -> Head:
    head = find_head(data)
    assert head is not None
    return head


def handshake(data: bytes, *subprotocols: str) -> tuple[dict[str, str], str | None]:
    """The headers of the answer, and the subprotocol."""
    response, subprotocol = accept(head_of(data), subprotocols)
    status, headers, body = parse_response(response)
    assert status == "HTTP/1.1 101 Switching Protocols"
    assert body == b""
    return headers, subprotocol


def refused(data: bytes) -> Refusal:
    with pytest.raises(Refusal) as caught:
        accept(head_of(data), ())
    return caught.value


def parse_response(response: bytes) -> tuple[str, dict[str, str], bytes]:
    """Status line, headers and body."""
    head, _, body = response.partition(b"\r\n\r\n")
    status, *lines = head.decode().split("\r\n")
    headers = dict(line.split(": ", 1) for line in lines)
    assert len(headers) == len(lines)
    return status, headers, body


def find(data: bytes) -> Head | tuple[int, str] | None:
    """What `find_head` says; of a refusal, status and text."""
    try:
        return find_head(data)
    except Refusal as refusal:
        return refusal.status, refusal.text


def find_byte_by_byte(data: bytes) -> tuple[int, Head | tuple[int, str] | None]:
    """After how many bytes there is something to say, and what."""
    for end in range(1, len(data) + 1):
        if (found := find(data[:end])) is not None:
            return end, found
    return len(data), None


# Finding the request.


def test_request_is_found_whole() -> None:
    assert find_head(request()) == Head(request(), "/ws/news")
    assert find_head(bytearray(request())) == Head(request(), "/ws/news")


def test_request_is_found_byte_by_byte_with_its_last_byte() -> None:
    assert find_byte_by_byte(request()) == (len(request()), Head(request(), "/ws/news"))


@given(behind=st.binary() | st.sampled_from([b"\r\n\r\n", b"\n\n", request()]))
def test_what_is_behind_the_request_is_not_part_of_it(behind: bytes) -> None:
    assert find_head(request() + behind) == Head(request(), "/ws/news")


@given(
    st.lists(
        st.sampled_from(
            [
                "GET /ws/news HTTP/1.1",
                "GET",
                "G(T",
                " ",
                "/ws/news",
                "/\u00e9",
                "HTTP/1.1",
                "FTP",
                "\r\n",
                "\n",
                "Host: a",
            ]
        ),
        min_size=1,
    ).map(lambda parts: "".join(parts).encode("latin-1"))
    | st.sampled_from(["\r\n", "\n"]).map(lambda end: request(end=end))
)
def test_pieces_are_judged_like_the_whole(data: bytes) -> None:
    """What is found in the first bytes that are enough is found in all of them."""
    end, found = find_byte_by_byte(data)
    assert found == find(data)
    assert not isinstance(found, Head) or found.raw == data[:end]


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", id="TLS ClientHello"),
        pytest.param(b"\x00", id="NUL"),
        pytest.param(b"\r\n", id="empty line"),
        pytest.param(b" GET / HTTP/1.1\r\n\r\n", id="space before the method"),
        pytest.param(b"GET\r\n\r\n", id="method only"),
        pytest.param(b"M" * 33, id="endless method"),
    ],
)
def test_what_cannot_be_http_is_refused_with_its_first_bytes(data: bytes) -> None:
    assert find(data) == (400, "not HTTP: expected a request such as GET /ws/news HTTP/1.1")


@pytest.mark.parametrize(
    ("line", "text"),
    [
        ("GET /ws/news", "not HTTP: expected <method> <target> HTTP/1.1"),
        ("GET /ws/two words HTTP/1.1", "not HTTP: expected <method> <target> HTTP/1.1"),
        ("GET /ws/caf\u00e9 HTTP/1.1", "not HTTP: expected <method> <target> HTTP/1.1"),
        ("GET /ws/news FTP", "not HTTP: 'FTP' stands where HTTP/1.1 is expected"),
    ],
)
def test_bad_request_line_is_refused(line: str, text: str) -> None:
    assert find(request(line=line)) == (400, text)


def test_target_over_8_kib_is_refused() -> None:
    data = request(line=f"GET /{'t' * MAX_TARGET} HTTP/1.1")
    assert find(data) == (414, "request target is over 8192 bytes")


def test_target_that_never_ends_is_refused() -> None:
    end, found = find_byte_by_byte(b"GET /" + b"t" * 10_000)
    assert found == (414, "request target is over 8192 bytes")
    assert end < MAX_TARGET + 100


@pytest.mark.parametrize("method", ["GET", "M" * 31])
def test_target_of_8_kib_is_let_in(method: str) -> None:
    target = "/" + "t" * (MAX_TARGET - 1)
    data = request(line=f"{method} {target} HTTP/1.1")
    assert find_head(data) == Head(data, target, method)
    handshake(request(line=f"GET {target} HTTP/1.1"))


@pytest.mark.parametrize("size", [8190, 8191, 8192, 8193, 16_000])
def test_one_header_line_may_take_what_all_of_them_may(size: int) -> None:
    handshake(request("Cookie: " + "c" * (size - len("Cookie: \r\n"))))


def request_with_headers_of(size: int) -> bytes:
    """A request whose header block has a size, the blank line included."""
    more = ["A: " + "a" * 8000, "B: " + "b" * 8000, "C: "]
    more[2] += "c" * (size - (len(request(*more)) - len(f"{LINE}\r\n")))
    return request(*more)


def test_header_block_of_16_kib_is_let_in() -> None:
    handshake(request_with_headers_of(MAX_HEADERS))


@pytest.mark.parametrize("behind", [b"", b"behind"])
def test_header_block_over_16_kib_is_refused(behind: bytes) -> None:
    data = request_with_headers_of(MAX_HEADERS + 1)
    assert find(data[:-1]) is None
    assert find(data + behind) == (431, "header block is over 16384 bytes")


def test_header_block_that_never_ends_is_refused() -> None:
    data = request("X: " + "x" * MAX_HEADERS).removesuffix(b"\r\n\r\n")
    assert find(data) == (431, "header block is over 16384 bytes")


@pytest.mark.parametrize(
    ("target", "origin_form"),
    [
        ("http://localhost/ws/news?echo", "/ws/news?echo"),
        ("wss://localhost:8000/ws/news", "/ws/news"),
        ("HTTP://[::1]:80/", "/"),
        ("http://localhost?a", "/?a"),
        ("http://localhost", "/"),
        ("/ws/news?from=http://localhost/", "/ws/news?from=http://localhost/"),
        ("/ws/http://localhost/", "/ws/http://localhost/"),
        ("*", "*"),
    ],
)
def test_target_loses_the_origin_of_an_absolute_form(target: str, origin_form: str) -> None:
    """RFC 9112, section 3.2.2."""
    data = request(line=f"GET {target} HTTP/1.1")
    assert find_head(data) == Head(data, origin_form)
    handshake(data)


@pytest.mark.parametrize("version", ["HTTP/1.2", "HTTP/1.9"])
def test_higher_minor_version_is_handled_as_the_highest_that_is_known(version: str) -> None:
    """RFC 9110, section 2.5."""
    data = request(line=f"GET /ws/news {version}")
    assert find_head(data) == Head(data, "/ws/news")
    handshake(data)


@pytest.mark.parametrize("version", ["HTTP/0.9", "HTTP/2.0", "HTTP/3.0", "HTTP/9.9"])
def test_other_major_version_is_refused_with_its_line(version: str) -> None:
    """RFC 9110, section 15.6.6."""
    line = f"GET /ws/news {version}\r\n".encode()
    refusal = (505, f"{version} is not spoken here, expected HTTP/1.1")
    assert find_byte_by_byte(line) == (len(line), refusal)
    assert find(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")[0] == 505  # type: ignore[index]


@pytest.mark.parametrize(
    "version", ["http/1.1", "HTTP/1", "HTTP/1.", "HTTP/11.1", "HTTP/1.10", "HTTP/1.1\r", "HTTP/x.y"]
)
def test_what_is_no_version_is_refused(version: str) -> None:
    found = find(request(line=f"GET /ws/news {version}"))
    assert isinstance(found, tuple)
    assert (found[0], found[1].partition(":")[0]) == (400, "not HTTP")


def test_headers_over_128_are_refused_before_their_end() -> None:
    many = b"GET /ws/news HTTP/1.1\r\n" + b"A:\r\n" * 128
    assert isinstance(find(many + b"\r\n"), Head)
    assert find(many) is None
    refusal = (431, "expected no more than 128 headers")
    assert find(many + b"A:\r\n") == find(many + b"A:\r\n\r\n") == refusal


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
        (request("X: a\0b"), 400, "invalid HTTP header value"),
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
    assert refused(request(without=without)).headers == {
        "Connection": "Upgrade, close",
        "Upgrade": "websocket",
        "Sec-WebSocket-Version": "13",
    }


def test_405_says_which_method_is_allowed() -> None:
    assert refused(request(line="PUT / HTTP/1.1")).headers == {"Allow": "GET"}


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
    with pytest.raises(Refusal) as caught:
        check_framing(head_of(data))
    assert caught.value.status == status


def test_refusal_is_a_whole_http_response() -> None:
    response = Refusal(503, "server is full \u2013 try later", {"Retry-After": "30"}).response()
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


def test_headers_of_a_refusal_replace_the_usual_ones() -> None:
    _, headers, _ = parse_response(refused(request(without=VERSION)).response())
    assert headers["Connection"] == "Upgrade, close"
