"""How a client opens a WebSocket: TCP, TLS, the opening handshake, and then a transport.

Each failure is a `ConnectFailed` of a type of its own.
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
from .._protocol.client_handshake import Opened, OpeningHandshake
from .._transports.client_stream import ClientStream, WatchedStream
from .._transports.trio_websocket import TrioWebSocketTransport
from .address import Address


async def dial(address: Address) -> tuple[socket.socket, ClientStream]:
    """Connect by TCP, and by TLS where the URL is secure.

    Returns:
        The socket, and the stream above it; `ClientStream.abort` closes both.

    Raises:
        Unreachable: there is no TCP connection.
        TLSFailed: there is one, but TLS with it fails.
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


async def perform_handshake(handshake: OpeningHandshake, stream: ClientStream) -> Opened:
    """Send the request of an opening handshake, and wait for the answer.

    Raises:
        HandshakeFailed: there is no answer, or it does not answer this request.
        HandshakeDeclined: the server refuses the client.
    """
    # Where this fails, the answer may have come all the same.
    with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError):
        await stream.send_all(handshake.request)
    while True:
        try:
            data = await stream.receive_some()
        except (trio.BrokenResourceError, trio.ClosedResourceError) as exc:
            raise handshake.lost(exc.__cause__ or exc) from exc
        if (opened := handshake.receive(data)) is not None:
            return opened


async def start_transport(
    sock: socket.socket,
    stream: ClientStream,
    trailing: bytes,
    nursery: trio.Nursery,
    max_message_size: int,
) -> TrioWebSocketTransport:
    """Start trio-websocket on a stream whose opening handshake is over.

    Args:
        sock: below the stream.
        stream: as `dial` returned it.
        trailing: what came behind the answer to the handshake.
        nursery: runs the tasks that read and write.
        max_message_size: bytes of a message, or characters where it is text.
    """
    stream.open(trailing)
    websocket = await wrap_client_stream(
        nursery,
        # Any stream will do, despite the annotation.
        cast("trio.SocketStream", stream),
        "localhost",
        "/",
        # No message waits behind another: one that is too big would discard it.
        message_queue_size=0,
        max_message_size=max_message_size,
    )
    transport = TrioWebSocketTransport(sock, stream, websocket, max_message_size)
    await nursery.start(transport.run)
    return transport


def error_text(number: int) -> str:
    """The system's text for an error number."""
    # Windows has a table of its own for sockets, and each text ends with a full stop.
    texts: dict[int, str] = getattr(socket, "errorTab", {})
    return texts[number].removesuffix(".") if number in texts else os.strerror(number)


def why(exc: BaseException) -> str:
    """The reason in the system's words; of all addresses that Trio tried, the first one's."""
    causes = [leaf for leaf in leaves(exc.__cause__ or exc) if isinstance(leaf, OSError)]
    first = causes[0] if causes else exc
    if isinstance(first, ssl.SSLCertVerificationError):
        return first.verify_message
    if isinstance(first, ssl.SSLError) and first.reason == "WRONG_VERSION_NUMBER":
        return "the server does not speak TLS here"
    if isinstance(first, OSError) and not isinstance(first, ssl.SSLError | socket.gaierror):
        return error_text(first.errno) if first.errno else str(first)
    return getattr(first, "strerror", None) or str(first)
