"""TLS on the road of plain TCP: a non-blocking `ssl.SSLSocket` on the same poller.

What differs is how bytes go through OpenSSL:

1. An edge tells of bytes of a record, and a read takes one record: reads go on until OpenSSL wants
   to read from the socket. ``SSLSocket.pending`` would not do: it knows nothing of the kernel.
2. A record that the socket did not take whole is encrypted already, and OpenSSL wants the same
   bytes again (``SSL_write(3)``; CPython does not allow partial writes): fewer break the stream for
   good. So they are kept here, and their last byte stays in the outbox, which never drops a frame
   that has begun.
3. A close_notify goes before each FIN (RFC 8446, section 6.1). A FIN without one ends the peer's
   stream as over TCP: whether the peer was done is told by WebSocket's close frame.
4. Either direction may want the other one, though no renegotiation is allowed: a read writes the
   answer to a KeyUpdate (RFC 8446, section 4.6.3) when the next one comes.
"""

from __future__ import annotations

import socket
import ssl
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Final

import trio

from .._outbox import Outbox
from . import END_OF_STREAM, Event, Take, awake
from ._framing import Wire
from ._kernel import unread, was_reset
from ._poller import Poller
from .native import NativeTransport

#: Bytes of one record at most (RFC 8446, section 5.1). What is written at once fits into one.
_RECORD: Final = 16384
#: Records that are read, or written by a drain, before others get a turn: one may hold one byte.
_MOST_RECORDS: Final = 64
#: OpenSSL 1.1 allows a renegotiation to the client, 3 does not. To 3 a FIN without a close_notify
#: is fatal, so that not even a close frame can be answered; to 1.1, which lacks the option, it is
#: not.
_OPTIONS: Final = ssl.OP_NO_RENEGOTIATION | getattr(ssl, "OP_IGNORE_UNEXPECTED_EOF", 0)


def secured(sock: socket.socket, context: ssl.SSLContext) -> ssl.SSLSocket:
    """Put TLS over a connected, non-blocking socket; the handshake is yet to be done.

    Args:
        sock: its descriptor moves to the socket that is returned; it is closed on an error.
        context: it gets the options of `_OPTIONS`.

    Raises:
        OSError: the peer is gone.
    """
    context.options |= _OPTIONS
    return context.wrap_socket(
        sock, server_side=True, do_handshake_on_connect=False, suppress_ragged_eofs=False
    )


def notify(sock: ssl.SSLSocket) -> bool:
    """Send a close_notify, if that is still possible; the peer's is not waited for.

    No more may be written: `socket.shutdown`, which drops TLS, or `close` is next.

    Returns:
        False where the socket has no room for it yet.
    """
    try:
        sock.unwrap()
    except ssl.SSLWantWriteError:
        return False
    except (OSError, ValueError):
        # It was sent, and the peer's has not come or stands behind data; or TLS has failed, or
        # was dropped already.
        pass
    return True


def _first(buffers: Sequence[bytes | memoryview], size: int) -> Iterator[bytes | memoryview]:
    for buffer in buffers:
        yield buffer[:size]
        size -= len(buffer)
        if size <= 0:
            return


