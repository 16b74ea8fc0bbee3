"""One connection: a nursery, its reader, its heartbeat, and whom it serves.

::

    Connection.run            one nursery, one cancel scope
    ├── (the nursery's body)  the reader: waits for bytes, notes that the peer was heard, hands on
    │   └── _read             asked before it is woken: takes what nobody has to wait for
    ├── _beat                 the heartbeat: waits for its turn, judges the last beat, sends a PING
    │   └── _beat_on          asked before it is woken: sends a PING where there is nothing to judge
    ├── _flush                only while the socket does not take what is sent
    └── whatever the consumer starts: a handler, where an application supplied one

1. Whatever ends the connection calls `end_nowait`; the first reason stands. It cancels the scope,
   so that all tasks end, and `run` then says goodbye in the way that the reason asks for.
2. A dead or lost peer is aborted, not asked. Everybody else gets a close frame and
   `CLOSE_TIMEOUT` seconds.
3. Writing never waits: what the socket does not take at once goes to the outbox. A full outbox
   meets the slow policy.
4. An exception that nothing here expects ends this connection alone: it leaves `run`, also where
   another task met it, and the server goes on (`Server._contain`).
5. Until the consumer has opened the connection the outbox holds the handshake's response: whatever
   is sent meanwhile stands behind it, and a peer that sees the connection open is subscribed.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Final

import trio

from .._exceptions import Closed, EndReason, ended, split_unexpected
from .._heartbeat import Verdict
from .._log import get_logger
from .._metronome import Beat
from .._protocol.events import EndOfStream, Event, Failure, PeerClose, Pong, Reply
from .._protocol.frames import beat_frames, check_close, message_frame
from .._text import public_url
from .._transports import Transport
from .._transports.outbox import Outbox
from .terms import Consumer, SlowPolicy, Statistics, Terms

_log = get_logger("trio_beat.connection")

#: Seconds that the closing handshake may take (RFC 6455, section 7.1.1), and that a handler has to
#: deal with what the peer sent before it closed.
CLOSE_TIMEOUT: Final = 5.0

#: Seconds for which the close frame of a cancelled connection may still be sent.
PARTING_TIMEOUT: Final = 1.0

#: Bytes of PONGs that may wait in an outbox, full or not; no policy drops them.
_REPLIES: Final = 65536

#: Messages that connections send without waiting before other tasks get a turn: a turn costs as
#: much as a small message.
_TURN: Final = 16

_INTERNAL_ERROR: Final = Closed(EndReason.INTERNAL_ERROR, 1011, "internal error")
#: Whoever is dead or lost is not asked: the socket is closed at once.
_ABORTED: Final = frozenset({EndReason.MISSED_BEATS, EndReason.LOST})
#: Ends after which what still waits in the outbox is of no use to the peer.
_DISCARDING: Final = frozenset(
    {EndReason.PEER, EndReason.SLOW, EndReason.PROTOCOL_ERROR, EndReason.TOO_BIG}
)
#: What the transport fails with other than a violated protocol, by the close code.
_FAILED: Final = {1009: EndReason.TOO_BIG, 1013: EndReason.SLOW}
#: Ends after which the peer owes no close frame.
_ANSWERED: Final = frozenset({EndReason.PEER, EndReason.PROTOCOL_ERROR, EndReason.TOO_BIG})


async def _raise(exc: Exception) -> None:
    raise exc


class Connection:
    """A WebSocket connection whose peer is known to be alive.

    A server's application gets it in its handler, a client's from `connect`. Iterating over it
    gives the messages that come, until the connection has ended. Several tasks may send and
    receive at a time; each message goes to one of them.

    Attributes:
        path: the request's target, as it was sent.
        subprotocol: what the handshake agreed on, or None.
        latency: seconds that the last answered PING took to come back; None before the first.
        closed: how the connection ended; None while it is open.
    """

    __slots__ = (
        "__weakref__",
        "_consumer",
        "_dropped",
        "_nursery",
        "_outbox",
        "_ping",
        "_pinged_at",
        "_terms",
        "_transport",
        "_verdict",
        "closed",
        "latency",
        "path",
        "subprotocol",
    )

    _nursery: trio.Nursery

    def __init__(
        self,
        transport: Transport,
        terms: Terms,
        consumer: Consumer,
        *,
        path: str,
        subprotocol: str | None = None,
        response: bytes,
    ) -> None:
        self._transport = transport
        self._terms = terms
        self._consumer = consumer
        self._verdict = Verdict(terms.heartbeat.misses)
        #: Invariant: None exactly when nothing waits for the socket.
        self._outbox: Outbox | None = Outbox(response, keep=True)
        self._dropped = 0
        #: The oldest PING that waits for its PONG, or -1.
        self._ping = -1
        self._pinged_at = 0.0
        self.path = path
        self.subprotocol = subprotocol
        self.latency: float | None = None
        self.closed: Closed | None = None

    async def run(self) -> None:
        """Live: until the peer, the application, the server or silence ends it."""
        transport, verdict, consumer = self._transport, self._verdict, self._consumer
        try:
            try:
                async with trio.open_nursery() as self._nursery:
                    self._nursery.start_soon(self._beat, name="trio_beat heartbeat")
                    await consumer.opened(self)
                    self._let_go()
                    while self.closed is None:
                        verdict.listen()
                        try:
                            events = await transport.wait_readable(self._read)
                        except OSError as exc:
                            self._lost(exc)
                            break
                        for event in events:
                            await self._take(event)
                            del event  # others may never come here
                        del events
                    self._nursery.cancel_scope.cancel()
            except BaseException as exc:
                await self._interrupted(exc)
                raise
            await self._say_goodbye()
        finally:
            try:
                transport.abort()
            finally:
                try:
                    consumer.closed(self)
                finally:
                    self._report()

    def _read(self) -> Sequence[Event] | None:
        """Take what has come; None: that was all, and the reader listens on.

        Returns:
            What the reader's task has to take, since it may have to wait for somebody.
        """
        events = self._transport.receive_nowait()
        if events is None:
            return None
        verdict = self._verdict
        verdict.heard()
        rest = iter(events)
        for event in rest:
            if not self._took(event):
                return [event, *rest]
        verdict.listen()
        return None

    def _took(self, event: Event) -> bool:
        """Take an event, unless it may have to wait for somebody."""
        if type(event) is Pong:  # as most are: no pattern, which takes longer
            self._ponged(event.number)
        elif isinstance(event, str | bytes):
            if event != self._terms.heartbeat.message:
                return self._consumer.received_nowait(event)
        elif isinstance(event, Reply):
            self._reply(event.frame)
        else:
            return False
        return True

    async def _beat(self) -> None:
        # What is judged keeps its variables only for as long as it takes.
        seat = self._terms.metronome.seat()
        try:
            while self.closed is None:
                self._judge(await seat.beat(self._beat_on))
        finally:
            seat.leave()

    def _beat_on(self, beat: Beat) -> Beat | None:
        """Go on in place where the last beat is easily judged; else give this one back."""
        going = self.closed is None and self._outbox is None
        if not (going and beat.whole and self._verdict.clear):
            return beat
        self._judge(beat)
        return None

    def _judge(self, beat: Beat) -> None:
        """Judge the last beat, and send the next one where the connection goes on."""
        transport, verdict, heartbeat = self._transport, self._verdict, self._terms.heartbeat
        # Then the first silent beat is the last, and needs one before it to be compared with.
        strict = heartbeat.misses == 1
        silent, asked = verdict.silent, verdict.silent or strict
        stirring = asked and transport.stirring(self._waiting)
        fair = beat.whole and not (silent and stirring)
        lossy = silent and transport.lossy()
        # One that is asked once a beat cannot be exact: half a beat is granted.
        if not verdict.listening and transport.unreachable(
            (heartbeat.misses + 0.5) * heartbeat.interval
        ):
            self._lost(TimeoutError("nothing is acknowledged"))
        if verdict.beat(fair=fair, lossy=lossy):
            self.end_nowait(EndReason.MISSED_BEATS, 1006, f"{verdict.missed} in a row")
        if self.closed is None:
            transport.rest(
                heard=not (silent or verdict.missed or strict),
                listening=beat.whole and verdict.listening,
            )
            self._send_beat(beat)

    async def _flush(self) -> None:
        outbox = self._outbox
        assert outbox is not None
        try:
            while outbox.size:
                await self._transport.drain(outbox)
        except OSError as exc:
            self._lost(exc)
        else:
            self._outbox = None
            outbox.emptied.set()

    async def _take(self, event: Event) -> None:
        if self._took(event):
            return
        match event:
            case str() | bytes():
                await self._consumer.received(self, event)
            case Failure(code, reason, frame):
                with trio.move_on_after(CLOSE_TIMEOUT):
                    await self._consumer.caught_up()
                by = _FAILED.get(code, EndReason.PROTOCOL_ERROR)
                self.end_nowait(by, code, reason, frame=frame)
            case PeerClose(code, reason, frame):
                await self._peer_closed(code, reason, frame)
            case EndOfStream():
                await self._peer_closed(1006, "no close frame", b"")

    def _reply(self, frame: bytes) -> None:
        outbox = self._outbox
        if outbox is None:
            self.deliver_nowait(frame)
        elif outbox.replies < _REPLIES:
            # A peer may well PING while it takes a message that is larger than the outbox.
            outbox.append_reply(frame)
        else:
            self.end_nowait(EndReason.SLOW, 1013, "too slow, too many PONGs wait")

    def _ponged(self, number: int) -> None:
        if number == self._ping:
            self.latency = self._terms.clock.current_time() - self._pinged_at
        if number >= 0:
            # It answers one of ours, and so for those before it (section 5.5.3).
            self._ping = -1

    async def _peer_closed(self, code: int, reason: str, frame: bytes) -> None:
        self._conclude(EndReason.PEER, code, reason, frame)
        with trio.move_on_after(CLOSE_TIMEOUT):
            await self._consumer.finished(self)

    def _send_beat(self, beat: Beat) -> None:
        if self._ping < 0:
            self._ping, self._pinged_at = beat.number, self._terms.clock.current_time()
        frames = beat_frames(beat.number, self._terms.heartbeat.message)
        if self._outbox is None:
            self._put(frames)
        else:
            self._outbox.append_beat(frames)

    def _let_go(self) -> None:
        """The connection is open: let the handshake's response go, and what stands behind it."""
        outbox = self._outbox
        assert outbox is not None
        try:
            outbox.taken(self._transport.write_nowait(b"".join(outbox.buffers())))
        except OSError as exc:
            self._lost(exc)
            return
        if outbox.size:
            outbox.keep()
            self._start_flushing()
        else:
            self._outbox = None

    def _write(self, frame: bytes) -> None:
        """Send a frame, or let it wait, or say that there is no room for it."""
        outbox = self._outbox
        if outbox is not None and outbox.size >= self._terms.outbox_size:
            if self._terms.slow_policy is SlowPolicy.DISCONNECT:
                self.end_nowait(EndReason.SLOW, 1013, "too slow, outbox full")
                return
            dropped = outbox.drop_oldest(self._terms.outbox_size)
            self._dropped += dropped
            self._terms.dropped += dropped
        self._put(frame)

    def _put(self, frame: bytes) -> None:
        if self._outbox is not None:
            self._outbox.append(frame)
            return
        try:
            taken = self._transport.write_nowait(frame)
        except OSError as exc:
            self._lost(exc)
            return
        if taken < len(frame):
            self._outbox = Outbox(frame, taken)
            self._start_flushing()

    def _start_flushing(self) -> None:
        # A nursery that is closed takes no more tasks: then the goodbye sends what waits.
        with contextlib.suppress(RuntimeError):
            self._nursery.start_soon(self._flush, name="trio_beat flush")

    def _lost(self, exc: OSError) -> None:
        # A peer that closed needs no answer, and the handler still has what came before.
        if self.closed is None:
            self.end_nowait(EndReason.LOST, 1006, str(exc))

    def _conclude(self, by: EndReason, code: int, reason: str, frame: bytes | None) -> None:
        """Note how the connection ended, and send the close frame. The first reason stands."""
        if self.closed is not None:
            return
        self.closed = Closed(by, code, reason)
        if self._outbox is not None:
            if by in _DISCARDING:
                self._outbox.drop_all()
            self._outbox.emptied.set()
        if by in _ABORTED:
            self._transport.abort()
        elif frame is None:
            self._put(self._transport.close_frame(code, reason))
        elif frame:
            self._put(frame)

    async def _interrupted(self, exc: BaseException) -> None:
        """Cancelled from outside, or the application or this package failed: no handshake."""
        if self.closed is None:
            self.closed = self._why(exc)
        elif self.closed.by is not EndReason.INTERNAL_ERROR:
            return
        if self._outbox is not None:
            self._outbox.emptied.set()
        frame = self._transport.close_frame(self.closed.code, self.closed.reason)
        if self._outbox is None:
            self._outbox = Outbox(frame)
        else:
            self._outbox.append(frame)
        with trio.move_on_after(PARTING_TIMEOUT, shield=True):
            await self._send_rest()

    def _why(self, exc: BaseException) -> Closed:
        unexpected, _ = split_unexpected(exc, self._consumer.failure)
        if unexpected is not None:
            return _INTERNAL_ERROR
        if trio.current_effective_deadline() == -math.inf:
            return Closed(EndReason.SHUTDOWN, 1001, "server is shutting down")
        return Closed(EndReason.HANDLER, 1011, "internal error")

    def _failed(self, exc: Exception) -> None:
        """Another task has met what nothing expects of this connection: `run` raises it."""
        if self.closed is None:
            self.closed = _INTERNAL_ERROR
        # A nursery that is closed takes no more tasks: then there is nothing left to end.
        with contextlib.suppress(RuntimeError):
            self._nursery.start_soon(_raise, exc)

    async def _say_goodbye(self) -> None:
        """The closing handshake, or what is left of it."""
        closed = self.closed
        assert closed is not None
        if closed.code == 1006:
            return
        with trio.move_on_after(CLOSE_TIMEOUT):
            await self._send_rest()
            try:
                await self._transport.finish(answered=closed.by in _ANSWERED)
            except OSError as exc:
                _log.debug("%s goodbye failed: %s", self.peer, exc)

    async def _send_rest(self) -> None:
        """Send what waits in the outbox, the close frame last; nobody else writes any more."""
        try:
            while self._outbox is not None and self._outbox.size:
                await self._transport.drain(self._outbox)
        except OSError as exc:
            _log.debug("%s goodbye failed: %s", self.peer, exc)

    def _report(self) -> None:
        assert self.closed is not None
        self._terms.ended[self.closed.by] += 1
        if not self._terms.ends.alone(self.closed.by, self._terms.clock.current_time()):
            return
        path = public_url(self.path)
        fields = {
            "peer": self.peer,
            "path": path,
            "by": self.closed.by,
            "code": self.closed.code,
        }
        _log.info("%s %s ended: %s", self.peer, path, self.closed, extra=fields)

    # What the rest of the server does with a connection.

    def start_soon(self, task: Callable[[Connection], Awaitable[object]]) -> None:
        """Run a task in the connection's nursery."""
        self._nursery.start_soon(task, self)

    def deliver_nowait(self, frame: bytes) -> None:
        """Send a frame that was made for many; does nothing once the connection has ended."""
        if self.closed is None:
            try:
                if self._outbox is None:  # as for most: no limit to look at
                    self._put(frame)
                else:
                    self._write(frame)
            except Exception as exc:  # who publishes must not end of it
                self._failed(exc)

    def end_nowait(
        self, by: EndReason, code: int, reason: str, *, frame: bytes | None = None
    ) -> None:
        """End the connection; does nothing once it has ended.

        So a handler whose peer has closed keeps the time that it was promised.

        Args:
            by: why.
            code: close code that the peer is told.
            reason: text that the peer is told.
            frame: a close frame that is already made; None: one is made.
        """
        if self.closed is not None:
            return
        try:
            self._conclude(by, code, reason, frame)
        except Exception as exc:  # who ends it, as the server does in draining, must not end of it
            self._failed(exc)
        self._nursery.cancel_scope.cancel()

    # What an application does with a connection.

    async def send(self, message: str | bytes) -> None:
        """Send a message, text or binary by its type.

        Waits while earlier ones wait for the peer to take them, and until this one is on its way.
        Where nothing needs to wait, this can always be cancelled, and lets other tasks run at
        regular counts.

        Raises:
            ConnectionClosed: the connection has ended.
            TypeError: the message is neither text nor bytes; nothing is sent.
            ValueError: it is a text with surrogates, which cannot be encoded; nothing is sent.
        """
        frame = message_frame(message)
        terms = self._terms
        terms.sends += 1
        if terms.sends % _TURN:
            await trio.lowlevel.checkpoint_if_cancelled()
        else:
            await trio.lowlevel.checkpoint()
        if self._outbox is not None:
            await self._emptied()
        self.send_frame_nowait(frame)
        if self._outbox is not None:
            await self._emptied()

    def send_nowait(self, message: str | bytes) -> None:
        """Send a message without waiting; where the peer is slow it waits in the outbox.

        Raises:
            ConnectionClosed: the connection has ended, or did now because its outbox was full.
            TypeError, ValueError: as for `send`.
        """
        self.send_frame_nowait(message_frame(message))

    def send_frame_nowait(self, frame: bytes) -> None:
        """Like `send_nowait`, for a message that is a frame already."""
        self._check_open()
        try:
            self._write(frame)
        except Exception as exc:  # of this package: no bug of the application's
            self._failed(exc)
        self._check_open()

    @property
    def _waiting(self) -> int:
        return 0 if self._outbox is None else self._outbox.size

    async def _emptied(self) -> None:
        while self._outbox is not None:
            self._check_open()
            await self._outbox.emptied.wait()

    def _check_open(self) -> None:
        if self.closed is not None:
            raise ended(self.closed)

    async def receive(self) -> str | bytes:
        """Wait for the next message; text heartbeats are not among them.

        Raises:
            ConnectionClosed: the peer has closed, and all that it sent was received.
        """
        try:
            return await self._consumer.receive()
        except trio.EndOfChannel:
            self._check_open()
            raise

    def __aiter__(self) -> AsyncIterator[str | bytes]:
        return self

    async def __anext__(self) -> str | bytes:
        # Not by way of `receive`: a handler that waits would keep one more coroutine.
        try:
            return await self._consumer.receive()
        except trio.EndOfChannel:
            if self.closed is None:
                raise
            raise StopAsyncIteration from None

    async def aclose(self, code: int = 1000, reason: str = "") -> None:
        """Close the connection.

        A server's handler is cancelled, also where it is the one that asks; a client's block goes
        on.

        The close frame is sent at once; the handshake goes on in the connection's own task.

        Args:
            code: close code (RFC 6455, section 7.4).
            reason: at most 123 bytes of UTF-8.

        Raises:
            TypeError: the code is no whole number, or the reason no text.
            ValueError: the code may not be sent, or the reason is too long or cannot be encoded.
        """
        check_close(code, reason)
        self.end_nowait(EndReason.HANDLER, code, reason)
        await trio.lowlevel.checkpoint()

    @property
    def failure(self) -> BaseException | None:
        """What the application raised, and `run` with it; None: nothing."""
        return self._consumer.failure

    @property
    def peer(self) -> str:
        """The peer's address, for people."""
        return self._transport.peer

    def statistics(self) -> Statistics:
        """The connection at this moment."""
        return Statistics(self._verdict.missed, self.latency, self._waiting, self._dropped)
