"""A transport over a `trio_websocket.WebSocketConnection`, which reads and writes by itself.

trio-websocket makes and parses the frames: it gets payloads, PINGs and close codes, and gives
messages. It does not look at a PONG before its application has taken the messages before it. So:

1. A `ClientStream` is between it and the socket.
2. One task takes its messages, one at a time: the peer feels back-pressure.
3. A PING is a task that waits for its PONG.
4. An item whose sending has begun is sent to its end, also where the task that waits for it is
   cancelled: sending is a task, too.

All of these tasks belong to `TrioWebSocketTransport.run`.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Sequence
from functools import partial
from typing import Final

import trio
from trio_websocket import ConnectionClosed, WebSocketConnection
from websockets.frames import Close, Frame, Opcode
from websockets.protocol import OPEN, SERVER, Protocol

from .._log import get_logger
from .._protocol.events import END_OF_STREAM, Event, Failure, PeerClose, Pong
from .._protocol.frames import PING_SIZE
from .._protocol.messages import BeatFrames, CloseFrame, Message, Outgoing, make_close
from . import Take, awake
from .client_stream import ClientStream, nothing
from .kernel import KernelTransport
from .outbox import Outbox

_log = get_logger("trio_beat.frames")

#: PINGs that may wait for their PONG at a time. Those behind them are sent as PONGs, which ask for
#: no answer (RFC 6455, section 5.5.3): they only keep bytes on the way.
_MOST_PINGS: Final = 16


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
        stream: between the two.
        websocket: the connection; nothing else uses it, or takes its messages.
        max_message_size: that the connection was given.
    """

    __slots__ = (
        "_aborted",
        "_ended",
        "_events",
        "_looked",
        "_nursery",
        "_pings",
        "_sending",
        "_sent",
        "_socket",
        "_something",
        "_stream",
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
        stream: ClientStream,
        websocket: WebSocketConnection,
        max_message_size: int,
    ) -> None:
        self._begin_looking(sock)
        self._stream = stream
        self._websocket = websocket
        #: The close reason that it gives a peer whose message was too big.
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
        stream.note(self._something_came)
        stream.took = self._took

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Take messages and send frames, until cancelled."""
        async with trio.open_nursery() as self._nursery:
            self._nursery.start_soon(self._stream.write)
            task_status.started()
            try:
                await self._take_messages()
                await trio.sleep_forever()
            finally:
                self._fail(partial(ConnectionAbortedError, "transport has ended"))
                self._stream.note(nothing)
                self._stream.took = nothing

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
        closed, stream = self._websocket.closed, self._stream
        assert closed is not None
        code, reason = closed.code, closed.reason or ""
        if _parse_close(stream.close_frame) == Close(1009, self._too_big):
            # Whatever it has read since.
            self._add(Failure(1009, self._too_big, None))
        elif stream.close_frame:
            self._add(PeerClose(code, reason, None))  # which it has answered
        elif stream.error is not None:
            self._fail(partial(ConnectionResetError, stream.error))
        elif code == 1006:
            self._add(END_OF_STREAM)
        else:
            # It notices what breaks the protocol, and does not tell the peer.
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
        size = item.size
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
                case BeatFrames(number, message):
                    await self._send_ping(number.to_bytes(PING_SIZE, "big"))
                    if message is not None:
                        await self._send_message(message)
                case CloseFrame():
                    await self._send_close(item)
                    await self._stream.flushed.wait()
            # It answers PINGs itself, and the handshake is over: nothing else is to be sent.
        except ConnectionClosed:
            pass  # the reader learns why
        finally:
            self._sending = 0
            self._sent.set()

    async def _send_message(self, payload: str | bytes) -> None:
        await self._websocket.send_message(payload)
        await self._stream.flushed.wait()

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
            await self._stream.send_all(frame.serialize(mask=True))
            return
        self._nursery.start_soon(self._close, close.code, close.reason)
        await self._stream.closing.wait()

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
        while not self._stream.eof:
            try:
                await self._stream.receive_some()
            except (trio.BrokenResourceError, trio.ClosedResourceError) as exc:
                raise ConnectionResetError("connection lost") from exc

    def abort(self) -> None:
        self._fail(partial(ConnectionAbortedError, "socket was closed"))
        self._stream.abort()

    def _fail(self, why: Callable[[], OSError]) -> None:
        self._aborted = self._aborted or why
        self._sent.set()
        self._something_came()
