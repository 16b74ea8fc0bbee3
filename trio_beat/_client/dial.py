"""How a client opens a WebSocket: TCP, TLS, and the opening handshake.

Each failure is a `ConnectFailed` of a type of its own.
"""

from __future__ import annotations

import contextlib
import os
import socket
import ssl

import trio

from .._exceptions import TLSFailed, Unreachable
from .._plain import leaves
from .._protocol.client_handshake import Opened, OpeningHandshake
from .address import Address
from .sockets import ClientSocket, SecureClientSocket


async def dial(address: Address) -> ClientSocket:
    """Connect by TCP, and by TLS where the URL is secure.

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
    if not uri.secure:
        return ClientSocket(sock)
    try:
        context = address.ssl_context
        assert context is not None
        secure = SecureClientSocket(sock, context, uri.host)
        await secure.shake_hands()
    except BaseException as exc:
        sock.close()
        if isinstance(exc, OSError):
            untrusted = isinstance(exc, ssl.SSLCertVerificationError)
            raise TLSFailed(f"no TLS with {uri.host}: {why(exc)}", untrusted=untrusted) from exc
        raise
    return secure


async def perform_handshake(handshake: OpeningHandshake, sock: ClientSocket) -> Opened:
    """Send the request of an opening handshake, and wait for the answer.

    Raises:
        HandshakeFailed: there is no answer, or it does not answer this request.
        HandshakeDeclined: the server refuses the client.
    """
    # Where this fails, the answer may have come all the same.
    with contextlib.suppress(OSError):
        await sock.send_all(handshake.request)
    while True:
        try:
            data = await sock.receive_some()
        except OSError as exc:
            raise handshake.lost(exc) from exc
        if (opened := handshake.receive(data)) is not None:
            return opened


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
