"""A client's way to an open WebSocket: TCP, TLS, and the opening handshake.

Whatever goes wrong on it has a type of its own, a `ConnectFailed`.
"""

from __future__ import annotations

import contextlib
import os
import socket
import ssl
from typing import cast

import trio
from trio_websocket import wrap_client_stream

from .._exceptions import TLSFailed, Unreachable
from .._plain import leaves
from .._protocol.client_handshake import Opened, Opening
from .._transports.trio_websocket import ClientStream, TrioWebSocketTransport, WatchedStream
from .address import Address


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


def error_text(number: int) -> str:
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
        return error_text(first.errno) if first.errno else str(first)
    return getattr(first, "strerror", None) or str(first)
