"""A client of the load: how it opens a connection, and how long one alone waits for that."""

from __future__ import annotations

import contextlib
import socket
import ssl
import time
from typing import Final

_REQUEST: Final = (
    "GET {target} HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)
_PATIENCE: Final = 10.0

#: Host and port, or the path of a Unix socket.
Address = tuple[str, int] | str


class Client:
    """One connection."""

    __slots__ = (
        "count",
        "gone",
        "incoming",
        "last_sent",
        "mute",
        "open",
        "outgoing",
        "shaking",
        "sock",
        "target",
    )

    def __init__(self, sock: socket.socket, target: str) -> None:
        self.sock = sock
        self.target = target
        self.open = False
        #: Whether its TLS handshake is under way.
        self.shaking = False
        self.mute = False
        self.incoming: bytearray | None = None
        self.outgoing: bytearray | None = None
        #: When it last sent a byte (`time.monotonic`), and when the server was seen to leave.
        self.last_sent = 0.0
        self.gone: float | None = None
        self.count = 0


def request(target: str) -> bytes:
    """The request of an opening handshake (RFC 6455, section 4.1)."""
    return _REQUEST.format(target=target).encode()


def response_end(response: bytes) -> int:
    """Where the response to it ends; 0: not yet.

    Raises:
        RuntimeError: it is a refusal.
    """
    end = response.find(b"\r\n\r\n")
    if end < 0:
        return 0
    if not response.startswith(b"HTTP/1.1 101"):
        raise RuntimeError(f"handshake refused: {response[:200]!r}")
    return end + 4


def dial(address: Address, segment: int | None, receive_buffer: int | None) -> socket.socket:
    """Begin to connect, as browsers do it: without Nagle's algorithm.

    Args:
        address: of the server.
        segment: bytes of a TCP segment at most; None: what the network carries.
        receive_buffer: bytes; None: as the system has it.
    """
    if isinstance(address, str):
        return _dial_unix(address)
    sock = socket.socket()
    if receive_buffer is not None:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    if segment is not None:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, segment)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setblocking(False)
    with contextlib.suppress(BlockingIOError):
        sock.connect(address)
    return sock


def _dial_unix(path: str) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX)
    # While the listener's queue is full, nothing is begun that could go on by itself (connect(2)).
    sock.settimeout(_PATIENCE)
    try:
        sock.connect(path)
    except BaseException:
        sock.close()
        raise
    sock.setblocking(False)
    return sock


def time_opening(address: tuple[str, int], target: str, context: ssl.SSLContext | None) -> float:
    """Open one connection with Nagle's algorithm on, as the system has it, and close it.

    Args:
        address: of the server.
        target: of the request.
        context: None: no TLS.

    Returns:
        Seconds from the begin of connecting until the WebSocket handshake is over.
    """
    begun = time.monotonic()
    sock = socket.create_connection(address, timeout=_PATIENCE)
    with contextlib.ExitStack() as stack:
        stack.enter_context(sock)
        if context is not None:
            sock = stack.enter_context(context.wrap_socket(sock, server_hostname=address[0]))
        sock.sendall(request(target))
        response = b""
        while not response_end(response):
            chunk = sock.recv(65536)
            if not chunk:
                raise RuntimeError("the server closed a connection during its handshake")
            response += chunk
        return time.monotonic() - begun
