"""The other end of a connection, at the level of frames, with a will of its own."""

from __future__ import annotations

import os
import re
import socket
import ssl
import struct

import trio
from websockets.extensions.permessage_deflate import PerMessageDeflate
from websockets.frames import Close, Frame, Opcode
from websockets.protocol import CLIENT, OPEN, Protocol, Side

from tests.support.h2_stream import H2Stream

#: To linger for no time at all: unsent bytes are dropped, and the peer sees a reset.
_AT_ONCE = struct.pack("ii", 1, 0)

HANDSHAKE = (
    "GET {target} HTTP/1.1\r\n"
    "Host: localhost\r\n"
    "Upgrade: websocket\r\n"
    "Connection: Upgrade\r\n"
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
    "Sec-WebSocket-Version: 13\r\n"
    "{headers}\r\n"
)


class Trickle(trio.abc.HalfCloseableStream):
    """A socket's stream that can be made to send little by little.

    Args:
        stream: below it.
    """

    def __init__(self, stream: trio.SocketStream) -> None:
        self.stream = stream
        #: How many bytes are sent at a time, and the seconds between two times; None: all at once.
        self.pace: tuple[int, float] | None = None

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        if self.pace is None:
            await self.stream.send_all(data)
            return
        size, pause = self.pace
        for begin in range(0, len(data), size):
            await self.stream.send_all(data[begin : begin + size])
            await trio.sleep(pause)

    async def wait_send_all_might_not_block(self) -> None:
        await self.stream.wait_send_all_might_not_block()

    async def send_eof(self) -> None:
        await self.stream.send_eof()

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        return await self.stream.receive_some(max_bytes)

    async def aclose(self) -> None:
        await self.stream.aclose()


#: What a peer's frames go over.
PeerStream = (
    trio.abc.HalfCloseableStream | trio.SSLStream[trio.SocketStream] | trio.SSLStream[Trickle]
)


class Peer:
    """Reads and writes frames; answers nothing unless told to.

    Args:
        stream: connected to a trio-beat connection.
        side: that it plays.
        head: the server's answer to the handshake.
        received: what came behind that.
    """

    def __init__(
        self,
        stream: PeerStream,
        side: Side = CLIENT,
        *,
        head: bytes = b"",
        received: bytes = b"",
    ):
        self.head = head
        self.stream = stream
        self._mask = side is CLIENT
        self._protocol = Protocol(side, state=OPEN, max_size=None)
        self._frames: list[Frame] = []
        #: The peer closed its side.
        self.eof = False
        #: Bytes that have come.
        self.received = 0
        answer = head.decode("latin-1")
        if "\r\nSec-WebSocket-Extensions: permessage-deflate" in answer:
            _, named, bits = answer.partition("server_max_window_bits=")
            self.compress(window_bits=int(re.split(r"\D", bits)[0]) if named else 15)
        self._take(received)

    def _take(self, data: bytes) -> None:
        self.received += len(data)
        if data:
            self._protocol.receive_data(data)
        for event in self._protocol.events_received():
            assert isinstance(event, Frame)
            self._frames.append(event)

    def compress(self, *, window_bits: int = 15) -> None:
        """From now on compress messages, and inflate those that are: with websockets' extension.

        Args:
            window_bits: those of what comes.
        """
        self._protocol.extensions = [
            PerMessageDeflate(
                remote_no_context_takeover=True,
                local_no_context_takeover=True,
                remote_max_window_bits=window_bits,
                local_max_window_bits=15,
            )
        ]

    async def send(self, data: bytes) -> None:
        """Send raw bytes."""
        await self.stream.send_all(data)

    def send_at_once(self, data: bytes, *, urgent: bool = False) -> None:
        """Send raw bytes without letting anybody else run.

        Args:
            data: little enough for the socket to take it.
            urgent: the last byte is TCP's urgent data, and no part of the stream.
        """
        assert isinstance(self.stream, trio.SocketStream)
        with socket.socket(fileno=os.dup(self.stream.socket.fileno())) as sock:
            assert sock.send(data, socket.MSG_OOB if urgent else 0) == len(data)

    async def send_frame(self, opcode: Opcode, data: bytes = b"", *, fin: bool = True) -> None:
        """Send one frame."""
        extensions = self._protocol.extensions
        frame = Frame(opcode, data, fin).serialize(mask=self._mask, extensions=extensions)
        await self.send(frame)

    async def send_text(self, text: str) -> None:
        """Send a text message."""
        await self.send_frame(Opcode.TEXT, text.encode())

    async def pong(self, ping: Frame) -> None:
        """Answer a PING."""
        assert ping.opcode is Opcode.PING
        await self.send_frame(Opcode.PONG, bytes(ping.data))

    async def send_close(self, code: int = 1000, reason: str = "") -> None:
        """Send a close frame."""
        await self.send_frame(Opcode.CLOSE, Close(code, reason).serialize())

    async def frame(self) -> Frame | None:
        """The next frame; None at the end of the stream."""
        while not self._frames and not self.eof:
            data = bytes(await self.stream.receive_some(65536))
            self._take(data)
            self.eof = not data
        return self._frames.pop(0) if self._frames else None

    async def text(self) -> str:
        """The next text message, skipping PINGs."""
        while True:
            frame = await self.frame()
            assert frame is not None, "stream ended"
            if frame.opcode is not Opcode.PING:
                assert frame.opcode is Opcode.TEXT, frame
                return bytes(frame.data).decode()

    async def closed(self) -> Close | None:
        """Read on until the close frame; None when the stream ends without one.

        A reset counts as an end.
        """
        try:
            while (frame := await self.frame()) is not None:
                if frame.opcode is Opcode.CLOSE:
                    return Close.parse(bytes(frame.data))
        except trio.BrokenResourceError:
            self.eof = True
        return None

    @property
    def plain(self) -> trio.SocketStream:
        """The socket's stream, below TLS or HTTP/2 where there is that."""
        stream = self.stream
        if isinstance(stream, H2Stream):
            stream = stream.connection.stream
        if isinstance(stream, trio.SSLStream):
            stream = stream.transport_stream
        if isinstance(stream, Trickle):
            stream = stream.stream
        assert isinstance(stream, trio.SocketStream)
        return stream

    async def reset(self) -> None:
        """Close the TCP socket in a way that the other end sees as a failure."""
        self.plain.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _AT_ONCE)
        await self.aclose()

    async def aclose(self) -> None:
        """Close the socket without a word."""
        await trio.aclose_forcefully(self.stream)


