"""How a connection ends.

======== ============================ ======== =====================================================
state    what happens                 then     how
======== ============================ ======== =====================================================
open     `end_nowait`, in any task    ending   as `WAYS` says for the reason
open     the peer closes              ending   by ``peer``; the tasks go on until the consumer has
                                               `finished`
open     the peer breaks the rules    open     until the consumer has `finished`; then it is
                                               ``protocol-error``, ``too-big`` or ``slow``
open     cancelled from outside       ending   by ``shutdown``, 1001, without a handshake
open     the application raises       ending   by ``handler``, 1011, without a handshake
open     an unexpected exception      ending   by ``internal-error``, 1011, without a handshake
ending   any of these                 ending   the first reason stands; what is raised, or a
                                               cancellation, cuts the handshake short
ending   `Life.run` is left           ended    the socket is closed, the end told and logged
======== ============================ ======== =====================================================

1. What ends an open connection sets `closed`, which was None, tells those that follow it
   (`following`), and sends or queues the close frame in the same step: no message follows it. Then
   the tasks are cancelled, and `_close` does the closing handshake. Where the peer closes or breaks
   the rules, the consumer first has `CLOSE_TIMEOUT` for what came before.
2. A dead or lost peer is aborted, not asked. Every other one gets a close frame and
   `CLOSE_TIMEOUT` seconds; without a handshake, `CANCELLED_TIMEOUT` for the close frame to go out.
3. An exception that nothing here expects ends this connection alone. It leaves `Life.run`, also
   where another task met it, and the server goes on (`Peers._contain`).
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Mapping
from typing import Final, NamedTuple, Self

import trio

from .._exceptions import Closed, ConnectionClosed, ConnectionLost, EndReason, split_unexpected
from .._log import get_logger
from .._protocol.messages import CloseFrame
from .._text import public_url
from .._transports import Transport
from .._transports.outbox import Outbox
from .expiry import Deadline
from .sending import Sending
from .shared import Shared

_log = get_logger("trio_beat.connection")

#: Seconds that the closing handshake may take (RFC 6455, section 7.1.1), and that a consumer has
#: for what the peer sent before it closed or broke the protocol.
CLOSE_TIMEOUT: Final = 5.0

#: Seconds for which the close frame of a cancelled connection may still be sent.
CANCELLED_TIMEOUT: Final = 1.0

#: What the peer of a cancelled connection is told.
CANCELLED: Final = "server is shutting down"


class Way(NamedTuple):
    """How a connection ends for one reason."""

    #: The socket is closed at once, without a close frame: the peer is dead or lost.
    abort: bool = False
    #: The messages that wait are dropped: they are of no use to the peer. Else they are sent, and
    #: the close frame behind them.
    drop: bool = False
    #: The peer owes a close frame, and it is waited for.
    owed: bool = False
    #: Neither side wanted it: `ConnectionLost` is raised, and cancels the block of a client.
    lost: bool = False


WAYS: Final[Mapping[EndReason, Way]] = {
    EndReason.PEER: Way(drop=True),
    EndReason.MISSED_BEATS: Way(abort=True, lost=True),
    EndReason.LOST: Way(abort=True, lost=True),
    EndReason.SLOW: Way(drop=True, owed=True, lost=True),
    EndReason.PROTOCOL_ERROR: Way(drop=True, lost=True),
    EndReason.TOO_BIG: Way(drop=True, lost=True),
    EndReason.TOO_FAST: Way(owed=True, lost=True),
    EndReason.INBOX_FULL: Way(owed=True, lost=True),
    EndReason.HANDLER: Way(owed=True),
    EndReason.SHUTDOWN: Way(owed=True),
    EndReason.REFUSED: Way(owed=True),
    EndReason.BACKEND_LOST: Way(owed=True),
    EndReason.EXPIRED: Way(owed=True),
    EndReason.DISCONNECTED: Way(owed=True),
    EndReason.INTERNAL_ERROR: Way(owed=True, lost=True),
}

#: What the transport fails with other than a violated protocol, by the close code.
_FAILURES: Final = {1009: EndReason.TOO_BIG, 1013: EndReason.SLOW}
_INTERNAL_ERROR: Final = Closed(EndReason.INTERNAL_ERROR, 1011, "internal error")


def is_lost(closed: Closed) -> bool:
    """Whether a connection ended in a way that neither side wanted."""
    # A peer that ends the stream without a close frame has not closed the connection either.
    return WAYS[closed.by].lost or (closed.by is EndReason.PEER and closed.code == 1006)


def ended(closed: Closed) -> ConnectionClosed:
    """Make the exception for a connection that ended in this way."""
    return ConnectionLost(closed) if is_lost(closed) else ConnectionClosed(closed)


async def _raise(exc: Exception) -> None:
    raise exc


class Ending(Sending):
    """The ending of a connection."""

    __slots__ = ("_deadline",)

    def __init__(self, transport: Transport, shared: Shared, path: str, response: bytes) -> None:
        super().__init__(transport, shared, path, response)
        #: When the peer's identity ends; None: never.
        self._deadline: Deadline | None = None

    def check_open(self) -> None:
        """Raise `ConnectionClosed` where the connection has ended."""
        if self.closed is not None:
            raise ended(self.closed)

    def end_nowait(self, by: EndReason, code: int, reason: str) -> None:
        """End the connection; does nothing once it has ended.

        A handler whose peer has closed keeps the time that it has for what came before.

        Args:
            by: why.
            code: close code that the peer is told.
            reason: text that the peer is told.
        """
        if self.closed is not None:
            return
        try:
            self._conclude(by, code, reason)
            if WAYS[by].abort:
                self._transport.abort()
            else:
                self._put(self._transport.close_frame(code, reason))
        except Exception as exc:  # the caller, as a server that drains, must not fail because of it
            self._failed(exc)
        self._nursery.cancel_scope.cancel()

    def abort(self) -> None:
        """Close the socket at once; where the connection is open, it is lost. Idempotent."""
        self._transport.abort()

    def gap_nowait(self) -> None:
        """End the connection, since messages for it may have been lost (`EndReason.BACKEND_LOST`).

        1012 asks the peer to come again (https://www.iana.org/assignments/websocket).
        """
        self.end_nowait(EndReason.BACKEND_LOST, 1012, "messages may have been lost, connect again")

    def expire_at(self, seconds: float | None) -> None:
        """End the connection (`EndReason.EXPIRED`) at this time, and not at one told before.

        Args:
            seconds: since 1970; None: never.
        """
        if self._deadline is not None:
            self.shared.expiry.let_go(self._deadline)
        self._deadline = None if seconds is None else self.shared.expiry.add(self, seconds)

    def at_end(self, call: Callable[[], object]) -> None:
        """Call something in the step in which the connection ends; once.

        Args:
            call: it neither waits nor raises.

        Raises:
            ConnectionClosed: it has ended.
        """
        self.check_open()
        self.shared.following.add(self, call)

    def not_at_end(self, call: Callable[[], object]) -> None:
        """Undo one `at_end`; does nothing once the connection has ended."""
        self.shared.following.remove(self, call)

    def start_soon(self, task: Callable[[Self], Awaitable[object]]) -> None:
        """Run a task in the connection's nursery; it is cancelled when the connection ends."""
        self._nursery.start_soon(task, self)

    def _lost(self, exc: OSError) -> None:
        # A peer that closed needs no answer, and the handler still has what came before.
        if self.closed is None:
            self.end_nowait(EndReason.LOST, 1006, str(exc))

    def _peer_closed(self, code: int, reason: str, reply: CloseFrame | None) -> None:
        """The peer has closed; `reply` is the answer, None where there is none to send."""
        self._end_by_peer(EndReason.PEER, code, reason, reply)

    def _violated(self, code: int, reason: str, reply: CloseFrame | None) -> None:
        """The transport failed; `reply` says why, None where the peer knows."""
        by = _FAILURES.get(code, EndReason.PROTOCOL_ERROR)
        self._end_by_peer(by, code, reason, reply)
        self._nursery.cancel_scope.cancel()

    def _end_by_peer(self, by: EndReason, code: int, reason: str, reply: CloseFrame | None) -> None:
        if self.closed is None:
            self._conclude(by, code, reason)
            if reply is not None:
                self._put(reply)

    def _failed(self, exc: Exception) -> None:
        if self.closed is None:
            self._set_closed(_INTERNAL_ERROR)
        if self._takes_tasks:
            self._nursery.start_soon(_raise, exc)
        else:  # what has ended the heartbeat leaves `run`, and this cannot
            _log.error("%s failed while it ended", self.peer, exc_info=exc)

    def _set_closed(self, closed: Closed) -> None:
        self.closed = closed
        self.shared.following.ended(self)

    def _conclude(self, by: EndReason, code: int, reason: str) -> None:
        """Note how an open connection ended; the close frame, where there is one, comes next."""
        self._set_closed(Closed(by, code, reason))
        if self.outbox is not None:
            if WAYS[by].drop:
                self.outbox.drop_all()
            self.outbox.emptied.set()

    async def _close(self) -> None:
        """Do the closing handshake, or what is left of it."""
        closed = self.closed
        assert closed is not None
        if closed.code == 1006:  # aborted, or the peer ended the stream: no frame can follow
            return
        with trio.move_on_after(CLOSE_TIMEOUT):
            await self._send_rest()
            try:
                await self._transport.finish(answered=not WAYS[closed.by].owed)
            except OSError as exc:
                _log.debug("%s closing handshake failed: %s", self.peer, exc)

    async def _interrupted(self, exc: BaseException, failure: BaseException | None) -> None:
        """Send a close frame, without a handshake: the tasks have ended by an exception.

        Args:
            exc: what they ended by.
            failure: what the application raised; None: nothing.
        """
        closed = self.closed
        if closed is None:
            closed = _why(exc, failure)
            self._set_closed(closed)
        elif closed.by is not EndReason.INTERNAL_ERROR:
            return  # the close frame was sent, or there is none to send
        if self.outbox is not None:
            self.outbox.emptied.set()
        close = self._transport.close_frame(closed.code, closed.reason)
        if self.outbox is None:
            self.outbox = Outbox(close)
        else:
            self.outbox.append(close)
        with trio.move_on_after(CANCELLED_TIMEOUT, shield=True):
            await self._send_rest()

    async def _send_rest(self) -> None:
        """Send what waits in the outbox, the close frame last; no other task writes any more."""
        try:
            while self.outbox is not None and self.outbox.size:
                await self._transport.drain(self.outbox)
        except OSError as exc:
            _log.debug("%s closing handshake failed: %s", self.peer, exc)

    def _report(self) -> None:
        """Tell the observer of the end, and log it."""
        assert self.closed is not None
        if (tell := self.shared.notify.ended) is not None:
            tell(self, self.closed)
        if not self.shared.ends.alone(self.closed.by, self.shared.clock.current_time()):
            return
        path = public_url(self.path)
        fields = {
            "peer": self.peer,
            "path": path,
            "by": self.closed.by,
            "code": self.closed.code,
        }
        _log.info("%s %s ended: %s", self.peer, path, self.closed, extra=fields)


def _why(exc: BaseException, failure: BaseException | None) -> Closed:
    """How a connection ends whose tasks ended by an exception."""
    unexpected, _ = split_unexpected(exc, failure)
    if unexpected is not None:
        return _INTERNAL_ERROR
    if trio.current_effective_deadline() == -math.inf:
        return Closed(EndReason.SHUTDOWN, 1001, CANCELLED)
    return Closed(EndReason.HANDLER, 1011, "internal error")
