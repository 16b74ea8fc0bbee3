"""The client's end of a socket pair: it reads, answers and writes as a client does.

1. A task reads for as long as the peer reads. It answers PINGs and the server's close frame at
   once, unless the peer is silent; messages wait to be received.
2. What is sent goes to the socket within the call. What the socket does not take yet is sent by a
   task that lives as long as something is left; nothing else is sent before that.
3. The server's end of the pair is known here. It is used for what only that end can do: to let the
   kernel hold little for a peer that does not read, and to reset.
"""

from __future__ import annotations

import contextlib
import logging
import math
import socket
import sys
from typing import TYPE_CHECKING, Final, NamedTuple

import trio
from websockets.extensions.permessage_deflate import PerMessageDeflate
from websockets.frames import Frame, Opcode
from websockets.protocol import CLIENT, OPEN, Protocol

from .._connection.connection import Connection
from .._exceptions import ConnectFailed
from .._protocol.compression import MOST_BITS

if TYPE_CHECKING:  # it loads h11, which a server does not need
    from .._protocol.client_handshake import OpeningHandshake

_CHUNK: Final = 65536
#: Bytes of messages that may wait to be received: a test that leaves so many has gone wrong.
_MOST_KEPT: Final = 2**28
#: Whether the kernel doubles the size of a buffer that is asked for, and tells that (socket(7)).
_DOUBLES: Final = sys.platform == "linux"
#: No close frame came (RFC 6455, section 7.1.5).
_ABNORMAL: Final = 1006
#: At DEBUG it would log headers and messages.
_QUIET: Final = logging.Logger("trio_beat.testing", logging.CRITICAL)


class SeenClose(NamedTuple):
    """How a connection ended, as the client's end saw it; equal to the tuple of both."""

    #: The server's close code; 1005 where its close frame had none, and 1006 where none came (RFC
    #: 6455, section 7.1.5).
    code: int
    reason: str