def reset(sock: socket.socket) -> None:
    """Close a TCP socket in a way that the other end sees as a failure."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _AT_ONCE)
    sock.close()


def socket_pair() -> tuple[Peer, socket.socket]:
    """A peer, and the non-blocking socket that a transport can be made of.

    Bytes arrive within the call that sends them, so tests on them can use `autojump_clock`.
    """
    ours, theirs = socket.socketpair()
    theirs.setblocking(False)
    return Peer(trio.SocketStream(_trio_socket(ours))), theirs


def _trio_socket(sock: socket.socket) -> trio.socket.SocketType:
    sock.setblocking(False)
    return trio.socket.from_stdlib_socket(sock)


async def dial(
    port: int,
    target: str = "/ws/news?subscribe-broadcast&publish-broadcast",
    *,
    headers: str = "",
    ssl_context: ssl.SSLContext | None = None,
    tcp: trio.SocketStream | None = None,
    offer: str | None = None,
) -> Peer:
    """Open a connection to a server on this machine.

    Args:
        headers: more of them, each with its line's end.
        ssl_context: speak TLS, to "localhost".
        tcp: connected to it; None: one more.
        offer: of compression; the peer then compresses where that is answered.
    """
    if tcp is None:
        tcp = await trio.open_tcp_stream("127.0.0.1", port)
    stream: trio.SocketStream | trio.SSLStream[trio.SocketStream] = tcp
    if ssl_context is not None:
        stream = trio.SSLStream(
            tcp, ssl_context, server_hostname="localhost", https_compatible=True
        )
    if offer is not None:
        headers += f"Sec-WebSocket-Extensions: {offer}\r\n"
    return await dial_over(stream, target, headers)


class Declined(Exception):  # noqa: N818 - as HandshakeDeclined
    """A server refused a handshake.

    Attributes:
        status: of HTTP.
        answer: all that came.
    """

    def __init__(self, answer: bytes) -> None:
        super().__init__(answer)
        self.status = int(answer.split(b" ", 2)[1])
        self.answer = answer


async def dial_over(stream: PeerStream, target: str, headers: str = "") -> Peer:
    """Do the opening handshake.

    Args:
        stream: connected to a server.
        target: of the request.
        headers: more of them, each with its line's end.

    Raises:
        Declined: the server refuses it.
    """
    try:
        await stream.send_all(HANDSHAKE.format(target=target, headers=headers).encode())
        response = bytearray()
        while b"\r\n\r\n" not in response:
            data = await stream.receive_some(4096)
            assert data, f"server closed during the handshake: {response!r}"
            response += data
        head, _, rest = bytes(response).partition(b"\r\n\r\n")
        if not head.startswith(b"HTTP/1.1 101 "):
            while data := await stream.receive_some(4096):
                response += data
            raise Declined(bytes(response))
    except BaseException:
        await trio.aclose_forcefully(stream)
        raise
    return Peer(stream, head=head, received=rest)
