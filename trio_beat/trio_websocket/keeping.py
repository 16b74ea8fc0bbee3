"""A heartbeat for a `WebSocketConnection` that a program has accepted, beside its own loop.

1. All that beat at one interval share a clock. Where the socket's buffer is empty and nobody sends,
   the PING is sent in its task, in one step. Else another task sends it, which waits where the
   program's own sending does. One is sent at a time, and to its end.
2. Where the kernel tells how many bytes came, each of them proves life, be it read or not. Where it
   does not, PONGs and messages do, and nobody is judged while the queue is full.
3. A beat is judged as that of any other connection (`Verdict`). Where the peer cannot send, since
   nothing is read, only the kernel judges, by what is not acknowledged.
4. A closing handshake is judged like that, too, since trio-websocket waits for it without a limit.
   No PING follows a close frame (RFC 6455, section 5.5.1), which itself asks for an answer.
5. A dead peer's stream is closed below trio-websocket, so that its reader and the program's
   `get_message` end. The closing handshake would wait for the peer.
"""

from __future__ import annotations

import random
from typing import Final

import trio
from trio_websocket import ConnectionClosed, WebSocketConnection
from wsproto.utilities import LocalProtocolError

from .._checks import check_kind
from .._exceptions import Closed, EndReason
from .._heartbeat import Heartbeat, Verdict
from .._log import get_logger
from .._metronome import Beat
from .._plain import plain
from .._protocol.frames import PING_SIZE
from .._transports.kernel import peer_name
from . import private
from .clock import beats
from .kernel import Kernel, Seen, Unread
from .stream import ServiceStream

_log = get_logger("trio_beat.trio_websocket")

#: PINGs that may wait for their PONG at a time, where these are waited for. Those behind them are
#: sent as PONGs, which ask for no answer (RFC 6455, section 5.5.3).
_MOST_PINGS: Final = 16
#: Seconds in which a PING that is being sent may still go out when the heartbeat is cancelled: over
#: TLS half of one would break the stream.
_LAST_SEND: Final = 1.0
#: Codes by which trio-websocket ends a connection whose peer broke the rules.
_VIOLATIONS: Final = frozenset({1002, 1003, 1007})


async def keep_alive(
    ws: WebSocketConnection,
    *,
    heartbeat: Heartbeat = Heartbeat(),  # noqa: B008 - immutable
) -> Closed:
    """Beat over a WebSocket that was accepted, and close it when its peer is dead.

    Runs beside the program's own loop (``nursery.start_soon(keep_alive, ws)``), until the WebSocket
    is closed. Then ``ws.get_message`` and ``ws.send_message`` raise
    `trio_websocket.ConnectionClosed`: a dead peer's has 1006. Messages are not touched: a text
    heartbeat that comes back is the program's to pass over.

    Args:
        ws: open; a server's or a client's.
        heartbeat: how it beats, and when its peer counts as dead.

    Returns:
        How it ended. Which side closed is not always known: what is not known to be the peer's
        close is ``handler``.

    Raises:
        TypeError: an argument is of another type.
        ValueError: `ws` is over a stream of a service, which beats by its own `keep_alive`.
    """
    check_kind("ws", ws, WebSocketConnection, "a trio_websocket.WebSocketConnection")
    check_kind("heartbeat", heartbeat, Heartbeat, "a Heartbeat")
    if type(private.stream(ws)) is ServiceStream:
        raise ValueError("ws is over a stream of a service: await service.keep_alive(ws)")
    keeper = _Keeper(ws, heartbeat)
    try:
        async with trio.open_nursery() as nursery:
            try:
                closed = await keeper.run(nursery)
            finally:
                keeper.finish_sending()
            nursery.cancel_scope.cancel()
    except BaseExceptionGroup as group:
        raised = plain(group)
    else:
        return closed
    try:
        raise raised
    finally:
        del raised  # its traceback refers to this frame


