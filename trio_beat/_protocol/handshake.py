"""The opening handshake, decided from bytes alone (RFC 6455, section 4.2).

Whatever is wrong with a request has an answer of its own, a `Refusal`.
"""

from __future__ import annotations

import email.utils
import logging
import re
from collections.abc import Sequence
from functools import lru_cache
from typing import Final, NamedTuple

from websockets.datastructures import Headers
from websockets.exceptions import InvalidHandshake, InvalidHeader
from websockets.http11 import Request, Response, parse_headers
from websockets.server import ServerProtocol
from websockets.streams import StreamReader
from websockets.typing import Subprotocol

from .._plain import bare
from .statuses import phrase

#: Bytes that a request's target and its header block may have.
MAX_TARGET: Final = 8 * 1024
MAX_HEADERS: Final = 16 * 1024
#: Lines that the header block may have.
MAX_HEADER_LINES: Final = 128

_ONE_HOST: Final = "exactly one Host header is required (RFC 9112, section 3.2)"
_METHOD: Final = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,32}( |\Z)")
_BLANK_LINE: Final = re.compile(rb"\n\r?\n")
_ORIGIN: Final = re.compile(r"\A[A-Za-z][A-Za-z0-9+.-]*://[^/?#]*")
_VERSION: Final = re.compile(r"HTTP/([0-9])\.([0-9])")
#: What goes with every answer of the server's own.
SECURITY_HEADERS: Final = {
    "Content-Security-Policy": (
        "default-src 'self'; connect-src 'self' ws: wss:; base-uri 'none'; form-action 'self'; "
        "frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}
#: What the layer below would log quotes header values, which may be secret.
_SILENT: Final = logging.Logger("websockets", logging.CRITICAL + 1)
#: Stands for a key; no subprotocol is such a word (RFC 6455, section 4.1: a token).
_KEY: Final = "<key>"
#: What goes with every 426 (RFC 9110, section 15.5.22).
_UPGRADE: Final = {
    "Connection": "Upgrade, close",
    "Upgrade": "websocket",
    "Sec-WebSocket-Version": "13",
}


class Refusal(Exception):  # noqa: N818 - an answer, not an error
    """A peer is not let in.

    Attributes:
        status: HTTP status code.
        text: what was wrong and what is allowed, for the peer.
        headers: that go with the answer.
        logged: what a log says of it: never a header's value or a query, which may be secret.
    """

    def __init__(
        self,
        status: int,
        text: str,
        headers: dict[str, str] | None = None,
        *,
        logged: str | None = None,
    ) -> None:
        super().__init__(text)
        self.status = status
        self.text = text
        self.headers = headers or {}
        self.logged = text if logged is None else logged

    def response(self) -> bytes:
        """The answer, as it goes over the wire."""
        body = f"{self.text}\n".encode()
        headers = Headers(
            {
                "Date": email.utils.formatdate(usegmt=True),
                "Connection": "close",
                "Content-Length": str(len(body)),
                "Content-Type": "text/plain; charset=utf-8",
                **SECURITY_HEADERS,
                **self.headers,
            }
        )
        return Response(self.status, phrase(self.status), headers, body).serialize()


class Head(NamedTuple):
    """A request's line and headers."""

    raw: bytes  #: the whole of it, with the blank line
    target: str  #: path and query
    method: str = "GET"
    version: str = "HTTP/1.1"  #: HTTP/1.0, or HTTP/1.1 for that and all that is higher


def find_head(data: bytes | bytearray) -> Head | None:
    """Find a request's line and headers in the bytes that have come so far.

    Args:
        data: from the first byte on.

    Returns:
        The head, or None while more bytes are needed.

    Raises:
        Refusal: 400 for what is not HTTP, 414 for too long a target, 431 for too many headers,
            505 for another major version than 1 (RFC 9110, section 15.6.6).
    """
    if _METHOD.match(data) is None:
        raise Refusal(400, "not HTTP: expected a request such as GET /ws/news HTTP/1.1")
    line_end = data.find(b"\n")
    if (line_end if line_end >= 0 else len(data)) > MAX_TARGET + 64:
        raise Refusal(414, f"request target is over {MAX_TARGET} bytes")
    if line_end < 0:
        return None
    method, target, version = _request_line(bytes(data[:line_end]))
    end = find_block_end(data, line_end)
    return None if end is None else Head(bytes(data[:end]), target, method, version)


def find_block_end(data: bytes | bytearray, line_end: int) -> int | None:
    """Find the end of a block of headers, with the blank line.

    Args:
        data: the bytes that have come so far.
        line_end: where the line before the block ends.

    Raises:
        Refusal: 431 for too many headers.
    """
    blank = _BLANK_LINE.search(data, line_end)
    end = blank.end() if blank else len(data)
    if end - (line_end + 1) > MAX_HEADERS:
        raise Refusal(431, f"header block is over {MAX_HEADERS} bytes")
    lines = data.count(b"\n", line_end + 1, end) - (blank is not None)
    if lines > MAX_HEADER_LINES:
        raise Refusal(431, f"expected no more than {MAX_HEADER_LINES} headers")
    return None if blank is None else end


def _request_line(line: bytes) -> tuple[str, str, str]:
    try:
        method, target, version = line.decode("ascii").removesuffix("\r").split(" ")
    except ValueError:
        raise Refusal(400, "not HTTP: expected <method> <target> HTTP/1.1") from None
    number = _VERSION.fullmatch(version)
    if number is None:
        raise Refusal(
            400,
            f"not HTTP: {version!r} stands where HTTP/1.1 is expected",
            logged="not HTTP: something else stands where HTTP/1.1 is expected",
        )
    if number[1] != "1":
        raise Refusal(505, f"{version} is not spoken here, expected HTTP/1.1")
    if not target.isprintable():
        raise Refusal(
            400,
            f"request target {target!r} has control characters",
            logged="request target has control characters",
        )
    if len(target) > MAX_TARGET:
        raise Refusal(414, f"request target is over {MAX_TARGET} bytes")
    # A higher minor version is taken for the highest that is known (RFC 9110, section 2.5).
    return method, origin_form(target), "HTTP/1.0" if number[2] == "0" else "HTTP/1.1"


def origin_form(target: str) -> str:
    """Path and query of a target, which may be in absolute form (RFC 9112, section 3.2.2)."""
    rest, absolute = _ORIGIN.subn("", target, count=1)
    return f"/{rest}" if absolute and not rest.startswith("/") else rest


def accept(head: Head, subprotocols: Sequence[str]) -> tuple[bytes, str | None]:
    """Answer a WebSocket handshake.

    Args:
        head: the request.
        subprotocols: that the server speaks, the preferred one first; the first that the client
            offers too is agreed on, and none where there is no such (section 4.2.2).

    Returns:
        The response to send, and the subprotocol or None.

    Raises:
        Refusal: the request is not a valid WebSocket handshake.
    """
    request = _parse(head)
    if len(request.headers.get_all("Host")) != 1:
        raise Refusal(400, _ONE_HOST)
    try:
        key, _, subprotocol = _protocol(tuple(subprotocols)).process_request(request)
    except InvalidHandshake as exc:
        raise _refusal(request, exc) from None
    before, behind = _switching(subprotocol)
    return before + key.encode() + behind, subprotocol


@lru_cache(maxsize=64)
def _switching(subprotocol: str | None) -> tuple[bytes, bytes]:
    """The response that lets a peer in, before and behind its key; all get the same otherwise."""
    headers = Headers()
    headers["Upgrade"] = "websocket"
    headers["Connection"] = "Upgrade"
    headers["Sec-WebSocket-Accept"] = _KEY
    if subprotocol is not None:
        headers["Sec-WebSocket-Protocol"] = subprotocol
    before, _, behind = (
        Response(101, "Switching Protocols", headers).serialize().partition(_KEY.encode())
    )
    return before, behind


@lru_cache(maxsize=16)
def _protocol(subprotocols: tuple[str, ...]) -> ServerProtocol:
    """Whom to ask about requests. It decides from its arguments alone, and serves all of them."""
    return ServerProtocol(
        subprotocols=[Subprotocol(name) for name in subprotocols],
        select_subprotocol=_select_subprotocol,
        logger=_SILENT,
    )


def _refusal(request: Request, wrong: InvalidHandshake) -> Refusal:
    """Turn the answer that the layer below would give into a refusal."""
    named = str(wrong)
    if isinstance(wrong, InvalidHeader):
        named = f"{'missing' if wrong.value is None else 'invalid'} {wrong.name} header"
    if isinstance(wrong, InvalidHeader) and wrong.name == "Sec-WebSocket-Version":
        # Section 4.4 wants the versions that are spoken, with 426.
        return Refusal(426, f"{wrong}; expected 13", _UPGRADE, logged=f"{named}; expected 13")
    protocol = ServerProtocol(logger=_SILENT)
    response = protocol.accept(request)
    # Its generator holds it; and the request keeps what was raised, whose tracebacks lead back to
    # it and to the pending.
    protocol.parser.close()
    kept: BaseException | None = protocol.handshake_exc
    while kept is not None:
        kept = bare(kept).__cause__
    headers = {"Allow": response.headers["Allow"]} if "Allow" in response.headers else {}
    if response.status_code == 426:
        headers |= _UPGRADE
    text = "this is the address of a WebSocket, and not a WebSocket handshake: "
    return Refusal(response.status_code, text + _chain(wrong), headers, logged=text + named)


def _chain(exc: BaseException | None) -> str:
    texts = []
    while exc is not None:
        texts.append(" ".join(str(exc).split()))
        exc = exc.__cause__
    return "; ".join(texts)


def _parse(head: Head) -> Request:
    headers = fields(head)
    if "Transfer-Encoding" in headers:
        raise Refusal(400, "bad request: transfer codings aren't supported")
    # Some devices send a Content-Length of 0.
    if not set(headers.get_all("Content-Length")) <= {"0"}:
        raise Refusal(400, "bad request: unsupported request body")
    return Request(head.target, headers, head.method, head.version)


def fields(head: Head) -> Headers:
    """Parse a request's headers.

    Strictly: a line ends with CRLF, is not folded, and has nothing between name and colon, all of
    which different recipients understand differently (RFC 9112, sections 2.2, 5.1 and 5.2).

    Raises:
        Refusal: 400 for what breaks their grammar.
    """
    reader = StreamReader()
    line_end = head.raw.index(b"\n") + 1
    if not head.raw.endswith(b"\r\n", 0, line_end):
        raise Refusal(400, "bad request: line without CRLF")
    reader.feed_data(head.raw[line_end:])
    reader.feed_eof()
    try:
        # `find_head` has judged the size; the limit of a line that is asked for here is lower.
        next(parse_headers(lambda _, too_long: reader.read_line(MAX_HEADERS, too_long)))
    except StopIteration as parsed:
        headers: Headers = parsed.value
        return headers
    except (ValueError, EOFError) as exc:
        text = f"bad request: {exc.__cause__ or exc}"
        raise Refusal(400, text, logged="bad request: malformed headers") from None
    raise AssertionError("the whole of a request was there to be parsed")


def check_framing(head: Head) -> None:
    """See that there is no doubt whom a request is for and where it ends (RFC 9112, 3.2 and 6).

    Raises:
        Refusal: 400, or 501 for a transfer coding that is not known; the connection is closed.
    """
    headers = fields(head)
    hosts = len(headers.get_all("Host"))
    if hosts > 1 or (hosts == 0 and head.version != "HTTP/1.0"):
        raise Refusal(400, _ONE_HOST)
    lengths = headers.get_all("Content-Length")
    if lengths and not (len(lengths) == 1 and lengths[0].isascii() and lengths[0].isdigit()):
        raise Refusal(400, "bad request: Content-Length must be one number")
    values = headers.get_all("Transfer-Encoding")
    if not values:
        return
    codings = [coding.strip().lower() for value in values for coding in value.split(",")]
    if lengths:
        raise Refusal(400, "bad request: Content-Length beside Transfer-Encoding")
    if head.version == "HTTP/1.0":
        raise Refusal(400, "bad request: Transfer-Encoding in HTTP/1.0")
    if codings[-1] != "chunked" or codings.count("chunked") != 1:
        raise Refusal(400, "bad request: the last transfer coding must be chunked, and no other")
    if len(codings) > 1:
        raise Refusal(501, "no transfer coding but chunked is understood")


def _select_subprotocol(
    protocol: ServerProtocol, offered: Sequence[Subprotocol]
) -> Subprotocol | None:
    available = protocol.available_subprotocols or ()
    return next((name for name in available if name in offered), None)
