"""What an application does with a connection."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Final, NamedTuple, Protocol

import trio

from .._checks import check_kind
from .._exceptions import Closed, EndReason
from .._identity import Identity
from .._protocol.compression import Compression
from .._protocol.frames import UNAUTHORIZED, check_close
from .._protocol.messages import Message
from .._protocol.request import Request
from .beating import Engine
from .compressing import send_in_order, takes_long

#: Messages that connections send before other tasks get a turn: a turn costs as much as a small
#: message.
_TURN: Final = 16


class Statistics(NamedTuple):
    """A connection at one moment."""

    missed_beats: int  #: in a row, so far
    latency: float | None  #: seconds that the last answered PING took; None before the first
    outbox: int  #: bytes that wait for the socket
    dropped: int  #: messages that the policy `drop-oldest` dropped


class ApplicationSide(Protocol):
    """What a `Connection` asks of its consumer."""

    #: What the handshake agreed on, or None.
    subprotocol: str | None
    #: What the peer asked with, where a server's handler is to find it; else None.
    request: Request | None
    #: Who a server's peer is; None: nobody has asked, or it is anonymous.
    identity: Identity | None

    async def receive(self) -> str | bytes:
        """Give a message to the application; raises `trio.EndOfChannel` after the last."""


class Connection:
    """A WebSocket connection whose peer is known to be alive.

    A server's application gets it in its handler, a client's from `connect`. Iterating over it
    gives the messages that come, until the connection has ended. Several tasks may send and
    receive at a time; each message goes to one of them.
    """

    __slots__ = ("__weakref__", "_application", "_engine")

    def __init__(self, engine: Engine, application: ApplicationSide) -> None:
        self._engine = engine
        self._application = application

    @property
    def path(self) -> str:
        """The request's target as it was sent: its path, and its query where it has one.

        `Request.path` is the path alone.
        """
        return self._engine.path

    @property
    def subprotocol(self) -> str | None:
        """What the handshake agreed on, or None."""
        return self._application.subprotocol

    @property
    def request(self) -> Request | None:
        """What the peer asked with, in a server's handler; None: this is a client's connection."""
        return self._application.request

    @property
    def identity(self) -> Identity | None:
        """Who the peer is, as `admit` of `serve` told; None: it is anonymous, or nobody asked."""
        return self._application.identity

    def renew(self, identity: Identity) -> None:
        """Go on with a newer identity of the same user, for example with a later `expires_at`.

        For a handler whose own protocol brings a fresh token. A peer that was anonymous may become
        a user so. An identity of another user, or of none, ends the connection (3000): what it was
        allowed so far was for the first one.

        Args:
            identity: takes the place of the earlier one.

        Raises:
            ConnectionClosed: the connection has ended.
            TypeError: it is no `Identity`.
        """
        check_kind("identity", identity, Identity, "an Identity")
        self._engine.check_open()
        before = self._application.identity
        if before is not None and before.user is not None and before.user != identity.user:
            text = "identity of another user"
            self._engine.end_nowait(EndReason.EXPIRED, UNAUTHORIZED, text)
            return
        self._application.identity = identity
        self._engine.expire_at(identity.expires_at)

    @property
    def peer(self) -> str:
        """The peer's address, for people; ``local`` over a Unix socket."""
        return self._engine.peer

    @property
    def compression(self) -> Compression | None:
        """How messages to the peer are compressed, as was agreed; None: they are not."""
        deflate = self._engine.deflate
        return None if deflate is None else deflate.compression

    @property
    def latency(self) -> float | None:
        """Seconds that the last answered PING took to come back; None before the first."""
        return self._engine.latency

    @property
    def closed(self) -> Closed | None:
        """How the connection ended; None while it is open."""
        return self._engine.closed

    async def send(self, message: str | bytes | Message) -> None:
        """Send a message, text or binary by its type.

        Waits while earlier ones wait for the peer to take them, while this one is compressed, and
        until it is on its way. Where nothing needs to wait, this can still be cancelled, and lets
        other tasks run now and then.

        Args:
            message: what to send; the frame of a `Message` is made once, however often it is sent.

        Raises:
            ConnectionClosed: the connection has ended.
            TypeError: the message is neither text nor bytes; nothing is sent.
            ValueError: it is a text with surrogates, which cannot be encoded; nothing is sent.
        """
        if not isinstance(message, Message):
            message = Message(message)
        engine = self._engine
        shared = engine.shared
        shared.sends += 1
        if shared.sends % _TURN:
            await trio.lowlevel.checkpoint_if_cancelled()
        else:
            await trio.lowlevel.checkpoint()
        if (deflate := engine.deflate) is not None and takes_long(engine, deflate, message):
            await send_in_order(engine, deflate, message)
        else:
            if engine.outbox is not None:
                await engine.emptied()
            engine.send_nowait(message)
        if engine.outbox is not None:
            await engine.emptied()

    def send_nowait(self, message: str | bytes | Message) -> None:
        """Send a message without waiting; where the peer is slow it waits in the outbox.

        A message of more than 16 KiB is not compressed here, unless it was before: by a `send`, or
        by a hub.

        Args:
            message: as for `send`.

        Raises:
            ConnectionClosed: the connection has ended, or did now because its outbox was full.
            TypeError, ValueError: as for `send`.
        """
        if not isinstance(message, Message):
            message = Message(message)
        self._engine.send_nowait(message)

    def deliver_nowait(self, message: Message) -> None:
        """Send a message that many get; does nothing once the connection has ended.

        Args:
            message: what to send; its frame is made once for all of them.

        Raises:
            TypeError: it is no `Message`; nothing is sent.
        """
        # Below, a text would end the connection, as an error of this package.
        check_kind("message", message, Message, "a Message")
        self._engine.deliver_nowait(message)

    def gap_nowait(self) -> None:
        """Close the connection with 1012, since messages for it may have been lost.

        A hub calls it, see `trio_beat.BackendLost`. The peer should connect again.
        """
        self._engine.gap_nowait()

    async def receive(self) -> str | bytes:
        """Wait for the next message; text heartbeats are not among them.

        A message that is taken is returned: where a scope cancels this, none is lost.

        Raises:
            ConnectionClosed: the connection has ended. Where the peer has closed it, all that came
                before is given first.
        """
        try:
            return await self._application.receive()
        except trio.EndOfChannel:
            self._engine.check_open()
            raise

    def __aiter__(self) -> AsyncIterator[str | bytes]:
        return self

    async def __anext__(self) -> str | bytes:
        # Not by way of `receive`: a handler that waits would keep one more coroutine.
        try:
            return await self._application.receive()
        except trio.EndOfChannel:
            if self._engine.closed is None:
                raise
            raise StopAsyncIteration from None

    async def aclose(self, code: int = 1000, reason: str = "") -> None:
        """Close the connection; does nothing once it has ended.

        A server's handler is cancelled, also where it is the one that asks; a client's block goes
        on. The close frame is sent at once; the handshake goes on in the connection's own task.

        Args:
            code: close code (RFC 6455, section 7.4).
            reason: at most 123 bytes of UTF-8.

        Raises:
            TypeError: the code is no whole number, or the reason no text.
            ValueError: the code may not be sent, or the reason is too long or cannot be encoded.
        """
        check_close(code, reason)
        self._engine.end_nowait(EndReason.HANDLER, code, reason)
        await trio.lowlevel.checkpoint()

    async def wait_closed(self) -> Closed:
        """Wait until the connection has ended; returns how, as `closed` then does.

        For tasks beside the connection's own, for example in the application's nursery. A server's
        handler is cancelled at that moment, and a client's block may be. The closing handshake may
        still be under way. Any number of tasks may wait, before and after the end.
        """
        engine = self._engine
        if engine.closed is not None:
            await trio.lowlevel.checkpoint()
            return engine.closed
        event = trio.Event()
        engine.at_end(event.set)
        try:
            await event.wait()
        finally:
            engine.not_at_end(event.set)
        assert engine.closed is not None
        return engine.closed

    def statistics(self) -> Statistics:
        """The connection at this moment."""
        engine = self._engine
        return Statistics(engine.missed, engine.latency, engine.waiting, engine.dropped)


def engine_of(connection: Connection) -> Engine:
    """The engine of a connection, for what is part of this package."""
    return connection._engine  # noqa: SLF001