class TLSTransport(NativeTransport):
    """A TLS socket whose handshake is done.

    Args:
        sock: made by `secured`; the transport closes it.
        wire: what the transports of a server share.
        poller: tells when there is something to read.
        received: bytes that came behind the handshake's request.
    """

    __slots__ = ("_failure", "_record", "_stuck_reading")

    _socket: ssl.SSLSocket

    def __init__(
        self, sock: ssl.SSLSocket, wire: Wire, poller: Poller, received: bytes = b""
    ) -> None:
        super().__init__(sock, wire, poller, received)
        #: What OpenSSL has encrypted and the socket has not taken.
        #: Invariant: the last byte of it, and no other, is still in the outbox.
        self._record: bytes | memoryview = b""
        #: What a read failed with behind bytes that came before.
        self._failure = ""
        #: A read wants to write first.
        self._stuck_reading = False
        if sock.pending():
            self._watch.more()

    def wait_readable(self, take: Take = awake) -> Awaitable[Sequence[Event]]:
        return self._wait_to_go_on(take) if self._stuck_reading else self._watch.wait(take)

    async def _wait_to_go_on(self, take: Take) -> Sequence[Event]:
        await self._watch.wait_writable()
        self._stuck_reading = False
        return take() or ()

    def receive_nowait(self) -> Sequence[Event] | None:
        if self._rest is not None:
            # The edge that told of what lies behind it may be spent.
            self._watch.more()
            return self._parse_rest()
        if self._failure:
            raise ConnectionResetError(self._failure)
        count = self._read_records()
        if count is None:
            self._let_go()
            return (END_OF_STREAM,)
        self._wire.size = count
        return self._parse(self._wire.view[:count]) if count else ()

    def _read_records(self) -> int | None:
        """Fill the buffer; None at the end of the stream."""
        view, count = self._wire.view, 0
        try:
            for _ in range(_MOST_RECORDS):
                size = self._socket.recv_into(view[count:], len(view) - count)
                if size == 0 and count == 0:
                    return None
                count += size
                if size == 0 or count == len(view):
                    break
                if count == size < _RECORD and not unread(self._socket):
                    # As with most; to ask is cheaper than to have OpenSSL say so by an exception.
                    return count
        except ssl.SSLWantReadError:
            self._watch.empty()
            return count
        except ssl.SSLWantWriteError:
            self._stuck_reading = True
            return count
        except ssl.SSLEOFError as exc:
            # A reset; from OpenSSL 1.1, also a FIN without a close_notify.
            if count == 0 and was_reset(self._socket):
                raise ConnectionResetError("connection reset by peer") from exc
            if count == 0:
                return None
        except OSError as exc:
            if count == 0:
                raise
            self._failure = str(exc)
        self._watch.more()
        return count

    def write_nowait(self, data: bytes) -> int:
        if len(data) <= _RECORD:
            return self._write(data)
        view, taken = memoryview(data), 0
        while taken < len(data) and not self._record:
            taken += self._write(view[taken : taken + _RECORD])
        return taken

    def _write(self, record: bytes | memoryview) -> int:
        try:
            return self._socket.send(record)
        except (ssl.SSLWantWriteError, ssl.SSLWantReadError):
            self._record = record
            return len(record) - 1

    async def drain(self, outbox: Outbox) -> None:
        await self._wait(trio.lowlevel.wait_writable)
        for _ in range(_MOST_RECORDS):
            if self._record:
                try:
                    self._socket.send(self._record)
                except ssl.SSLWantWriteError:
                    return
                except ssl.SSLWantReadError:
                    await self._wait(trio.lowlevel.wait_readable)
                    continue
                self._record = b""
                outbox.taken(1)
            if not outbox.size:
                return
            outbox.taken(self._write(b"".join(_first(outbox.buffers(), _RECORD))))
            if self._record:
                return

    async def _wait(self, ready: Callable[[socket.socket], Awaitable[None]]) -> None:
        try:
            await ready(self._socket)
        except (trio.ClosedResourceError, ValueError) as exc:  # aborted meanwhile, or before
            raise ConnectionAbortedError("socket was closed") from exc

    def stirring(self, queued: int) -> bool:
        return super().stirring(queued + len(self._record))

    def _read_on(self) -> None:
        # A read that wants to write first would find nothing, and be taken for life.
        if not self._stuck_reading:
            super()._read_on()

    async def _linger(self) -> None:
        while not notify(self._socket):
            await self._wait(trio.lowlevel.wait_writable)
        # From there on there is no TLS, and what comes is read as it is.
        await super()._linger()

    def abort(self) -> None:
        if self._socket.fileno() != -1:
            notify(self._socket)
        super().abort()
