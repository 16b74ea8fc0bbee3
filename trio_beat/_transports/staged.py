"""Bytes that are changed on their way to the socket: encrypted, or masked.

What is changed cannot be changed anew: it must be sent, or the stream is broken for good. So what
the socket did not take stays here, and its last byte stays in the outbox, which never drops a frame
that has begun, be it with this byte.
"""

from __future__ import annotations

import socket
from abc import abstractmethod
from typing import ClassVar, Final

import trio

from .._protocol.deflate import Deflate
from .._protocol.messages import Outgoing
from .framing import ReadContext
from .kernel import first_bytes
from .outbox import Outbox
from .polling import AnyPoller
from .tcp import TCPTransport

#: Pieces that are written before others get a turn.
_MOST_PIECES: Final = 64


class StagedTransport(TCPTransport):
    """A connected, non-blocking TCP socket whose bytes are changed on their way.

    Args:
        sock: the socket; the transport closes it.
        reads: what the transports of a server share.
        poller: tells when there is something to read.
        received: bytes that came behind the handshake's request.
        deflate: what the handshake agreed on; None: nothing is compressed.
    """

    __slots__ = ("_owed",)

    #: Bytes that are changed at a time.
    _piece: ClassVar[int]

    def __init__(
        self,
        sock: socket.socket,
        reads: ReadContext,
        poller: AnyPoller,
        received: bytes = b"",
        deflate: Deflate | None = None,
    ) -> None:
        super().__init__(sock, reads, poller, received, deflate)
        #: Bytes of the outbox that are staged: the last one of what waits here, or none.
        self._owed = 0

    @abstractmethod
    def _stage(self, data: bytes | memoryview) -> None:
        """Put bytes behind what is staged, changed. Raises `OSError`."""

    @abstractmethod
    def _send_staged(self) -> bool:
        """Send what the socket takes; returns whether nothing is left. Raises `OSError`."""

    @property
    @abstractmethod
    def _staged(self) -> int:
        """Bytes that are staged."""

    def write_nowait(self, item: Outgoing) -> int:
        data = item.frame
        if len(data) <= self._piece:
            return self._write(data)
        view, taken = memoryview(data), 0
        while taken < len(data) and not self._owed:
            taken += self._write(view[taken : taken + self._piece])
        return taken

    def _write(self, data: bytes | memoryview) -> int:
        self._stage(data)
        if self._send_staged():
            return len(data)
        self._owed = 1
        return len(data) - 1

    async def drain(self, outbox: Outbox) -> None:
        await self._wait_writable()
        for _ in range(_MOST_PIECES):
            if not self._send_staged():
                return
            outbox.taken(self._owed)
            self._took(self._owed)
            self._owed = 0
            if not outbox.size:
                return
            count = self._write(b"".join(first_bytes(outbox.buffers(), self._piece)))
            outbox.taken(count)
            if self._owed:
                outbox.keep()
                return
            self._took(count)

    async def _wait_writable(self) -> None:
        if self._socket.fileno() == -1:  # Trio would keep waiting for a descriptor of this number
            raise ConnectionAbortedError("socket was closed")
        try:
            await trio.lowlevel.wait_writable(self._socket)
        except trio.ClosedResourceError as exc:
            if self._socket.fileno() == -1:  # aborted meanwhile; else see `Watch.wake`
                raise ConnectionAbortedError("socket was closed") from exc

    def stirring(self, queued: int) -> bool:
        return super().stirring(queued + self._staged)