class _Keeper:
    """Beats, and judges."""

    def __init__(self, ws: WebSocketConnection, heartbeat: Heartbeat) -> None:
        self._ws = ws
        self._heartbeat = heartbeat
        self._verdict = Verdict(heartbeat.misses)
        sock = private.socket_of(ws)
        kernel = None if sock is None else Kernel(sock)
        self._kernel = kernel if kernel is not None and kernel.tells else None
        self._unread = None if sock is None or self._kernel is not None else Unread(sock)
        self._plain = isinstance(private.stream(ws), trio.SocketStream)
        #: None: `ws.ping` must be called, and waited for.
        self._send_ping = private.ping(ws)
        self._progress = private.progress(ws)
        self._sender: object = None
        #: What the last PING carried: a number that the program's own PINGs hardly have.
        self._number = random.getrandbits(32)
        self._pings = 0
        self._ponged = False
        #: Set by PONGs, where they are waited for; by what the PINGs carried.
        self._expected: dict[bytes, trio.Event] = {}
        #: Of the sending under way; None: there is none.
        self._sending: trio.CancelScope | None = None
        #: Cancelled when it is over: the peer is dead, or something was raised.
        self._waiting = trio.CancelScope()
        self._dead: Closed | None = None
        self._failure: BaseException | None = None

    async def run(self, nursery: trio.Nursery) -> Closed:
        """Beat until the WebSocket is closed."""
        self._nursery = nursery
        with self._waiting, beats(self._heartbeat.interval, self._beat, nursery):
            if (ended := private.ended(self._ws)) is not None:
                await ended.wait()
            else:
                await trio.sleep_forever()
        if self._failure is not None:
            raise self._failure
        if self._dead is not None:
            await self._abort(self._dead)
            return self._dead
        return _closed(self._ws)

    def _beat(self, beat: Beat) -> None:
        """Judge the last beat, and send the next one; called in the clock's task."""
        try:
            if not self._waiting.cancel_called and not self._is_over():
                self._dead = self._judge(whole=beat.whole)
                if self._dead is None:
                    if self._ws.closed is None:
                        self._start_sending()
                    return
        except BaseException as exc:  # it is the program's, and ends no other's beats
            self._failure = exc
        self._waiting.cancel()

    def _is_over(self) -> bool:
        """Whether it is closed, and not only being closed; `private.ended` does not tell of all."""
        if self._ws.closed is None:
            return False
        return private.ended(self._ws) is None or not private.is_read(self._ws)

    def _judge(self, *, whole: bool) -> Closed | None:
        """Judge the beat that has passed; None: the peer lives, as far as is known."""
        verdict = self._verdict
        seen = self._look()
        if seen is None or seen.excused:
            # Nothing counts, and nothing is forgiven.
            verdict.silent = verdict.listening = False
        elif seen.heard:
            verdict.heard()
            verdict.listen()
        else:
            verdict.listen()
        patience = (self._heartbeat.misses + 0.5) * self._heartbeat.interval
        if self._kernel is not None and self._kernel.unreachable(patience):
            return Closed(EndReason.LOST, 1006, "nothing is acknowledged")
        if verdict.beat(fair=whole, lossy=seen is not None and seen.lossy):
            return Closed(EndReason.MISSED_BEATS, 1006, f"{verdict.missed} in a row")
        return None

    def _look(self) -> Seen | None:
        """What is known of the last beat; None: nothing."""
        unsent = self._sending is not None
        for payload in [payload for payload, event in self._expected.items() if event.is_set()]:
            del self._expected[payload]
            self._ponged = True
        if self._kernel is not None:
            return self._kernel.look(unsent=unsent)
        full = private.queue_is_full(self._ws)
        if full is None:
            return None
        progress = private.progress(self._ws)
        heard = self._ponged or progress != self._progress
        self._ponged, self._progress = False, progress
        # A stream that takes some of a message takes the PING behind it later.
        before, self._sender = self._sender, private.sender(self._ws) if unsent else None
        takes = self._sender is not None and self._sender != before
        takes = takes or (self._unread is not None and self._unread.falls())
        return Seen(heard, full or takes, lossy=False)

    def _start_sending(self) -> None:
        if self._sending is not None:
            return
        awaited = private.awaited(self._ws)
        payload = self._next_payload()
        while payload in awaited:
            payload = self._next_payload()
        if self._kernel is not None and self._send_ping is not None and awaited:
            # A peer may answer the last PING only (RFC 6455, section 5.5.3); trio-websocket then
            # takes the program's PINGs before it as answered, where it knows ours.
            self._expects(payload)
        if self._plain and self._kernel is not None and self._kernel.idle:
            message = self._heartbeat.message
            with self._kernel.borrowed() as sock:
                if private.send_nowait(self._ws, sock, payload, message):
                    return
        self._sending = trio.CancelScope(shield=True)
        self._nursery.start_soon(self._send, self._sending, payload)

    def _next_payload(self) -> bytes:
        self._number = (self._number + 1) & 0xFFFFFFFF
        return self._number.to_bytes(PING_SIZE, "big")

    async def _send(self, scope: trio.CancelScope, payload: bytes) -> None:
        try:
            with scope:
                if self._send_ping is not None and (self._kernel or self._expects(payload)):
                    await self._send_ping(payload)
                elif self._send_ping is None and self._pings < _MOST_PINGS:
                    self._pings += 1
                    self._nursery.start_soon(self._ping, payload)
                else:
                    await self._ws.pong(payload)
                if self._heartbeat.message is not None:
                    await self._ws.send_message(self._heartbeat.message)
        except (ConnectionClosed, LocalProtocolError):
            pass  # which the next beat finds; the second: it is about to be closed
        finally:
            self._sending = None

    def _expects(self, payload: bytes) -> bool:
        """Whether the answer to a PING will be known."""
        if len(self._expected) >= _MOST_PINGS:
            return False
        event = private.expect_pong(self._ws, payload)
        if event is None:
            if self._kernel is None:
                self._send_ping = None  # then it is waited for
            return False
        self._expected[payload] = event
        return True

    async def _ping(self, payload: bytes) -> None:
        try:
            await self._ws.ping(payload)
            self._ponged = True
        except (ConnectionClosed, LocalProtocolError):
            pass
        finally:
            self._pings -= 1

    def finish_sending(self) -> None:
        """Give what is being sent a little time, and expect no answers."""
        for payload, event in self._expected.items():
            private.forget_pong(self._ws, payload, event)
        if self._sending is not None:
            self._sending.deadline = trio.current_time() + _LAST_SEND

    async def _abort(self, dead: Closed) -> None:
        if self._sending is not None:
            self._sending.cancel()
        # What trio-websocket says fails for a Unix socket, and once the peer is gone.
        sock = private.socket_of(self._ws)
        _log.info("%s ended: %s", self._ws if sock is None else peer_name(sock), dead)
        stream = private.stream(self._ws)
        if stream is not None:
            await trio.aclose_forcefully(stream)
            return
        with trio.move_on_after(0):  # it closes its stream all the same
            await self._ws.aclose(1001)


def _closed(ws: WebSocketConnection) -> Closed:
    closed = ws.closed
    if closed is None:  # a client's, and it was never open
        return Closed(EndReason.LOST, 1006, "")
    code, reason = int(closed.code), closed.reason or ""  # it may be an enumeration's
    if private.peer_closed(ws):
        return Closed(EndReason.PEER, code, reason)
    by = {1006: EndReason.LOST, 1009: EndReason.TOO_BIG}.get(code, EndReason.HANDLER)
    return Closed(EndReason.PROTOCOL_ERROR if code in _VIOLATIONS else by, code, reason)
