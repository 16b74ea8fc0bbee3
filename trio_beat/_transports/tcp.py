"""Plain TCP: a non-blocking socket and nothing between it and the connection."""

from __future__ import annotations

import socket
from collections.abc import Awaitable, Sequence

import trio

from .._protocol.deflate import Deflate
from .._protocol.events import END_OF_STREAM, Event
from .._protocol.messages import Outgoing
from . import Take, awake
from .framing import LARGE, LINGER_BYTES, ReadContext
from .inflating import Inflating
from .kernel import SocketTransport, send_gathered
from .outbox import Outbox
from .polling import AnyPoller


class TCPTransport(SocketTransport):
    """A connected, non-blocking TCP socket.

    Args:
        sock: the socket; the transport closes it.
        reads: what the transports of a server share.
        poller: tells when there is something to read.
        received: bytes that came behind the handshake's request.
        deflate: what the handshake agreed on; None: nothing is compressed.
    """

    __slots__ = ("_watch",)

    def __init__(
        self,
        sock: socket.socket,
        reads: ReadContext,
        poller: AnyPoller,
        received: bytes = b"",
        deflate: Deflate | None = None,
    ) -> None:
        super().__init__(sock, reads, deflate)
        self._watch = poller.watch(sock)
        if received:
            self._keep(received)

    def wait_readable(self, take: Take = awake) -> Awaitable[Sequence[Event]]:
        return self._watch.wait(take)

    def receive_nowait(self) -> Sequence[Event] | None:
        if self._kept is not None:
            # The edge that told of what lies behind it may be spent.
            self._watch.more()
            return self._parse_kept()
        reads = self._reads
        try:
            count = self._socket.recv_into(reads.buffer)
        except BlockingIOError:
            self._watch.empty()
            return None
        if count == 0:
            self._forget()
            return (END_OF_STREAM,)
        reads.size = count
        if count >= LARGE:
            self._watch.large()
        if count == len(reads.buffer):
            self._watch.more()
        return self._parse(reads.view[:count])

    def _keep(self, rest: bytes | Inflating) -> None:
        super()._keep(rest)
        self._watch.more()

    def _busy(self) -> None:
        self._watch.busy()

    def _wake(self) -> None:
        self._watch.wake()

    def _read_on(self) -> None:
        self._watch.wake()

    def write_nowait(self, item: Outgoing) -> int:
        try:
            return self._socket.send(item.frame)
        except BlockingIOError:
            return 0

    async def drain(self, outbox: Outbox) -> None:
        if self._socket.fileno() == -1:  # Trio would keep waiting for a descriptor of this number
            raise ConnectionAbortedError("socket was closed")
        try:
            await trio.lowlevel.wait_writable(self._socket)
        except trio.ClosedResourceError as exc:
            if self._socket.fileno() == -1:  # aborted meanwhile
                raise ConnectionAbortedError("socket was closed") from exc
            return  # it was the reader that was to be woken, see `Watch.wake`
        try:
            count = send_gathered(self._socket, outbox.buffers())
        except BlockingIOError:
            return
        outbox.taken(count)
        self._took(count)

    async def _linger(self) -> None:
        self._socket.shutdown(socket.SHUT_WR)
        left = LINGER_BYTES
        while left > 0:
            await self._watch.wait()
            try:
                count = self._socket.recv_into(
                    self._reads.buffer, min(left, len(self._reads.buffer))
                )
            except BlockingIOError:
                self._watch.empty()
                continue
            if count == 0:
                return
            left -= count
            self._watch.more()
        await self._cut_off()

    def abort(self) -> None:
        self._forget()
        if self._socket.fileno() != -1:
            self._watch.close()
            trio.lowlevel.notify_closing(self._socket)
            self._socket.close()
