"""A client's transports: the frames of a server come in plain, and ours go out masked.

1. A write that fails ends nothing: what the server sent before that can still be read, and the
   reader finds how the connection has ended.
2. The server closes the socket first (RFC 6455, section 7.1.1): its end of the stream is waited
   for, once it has answered our close frame for `_PATIENCE`. (Over TLS a close_notify is one: some
   servers wait for ours before they close the socket.)
"""

from __future__ import annotations

import math
import socket
from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar, Final

import trio
from websockets.frames import Opcode
from websockets.protocol import CLIENT, Side

from .._protocol.deflate import Deflate
from .._protocol.events import END_OF_STREAM, Event
from .._protocol.frames import MOST_CONTROL, PING_SIZE
from .._protocol.masking import Masker
from .._protocol.messages import Outgoing
from .framing import LINGER_BYTES, ReadContext
from .outbox import Outbox
from .polling import AnyPoller
from .staged import StagedTransport
from .tls import TLSTransport
from .tls_session import Session

#: Bytes of a plain head, and of one with the key of a mask; a key that changes nothing.
_HEAD: Final = 2
_NO_MASK: Final = b"\0\0\0\0"
#: The head of a PONG that answers one of our PINGs.
_ANSWER: Final = bytes((0x80 | Opcode.PONG, PING_SIZE))
#: Seconds that a server has to close the socket behind its answer; it should do so at once.
_PATIENCE: Final = 1.0
#: Bytes of a plain socket that are masked at a time.
_PIECE: Final = 65536


class ClientTransport(StagedTransport):
    """What both have in common; a derived class has the slots."""

    __slots__ = ()

    _side: ClassVar[Side] = CLIENT
    _smallest: ClassVar[int] = _HEAD

    if TYPE_CHECKING:
        _masker: Masker
        #: Why a write has failed, for people; None: none has.
        _failed: str | None
        #: Seconds for which the server may keep the socket after the closing handshake.
        _patience: float

    def _begin(self) -> None:
        self._masker = Masker()
        self._failed = None
        self._patience = math.inf

    def _lone(self, data: bytearray | memoryview | bytes) -> Sequence[Event] | None:
        size = len(data) - _HEAD
        if not (0 <= size <= MOST_CONTROL and data[1] == size):
            return None  # it is masked, for example, which the parser tells the peer
        if size == PING_SIZE and data[:_HEAD] == _ANSWER:
            return self._reads.pongs(int.from_bytes(data[_HEAD:], "big"))
        return super()._lone(bytes((data[0], 0x80 | size)) + _NO_MASK + data[_HEAD:])

    def receive_nowait(self) -> Sequence[Event] | None:
        events = super().receive_nowait()
        if self._failed is not None and events and events[-1] is END_OF_STREAM:
            # The error was told to the write, and to nobody else.
            raise ConnectionResetError(self._failed)
        return events

    def write_nowait(self, item: Outgoing) -> int:
        if self._failed is None:
            try:
                return super().write_nowait(item)
            except OSError as exc:
                self._fail(exc)
        return len(item.frame)

    async def drain(self, outbox: Outbox) -> None:
        try:
            if self._failed is None:
                await super().drain(outbox)
        except OSError as exc:
            if self._socket.fileno() == -1:
                raise
            self._fail(exc)
        if self._failed is not None:
            outbox.taken(outbox.size)

    def _fail(self, exc: OSError) -> None:
        self._failed = str(exc)
        self._owed = 0

    async def finish(self, *, answered: bool) -> None:
        self._patience = math.inf if answered else _PATIENCE
        await super().finish(answered=answered)

    async def _linger(self) -> None:
        left = LINGER_BYTES
        with trio.move_on_after(self._patience):
            while left > 0:
                await self.wait_readable()
                self._reads.size = 0
                if END_OF_STREAM in (self.receive_nowait() or ()):
                    return
                left -= self._reads.size
            await self._cut_off()


class ClientTCPTransport(ClientTransport):
    """A connected, non-blocking TCP socket to a server.

    Args:
        sock: the socket; the transport closes it.
        reads: what the transports of a client share.
        poller: tells when there is something to read.
        received: bytes that came behind the handshake's response.
        deflate: what the handshake agreed on; None: nothing is compressed.
    """

    __slots__ = ("_failed", "_masker", "_patience", "_unsent")

    _piece: ClassVar[int] = _PIECE

    def __init__(
        self,
        sock: socket.socket,
        reads: ReadContext,
        poller: AnyPoller,
        received: bytes = b"",
        deflate: Deflate | None = None,
    ) -> None:
        super().__init__(sock, reads, poller, received, deflate)
        self._begin()
        #: What is masked and not sent.
        self._unsent: bytes | memoryview = b""

    def _stage(self, data: bytes | memoryview) -> None:
        self._unsent = bytes(self._unsent) + self._masker.mask(data)

    def _send_staged(self) -> bool:
        if self._unsent:
            try:
                count = self._socket.send(self._unsent)
            except BlockingIOError:
                return False
            whole = count == len(self._unsent)
            self._unsent = b"" if whole else memoryview(self._unsent)[count:]
        return not self._unsent

    @property
    def _staged(self) -> int:
        return len(self._unsent)


class ClientTLSTransport(ClientTransport, TLSTransport):
    """A connected, non-blocking TCP socket to a server, whose TLS handshake is done.

    Args:
        sock: the socket; the transport closes it.
        session: TLS over this socket.
        reads: what the transports of a client share.
        poller: tells when there is something to read.
        received: bytes that came behind the handshake's response.
        deflate: what the handshake agreed on; None: nothing is compressed.
    """

    __slots__ = ("_failed", "_masker", "_patience")

    def __init__(
        self,
        sock: socket.socket,
        session: Session,
        reads: ReadContext,
        poller: AnyPoller,
        received: bytes = b"",
        deflate: Deflate | None = None,
    ) -> None:
        TLSTransport.__init__(self, sock, session, reads, poller, received, deflate)
        self._begin()

    def _stage(self, data: bytes | memoryview) -> None:
        if masked := self._masker.mask(data):
            super()._stage(masked)
