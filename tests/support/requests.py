"""Requests of a handshake, in bytes, and what is answered."""

from __future__ import annotations

from trio_beat._protocol.handshake import accept
from trio_beat._protocol.head import Head, find_head

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


def parse_response(response: bytes) -> tuple[str, dict[str, str], bytes]:
    """Status line, headers and body."""
    head, _, body = response.partition(b"\r\n\r\n")
    status, *lines = head.decode().split("\r\n")
    headers = dict(line.split(": ", 1) for line in lines)
    assert len(headers) == len(lines)
    return status, headers, body