class ClientEnd:
    """The client's end of a socket pair.

    Args:
        sock: this end.
        server_end: the other one; the server closes it.
        handshake: a new one.
        handled: whether the server has a handler, whose begin belongs to the opening.
        heartbeat: the server's text heartbeat, which is not handed on; None: there is none.
        echoes: it is answered with the same text.

    Attributes:
        messages: those that have come.
        closed: how the connection ended, from when the server's close frame or the end has come.
        connection: the server's end as its handler has it; None: it has not begun.
        opened: set when the handshake is over, one way or the other.
        ended: set when the socket is closed.
    """

    def __init__(
        self,
        sock: socket.socket,
        server_end: socket.socket,
        handshake: OpeningHandshake,
        *,
        handled: bool,
        heartbeat: str | None,
        echoes: bool,
    ) -> None:
        sock.setblocking(False)
        self._socket = sock
        self._server_end = server_end
        self._handshake: OpeningHandshake | None = handshake
        self._handled = handled
        self._heartbeat = heartbeat
        self._echoes = echoes
        self._protocol = Protocol(CLIENT, state=OPEN, max_size=None, logger=_QUIET)
        self._failure: ConnectFailed | None = None
        #: The fragments of a message so far.
        self._fragments: list[Frame] = []
        self._inbox, self.messages = trio.open_memory_channel[str | bytes](math.inf)
        self._kept = 0
        self.subprotocol: str | None = None
        self.connection: Connection | None = None
        self.closed: SeenClose | None = None
        self.pings = self.text_heartbeats = 0
        self.opened, self.ended = trio.Event(), trio.Event()
        self._scope = trio.CancelScope()
        self._nursery: trio.Nursery | None = None
        self.silent = False
        #: Set while it reads.
        self._reading = trio.Event()
        self._reading.set()
        #: Bytes that the kernel held for it before it stopped reading.
        self._buffer: int | None = None
        #: What is left for the socket, and what is set once nothing is.
        self._outgoing = bytearray()
        self._sent = trio.Event()
        #: What this end has done, after which nothing can be sent; None: nothing of the kind.
        self.over: str | None = None
        self._write(handshake.request)

    def handled_by(self, connection: Connection) -> None:
        """The server's handler has begun."""
        self.connection = connection
        self._check_begun()

    def _check_begun(self) -> None:
        if self._handshake is None and (self.connection is not None or not self._handled):
            self.opened.set()

    def check_opened(self) -> None:
        """Raise `ConnectFailed`, once, where the handshake failed."""
        failure, self._failure = self._failure, None
        if failure is not None:
            try:
                raise failure
            finally:
                del failure  # its traceback holds this frame

    async def run(self) -> None:
        """Read, answer and write until the connection has ended; the socket is closed then."""
        try:
            with self._scope:
                async with trio.open_nursery() as self._nursery:
                    if self._outgoing:
                        self._nursery.start_soon(self._flush)
                    await self._read()
                    self.close_socket()
        finally:
            self.close_socket()
            self._nursery = None

    @property
    def reads(self) -> bool:
        """Whether it reads what comes."""
        return self._reading.is_set()

    def stop_reading(self) -> None:
        """Read nothing, and let the kernel hold little."""
        if not self.reads:
            return
        self._reading = trio.Event()
        with contextlib.suppress(OSError):  # the server has closed
            self._buffer = self._server_end.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF)
            # The least that there can be.
            self._server_end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)

    def read_on(self) -> None:
        """Read again."""
        if self._buffer is not None:
            size = self._buffer // 2 if _DOUBLES else self._buffer
            with contextlib.suppress(OSError):
                self._server_end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, size)
            self._buffer = None
        self._reading.set()

    def received(self, message: str | bytes) -> None:
        """A message was taken out of `messages`."""
        self._kept -= len(message)

    def serialize(self, frame: Frame) -> bytes:
        """The bytes of a message in one frame: masked, and compressed where that was agreed on."""
        return frame.serialize(mask=True, extensions=self._protocol.extensions)

    async def send(self, data: bytes) -> bool:
        """Send bytes after those that wait; what was begun goes out whole, even if cancelled.

        Returns:
            Whether they were sent; False: the connection has ended.
        """
        while self._outgoing:
            await self._sent.wait()
        if self.over is not None or self.closed is not None:
            return False
        self._write(data)
        while self._outgoing:
            await self._sent.wait()
        return self._socket.fileno() != -1

    def send_close(self, code: int, reason: str) -> None:
        """Begin the closing handshake, once."""
        if self._protocol.state is OPEN:
            self.over = "has closed"
            self._protocol.send_close(code, reason)
            self._write(b"".join(self._protocol.data_to_send()))

    def end_stream(self) -> None:
        """End what is sent, without a close frame."""
        self.over = self.over or "has ended its stream"
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_WR)

    def cut(self) -> None:
        """Close the socket so that the server sees a reset."""
        with contextlib.suppress(OSError):
            # A Unix socket that is closed before all was read resets its peer (unix(7)).
            self._server_end.send(b"\0")
        self.close_socket("has cut the connection")

    def close_socket(self, how: str | None = None) -> None:
        """Close the socket at once. Idempotent.

        Args:
            how: what this end does; None: the server has closed.
        """
        self.over = self.over or how
        if self._socket.fileno() != -1:
            trio.lowlevel.notify_closing(self._socket)
            self._socket.close()
        if self._handshake is not None:
            self._failure = self._failure or self._handshake.lost(
                f"this peer {self.over or 'has ended'}"
            )
            self._handshake = None
        self._end(SeenClose(_ABNORMAL, ""))
        self.ended.set()
        self._forget_outgoing()
        self._scope.cancel()

    def _end(self, closed: SeenClose) -> None:
        """Nothing more will come. Idempotent."""
        self.closed = self.closed or closed
        self._inbox.close()
        self.opened.set()

    async def _read(self) -> None:
        more = True
        while more:
            await self._reading.wait()
            try:
                await trio.lowlevel.wait_readable(self._socket)
                if not self.reads:
                    continue
                data = self._socket.recv(_CHUNK)
            except BlockingIOError:
                continue
            except trio.ClosedResourceError:  # by this end
                return
            except OSError:  # reset
                data = b""
            more = self._take(data)

    def _take(self, data: bytes) -> bool:
        """Take what has come; returns whether there may be more."""
        if self._handshake is not None:
            return self._take_answer(data)
        if not data:
            return False
        self._protocol.receive_data(data)
        answers = b"".join(self._protocol.data_to_send())
        if not self.silent:
            self._write(answers)
        for frame in self._protocol.events_received():
            assert isinstance(frame, Frame)
            self._take_frame(frame)
        return True

    def _take_answer(self, data: bytes) -> bool:
        assert self._handshake is not None
        try:
            opened = self._handshake.receive(data)
        except ConnectFailed as exc:
            self._failure = exc
            return False
        if opened is None:
            return True
        self._handshake = None
        self.subprotocol = opened.subprotocol
        if (bits := opened.window_bits) is not None:
            extension = PerMessageDeflate(
                remote_no_context_takeover=True,
                local_no_context_takeover=True,
                remote_max_window_bits=MOST_BITS,
                local_max_window_bits=bits,
            )
            self._protocol.extensions = [extension]
        self._check_begun()
        return not opened.trailing or self._take(opened.trailing)

    def _take_frame(self, frame: Frame) -> None:
        if frame.opcode is Opcode.PING:
            self.pings += 1
        elif frame.opcode is Opcode.CLOSE:
            close = self._protocol.close_rcvd
            assert close is not None
            self._end(SeenClose(close.code, close.reason))
        elif frame.opcode is not Opcode.PONG:
            self._fragments.append(frame)
            if frame.fin:
                self._take_message()

    def _take_message(self) -> None:
        data = b"".join(bytes(frame.data) for frame in self._fragments)
        message = data.decode() if self._fragments[0].opcode is Opcode.TEXT else data
        self._fragments.clear()
        if isinstance(message, str) and message == self._heartbeat:
            self.text_heartbeats += 1
            if self._echoes and not self.silent and self.over is None:
                self._write(self.serialize(Frame(Opcode.TEXT, data)))
            return
        self._kept += len(message)
        if self._kept > _MOST_KEPT:
            text = f"messages of more than {_MOST_KEPT} bytes wait to be received"
            raise RuntimeError(f"{text}; a peer that is to be slow stops reading")
        self._inbox.send_nowait(message)

    def _write(self, data: bytes) -> None:
        """Write what the socket takes, and leave the rest to a task."""
        if self._outgoing:
            self._outgoing += data
            return
        self._outgoing += data[self._send_some(data) :]
        if self._outgoing and self._nursery is not None:
            self._nursery.start_soon(self._flush)

    def _send_some(self, data: bytes | bytearray) -> int:
        try:
            return self._socket.send(data)
        except BlockingIOError:
            return 0
        except OSError:  # the server has closed: the reader sees it, behind what came before
            return len(data)

    async def _flush(self) -> None:
        try:
            while self._outgoing:
                await trio.lowlevel.wait_writable(self._socket)
                del self._outgoing[: self._send_some(self._outgoing)]
        except trio.ClosedResourceError:  # by this end
            return
        self._forget_outgoing()

    def _forget_outgoing(self) -> None:
        self._outgoing.clear()
        self._sent.set()
        self._sent = trio.Event()
