"""The client's end of a connection, in the hands of a test."""

from __future__ import annotations

from collections.abc import AsyncIterator

import trio
from websockets.frames import Frame, Opcode

from .._checks import check_kind, encode
from .._connection.connection import Connection
from .._exceptions import TrioBeatError
from .._protocol.frames import check_close
from .client_end import ClientEnd, SeenClose


class PeerClosed(TrioBeatError):  # noqa: N818 - an everyday event, not an error
    """The connection has ended, and all that came before was received.

    Attributes:
        closed: how it ended, as the client's end saw it.
    """

    def __init__(self, closed: SeenClose) -> None:
        reason = f" {closed.reason!r}" if closed.reason else ""
        super().__init__(f"the connection has ended ({closed.code}{reason})")
        self.closed = closed


class Peer:
    """The client's end of a connection; `open_pair` and `Pairs.connect` make it.

    It answers PINGs and takes part in the closing handshake by itself. Iterating over it gives the
    messages that come, until the connection has ended.
    """

    __slots__ = ("_end",)

    def __init__(self, end: ClientEnd) -> None:
        self._end = end

    @property
    def connection(self) -> Connection:
        """The server's end of it, as its handler has it.

        Raises:
            RuntimeError: no handler has it: there is a hub alone, or it was closed before.
        """
        if self._end.connection is None:
            raise RuntimeError("no handler has this connection")
        return self._end.connection

    @property
    def subprotocol(self) -> str | None:
        """What the handshake agreed on, or None."""
        return self._end.subprotocol

    @property
    def pings(self) -> int:
        """How many PINGs have come."""
        return self._end.pings

    @property
    def text_heartbeats(self) -> int:
        """How many text heartbeats have come; they are not among the messages."""
        return self._end.text_heartbeats

    @property
    def closed(self) -> SeenClose | None:
        """How the connection ended, from when the server's close frame or the end has come."""
        return self._end.closed

    async def wait_closed(self) -> SeenClose:
        """Wait until the server has closed its socket: its handler has ended then.

        A peer that does not read sees no end.

        Returns:
            How the connection ended, as the peer saw it.
        """
        await self._end.ended.wait()
        assert self._end.closed is not None
        return self._end.closed

    async def send(self, message: str | bytes) -> None:
        """Send a message, text or binary by its type; waits while the server does not read.

        Of a message that is begun the rest goes out as well, also where this is cancelled.

        Args:
            message: what to send.

        Raises:
            PeerClosed: the connection has ended.
            trio.ClosedResourceError: this peer has closed it, cut it, or ended its stream.
            TypeError: the message is neither text nor bytes.
            ValueError: it is a text with surrogates, which cannot be encoded.
        """
        check_kind("message", message, (str, bytes), "a text or bytes")
        if isinstance(message, str):
            frame = Frame(Opcode.TEXT, encode("message", message))
        else:
            frame = Frame(Opcode.BINARY, message)
        await self.send_raw(self._end.serialize(frame))

    async def send_raw(self, data: bytes) -> None:
        """Send bytes as they are: a part of a frame, or what no client should send.

        Args:
            data: what to send.

        Raises:
            PeerClosed, trio.ClosedResourceError: as for `send`.
        """
        end = self._end
        await trio.lowlevel.checkpoint_if_cancelled()
        if not await end.send(data):
            if end.over is not None:
                raise trio.ClosedResourceError(f"this peer {end.over}")
            raise self._gone()
        await trio.lowlevel.cancel_shielded_checkpoint()

    async def receive(self) -> str | bytes:
        """Wait for the next message; text heartbeats are not among them.

        Raises:
            PeerClosed: the connection has ended, and all that came before was received.
        """
        try:
            message = await self._end.messages.receive()
        except trio.EndOfChannel:
            raise self._gone() from None
        self._end.received(message)
        return message

    def receive_nowait(self) -> str | bytes:
        """Give the next message that has come.

        Raises:
            trio.WouldBlock: none has.
            PeerClosed: the connection has ended, and all that came before was received.
        """
        try:
            message = self._end.messages.receive_nowait()
        except trio.EndOfChannel:
            raise self._gone() from None
        self._end.received(message)
        return message

    def _gone(self) -> PeerClosed:
        assert self._end.closed is not None
        return PeerClosed(self._end.closed)

    def __aiter__(self) -> AsyncIterator[str | bytes]:
        return self

    async def __anext__(self) -> str | bytes:
        try:
            return await self.receive()
        except PeerClosed:
            raise StopAsyncIteration from None

    async def close(self, code: int = 1000, reason: str = "") -> SeenClose:
        """Close the connection, and wait until the server has closed it as well.

        A peer that did not read reads on. Where the connection has ended, it is only waited for.

        Args:
            code: close code (RFC 6455, section 7.4).
            reason: at most 123 bytes of UTF-8.

        Returns:
            How the connection ended, as the peer saw it.

        Raises:
            TypeError: the code is no whole number, or the reason no text.
            ValueError: the code may not be sent, or the reason is too long or cannot be encoded.
        """
        check_close(code, reason)
        await trio.lowlevel.checkpoint_if_cancelled()
        self._end.send_close(code, reason)
        self._end.read_on()
        return await self.wait_closed()

    def fall_silent(self) -> None:
        """Answer nothing from now on: no PING, no text heartbeat, no close frame.

        What comes is still received, and what a test sends is sent.
        """
        self._end.silent = True

    def answer_again(self) -> None:
        """Answer again what comes from now on."""
        self._end.silent = False

    def stop_reading(self) -> None:
        """Read nothing from now on, so that what the server sends waits there.

        The kernel holds some KiB at most for this peer then. It sees no PING, and answers none.
        """
        self._end.stop_reading()

    def read_on(self) -> None:
        """Read again."""
        self._end.read_on()

    def end_stream(self) -> None:
        """End the stream of what this peer sends, without a close frame; it still receives."""
        self._end.end_stream()

    def cut(self) -> None:
        """Cut the connection: the server sees a reset."""
        self._end.cut()
