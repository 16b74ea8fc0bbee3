"""TLS over the sockets and the poller of plain TCP, with a `Session` between.

A record that the socket did not take whole is encrypted already. So the session keeps it, and its
last byte stays in the outbox, which never drops a frame that has begun, be it with this byte.
"""

from __future__ import annotations

import socket
from collections.abc import Sequence

import trio

from .._protocol.deflate import Deflate
from .._protocol.events import END_OF_STREAM, Event
from .._protocol.messages import Outgoing
from .framing import LARGE, ReadContext
from .kernel import first_bytes
from .outbox import Outbox
from .polling import Poller
from .tcp import TCPTransport
from .tls_session import MOST_RECORDS, RECORD, Session


class TLSTransport(TCPTransport):
    """A connected, non-blocking TCP socket whose TLS handshake is done.

    Args:
        sock: the socket; the transport closes it.
        session: TLS over this socket.
        reads: what the transports of a server share.
        poller: tells when there is something to read.
        received: bytes that came behind the handshake's request.
        deflate: what the handshake agreed on; None: nothing is compressed.
    """

    __slots__ = ("_owed", "_session")

    def __init__(
        self,
        sock: socket.socket,
        session: Session,
        reads: ReadContext,
        poller: Poller,
        received: bytes = b"",
        deflate: Deflate | None = None,
    ) -> None:
        super().__init__(sock, reads, poller, received, deflate)
        self._session = session
        #: Bytes of the outbox that are encrypted: the last one of a record that waits in the
        #: session, or none.
        self._owed = 0
        if session.waiting:
            self._watch.more()

    def receive_nowait(self) -> Sequence[Event] | None:
        if self._kept is not None:
            # The edge that told of what lies behind it may be spent.
            self._watch.more()
            return self._parse_kept()
        session, reads = self._session, self._reads
        bios = session.bios
        waited = session.waiting
        try:
            count = session.receive(self._socket, reads.view)
        except BlockingIOError:
            self._watch.empty()
            return None
        if count is None:
            self._forget()
            return (END_OF_STREAM,)
        reads.size = bios.size
        if waited or bios.full or session.waiting:
            self._watch.more()
        if bios.empty:
            self._watch.busy()
        elif bios.size >= LARGE:
            self._watch.large()
        return self._parse(reads.view[:count]) if count else ()

    def write_nowait(self, item: Outgoing) -> int:
        data = item.frame
        if len(data) <= RECORD:
            return self._write(data)
        view, taken = memoryview(data), 0
        while taken < len(data) and not self._owed:
            taken += self._write(view[taken : taken + RECORD])
        return taken

    def _write(self, data: bytes | memoryview) -> int:
        self._session.encrypt(data)
        if self._session.send(self._socket):
            return len(data)
        self._owed = 1
        return len(data) - 1

    async def drain(self, outbox: Outbox) -> None:
        await self._wait_writable()
        for _ in range(MOST_RECORDS):
            if not self._session.send(self._socket):
                return
            outbox.taken(self._owed)
            self._took(self._owed)
            self._owed = 0
            if not outbox.size:
                return
            count = self._write(b"".join(first_bytes(outbox.buffers(), RECORD)))
            outbox.taken(count)
            if self._owed:
                outbox.keep()
                return
            self._took(count)

    async def _wait_writable(self) -> None:
        try:
            await trio.lowlevel.wait_writable(self._socket)
        except (trio.ClosedResourceError, ValueError) as exc:
            if self._socket.fileno() == -1:  # aborted meanwhile, or before; else see `Watch.wake`
                raise ConnectionAbortedError("socket was closed") from exc

    def stirring(self, queued: int) -> bool:
        return super().stirring(queued + len(self._session.unsent))

    async def _linger(self) -> None:
        self._session.notify()
        while not self._session.send(self._socket):
            await self._wait_writable()
        # From there on there is no TLS, and what comes is read as it is.
        await super()._linger()

    def abort(self) -> None:
        if self._socket.fileno() != -1:
            self._session.notify_nowait(self._socket)
        super().abort()
