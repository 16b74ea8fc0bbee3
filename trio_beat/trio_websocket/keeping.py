"""A heartbeat for a `WebSocketConnection` that a program has accepted, beside its own loop.

1. One task beats. Where the socket's buffer may not be empty, or TLS is above it, the PING is sent
   in another one, since it waits where the program's own sending does. One is sent at a time, and
   to its end.
2. Where the kernel tells how many bytes came, each of them proves life, be it read or not. Where it
   does not, PONGs and messages do, and nobody is judged while the queue is full.
3. A beat is judged as that of any other connection (`Verdict`). Where the peer cannot send, since
   nothing is read, only the kernel judges, by what is not acknowledged.
4. A dead peer's stream is closed below trio-websocket, so that its reader and the program's
   `get_message` end. The closing handshake would wait for the peer.
"""

from __future__ import annotations

import random
from typing import Final

import trio
from trio_websocket import ConnectionClosed, WebSocketConnection

from .._checks import check_kind
from .._exceptions import Closed, EndReason
from .._heartbeat import Heartbeat, Verdict
from .._log import get_logger
from .._plain import plain
from .._protocol.frames import PING_SIZE
from . import private
from .kernel import Kernel, Seen
from .stream import ServiceStream

_log = get_logger("trio_beat.trio_websocket")

#: PINGs that may wait for their PONG at a time, where these are waited for. Those behind them are
#: sent as PONGs, which ask for no answer (RFC 6455, section 5.5.3).
_MOST_PINGS: Final = 16
#: Seconds in which a PING that is being sent may still go out when the heartbeat is cancelled: over
#: TLS half of one would break the stream.
_LAST_SEND: Final = 1.0
#: Share of an interval by which a beat may be late; beyond that the process stood still.
_STALL: Final = 0.5
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
        self._plain = isinstance(private.stream(ws), trio.SocketStream)
        # Where bytes are counted, no PONG need be waited for.
        self._send_ping = None if self._kernel is None else private.ping(ws)
        self._progress = private.progress(ws)
        self._number = 0
        self._pings = 0
        self._ponged = False
        #: Of the sending under way; None: there is none.
        self._sending: trio.CancelScope | None = None

    async def run(self, nursery: trio.Nursery) -> Closed:
        """Beat until the WebSocket is closed."""
        interval = self._heartbeat.interval
        # Many that begin at a time are not to beat at a time.
        due = trio.current_time() + random.uniform(0, interval)  # noqa: S311 - guards nothing
        while True:
            await self._wait(due)
            if self._ws.closed is not None:
                return _closed(self._ws)
            late = trio.current_time() - due
            dead = self._judge(whole=late < interval * _STALL)
            if dead is not None:
                await self._abort(dead)
                return dead
            if self._sending is None:
                self._sending = trio.CancelScope(shield=True)
                if self._plain and self._kernel is not None and self._kernel.idle:
                    # Its buffer is empty, so that this takes no time; should it take some, nothing
                    # of so small a frame has been sent.
                    self._sending.deadline = trio.current_time() + _LAST_SEND
                    await self._send(self._sending, nursery)
                else:
                    nursery.start_soon(self._send, self._sending, nursery)
            due = max(due + interval, trio.current_time() + interval / 2)

    async def _wait(self, due: float) -> None:
        with trio.move_on_at(due):
            if (ended := private.ended(self._ws)) is not None:
                await ended.wait()
            else:
                await trio.sleep_forever()

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
        if self._kernel is not None:
            return self._kernel.look()
        full = private.queue_is_full(self._ws)
        if full is None:
            return None
        progress = private.progress(self._ws)
        heard = self._ponged or progress != self._progress
        self._ponged, self._progress = False, progress
        return Seen(heard, full, lossy=False)

    async def _send(self, scope: trio.CancelScope, nursery: trio.Nursery) -> None:
        self._number = (self._number + 1) & 0xFFFFFFFF
        payload = self._number.to_bytes(PING_SIZE, "big")
        try:
            with scope:
                if self._send_ping is not None:
                    await self._send_ping(payload)
                elif self._pings < _MOST_PINGS:
                    self._pings += 1
                    nursery.start_soon(self._ping, payload)
                else:
                    await self._ws.pong(payload)
                if self._heartbeat.message is not None:
                    await self._ws.send_message(self._heartbeat.message)
        except ConnectionClosed:
            pass  # which the next beat finds
        finally:
            self._sending = None

    async def _ping(self, payload: bytes) -> None:
        try:
            await self._ws.ping(payload)
            self._ponged = True
        except ConnectionClosed:
            pass
        finally:
            self._pings -= 1

    def finish_sending(self) -> None:
        """Give what is being sent a little time."""
        if self._sending is not None:
            self._sending.deadline = trio.current_time() + _LAST_SEND

    async def _abort(self, dead: Closed) -> None:
        if self._sending is not None:
            self._sending.cancel()
        _log.info("%s ended: %s", self._ws.remote, dead)
        stream = private.stream(self._ws)
        if stream is not None:
            await trio.aclose_forcefully(stream)
            return
        with trio.move_on_after(0):  # it closes its stream all the same
            await self._ws.aclose(1001)


def _closed(ws: WebSocketConnection) -> Closed:
    closed = ws.closed
    assert closed is not None
    code, reason = closed.code, closed.reason or ""
    if private.peer_closed(ws):
        return Closed(EndReason.PEER, code, reason)
    by = {1006: EndReason.LOST, 1009: EndReason.TOO_BIG}.get(code, EndReason.HANDLER)
    return Closed(EndReason.PROTOCOL_ERROR if code in _VIOLATIONS else by, code, reason)
