"""The stream below a `trio_websocket.WebSocketConnection` of a service.

1. It reads the request's head, and gives trio-websocket no byte behind it. Then nothing is read
   until it is decided what becomes of the peer.
2. The service may take it: trio-websocket is told that the stream has ended, and its reader's task
   ends. Everything else is the service's.
3. Or the service watches it, or runs a WebSocket that was accepted: a connection of this package
   reads and writes the socket. What comes for trio-websocket is given to it here; what it sends
   goes behind what waits, in whole frames, also where it is cancelled.
   Until the connection begins it waits, and so does the connection for a frame that is half sent.
4. Close frames are the connection's. One of trio-websocket's ends the connection, which then sends
   its own and waits for the peer's; in the end trio-websocket gets one that says how it ended.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable
from typing import Final, Protocol

import outcome
import trio
from trio_websocket import WebSocketConnection
from websockets.exceptions import ProtocolError
from websockets.frames import Close, Frame, Opcode

from .._connection.beating import Engine
from .._exceptions import Closed, ConnectionClosed, EndReason, Refused
from .._log import get_logger
from .._parking import Parking
from .._protocol.refusal import refusal_response
from .._server.pending import LINGER, FirstRequest
from .._server.refusals import Refusals
from .._turns import Turns
from .sockets import Pending

_log = get_logger("trio_beat.trio_websocket")

_CLOSE: Final = 0x80 | Opcode.CLOSE
_SWITCHING: Final = b"HTTP/1.1 101"
#: Codes by which trio-websocket ends a connection, without telling the peer; and what it tells one
#: whose message was too big.
_VIOLATIONS: Final = frozenset({1002, 1003, 1007})
_TOO_BIG: Final = "Exceeded maximum message size"
#: Codes that no close frame may have (RFC 6455, section 7.4.1).
_NO_FRAME: Final = frozenset({1004, 1006, 1015})
_NUMBERS: Final = itertools.count(1)


class Owner(Protocol):
    """What a stream needs of its service."""

    @property
    def turns(self) -> Turns: ...
    @property
    def refusals(self) -> Refusals: ...
    @property
    def timeout(self) -> float: ...
    def read(self, stream: ServiceStream) -> None:
        """The stream's head was read, or nothing will come of it."""

    def forget(self, stream: ServiceStream) -> None:
        """The service has taken it."""


