"""A client's way to an open WebSocket: TCP, TLS, and the opening handshake.

Whatever goes wrong on it has a type of its own, a `ConnectFailed`.
"""

from __future__ import annotations

import contextlib
import os
import re
import socket
import ssl
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, cast

import trio
from trio_websocket import wrap_client_stream
from websockets.exceptions import InvalidURI
from websockets.headers import build_host
from websockets.uri import WebSocketURI, parse_uri

from .._checks import TOKEN, check_kind, check_subprotocols
from .._exceptions import TLSFailed, Unreachable
from .._plain import leaves
from .._protocol.client_handshake import Opened, Opening
from .._text import public_url
from .._transports.trio_websocket import ClientStream, TrioWebSocketTransport, WatchedStream

TARGET: Final = re.compile(r"[!-~]+")
_HOST: Final = re.compile(r"[^\x00-\x20\x7f]+")
_VALUE: Final = re.compile(r"([!-~\x80-\xff]([\t -~\x80-\xff]*[!-~\x80-\xff])?)?")
#: Headers that the handshake itself sends.
_OWN: Final = re.compile(
    r"host|upgrade|connection|content-length|transfer-encoding|sec-websocket-.*", re.IGNORECASE
)


@dataclass(frozen=True, slots=True)
class Address:
    """Where a client connects to, and what it says at the door."""

    uri: WebSocketURI
    headers: tuple[tuple[str, str], ...]
    subprotocols: tuple[str, ...]
    ssl_context: ssl.SSLContext | None  #: None exactly where the URL is not secure

    @property
    def place(self) -> str:
        """Host and port, for people."""
        return build_host(self.uri.host, self.uri.port, self.uri.secure, always_include_port=True)

    @property
    def target(self) -> str:
        """Path and query."""
        return self.uri.resource_name

    def opening(self) -> Opening:
        """The handshake that is needed there; each connection has one of its own."""
        return Opening(self.uri, self.headers, self.subprotocols)


def make_address(
    url: str,
    headers: Mapping[str, str] | Iterable[tuple[str, str]],
    subprotocols: Sequence[str],
    ssl_context: ssl.SSLContext | None,
) -> Address:
    """Check what a client was asked for, before it is tried.

    Raises:
        TypeError: some of it is of another type.
        ValueError: some of it can never be right; says what, and what is.
    """
    check_kind("url", url, str, "a text")
    shown = public_url(url)
    try:
        uri = parse_uri(url)
    except (InvalidURI, ValueError):
        expected = "expected ws://host[:port]/path or wss://..."
        # Not from its cause, which tells the whole URL.
        raise ValueError(f"{shown!r} is not the URL of a WebSocket; {expected}") from None
    if not TARGET.fullmatch(uri.resource_name) or not _HOST.fullmatch(uri.host):
        raise ValueError(f"{shown!r} has characters that must be percent-encoded (RFC 3986)")
    if ssl_context is not None:
        check_kind("ssl_context", ssl_context, ssl.SSLContext, "an ssl.SSLContext, or None")
    if ssl_context is not None and ssl_context.protocol is ssl.PROTOCOL_TLS_SERVER:
        raise ValueError("ssl_context is a server's; see ssl.create_default_context()")
    if ssl_context is not None and not uri.secure:
        raise ValueError(f"ssl_context is given, but {shown!r} is not secure; expected wss://...")
    pairs = tuple(headers.items() if isinstance(headers, Mapping) else headers)
    check_fields(pairs)
    for name, _ in pairs:
        if _OWN.fullmatch(name):
            raise ValueError(f"header {name!r} is the handshake's own")
    names = check_subprotocols(subprotocols)
    if uri.secure and ssl_context is None:
        ssl_context = ssl.create_default_context()  # once: it reads all authorities
    return Address(uri, pairs, names, ssl_context)


