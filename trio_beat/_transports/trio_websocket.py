"""A `trio_websocket.WebSocketConnection`, which reads and writes by itself.

It says nothing of a byte that came, waits for its application before it looks at a PONG, does not
read while it cannot write, and a write of it that is cancelled leaves half a frame behind. So:

1. A `ClientStream` stands between it and the socket, notes each byte, and writes in a task of its
   own.
2. One task takes its messages, one at a time: the peer feels back-pressure.
3. A PING is a task that waits for its PONG.
4. A frame whose sending has begun is sent to its end, whoever is cancelled: that is a task, too.

All of them belong to `TrioWebSocketTransport.run`.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Callable, Sequence
from functools import partial
from typing import Final

import trio
from trio_websocket import ConnectionClosed, WebSocketConnection
from websockets.frames import Close, Frame, Opcode
from websockets.protocol import OPEN, SERVER, Protocol
from websockets.utils import accept_key

from .._log import get_logger
from .._protocol.events import END_OF_STREAM, Event, Failure, PeerClose, Pong
from .._protocol.frames import PING_SIZE
from .._protocol.messages import Beat, CloseFrame, Message, Outgoing, make_close
from . import Take, awake
from .framing import PARTING_BYTES
from .kernel import KernelTransport
from .outbox import Outbox

_log = get_logger("trio_beat.frames")

#: PINGs that may wait for their PONG at a time. Those behind them are sent as PONGs, which ask for
#: no answer (RFC 6455, section 5.5.3): they only keep bytes on the way.
_MOST_PINGS: Final = 16
#: PONGs that may wait at a time for a peer that does not read.
_MOST_PONGS: Final = 64
#: Bytes after which it is noted that the socket takes some.
_PIECE: Final = 65536
#: Seconds that what was sent last may take.
_LAST_WRITE: Final = 5.0
#: What is made of trio-websocket's own request for the handshake (RFC 6455, section 4.2.2).
_KEY: Final = re.compile(rb"\r\nSec-WebSocket-Key: *([^\r\n]+)", re.IGNORECASE)
_SWITCHED: Final = (
    b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Accept: %b\r\n\r\n"
)
_CLOSE: Final = 0x80 | Opcode.CLOSE
_PONG: Final = 0x80 | Opcode.PONG


def _nothing(_: object = None) -> None:
    pass


class WatchedStream(trio.abc.Stream):
    """A socket's stream, below TLS: the bytes of half a record prove life as well.

    Args:
        stream: connected.

    Attributes:
        noted: called when bytes have come.
    """

    def __init__(self, stream: trio.SocketStream) -> None:
        self._stream = stream
        self.socket = stream.socket
        self.noted: Callable[[], None] = _nothing

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        data = await self._stream.receive_some(max_bytes)
        if data:
            self.noted()
        return data

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await self._stream.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        await self._stream.wait_send_all_might_not_block()

    async def aclose(self) -> None:
        await self._stream.aclose()


class ClientStream(trio.abc.Stream):
    """The stream below a `WebSocketConnection`; notes what passes.

    Until `open` it only passes on, for the opening handshake. trio-websocket then gets one of its
    own, played here, since it would wait for ever for the end of some of the answers that a server
    can give, and fail late at others. From then on what it sends waits here and is written by
    `write`: its reader answers PINGs itself, and must not stop reading because the peer does not.
    A write that fails is no end, since what the peer sent before can still be read.

    Args:
        stream: connected, and with TLS's handshake done.
    """

    def __init__(self, stream: trio.SocketStream | trio.SSLStream[WatchedStream]) -> None:
        self._stream = stream
        self._reading = trio.Lock()
        #: The handshake that is played: not begun, asked for, over.
        self._open = self._greeted = False
        #: What is read before the stream.
        self._front = b""
        #: What waits to be written, and how many PONGs are in it; whether somebody looks.
        self._waiting, self._pongs = bytearray(), 0
        self._more = trio.Event()
        #: Set while nothing waits; and when a close frame has been written, or never will be.
        self.flushed, self.closing = trio.Event(), trio.Event()
        self.flushed.set()
        self.note(_nothing)
        #: Called when the socket has taken so many bytes.
        self.took: Callable[[int], None] = _nothing
        #: The peer ended the stream, without an error.
        self.eof = False
        #: Why it failed, for people.
        self.error: str | None = None
        #: The first close frame that was sent, and the bytes that may still come behind it.
        self.close_frame = b""
        self._parting = PARTING_BYTES

    def note(self, noted: Callable[[], None]) -> None:
        """Have a function called when bytes have come, decrypted or not."""
        self._noted = noted
        if isinstance(self._stream, trio.SSLStream):
            self._stream.transport_stream.noted = noted

    def open(self, behind: bytes) -> None:
        """The server has let the client in: a `WebSocketConnection` may begin.

        Args:
            behind: what came behind the server's answer.
        """
        self._open, self._front = True, behind

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        async with self._reading:
            if self._front:
                size = len(self._front) if max_bytes is None else max_bytes
                front, self._front = self._front[:size], self._front[size:]
                self._noted()
                return front
            try:
                data = await self._stream.receive_some(max_bytes)
            except (trio.BrokenResourceError, trio.ClosedResourceError) as exc:
                self._failed(exc)
                raise
        if not data:
            self.eof = True
        if self.close_frame:
            self._part(len(data))
        self._noted()
        return data

    def _part(self, size: int) -> None:
        self._parting -= size
        if self._parting < 0:
            self.error = "the peer sends on, and does not close"
            self.abort()
            raise trio.BrokenResourceError(self.error)

    def _failed(self, exc: Exception) -> None:
        self.error = str(exc.__cause__ or exc) or "connection lost"

    def _greet(self, request: bytes) -> None:
        key = _KEY.search(request)
        assert key is not None
        self._front = _SWITCHED % accept_key(key[1].decode()).encode() + self._front
        self._greeted = True

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        if not self._open:
            await self._stream.send_all(data)
            return
        await trio.lowlevel.checkpoint()
        if not self._greeted:
            self._greet(bytes(data))
            return
        if data[0] == _PONG:
            if self._pongs >= _MOST_PONGS:
                return  # the peer need not get one for each PING (RFC 6455, section 5.5.3)
            self._pongs += 1
        elif data[0] == _CLOSE and not self.close_frame:
            self.close_frame = bytes(data)
        self._waiting += data
        if self.flushed.is_set():
            self.flushed = trio.Event()
        self._more.set()

    async def write(self) -> None:
        """Write what waits, until cancelled."""
        while True:
            await self._more.wait()
            self._more = trio.Event()
            data, self._waiting, self._pongs = bytes(self._waiting), bytearray(), 0
            last = bool(self.close_frame)
            await self._write(data)
            if last:
                self.closing.set()
            if not self._waiting:
                self.flushed.set()

    async def _write(self, data: bytes) -> None:
        view = memoryview(data)
        try:
            for begin in range(0, len(data), _PIECE):
                piece = view[begin : begin + _PIECE]
                await self._stream.send_all(piece)
                self.took(len(piece))
        except (trio.BrokenResourceError, trio.ClosedResourceError) as exc:
            self._failed(exc)

    async def wait_send_all_might_not_block(self) -> None:
        await trio.lowlevel.checkpoint()

    async def aclose(self) -> None:
        with trio.move_on_after(_LAST_WRITE):
            await self.flushed.wait()
        await self._stream.aclose()

    def abort(self) -> None:
        """Close the socket at once; whoever waits for it is told. Idempotent."""
        stream = self._stream
        lower = stream if isinstance(stream, trio.SocketStream) else stream.transport_stream
        lower.socket.close()
        self.closing.set()


def _parse_close(data: bytes) -> Close | None:
    """The code and reason of a close frame that trio-websocket sent; None: it sent none."""
    protocol = Protocol(SERVER, state=OPEN, max_size=None, logger=_log)
    protocol.receive_data(data)
    protocol.parser.close()  # it would keep its protocol until the collector comes
    return protocol.close_rcvd


class TrioWebSocketTransport(KernelTransport):
    """An open `WebSocketConnection`.

    Args:
        sock: below it; the transport closes it.
        line: between the two.
        websocket: the connection; nobody else uses it, or takes its messages.
        max_message_size: that the connection was given.
    """

    __slots__ = (
        "_aborted",
        "_ended",
        "_events",
        "_line",
        "_looked",
        "_nursery",
        "_pings",
        "_sending",
        "_sent",
        "_socket",
        "_something",
        "_stuck",
        "_taken",
        "_too_big",
        "_websocket",
        "peer",
    )

    _nursery: trio.Nursery

    def __init__(
        self,
        sock: socket.socket,
        line: ClientStream,
        websocket: WebSocketConnection,
        max_message_size: int,
    ) -> None:
        self._begin_looking(sock)
        self._line = line
        self._websocket = websocket
        #: What it says to a peer whose message was too big.
        self._too_big = f"Exceeded maximum message size: {max_message_size} bytes"
        self._events: list[Event] = []
        #: Set when bytes or events have come; when the events were taken; when nothing is being
        #: sent; when the closing handshake that we began is over.
        self._something = trio.Event()
        self._taken = trio.Event()
        self._sent = trio.Event()
        self._sent.set()
        self._ended = trio.Event()
        #: Bytes that are being sent.
        self._sending = 0
        self._pings = 0
        #: Makes the exception that says why it is over: each is raised once.
        self._aborted: Callable[[], OSError] | None = None
        line.note(self._something_came)
        line.took = self._took

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Take messages and send frames, until cancelled."""
        async with trio.open_nursery() as self._nursery:
            self._nursery.start_soon(self._line.write)
            task_status.started()
            try:
                await self._take_messages()
                await trio.sleep_forever()
            finally:
                self._fail(partial(ConnectionAbortedError, "transport has ended"))
                self._line.note(_nothing)
                self._line.took = _nothing

    async def _take_messages(self) -> None:
        try:
            while True:
                await self._offer(await self._websocket.get_message())
        except ConnectionClosed:
            self._conclude()

    async def _offer(self, event: Event) -> None:
        while self._events:
            self._taken = trio.Event()
            await self._taken.wait()
        self._add(event)

    def _add(self, event: Event) -> None:
        self._events.append(event)
        self._something_came()

    def _something_came(self) -> None:
        self._something.set()

    def _conclude(self) -> None:
        """Say how it ended: trio-websocket itself tells only a code and a reason."""
        closed, line = self._websocket.closed, self._line
        assert closed is not None
        code, reason = closed.code, closed.reason or ""
        if _parse_close(line.close_frame) == Close(1009, self._too_big):
            # Whatever it has read since.
            self._add(Failure(1009, self._too_big, None))
        elif line.close_frame:
            self._add(PeerClose(code, reason, None))  # which it has answered
        elif line.error is not None:
            self._fail(partial(ConnectionResetError, line.error))
        elif code == 1006:
            self._add(END_OF_STREAM)
        else:
            # It judges what breaks the protocol, and does not tell whoever broke it.
            self._add(Failure(code, reason, make_close(code, reason)))

    async def wait_readable(self, take: Take = awake) -> Sequence[Event]:
        while True:
            await self._something.wait()
            if self._aborted is not None and not self._events:
                raise self._aborted()
            if (events := take()) is not None:
                return events

    def receive_nowait(self) -> Sequence[Event]:
        events, self._events = self._events, []
        if self._aborted is None:
            self._something = trio.Event()
        self._taken.set()
        return events

    def write_nowait(self, item: Outgoing) -> int:
        return 0

    async def drain(self, outbox: Outbox) -> None:
        await self._sent.wait()
        if self._aborted is not None:
            raise self._aborted()
        if not outbox.size:  # it may have been emptied meanwhile
            return
        item = outbox.first
        size = len(item.frame)
        outbox.taken(size)
        self._sending = size
        self._sent = trio.Event()
        self._nursery.start_soon(self._send, item)
        await self._sent.wait()

    async def _send(self, item: Outgoing) -> None:
        try:
            match item:
                case Message():
                    await self._send_message(item.payload)
                case Beat(number, message):
                    await self._send_ping(number.to_bytes(PING_SIZE, "big"))
                    if message is not None:
                        await self._send_message(message)
                case CloseFrame():
                    await self._send_close(item)
                    await self._line.flushed.wait()
            # It answers PINGs itself, and the handshake is over: nothing else is to be sent.
        except ConnectionClosed:
            pass  # the reader learns why
        finally:
            self._sending = 0
            self._sent.set()

    async def _send_message(self, payload: str | bytes) -> None:
        await self._websocket.send_message(payload)
        await self._line.flushed.wait()

    async def _send_ping(self, payload: bytes) -> None:
        if self._pings < _MOST_PINGS:
            self._pings += 1
            self._nursery.start_soon(self._ping, payload)
        else:
            await self._websocket.pong(payload)

    async def _ping(self, payload: bytes) -> None:
        try:
            await self._websocket.ping(payload)
        except ConnectionClosed:
            return
        finally:
            self._pings -= 1
        self._add(Pong(int.from_bytes(payload, "big")))

    async def _send_close(self, close: CloseFrame) -> None:
        if self._websocket.closed is not None:
            # Then it sends nothing any more. A plain control frame's head takes two bytes.
            frame = Frame(Opcode.CLOSE, close.frame[2:])
            await self._line.send_all(frame.serialize(mask=True))
            return
        self._nursery.start_soon(self._close, close.code, close.reason)
        await self._line.closing.wait()

    async def _close(self, code: int, reason: str) -> None:
        await self._websocket.aclose(code, reason)
        self._ended.set()

    def stirring(self, queued: int) -> bool:
        return super().stirring(queued + self._sending)

    def close_frame(self, code: int, reason: str) -> CloseFrame:
        return make_close(code, reason)

    async def finish(self, *, answered: bool) -> None:
        if not answered:
            await self._ended.wait()
            return
        # The server closes the socket first (RFC 6455, section 7.1.1).
        while not self._line.eof:
            try:
                await self._line.receive_some()
            except (trio.BrokenResourceError, trio.ClosedResourceError) as exc:
                raise ConnectionResetError("connection lost") from exc

    def abort(self) -> None:
        self._fail(partial(ConnectionAbortedError, "socket was closed"))
        self._line.abort()

    def _fail(self, why: Callable[[], OSError]) -> None:
        self._aborted = self._aborted or why
        self._sent.set()
        self._something_came()
