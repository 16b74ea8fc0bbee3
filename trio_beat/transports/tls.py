"""TLS: the same frames over `trio.SSLStream`."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Iterator, Sequence

import trio

from .._outbox import Outbox
from . import END_OF_STREAM, Event
from ._framing import Wire
from ._kernel import SocketTransport

_CHUNK = 65536
#: Bytes that are written at once: one TLS record (RFC 8446, section 5.1).
_RECORD = 16384
#: Seconds within which a socket that said it was writable must take one record. A write that has
#: begun is not cancelled: half a record would make the stream useless, and no close frame could
#: follow.
_TAKE_RECORD = 10.0


class TLSSocket(trio.abc.HalfCloseableStream):
    """The socket below a `trio.SSLStream`, whose `aclose` leaves the reading half open.

    A close frame is followed by TLS's own goodbye, and the peer must be able to read both: see
    `FramingTransport._linger`.
    """

    def __init__(self, sock: socket.socket) -> None:
        self.raw = sock
        self._stream = trio.SocketStream(trio.socket.from_stdlib_socket(sock))
        self.socket = self._stream.socket

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await self._stream.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        await self._stream.wait_send_all_might_not_block()

    async def send_eof(self) -> None:
        await self._stream.send_eof()

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        return await self._stream.receive_some(max_bytes)

    async def aclose(self) -> None:
        try:
            await self._stream.send_eof()
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            self.abort()

    def abort(self) -> None:
        """Close the socket at once."""
        self.socket.close()


def _first(buffers: Sequence[bytes | memoryview], size: int) -> Iterator[bytes | memoryview]:
    for buffer in buffers:
        yield buffer[:size]
        size -= len(buffer)
        if size <= 0:
            return


TLSStream = trio.SSLStream[TLSSocket]


def tls_stream(sock: socket.socket, context: ssl.SSLContext) -> TLSStream:
    """Put TLS over a connected, non-blocking socket; the handshake is yet to be done."""
    return trio.SSLStream(TLSSocket(sock), context, server_side=True)


class TLSTransport(SocketTransport):
    """A TLS stream whose handshake is done.

    Nothing can be written without waiting: everything goes by way of the outbox.

    Args:
        stream: made by `tls_stream`; the transport closes it.
        wire: what the transports of a server share.
        received: bytes that came behind the handshake's request.
    """

    __slots__ = ("_received", "_stream")

    def __init__(self, stream: TLSStream, wire: Wire, received: bytes = b"") -> None:
        super().__init__(stream.transport_stream.raw, wire)
        self._stream = stream
        #: What came and is not parsed; empty at the end of the stream.
        self._received: bytes | bytearray | None = None
        if received:
            self._keep(received)

    async def wait_readable(self) -> None:
        if self._rest is not None:
            await trio.lowlevel.checkpoint()
            return
        try:
            self._received = await self._stream.receive_some(_CHUNK)
        except (trio.BrokenResourceError, trio.ClosedResourceError) as exc:
            raise ConnectionResetError("TLS connection lost") from exc

    def receive_nowait(self) -> Sequence[Event]:
        if self._rest is not None:
            return self._parse_rest()
        received, self._received = self._received, None
        if received is None:
            return ()
        return self._parse(received) if received else (END_OF_STREAM,)

    def write_nowait(self, data: bytes) -> int:
        return 0

    async def drain(self, outbox: Outbox) -> None:
        try:
            await self._stream.wait_send_all_might_not_block()
            record = b"".join(_first(outbox.buffers(), _RECORD))
            outbox.taken(len(record))
            with trio.move_on_after(_TAKE_RECORD, shield=True) as scope:
                await self._stream.send_all(record)
        except (trio.BrokenResourceError, trio.ClosedResourceError) as exc:
            raise ConnectionResetError("TLS connection lost") from exc
        if scope.cancelled_caught:
            raise TimeoutError(f"TLS peer did not take a record within {_TAKE_RECORD} s")

    async def _linger(self) -> None:
        lower = self._stream.transport_stream
        await self._stream.aclose()
        try:
            while await lower.receive_some(_CHUNK):
                pass
        except (trio.BrokenResourceError, trio.ClosedResourceError) as exc:
            raise ConnectionResetError("TLS connection lost") from exc

    def abort(self) -> None:
        self._stream.transport_stream.abort()
