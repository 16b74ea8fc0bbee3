"""A client's opening handshake, decided from bytes alone (RFC 6455, section 4.1).

An answer is parsed as leniently as RFC 9112 allows, and then checked as strictly as RFC 6455
demands. Any answer that does not open the WebSocket is a `ConnectFailed`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

import h11
from websockets.client import ClientProtocol
from websockets.datastructures import Headers
from websockets.exceptions import InvalidHandshake
from websockets.http11 import Response
from websockets.typing import Subprotocol
from websockets.uri import WebSocketURI

from .._exceptions import ConnectFailed, HandshakeFailed, HandshakeRefused, ServerUnavailable
from .._plain import bare
from .._text import printable
from .compression import Compression
from .headers import EXTENSIONS
from .offer import agreed_bits, make_offer
from .statuses import name_status

#: Bytes that an answer may have; the body of a refusal is cut off there.
_MAX_ANSWER: Final = 65536
#: Statuses that a server, or a proxy before it, gives where it cannot serve now.
_UNAVAILABLE: Final = frozenset({502, 503, 504})
#: Characters of an answer that an exception quotes.
_QUOTED: Final = 200


class Opened(NamedTuple):
    """The server has accepted the handshake."""

    subprotocol: str | None  #: that it chose
    trailing: bytes  #: what came behind its answer: the first frames
    #: The base-2 logarithm of the window to compress with; None: nothing is compressed.
    window_bits: int | None = None


class OpeningHandshake:
    """The opening handshake of one connection.

    Args:
        uri: the server's; a user and password in it become a header (RFC 7617).
        headers: to send besides those of the handshake itself.
        subprotocols: to offer, the preferred one first.
        compression: to offer; None: none is.

    Attributes:
        request: the bytes to send.
    """

    def __init__(
        self,
        uri: WebSocketURI,
        headers: Sequence[tuple[str, str]] = (),
        subprotocols: Sequence[str] = (),
        compression: Compression | None = None,
    ) -> None:
        offered = [Subprotocol(name) for name in subprotocols]
        self._protocol = ClientProtocol(uri, subprotocols=offered or None)
        # It is not used here, and would keep its protocol until the cyclic collector runs.
        self._protocol.parser.close()
        self._http = h11.Connection(h11.CLIENT, max_incomplete_event_size=_MAX_ANSWER)
        #: How many bytes have come, and the first of them.
        self._received, self._beginning = 0, b""
        #: A refusal, and as much of its body as has come.
        self._refused: h11.Response | None = None
        self._body = bytearray()
        wanted = self._protocol.connect()
        self._compression = compression
        offers = [] if compression is None else [(EXTENSIONS, make_offer(compression))]
        pairs = [*wanted.headers.raw_items(), *offers, *headers]
        encoded = [(name.encode("ascii"), value.encode("latin-1")) for name, value in pairs]
        request = h11.Request(method="GET", target=wanted.path, headers=encoded)
        sent = self._http.send(request), self._http.send(h11.EndOfMessage())
        self.request = b"".join(part for part in sent if part)

    def receive(self, data: bytes | bytearray) -> Opened | None:
        """Take a part of the answer.

        Args:
            data: what came; empty where the server has ended the stream.

        Returns:
            What was negotiated; None while more bytes are needed.

        Raises:
            ConnectFailed: the server refuses, or this is not an answer to the request.
        """
        self._received += len(data)
        if len(self._beginning) < _QUOTED:
            self._beginning += bytes(data[:_QUOTED])
        if not data:
            raise self.refusal() or self._failed("the server ended the connection")
        try:
            self._http.receive_data(bytes(data))
            opened = self._read()
        except (h11.RemoteProtocolError, InvalidHandshake) as exc:
            text = f"this is no answer to a WebSocket handshake: {_excerpt(str(exc))}"
            # In no variable of this frame: its traceback holds the frame.
            raise self.refusal() or HandshakeFailed(text) from bare(exc)
        if opened is None and self._received > _MAX_ANSWER:
            raise self.refusal() or self._failed(f"the answer is over {_MAX_ANSWER} bytes")
        return opened

    def lost(self, why: object) -> ConnectFailed:
        """What to raise where the rest of the answer will not come."""
        return self.refusal() or HandshakeFailed(f"the connection was lost: {why}")

    def refusal(self) -> ConnectFailed | None:
        """The refusal of which a part has come; None: there is none."""
        refused = self._refused
        return None if refused is None else _refusal(refused, bytes(self._body))

    def _failed(self, text: str) -> HandshakeFailed:
        line = self._beginning.partition(b"\n")[0][:100].rstrip(b"\r").decode("latin-1")
        return HandshakeFailed(text + (f", after {line!r}" if line else " during the handshake"))

    def _read(self) -> Opened | None:
        while (event := self._http.next_event()) is not h11.NEED_DATA:
            match event:
                case h11.InformationalResponse(status_code=101):
                    return self._check(event)
                case h11.InformationalResponse():
                    pass  # any number of them may precede the answer (RFC 9110, section 15.2)
                case h11.Response():
                    self._refused = event
                    if event.status_code < 300:
                        raise _refusal(event, b"")
                case h11.Data():
                    self._body += event.data
                case _:  # the end of the refusal
                    assert self._refused is not None
                    raise _refusal(self._refused, bytes(self._body))
        return None

    def _check(self, answer: h11.InformationalResponse) -> Opened:
        version = answer.http_version
        if version == b"1.0" or not version.startswith(b"1."):
            # RFC 9110, sections 7.8 and 15.2: other versions have neither this status nor Upgrade.
            text = f"the server speaks HTTP/{version.decode()}; a WebSocket needs HTTP/1.1"
            raise HandshakeFailed(text)
        headers = Headers()
        for name, value in answer.headers.raw_items():
            # Octets beyond ASCII are opaque (RFC 9110, section 5.5).
            headers.set_insecure(name.decode("ascii"), value.decode("latin-1"))
        extensions = []
        if self._compression is not None:
            # Without an offer any extension is an error, which the protocol finds.
            extensions = headers.get_all(EXTENSIONS)
            if extensions:
                del headers[EXTENSIONS]
        self._protocol.process_response(Response(101, "", headers))
        bits = agreed_bits(self._compression, extensions) if self._compression else None
        return Opened(self._protocol.subprotocol, self._http.trailing_data[0], bits)


def _refusal(response: h11.Response, body: bytes) -> ConnectFailed:
    status = response.status_code
    headers = tuple((n.decode("latin-1"), v.decode("latin-1")) for n, v in response.headers)
    said = " ".join(body.decode(errors="replace").split())[:_QUOTED]
    if status < 300:
        text = f"there is no WebSocket at this address: the answer is {name_status(status)}"
        return HandshakeFailed(text)
    # Not a page: that says nothing about the WebSocket.
    quotable = said and said.isprintable() and "<" not in said
    text = name_status(status) + (f": {said}" if quotable else "")
    if status in _UNAVAILABLE:
        return ServerUnavailable(f"the server is not available: {text}", status, headers, body)
    return HandshakeRefused(f"the server refuses the WebSocket: {text}", status, headers, body)


def _excerpt(text: str) -> str:
    """The beginning of a text that quotes the server, safe to be shown."""
    return printable(text if len(text) <= _QUOTED else text[:_QUOTED] + "...")
