"""TLS over the sockets and the poller of plain TCP, with a `Session` between.

A record that the socket did not take whole is encrypted already: the session keeps it (`staged`).
"""

from __future__ import annotations

import socket
from collections.abc import Sequence
from typing import ClassVar

from .._protocol.deflate import Deflate
from .._protocol.events import END_OF_STREAM, Event
from .framing import LARGE, ReadContext
from .polling import AnyPoller
from .staged import StagedTransport
from .tls_session import RECORD, Session


class TLSTransport(StagedTransport):
    """A connected, non-blocking TCP socket whose TLS handshake is done.

    Args:
        sock: the socket; the transport closes it.
        session: TLS over this socket.
        reads: what the transports of a server share.
        poller: tells when there is something to read.
        received: bytes that came behind the handshake's request.
        deflate: what the handshake agreed on; None: nothing is compressed.
    """

    __slots__ = ("_session",)

    _piece: ClassVar[int] = RECORD

    def __init__(
        self,
        sock: socket.socket,
        session: Session,
        reads: ReadContext,
        poller: AnyPoller,
        received: bytes = b"",
        deflate: Deflate | None = None,
    ) -> None:
        super().__init__(sock, reads, poller, received, deflate)
        self._session = session
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

    def _stage(self, data: bytes | memoryview) -> None:
        self._session.encrypt(data)

    def _send_staged(self) -> bool:
        return self._session.send(self._socket)

    @property
    def _staged(self) -> int:
        return len(self._session.unsent)

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