class ServiceStream(trio.abc.Stream):
    """A peer's stream, as trio-websocket gets it.

    Args:
        pending: the socket.
        owner: the service.
    """

    __slots__ = (
        "__weakref__",
        "_abort",
        "_accepted",
        "_answered",
        "_attached",
        "_close",
        "_ended",
        "_engine",
        "_first",
        "_hungry",
        "_over",
        "_owner",
        "_pending",
        "_reader",
        "_rest",
        "_sending",
        "_taken",
        "_websocket",
        "name",
    )

    def __init__(self, pending: Pending, owner: Owner) -> None:
        self._pending: Pending | None = pending
        self._owner = owner
        #: Tells one stream from another: this is what trio-websocket has as its ``remote``.
        self.name = f"<stream {next(_NUMBERS)} of {pending.name}>"
        self._first: FirstRequest | None = None
        #: What trio-websocket's reader is given next; when that is over, the stream has ended.
        self._rest: bytes = b""
        self._over = False
        #: Where its reader waits; and set when it does.
        self._reader: Parking[bytes] = Parking()
        self._hungry: trio.Event | None = None
        #: It has sent the handshake's response; or another one.
        self._accepted = self._answered = False
        #: Set when what trio-websocket sends before the service has the socket is on its way.
        self._sending: trio.Event | None = None
        #: The service has the socket.
        self._taken = False
        #: Where it waits for the connection to begin; and the end that it has asked for until then.
        self._attached: trio.Event | None = None
        self._close: tuple[EndReason, int, str] | None = None
        self._abort: Callable[[], None] = pending.abort
        self._engine: Engine | None = None
        self._ended: trio.Event | None = None
        self._websocket: WebSocketConnection | None = None

    def __repr__(self) -> str:
        return self.name

    # What the service does.

    def take(self) -> tuple[Pending, FirstRequest]:
        """Take the socket, with its request: trio-websocket is told that the stream has ended."""
        if self._accepted or self._answered or (self._over and not self._taken):
            raise RuntimeError("the request was answered already, or its stream is closed")
        taken = self._release()
        self.end()
        return taken

    def closed_before(self, websocket: WebSocketConnection) -> Closed | None:
        """How a WebSocket ended that the service has not taken; None: it is open, or taken."""
        closed = websocket.closed
        if self._taken or closed is None:
            return None
        by = EndReason.LOST if closed.code == 1006 else EndReason.HANDLER
        return Closed(by, int(closed.code), closed.reason or "")  # it may be an enumeration's

    def lend(self, websocket: WebSocketConnection) -> tuple[Pending, FirstRequest]:
        """Take the socket of a WebSocket that was accepted; its reader waits here."""
        if not self._accepted:
            raise RuntimeError("the WebSocket is not accepted yet: await request.accept() first")
        taken = self._release()
        self._websocket = websocket
        self._ended = trio.Event()
        if self._reader.parked:
            self._reader.resume(outcome.Value(b""))  # without a time limit from now on
        return taken

    def _release(self) -> tuple[Pending, FirstRequest]:
        pending, first = self._pending, self._first
        if self._taken or pending is None or first is None:
            raise RuntimeError("the service has this WebSocket already, or it is closed")
        self._taken = True
        self._pending = self._first = None
        self._owner.forget(self)
        return pending, first

    @property
    def over(self) -> bool:
        """Whether it has ended."""
        return self._over

    async def settled(self) -> bool:
        """Wait for the end of a frame that is being sent, since nothing may stand in it.

        Returns:
            Whether it was sent; a peer that does not take it in time is aborted.
        """
        if self._sending is not None:
            with trio.move_on_after(self._owner.timeout):
                await self._sending.wait()
        if self._sending is not None:
            self._abort()
            self.end()
        return not self._over

    def owned_by(self, abort: Callable[[], None]) -> None:
        """Say what closes the socket from now on."""
        self._abort = abort

    def attach(self, engine: Engine) -> None:
        """What trio-websocket sends is this connection's from now on."""
        self._engine = engine
        self._wake_sender()
        if self._close is not None:
            engine.end_nowait(*self._close)

    def _wake_sender(self) -> None:
        if self._attached is not None:
            self._attached.set()

    def give_nowait(self, data: bytes) -> bool:
        """Give trio-websocket bytes; False: it has not dealt with those before yet."""
        if self._over:
            return True
        if not self._reader.parked or self._rest:
            return False
        self._reader.resume(outcome.Value(data))
        return True

    async def give(self, data: bytes) -> None:
        """Wait until trio-websocket takes bytes; where that is cancelled, it finds them later."""
        try:
            while not self.give_nowait(data):
                await self._get_hungry()
        except trio.Cancelled:
            self._rest += data
            raise

    async def given(self) -> None:
        """Wait until it has dealt with all that it was given."""
        while not self._over and (self._rest or not self._reader.parked):
            await self._get_hungry()

    async def _get_hungry(self) -> None:
        self._hungry = trio.Event()
        await self._hungry.wait()

    def conclude(self, closed: Closed, *, between: bool) -> None:
        """Tell trio-websocket how the connection ended.

        Args:
            closed: how.
            between: the last byte that it was given was the last of a frame.
        """
        data = b""
        if between and closed.code not in _NO_FRAME:
            close = Close(closed.code, closed.reason)
            payload = b"" if closed.code == 1005 else close.serialize()
            data = Frame(Opcode.CLOSE, payload).serialize(mask=True)
        self.end(data)
        if self._ended is not None:
            self._ended.set()

    def left(self) -> Closed:
        """Tell trio-websocket, and who asks, how it ended before a connection began."""
        closed = Closed(
            *self._close or (EndReason.LOST, 1006, "it ended before the connection began")
        )
        self.conclude(closed, between=False)
        return closed

    def end(self, data: bytes = b"") -> None:
        """End the stream behind these bytes. Idempotent."""
        if self._over:
            return
        self._over = True
        self._rest += data
        self._wake_sender()
        if self._hungry is not None:
            self._hungry.set()
        if self._reader.parked:
            self._reader.resume(outcome.Value(b""))

    # What trio-websocket does.

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        await trio.lowlevel.checkpoint_if_cancelled()
        if self._first is None and not self._taken and not self._over:
            await self._read_head()
        while not self._rest and not self._over:
            if self._hungry is not None:
                self._hungry.set()
                self._hungry = None
            if self._accepted and not self._taken:
                await self._wait_for_service()
            elif self._answered and not self._taken:
                # Closed, or rejected: trio-websocket waits for the peer to close.
                await self._linger()
                self.end()
                self._abort()
            else:
                given = await self._reader.park(_sleep_on)
                self._rest += given  # the end may have put something there meanwhile
        size = len(self._rest) if max_bytes is None else max_bytes
        first, self._rest = self._rest[:size], self._rest[size:]
        return first

    async def _read_head(self) -> None:
        pending, owner = self._pending, self._owner
        assert pending is not None
        try:
            self._first = pending.first = await self._head(pending)
        except Refused as refusal:
            owner.refusals.note(pending.peer, refusal)
            await pending.answer(refusal_response(refusal), owner.turns)
        except OSError as exc:
            _log.debug("%s left: %s", self.name, exc)
        finally:
            owner.read(self)
        if self._first is not None:
            self._rest = self._first.head.raw
            return
        self.end()
        self._abort()

    async def _head(self, pending: Pending) -> FirstRequest | None:
        timeout = self._owner.timeout
        with trio.move_on_after(timeout):
            await pending.begin()
            return await pending.read_head(self._owner.turns)
        raise Refused(408, f"no request within {timeout:g} s")

    async def _wait_for_service(self) -> None:
        with trio.move_on_after(self._owner.timeout) as scope:
            given = await self._reader.park(_sleep_on)
            self._rest += given
        if scope.cancelled_caught and not self._taken:
            _log.error(
                "%s was accepted, and within %g s neither run nor watched: it is closed; await "
                "service.run(ws) or service.keep_alive(ws)",
                self.name,
                self._owner.timeout,
            )
            self.end()
            self._abort()

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        sent = bytes(data)
        await trio.lowlevel.checkpoint()
        if self._taken:
            await self._send_frames(sent)
            return
        pending = self._pending
        if pending is None or self._over:
            raise trio.BrokenResourceError("the stream has ended")
        self._sending = trio.Event()
        try:
            await pending.send_all(sent)
        except OSError as exc:
            self._cut_off()
            raise trio.BrokenResourceError(str(exc)) from exc
        except trio.Cancelled:
            self._cut_off()
            raise
        finally:
            self._sending.set()
            self._sending = None
        if self._taken:
            return
        self._answered = True
        if self._accepted and sent[0] == _CLOSE:
            # Nothing can be done any more with the WebSocket but wait for the peer.
            self._accepted = False
        self._accepted = self._accepted or sent.startswith(_SWITCHING)
        if self._reader.parked:
            self._reader.resume(outcome.Value(b""))  # a time limit begins

    def _cut_off(self) -> None:
        """Half of a frame may have been sent."""
        self._abort()
        self.end()

    async def _send_frames(self, frames: bytes) -> None:
        if frames[0] == _CLOSE:
            self._end_engine(*_closing(frames))
            return
        if self._engine is None and not self._over:
            self._attached = trio.Event()
            await self._attached.wait()
        engine = self._engine
        if engine is None or self._over:
            raise trio.BrokenResourceError("the connection has ended")
        try:
            await engine.send_frames(frames)
        except ConnectionClosed as exc:
            raise trio.BrokenResourceError(str(exc)) from None

    def _end_engine(self, by: EndReason, code: int, reason: str) -> None:
        if self._engine is None:
            self._close = by, code, reason
        elif self._engine.closed is None:
            self._engine.end_nowait(by, code, reason)

    async def wait_send_all_might_not_block(self) -> None:
        await trio.lowlevel.checkpoint()
        if self._engine is not None:
            try:
                await self._engine.emptied()
            except ConnectionClosed as exc:
                raise trio.BrokenResourceError(str(exc)) from None

    async def aclose(self) -> None:
        try:
            if self._ended is not None and not self._ended.is_set():
                if self._close is None:
                    self._end_engine(*self.why())
                await self._ended.wait()
            elif self._pending is not None and self._answered and not self._over:
                self._pending.end_output()
                await self._linger()
        finally:
            self._abort()
            self._owner.read(self)
            self.end()
        await trio.lowlevel.checkpoint()

    async def _linger(self) -> None:
        """Give the peer time to read the answer; another task that closes meanwhile need not."""
        self._answered = False
        pending = self._pending
        if pending is not None:
            with contextlib.suppress(OSError):
                await pending.linger(self._owner.turns, trio.current_time() + LINGER)

    def why(self) -> tuple[EndReason, int, str]:
        """Why the connection ends where trio-websocket, or the program, sent no close frame."""
        closed = None if self._websocket is None else self._websocket.closed
        if closed is not None and closed.code in _VIOLATIONS:
            return EndReason.PROTOCOL_ERROR, closed.code, (closed.reason or "")[:40]
        return EndReason.HANDLER, 1000, ""


def _sleep_on() -> bytes | None:
    return None


def _closing(frame: bytes) -> tuple[EndReason, int, str]:
    """Why a connection ends for which trio-websocket sent a close frame."""
    try:
        # A control frame that is not masked: its head takes two bytes.
        code, reason = int(Close.parse(frame[2:]).code), Close.parse(frame[2:]).reason
    except (ProtocolError, UnicodeDecodeError):
        code, reason = 1000, ""
    if code == 1009 and reason.startswith(_TOO_BIG):
        return EndReason.TOO_BIG, code, reason
    return EndReason.HANDLER, code, reason