def check_fields(pairs: Iterable[tuple[str, str]]) -> None:
    """Check headers that go with a request; no message has a value, which may be secret.

    Raises:
        TypeError: a name or a value is no text.
        ValueError: one of them cannot be sent.
    """
    for name, value in pairs:
        check_kind("header", name, str, "a text")
        if not TOKEN.fullmatch(name):
            # Where the colon is missing, or in another place, the value stands in the name.
            raise ValueError("a header's name cannot be sent (RFC 9110, section 5.1)")
        if not isinstance(value, str):
            raise TypeError(f"the value of header {name!r} must be a text")
        if not _VALUE.fullmatch(value):
            raise ValueError(f"header {name!r} or its value cannot be sent (RFC 9110, section 5)")


async def dial(address: Address) -> tuple[socket.socket, ClientStream]:
    """Connect by TCP, and speak TLS where the URL says so.

    Returns:
        The socket, and the stream above it; `ClientStream.abort` closes both.

    Raises:
        Unreachable: there is nobody.
        TLSFailed: there is somebody, but not securely.
    """
    uri = address.uri
    try:
        opened = await trio.open_tcp_stream(uri.host, uri.port)
    except (OSError, UnicodeError) as exc:
        raise Unreachable(f"cannot reach {address.place}: {why(exc)}") from exc
    sock = socket.socket(fileno=opened.socket.detach())
    sock.setblocking(False)
    stream = trio.SocketStream(trio.socket.from_stdlib_socket(sock))
    if not uri.secure:
        return sock, ClientStream(stream)
    try:
        context = address.ssl_context
        assert context is not None
        secure = trio.SSLStream(
            WatchedStream(stream), context, server_hostname=uri.host, https_compatible=True
        )
        await secure.do_handshake()
    except BaseException as exc:
        stream.socket.close()
        if isinstance(exc, trio.BrokenResourceError):
            cause = exc.__cause__
            untrusted = isinstance(cause, ssl.SSLCertVerificationError)
            text = f"no TLS with {uri.host}: {why(cause or exc)}"
            raise TLSFailed(text, untrusted=untrusted) from exc
        raise
    return sock, ClientStream(secure)


async def shake_hands(opening: Opening, line: ClientStream) -> Opened:
    """Ask for the WebSocket, and wait for the answer.

    Raises:
        HandshakeFailed: there is none, or it is no answer to that.
        HandshakeDeclined: the server does not let the client in.
    """
    # Where this fails, the answer may be there all the same.
    with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError):
        await line.send_all(opening.request)
    while True:
        try:
            data = await line.receive_some()
        except (trio.BrokenResourceError, trio.ClosedResourceError) as exc:
            raise opening.lost(exc.__cause__ or exc) from exc
        if (opened := opening.receive(data)) is not None:
            return opened


async def establish(
    sock: socket.socket,
    line: ClientStream,
    behind: bytes,
    engine: trio.Nursery,
    max_message_size: int,
) -> TrioWebSocketTransport:
    """Let trio-websocket speak over an open WebSocket; it reads in `engine`.

    Args:
        behind: what came behind the answer to the handshake.
    """
    line.open(behind)
    websocket = await wrap_client_stream(
        engine,
        # Any stream will do, whatever the types say.
        cast("trio.SocketStream", line),
        "localhost",
        "/",
        # None waits behind another: what is too big would take it along.
        message_queue_size=0,
        max_message_size=max_message_size,
    )
    transport = TrioWebSocketTransport(sock, line, websocket, max_message_size)
    await engine.start(transport.run)
    return transport


def _error_text(number: int) -> str:
    """The system's words for an error."""
    # Windows has a table of its own for sockets, each text with a full stop.
    texts: dict[int, str] = getattr(socket, "errorTab", {})
    return texts[number].removesuffix(".") if number in texts else os.strerror(number)


def why(exc: BaseException) -> str:
    """The reason in the words of the system: Trio tells of all addresses that it tried."""
    causes = [leaf for leaf in leaves(exc.__cause__ or exc) if isinstance(leaf, OSError)]
    first = causes[0] if causes else exc
    if isinstance(first, ssl.SSLCertVerificationError):
        return first.verify_message
    if isinstance(first, ssl.SSLError) and first.reason == "WRONG_VERSION_NUMBER":
        return "the server does not speak TLS here"
    if isinstance(first, OSError) and not isinstance(first, ssl.SSLError | socket.gaierror):
        return _error_text(first.errno) if first.errno else str(first)
    return getattr(first, "strerror", None) or str(first)
