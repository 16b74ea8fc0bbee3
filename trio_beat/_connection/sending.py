"""What a connection sends, and what waits for its socket.

1. Writing never waits. What the socket does not take at once goes to the outbox, and a task flushes
   that for as long as something waits.
2. A full outbox meets the slow policy. One beat may always wait, and so many bytes of PONGs.
3. Until the consumer has opened the connection the outbox holds the handshake's response. What is
   sent meanwhile stands behind it, so a peer that sees the connection open is subscribed.
4. The nursery takes tasks while it has one: while the connection is open, that is its heartbeat.
   What waits later is sent by the closing handshake.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Final

import trio

from .._exceptions import Closed, EndReason
from .._protocol.deflate import Deflate
from .._protocol.messages import Deflated, Message, OtherFrames, Outgoing, Reply, Response
from .._transports import Transport
from .._transports.outbox import Outbox
from .shared import Shared, SlowPolicy

#: Bytes of PONGs that may wait in an outbox, full or not; no policy drops them.
_REPLIES: Final = 65536


class Sending(ABC):
    """The sending part of a connection."""

    __slots__ = (
        "_nursery",
        "_transport",
        "closed",
        "dropped",
        "latency",
        "outbox",
        "path",
        "shared",
    )

    _nursery: trio.Nursery

    def __init__(self, transport: Transport, shared: Shared, path: str, response: bytes) -> None:
        self._transport = transport
        self.shared = shared
        #: The request's target.
        self.path = path
        #: How the connection ended (see `Ending`); None while it is open.
        self.closed: Closed | None = None
        #: Seconds that the last answered PING took to come back; None before the first.
        self.latency: float | None = None
        #: Invariant: None exactly when nothing waits for the socket.
        self.outbox: Outbox | None = Outbox(Response(response), keep=True)
        #: Messages that the slow policy dropped.
        self.dropped = 0

    @property
    def peer(self) -> str:
        """The peer's address, for people."""
        return self._transport.peer

    @property
    def deflate(self) -> Deflate | None:
        """How messages to the peer are compressed; None: they are not."""
        return self._transport.deflate

    @property
    def waiting(self) -> int:
        """Bytes that wait for the socket."""
        return 0 if self.outbox is None else self.outbox.size

    def deliver_nowait(self, message: Message) -> None:
        """Send a message that many get; does nothing once the connection has ended."""
        if self.closed is None:
            try:
                deflate = self._transport.deflate
                item = message if deflate is None else deflate.of(message)
                if self.outbox is None:  # as for most: no limit to look at
                    self._put(item)
                else:
                    self._write(item)
            except Exception as exc:  # a publisher must not fail because of one subscriber
                self._failed(exc)

    def send_nowait(self, message: Message) -> None:
        """Send an application's message.

        Raises:
            ConnectionClosed: the connection has ended, or did now because its outbox was full.
        """
        self.check_open()
        try:
            deflate = self._transport.deflate
            self._write(message if deflate is None else deflate.of(message))
        except Exception as exc:  # of this package: no bug of the application's
            self._failed(exc)
        self.check_open()

    async def send_frames(self, frames: bytes) -> None:
        """Send whole frames that another implementation has made, behind what waits.

        No policy drops them: this waits until they are on their way. Where it is cancelled they
        are sent nevertheless, and whole.

        Raises:
            ConnectionClosed: the connection has ended.
        """
        await self.emptied()
        self.check_open()
        try:
            self._put(OtherFrames(frames))
        except Exception as exc:  # of this package, see `send_nowait`
            self._failed(exc)
        await self.emptied()
        self.check_open()

    async def emptied(self) -> None:
        """Wait until nothing waits for the socket.

        Raises:
            ConnectionClosed: the connection has ended before that.
        """
        while self.outbox is not None:
            self.check_open()
            await self.outbox.emptied.wait()

    def _send_response(self) -> None:
        """Send the handshake's response, and what stands behind it: the connection is open."""
        outbox = self.outbox
        assert outbox is not None
        while outbox.size:
            item = outbox.first
            try:
                taken = self._transport.write_nowait(item)
            except OSError as exc:
                self._lost(exc)
                return
            outbox.taken(taken)
            if not taken or taken < len(item.frame):
                outbox.keep()
                self._start_flushing()
                return
        self.outbox = None

    def _send_reply(self, reply: Reply) -> None:
        """Send PONGs; does nothing once the connection has ended: a close frame is the last."""
        if self.closed is not None:
            return
        outbox = self.outbox
        if outbox is None:
            self._put(reply)
        elif outbox.replies < _REPLIES:
            # A peer may well PING while it takes a message that is larger than the outbox.
            outbox.append_reply(reply)
        elif not self.shared.drops_replies:
            self.end_nowait(EndReason.SLOW, 1013, "too slow, too many PONGs wait")

    def _write(self, message: Message | Deflated) -> None:
        """Send a message, or let it wait, or apply the slow policy where there is no room."""
        outbox = self.outbox
        if outbox is not None and outbox.size >= self.shared.outbox_size:
            if self.shared.slow_policy is SlowPolicy.DISCONNECT:
                self.end_nowait(EndReason.SLOW, 1013, "too slow, outbox full")
                return
            self._count_dropped(outbox.drop_oldest(self.shared.outbox_size))
        self._put(message)

    def _count_dropped(self, messages: int) -> None:
        self.dropped += messages
        if messages and (tell := self.shared.notify.dropped) is not None:
            tell(self, messages)

    def _put(self, item: Outgoing) -> None:
        """Send an item, or let it wait, whatever else waits."""
        if self.outbox is not None:
            self.outbox.append(item)
            return
        try:
            taken = self._transport.write_nowait(item)
        except OSError as exc:
            self._lost(exc)
            return
        # Where nothing is taken, the transport may not have needed the frame.
        if not taken or taken < len(item.frame):
            self.outbox = Outbox(item, taken)
            self._start_flushing()

    @property
    def _takes_tasks(self) -> bool:
        return bool(self._nursery.child_tasks)

    def _start_flushing(self) -> None:
        if self._takes_tasks:
            self._nursery.start_soon(self._flush, name="trio_beat flush")

    async def _flush(self) -> None:
        outbox = self.outbox
        assert outbox is not None
        try:
            while outbox.size:
                await self._transport.drain(outbox)
        except OSError as exc:
            self._lost(exc)
        else:
            self.outbox = None
            outbox.emptied.set()

    @abstractmethod
    def check_open(self) -> None:
        """Raise `ConnectionClosed` where the connection has ended."""

    @abstractmethod
    def end_nowait(self, by: EndReason, code: int, reason: str) -> None:
        """End the connection; does nothing once it has ended."""

    @abstractmethod
    def _lost(self, exc: OSError) -> None:
        """The socket failed."""

    @abstractmethod
    def _failed(self, exc: Exception) -> None:
        """Another task has met what nothing expects of this connection."""
