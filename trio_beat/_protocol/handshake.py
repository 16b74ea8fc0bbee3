"""The opening handshake, decided from bytes alone (RFC 6455, section 4.2).

Anything wrong with a request has an answer of its own, a `Refused`.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import lru_cache
from typing import Final

from websockets.datastructures import Headers
from websockets.exceptions import InvalidHandshake, InvalidHeader
from websockets.http11 import Request, Response
from websockets.server import ServerProtocol
from websockets.typing import Subprotocol

from .._exceptions import Refused
from .._plain import bare
from .head import Head, fields
from .headers import EXTENSIONS

_ONE_HOST: Final = "exactly one Host header is required (RFC 9112, section 3.2)"
#: The log of the library below would quote header values, which may be secret.
_SILENT: Final = logging.Logger("websockets", logging.CRITICAL + 1)
#: Stands for a key; no subprotocol is such a word (RFC 6455, section 4.1: a token).
_KEY: Final = "<key>"
#: What goes with every 426 (RFC 9110, section 15.5.22).
_UPGRADE: Final = {
    "Connection": "Upgrade, close",
    "Upgrade": "websocket",
    "Sec-WebSocket-Version": "13",
}


def accept(
    head: Head,
    subprotocols: Sequence[str],
    parsed: Headers | None = None,
    extension: str | None = None,
) -> tuple[bytes, str | None]:
    """Answer a WebSocket handshake.

    Args:
        head: the request.
        subprotocols: that the server speaks, the preferred one first; the first that the client
            offers too is agreed on, and none where there is no such (section 4.2.2).
        parsed: its headers, where they are parsed already; None: they are not.
        extension: the extension that is agreed on, with its parameters; None: there is none.

    Returns:
        The response to send, and the subprotocol or None.

    Raises:
        Refused: the request is not a valid WebSocket handshake.
    """
    request = _without_body(head, fields(head.raw) if parsed is None else parsed)
    if len(request.headers.get_all("Host")) != 1:
        raise Refused(400, _ONE_HOST)
    try:
        key, _, subprotocol = _protocol(tuple(subprotocols)).process_request(request)
    except InvalidHandshake as exc:
        raise _refusal(request, exc) from None
    before, behind = _switching(subprotocol, extension)
    return before + key.encode() + behind, subprotocol


@lru_cache(maxsize=64)
def _switching(subprotocol: str | None, extension: str | None) -> tuple[bytes, bytes]:
    """The 101 response, before and behind the key: the rest of it is the same for all peers."""
    headers = Headers()
    headers["Upgrade"] = "websocket"
    headers["Connection"] = "Upgrade"
    headers["Sec-WebSocket-Accept"] = _KEY
    if subprotocol is not None:
        headers["Sec-WebSocket-Protocol"] = subprotocol
    if extension is not None:
        headers[EXTENSIONS] = extension
    before, _, behind = (
        Response(101, "Switching Protocols", headers).serialize().partition(_KEY.encode())
    )
    return before, behind


@lru_cache(maxsize=16)
def _protocol(subprotocols: tuple[str, ...]) -> ServerProtocol:
    """The library's judge of requests. It decides from its arguments alone: one serves all."""
    return ServerProtocol(
        subprotocols=[Subprotocol(name) for name in subprotocols],
        select_subprotocol=_select_subprotocol,
        logger=_SILENT,
    )


def _refusal(request: Request, wrong: InvalidHandshake) -> Refused:
    """Turn the answer that the library below would give into a refusal."""
    named = str(wrong)
    if isinstance(wrong, InvalidHeader):
        named = f"{'missing' if wrong.value is None else 'invalid'} {wrong.name} header"
    if isinstance(wrong, InvalidHeader) and wrong.name == "Sec-WebSocket-Version":
        # Section 4.4 wants the versions that are spoken, with 426.
        return Refused(426, f"{wrong}; expected 13", _UPGRADE, logged=f"{named}; expected 13")
    protocol = ServerProtocol(logger=_SILENT)
    response = protocol.accept(request)
    # Break its cycles: its generator refers to it, and the request keeps what was raised, whose
    # tracebacks lead back to the request and to the pending socket.
    protocol.parser.close()
    kept: BaseException | None = protocol.handshake_exc
    while kept is not None:
        kept = bare(kept).__cause__
    headers = {"Allow": response.headers["Allow"]} if "Allow" in response.headers else {}
    if response.status_code == 426:
        headers |= _UPGRADE
    text = "this is the address of a WebSocket, and not a WebSocket handshake: "
    return Refused(response.status_code, text + _chain(wrong), headers, logged=text + named)


def _chain(exc: BaseException | None) -> str:
    texts = []
    while exc is not None:
        texts.append(" ".join(str(exc).split()))
        exc = exc.__cause__
    return "; ".join(texts)


def _without_body(head: Head, headers: Headers) -> Request:
    if "Transfer-Encoding" in headers:
        raise Refused(400, "bad request: transfer codings aren't supported")
    # Some devices send Content-Length: 0.
    if not set(headers.get_all("Content-Length")) <= {"0"}:
        raise Refused(400, "bad request: unsupported request body")
    return Request(head.target, headers, head.method, head.version)


def check_framing(head: Head) -> None:
    """Check that a request's host and its end are unambiguous (RFC 9112, sections 3.2 and 6).

    Raises:
        Refused: 400, or 501 for an unknown transfer coding; the connection is to be closed.
    """
    headers = fields(head.raw)
    hosts = len(headers.get_all("Host"))
    if hosts > 1 or (hosts == 0 and head.version != "HTTP/1.0"):
        raise Refused(400, _ONE_HOST)
    lengths = headers.get_all("Content-Length")
    if lengths and not (len(lengths) == 1 and lengths[0].isascii() and lengths[0].isdigit()):
        raise Refused(400, "bad request: Content-Length must be one number")
    values = headers.get_all("Transfer-Encoding")
    if not values:
        return
    codings = [coding.strip().lower() for value in values for coding in value.split(",")]
    if lengths:
        raise Refused(400, "bad request: Content-Length beside Transfer-Encoding")
    if head.version == "HTTP/1.0":
        raise Refused(400, "bad request: Transfer-Encoding in HTTP/1.0")
    if codings[-1] != "chunked" or codings.count("chunked") != 1:
        raise Refused(400, "bad request: the last transfer coding must be chunked, and no other")
    if len(codings) > 1:
        raise Refused(501, "no transfer coding but chunked is understood")


def _select_subprotocol(
    protocol: ServerProtocol, offered: Sequence[Subprotocol]
) -> Subprotocol | None:
    available = protocol.available_subprotocols or ()
    return next((name for name in available if name in offered), None)
