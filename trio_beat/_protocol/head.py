"""The head of an HTTP request: its line and its headers, found in bytes (RFC 9112)."""

from __future__ import annotations

import re
from typing import Final, NamedTuple

from websockets.datastructures import Headers
from websockets.http11 import parse_headers
from websockets.streams import StreamReader

from .._exceptions import Refused
from .._text import printable

#: Bytes that a request's target and its header block may have.
MAX_TARGET: Final = 8 * 1024
MAX_HEADERS: Final = 16 * 1024
#: Lines that the header block may have.
MAX_HEADER_LINES: Final = 128

_METHOD: Final = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,32}( |\Z)")
_BLANK_LINE: Final = re.compile(rb"\n\r?\n")
_ORIGIN: Final = re.compile(r"\A[A-Za-z][A-Za-z0-9+.-]*://[^/?#]*")
_VERSION: Final = re.compile(r"HTTP/([0-9])\.([0-9])")


class Head(NamedTuple):
    """A request's line and headers."""

    raw: bytes  #: the whole of it, with the blank line
    target: str  #: path and query
    method: str = "GET"
    version: str = "HTTP/1.1"  #: HTTP/1.0, or HTTP/1.1 for that and all that is higher


def find_head(data: bytes | bytearray) -> Head | None:
    """Find a request's line and headers in the bytes received so far.

    Args:
        data: the bytes, from the request's first one.

    Returns:
        The head, or None while more bytes are needed.

    Raises:
        Refused: 400 for what is not HTTP, 414 for too long a target, 431 for too many headers,
            505 for another major version than 1 (RFC 9110, section 15.6.6).
    """
    if _METHOD.match(data) is None:
        raise Refused(400, "not HTTP: expected a request such as GET /ws/news HTTP/1.1")
    line_end = data.find(b"\n")
    if (line_end if line_end >= 0 else len(data)) > MAX_TARGET + 64:
        raise Refused(414, f"request target is over {MAX_TARGET} bytes")
    if line_end < 0:
        return None
    method, target, version = _request_line(bytes(data[:line_end]))
    end = find_block_end(data, line_end)
    return None if end is None else Head(bytes(data[:end]), target, method, version)


def find_block_end(data: bytes | bytearray, line_end: int) -> int | None:
    """Find the end of a block of headers, with the blank line.

    Args:
        data: the bytes received so far.
        line_end: where the line before the block ends.

    Raises:
        Refused: 431 for too many headers.
    """
    blank = _BLANK_LINE.search(data, line_end)
    end = blank.end() if blank else len(data)
    if end - (line_end + 1) > MAX_HEADERS:
        raise Refused(431, f"header block is over {MAX_HEADERS} bytes")
    lines = data.count(b"\n", line_end + 1, end) - (blank is not None)
    if lines > MAX_HEADER_LINES:
        raise Refused(431, f"expected no more than {MAX_HEADER_LINES} headers")
    return None if blank is None else end


def _request_line(line: bytes) -> tuple[str, str, str]:
    try:
        method, target, version = line.decode("ascii").removesuffix("\r").split(" ")
    except ValueError:
        raise Refused(400, "not HTTP: expected <method> <target> HTTP/1.1") from None
    number = _VERSION.fullmatch(version)
    if number is None:
        raise Refused(
            400,
            f"not HTTP: {version!r} stands where HTTP/1.1 is expected",
            logged="not HTTP: something else stands where HTTP/1.1 is expected",
        )
    if number[1] != "1":
        raise Refused(505, f"{version} is not spoken here, expected HTTP/1.1")
    if not target.isprintable():
        raise Refused(
            400,
            f"request target {target!r} has control characters",
            logged="request target has control characters",
        )
    if len(target) > MAX_TARGET:
        raise Refused(414, f"request target is over {MAX_TARGET} bytes")
    # A higher minor version is taken for the highest that is known (RFC 9110, section 2.5).
    return method, origin_form(target), "HTTP/1.0" if number[2] == "0" else "HTTP/1.1"


def origin_form(target: str) -> str:
    """Path and query of a target, which may be in absolute form (RFC 9112, section 3.2.2)."""
    rest, absolute = _ORIGIN.subn("", target, count=1)
    return f"/{rest}" if absolute and not rest.startswith("/") else rest


def fields(head: bytes) -> Headers:
    """Parse the headers of a request's head.

    Strictly: a line ends with CRLF, is not folded, and has nothing between name and colon, all of
    which different recipients understand differently (RFC 9112, sections 2.2, 5.1 and 5.2).

    Raises:
        Refused: 400 for what breaks their grammar.
    """
    reader = StreamReader()
    line_end = head.index(b"\n") + 1
    if not head.endswith(b"\r\n", 0, line_end):
        raise Refused(400, "bad request: line without CRLF")
    reader.feed_data(head[line_end:])
    reader.feed_eof()
    try:
        # `find_head` has checked the size; the parser's own limit for a line is lower.
        next(parse_headers(lambda _, too_long: reader.read_line(MAX_HEADERS, too_long)))
    except StopIteration as parsed:
        headers: Headers = parsed.value
        return headers
    except (ValueError, EOFError) as exc:
        text = f"bad request: {printable(str(exc.__cause__ or exc))}"
        raise Refused(400, text, logged="bad request: malformed headers") from None
    raise AssertionError("the whole of a request was there to be parsed")
