"""A client's way to an open WebSocket: TCP, TLS, and the opening handshake (RFC 6455, section 4.1).

Whatever goes wrong on it has a type of its own, a `ConnectFailed`.
"""

from __future__ import annotations

import http
import os
import re
import socket
import ssl
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, cast

import h11
import trio
from trio_websocket import ConnectionRejected, WebSocketConnection, wrap_client_stream
from websockets.exceptions import InvalidURI
from websockets.headers import build_authorization_basic, build_host
from websockets.uri import WebSocketURI, parse_uri
from wsproto.utilities import ProtocolError, RemoteProtocolError

from ._exceptions import (
    ConnectFailed,
    HandshakeFailed,
    HandshakeRefused,
    ServerUnavailable,
    TLSFailed,
    Unreachable,
)
from .transports.trio_websocket import Line, Tap, TrioWebSocketTransport

_TARGET: Final = re.compile(r"[!-~]+")
_TOKEN: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_VALUE: Final = re.compile(r"([!-~\x80-\xff]([\t -~\x80-\xff]*[!-~\x80-\xff])?)?")
#: Headers that the handshake itself sends.
_OWN: Final = re.compile(
    r"host|upgrade|connection|content-length|transfer-encoding|sec-websocket-.*", re.IGNORECASE
)
_UNAVAILABLE: Final = frozenset({502, 503, 504})
#: Characters of a refusal's body that its message quotes.
_QUOTED: Final = 200


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


def make_address(
    url: str,
    headers: Mapping[str, str] | Iterable[tuple[str, str]],
    subprotocols: Sequence[str],
    ssl_context: ssl.SSLContext | None,
) -> Address:
    """Check what a client was asked for, before it is tried.

    Raises:
        ValueError: some of it can never be right; says what, and what is.
    """
    try:
        uri = parse_uri(url)
    except (InvalidURI, ValueError) as exc:
        expected = "expected ws://host[:port]/path or wss://..."
        raise ValueError(f"{url!r} is not the URL of a WebSocket; {expected}") from exc
    if not _TARGET.fullmatch(uri.resource_name):
        raise ValueError(f"{url!r} has characters that must be percent-encoded (RFC 3986)")
    if ssl_context is not None and ssl_context.protocol is ssl.PROTOCOL_TLS_SERVER:
        raise ValueError("ssl_context is a server's; see ssl.create_default_context()")
    if ssl_context is not None and not uri.secure:
        raise ValueError(f"ssl_context is given, but {url!r} is not secure; expected wss://...")
    pairs = tuple(headers.items() if isinstance(headers, Mapping) else headers)
    for name, value in pairs:
        if not _TOKEN.fullmatch(name) or not _VALUE.fullmatch(value):
            raise ValueError(f"header {name!r} with value {value!r} cannot be sent (RFC 9110)")
        if _OWN.fullmatch(name):
            raise ValueError(f"header {name!r} is the handshake's own")
    if isinstance(subprotocols, str):
        raise ValueError(f"subprotocols is {subprotocols!r}; it must be a sequence of names")  # noqa: TRY004
    for subprotocol in subprotocols:
        if not _TOKEN.fullmatch(subprotocol):
            raise ValueError(f"subprotocol {subprotocol!r} is not a token (RFC 6455, section 4.1)")
    if uri.user_info is not None:
        pairs = (*pairs, ("Authorization", build_authorization_basic(*uri.user_info)))
    if uri.secure and ssl_context is None:
        ssl_context = ssl.create_default_context()  # once: it reads all authorities
    return Address(uri, pairs, tuple(subprotocols), ssl_context)


