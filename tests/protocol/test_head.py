"""Finding the head of a request in bytes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.requests import LINE, handshake, request
from trio_beat import Refused
from trio_beat._protocol.head import MAX_HEADERS, MAX_TARGET, Head, find_head


def find(data: bytes) -> Head | tuple[int, str] | None:
    """What `find_head` says; of a refusal, status and text."""
    try:
        return find_head(data)
    except Refused as refusal:
        return refusal.status, refusal.text


def find_byte_by_byte(data: bytes) -> tuple[int, Head | tuple[int, str] | None]:
    """After how many bytes there is something to say, and what."""
    for end in range(1, len(data) + 1):
        if (found := find(data[:end])) is not None:
            return end, found
    return len(data), None


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
def test_target_of_8_kib_is_taken(method: str) -> None:
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


def test_header_block_of_16_kib_is_taken() -> None:
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
