"""The streams between a socket and a `trio_websocket.WebSocketConnection`.

trio-websocket does not tell of a byte that came, reads nothing while it cannot write, and leaves
half a frame behind where a write of it is cancelled. A `ClientStream` below it makes up for that:

1. Each byte that came is noted; over TLS a `WatchedStream` notes those of half a record, too.
2. What trio-websocket writes is kept, and a task of the transport's own writes it (`write`).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final

import trio
from websockets.frames import Opcode
from websockets.utils import accept_key

from .framing import CLOSING_BYTES

#: PONGs that may wait at a time for a peer that does not read.
_MOST_PONGS: Final = 64
#: Bytes after which it is noted that the socket takes some.
_PIECE: Final = 65536
#: Seconds that what was sent last may take.
_LAST_WRITE: Final = 5.0
#: What is made of trio-websocket's own request for the handshake (RFC 6455, section 4.2.2).
_KEY: Final = re.compile(rb"\r\nSec-WebSocket-Key: *([^\r\n]+)", re.IGNORECASE)
_SWITCHED: Final = (
    b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Accept: %b\r\n\r\n"
)
#: The first bytes of frames (RFC 6455, section 5.2).
_CLOSE: Final = 0x80 | Opcode.CLOSE
_PONG: Final = 0x80 | Opcode.PONG


def nothing(_: object = None) -> None:
    """The callback that does nothing."""


class WatchedStream(trio.abc.Stream):
    """A socket's stream, below TLS: the bytes of half a record prove life as well.

    Args:
        stream: connected.

    Attributes:
        noted: called when bytes have come.
    """

    def __init__(self, stream: trio.SocketStream) -> None:
        self._stream = stream
        self.socket = stream.socket
        self.noted: Callable[[], None] = nothing

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        data = await self._stream.receive_some(max_bytes)
        if data:
            self.noted()
        return data

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await self._stream.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        await self._stream.wait_send_all_might_not_block()

    async def aclose(self) -> None:
        await self._stream.aclose()


class ClientStream(trio.abc.Stream):
    """The stream below a `WebSocketConnection`; notes what passes.

    1. Until `open` it only passes bytes on, for the opening handshake with the server.
    2. trio-websocket then does a handshake of its own, with this stream: it would wait for ever for
       the end of some of the responses that a server can send, and fail late at others.
    3. From then on what it sends waits here until `write` writes it. Its reader answers PINGs
       itself, and must not stop reading because the peer does not read.
    4. A write that fails ends nothing: what the peer sent before can still be read.

    Args:
        stream: connected, and with TLS's handshake done.
    """

    def __init__(self, stream: trio.SocketStream | trio.SSLStream[WatchedStream]) -> None:
        self._stream = stream
        self._reading = trio.Lock()
        #: The server's handshake is done; and so is trio-websocket's.
        self._open = self._handshaken = False
        #: What is read before anything of the stream.
        self._pending = b""
        #: What waits to be written, and how many PONGs are in it; set when something waits.
        self._waiting, self._pongs = bytearray(), 0
        self._more = trio.Event()
        #: Set while nothing waits; and when a close frame has been written, or never will be.
        self.flushed, self.closing = trio.Event(), trio.Event()
        self.flushed.set()
        self.note(nothing)
        #: Called when the socket has taken so many bytes.
        self.took: Callable[[int], None] = nothing
        #: The peer ended the stream, without an error.
        self.eof = False
        #: Why it failed, for people.
        self.error: str | None = None
        #: The first close frame that was sent, and the bytes that may still come behind it.
        self.close_frame = b""
        self._left = CLOSING_BYTES

    def note(self, noted: Callable[[], None]) -> None:
        """Have a function called when bytes have come, decrypted or not."""
        self._noted = noted
        if isinstance(self._stream, trio.SSLStream):
            self._stream.transport_stream.noted = noted

    def open(self, behind: bytes) -> None:
        """The server has accepted the handshake: a `WebSocketConnection` may begin.

        Args:
            behind: what came behind the server's response.
        """
        self._open, self._pending = True, behind

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        async with self._reading:
            if self._pending:
                size = len(self._pending) if max_bytes is None else max_bytes
                first, self._pending = self._pending[:size], self._pending[size:]
                self._noted()
                return first
            try:
                data = await self._stream.receive_some(max_bytes)
            except (trio.BrokenResourceError, trio.ClosedResourceError) as exc:
                self._failed(exc)
                raise
        if not data:
            self.eof = True
        if self.close_frame:
            self._count_late(len(data))
        self._noted()
        return data

    def _count_late(self, size: int) -> None:
        self._left -= size
        if self._left < 0:
            self.error = "the peer sends on, and does not close"
            self.abort()
            raise trio.BrokenResourceError(self.error)

    def _failed(self, exc: Exception) -> None:
        self.error = str(exc.__cause__ or exc) or "connection lost"

    def _shake_hands(self, request: bytes) -> None:
        key = _KEY.search(request)
        assert key is not None
        self._pending = _SWITCHED % accept_key(key[1].decode()).encode() + self._pending
        self._handshaken = True

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        if not self._open:
            await self._stream.send_all(data)
            return
        await trio.lowlevel.checkpoint()
        if not self._handshaken:
            self._shake_hands(bytes(data))
            return
        if data[0] == _PONG:
            if self._pongs >= _MOST_PONGS:
                return  # the peer need not get one for each PING (RFC 6455, section 5.5.3)
            self._pongs += 1
        elif data[0] == _CLOSE and not self.close_frame:
            self.close_frame = bytes(data)
        self._waiting += data
        if self.flushed.is_set():
            self.flushed = trio.Event()
        self._more.set()

    async def write(self) -> None:
        """Write what waits, until cancelled."""
        while True:
            await self._more.wait()
            self._more = trio.Event()
            data, self._waiting, self._pongs = bytes(self._waiting), bytearray(), 0
            last = bool(self.close_frame)
            await self._write(data)
            if last:
                self.closing.set()
            if not self._waiting:
                self.flushed.set()

    async def _write(self, data: bytes) -> None:
        view = memoryview(data)
        try:
            for begin in range(0, len(data), _PIECE):
                piece = view[begin : begin + _PIECE]
                await self._stream.send_all(piece)
                self.took(len(piece))
        except (trio.BrokenResourceError, trio.ClosedResourceError) as exc:
            self._failed(exc)

    async def wait_send_all_might_not_block(self) -> None:
        await trio.lowlevel.checkpoint()

    async def aclose(self) -> None:
        with trio.move_on_after(_LAST_WRITE):
            await self.flushed.wait()
        await self._stream.aclose()

    def abort(self) -> None:
        """Close the socket at once, and wake the tasks that wait for it. Idempotent."""
        stream = self._stream
        lower = stream if isinstance(stream, trio.SocketStream) else stream.transport_stream
        lower.socket.close()
        self.closing.set()