async def dial(address: Address) -> tuple[socket.socket, Line]:
    """Connect by TCP, and speak TLS where the URL says so.

    Returns:
        The socket, and the stream above it; `Line.abort` closes both.

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
        return sock, Line(stream)
    try:
        context = address.ssl_context
        assert context is not None
        secure = trio.SSLStream(
            Tap(stream), context, server_hostname=uri.host, https_compatible=True
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
    return sock, Line(secure)


async def shake_hands(
    address: Address,
    sock: socket.socket,
    line: Line,
    engine: trio.Nursery,
    max_message_size: int,
) -> tuple[TrioWebSocketTransport, WebSocketConnection]:
    """Open the WebSocket; trio-websocket's reader then runs in `engine`.

    A handshake that fails shows as an exception of that reader: see `explain`.
    """
    uri = address.uri
    websocket = await wrap_client_stream(
        engine,
        # Any stream will do, whatever the types say.
        cast("trio.SocketStream", line),
        build_host(uri.host, uri.port, uri.secure),
        address.target,
        subprotocols=address.subprotocols,
        extra_headers=[(n.encode("ascii"), v.encode("latin-1")) for n, v in address.headers],
        # None waits behind another: what is too big would take it along.
        message_queue_size=0,
        max_message_size=max_message_size,
    )
    transport = TrioWebSocketTransport(sock, line, websocket, max_message_size)
    await engine.start(transport.run)
    return transport, websocket


def explain(group: BaseExceptionGroup[BaseException], answer: bytes) -> ConnectFailed | None:
    """Find out what kept a handshake from its end.

    Args:
        group: what left the nursery of `shake_hands`.
        answer: what had come of the server's. Where it says already that the server declines, that
            is the reason, though the rest of it never came.

    Returns:
        The one reason; None: the group is about something else.
    """
    for exc in leaves(group):
        if isinstance(exc, ConnectFailed):
            return _read_refusal(answer) or exc
        if isinstance(exc, ConnectionRejected):
            return _read_refusal(answer) or _refusal(exc)
        if isinstance(exc, ProtocolError | h11.ProtocolError):
            # trio-websocket wants to answer the server's mistake, which a client cannot.
            contexts = (c for c in _contexts(exc) if isinstance(c, RemoteProtocolError))
            mistake = next(contexts, exc)
            text = f"{mistake}: {mistake.__cause__}" if mistake.__cause__ else str(mistake)
            return HandshakeFailed(f"this is no answer to a WebSocket handshake: {text}")
    return None


def _read_refusal(answer: bytes) -> ConnectFailed | None:
    """What an answer says that did not come to its end; None: nothing yet."""
    reader = h11.Connection(h11.CLIENT)
    reader.send(h11.Request(method="GET", target="/", headers=[("Host", "any")]))
    reader.send(h11.EndOfMessage())
    reader.receive_data(answer)
    response, body = None, b""
    try:
        while not isinstance(event := reader.next_event(), type | h11.EndOfMessage):
            if isinstance(event, h11.Response):
                response = event
            elif isinstance(event, h11.Data):
                body += bytes(event.data)
    except h11.RemoteProtocolError:
        return None
    if response is None:
        return None
    return _refusal(ConnectionRejected(response.status_code, tuple(response.headers), body))


def _refusal(rejected: ConnectionRejected) -> ConnectFailed:
    status, body = rejected.status_code, bytes(rejected.body or b"")
    headers = tuple((n.decode("latin-1"), v.decode("latin-1")) for n, v in rejected.headers)
    said = " ".join(body.decode(errors="replace").split())[:_QUOTED]
    if status < 300:
        text = f"there is no WebSocket at this address: the answer is {name_status(status)}"
        return HandshakeFailed(text)
    # What a server has to say about WebSockets is no page.
    plain = said and said.isprintable() and "<" not in said
    text = name_status(status) + (f": {said}" if plain else "")
    if status in _UNAVAILABLE:
        return ServerUnavailable(f"the server is not available: {text}", status, headers, body)
    return HandshakeRefused(f"the server refuses the WebSocket: {text}", status, headers, body)


def _contexts(exc: BaseException | None) -> Iterator[BaseException]:
    while exc is not None:
        yield exc
        exc = exc.__context__


def name_status(status: int) -> str:
    """An HTTP status with its phrase, where it has one."""
    known = status in set(http.HTTPStatus)
    return f"{status} {http.HTTPStatus(status).phrase}" if known else str(status)


def leaves(exc: BaseException) -> Iterator[BaseException]:
    """The exceptions of a group, however deep; of any other, itself."""
    if isinstance(exc, BaseExceptionGroup):
        for inner in exc.exceptions:
            yield from leaves(inner)
    else:
        yield exc


def why(exc: BaseException) -> str:
    """The reason in the words of the system: Trio tells of all addresses that it tried."""
    causes = [leaf for leaf in leaves(exc.__cause__ or exc) if isinstance(leaf, OSError)]
    first = causes[0] if causes else exc
    if isinstance(first, ssl.SSLCertVerificationError):
        return first.verify_message
    if isinstance(first, ssl.SSLError) and first.reason == "WRONG_VERSION_NUMBER":
        return "the server does not speak TLS here"
    if isinstance(first, OSError) and not isinstance(first, ssl.SSLError | socket.gaierror):
        return os.strerror(first.errno) if first.errno else str(first)
    return getattr(first, "strerror", None) or str(first)
