"""The life of a connection: one nursery, its reader, its heartbeat, and its application side.

::

    Life.run                  one nursery, one cancel scope
    ├── (the nursery's body)  the reader: waits for bytes, notes that the peer was heard, hands on
    │   └── _read             asked before it is woken: takes what needs no waiting
    ├── _beat                 the heartbeat: waits for its turn, judges the last beat, sends a PING
    │   └── _beat_on          asked before it is woken: sends a PING where there is nothing to judge
    ├── _flush                only while the socket does not take what is sent
    └── what the consumer starts: a handler, where an application supplied one

1. What ends the connection, in whatever task, calls `end_nowait` (`ending`); the first reason
   stands. It cancels the scope: all tasks end, and `run` then closes the connection in the way that
   the reason asks for.
2. Writing never waits (`sending`). The reader waits for its consumer, and while the peer is over
   its rate (`holding`); nothing else waits.
3. A quiet connection switches to none of its tasks (`beating`).
"""

from __future__ import annotations

from collections.abc import Sequence

import trio

from .._exceptions import EndReason
from .._protocol.events import EndOfStream, Event, Failure, PeerClose, Pong
from .._protocol.messages import Reply
from .._transports import Transport
from .consumer import Consumer
from .ending import CANCELLED, CLOSE_TIMEOUT
from .holding import Holding
from .shared import Shared


class Life(Holding):
    """One connection; `run` lives it.

    Args:
        transport: reaches the peer.
        shared: what it has in common with others.
        consumer: its application side.
        path: the request's target, as it was sent.
        response: the handshake's, to be sent once the consumer has opened the connection.
    """

    __slots__ = ("_consumer",)

    def __init__(
        self,
        transport: Transport,
        shared: Shared,
        consumer: Consumer,
        *,
        path: str,
        response: bytes,
    ) -> None:
        super().__init__(transport, shared, path, response)
        self._consumer = consumer

    async def run(self) -> None:
        """Run the connection until it has ended; it is closed when this is left.

        Raises:
            Exception: what the application raised (see `failure`), or what nothing here expects.
            trio.Cancelled: the surrounding scope was cancelled; the close frame was sent.
        """
        transport, verdict, consumer = self._transport, self._verdict, self._consumer
        transport.attach(self)
        try:
            try:
                if (tell := self.shared.notify.opened) is not None:
                    tell(self)
                async with trio.open_nursery() as self._nursery:
                    self._nursery.start_soon(self._beat, name="trio_beat heartbeat")
                    await consumer.opened(self)
                    self._send_response()
                    while self.closed is None:
                        if self._owes:
                            await self._hold()
                        verdict.listen()
                        try:
                            events = await transport.wait_readable(self._read)
                        except OSError as exc:
                            self._lost(exc)
                            break
                        for event in events:
                            await self._take(event)
                            del event  # a connection that is quiet from now on would keep it
                        del events
                    self._nursery.cancel_scope.cancel()
            except BaseException as exc:
                await self._interrupted(exc, consumer.failure)
                raise
            if self.closed is None:
                # Cancelled from outside, and shielded before the tasks had ended, as a client's
                # session may be: then the nursery keeps the cancellation to itself.
                self.end_nowait(EndReason.SHUTDOWN, 1001, CANCELLED)
            await self._close()
        finally:
            try:
                transport.abort()
            finally:
                try:
                    consumer.closed(self)
                finally:
                    self.expire_at(None)
                    self._report()

    def _read(self) -> Sequence[Event] | None:
        """Take what has come; None: that was all, and the reader listens on.

        Returns:
            What the reader's task has to take, since that may have to wait.
        """
        events = self._transport.receive_nowait()
        if events is None:
            return None
        verdict = self._verdict
        verdict.heard()
        if (pacing := self.shared.pacing) is not None:
            self._count_read(pacing, events)
        rest = iter(events)
        for event in rest:
            if not self._took(event):
                return [event, *rest]
        if (pace := self._pace) is not None and pace.owes:
            return ()
        verdict.listen()
        return None

    def _took(self, event: Event) -> bool:
        """Take an event, unless that may have to wait."""
        if type(event) is Pong:  # as most are: no pattern, which takes longer
            self._ponged(event.number)
        elif isinstance(event, str | bytes):
            # With -bb it is an error to compare bytes with a text.
            if isinstance(event, bytes) or event != self.shared.heartbeat.message:
                return self._passed(event)
        elif isinstance(event, Reply):
            self._send_reply(event)
        else:
            return False
        return True

    def _passed(self, message: str | bytes) -> bool:
        """Hand a message on, unless that may have to wait."""
        if (pace := self._pace) is None:  # nothing is counted
            return self._consumer.received_nowait(message)
        if pace.turns < 1 and not self._may_pass(pace):
            return False
        if not self._consumer.received_nowait(message):
            return False
        pace.turns -= 1
        return True

    async def _take(self, event: Event) -> None:
        """Take an event, and wait where it needs that."""
        if self._took(event):
            return
        match event:
            case str() | bytes():
                await self._wait_for_turn()
                await self._consumer.received(self, event)
            case Failure(code, reason, reply):
                await self._finish()
                self._violated(code, reason, reply)
            case PeerClose(code, reason, reply):
                self._peer_closed(code, reason, reply)
                await self._finish()
            case EndOfStream():
                self._peer_closed(1006, "no close frame", None)
                await self._finish()

    async def _finish(self) -> None:
        """Give the application side time for what came before the end."""
        with trio.move_on_after(CLOSE_TIMEOUT):
            await self._consumer.finished(self)

    @property
    def user(self) -> str | None:
        """The peer's user; None: not known."""
        return self._consumer.user

    @property
    def session(self) -> str | None:
        """The key of the peer's session; None: there is none."""
        return self._consumer.session

    @property
    def failure(self) -> BaseException | None:
        """What the application raised, and `run` with it; None: nothing."""
        return self._consumer.failure
