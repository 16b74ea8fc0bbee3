"""Holds back a peer that sends faster than it may.

1. Bytes count when they are read, messages when they are handed on. Text heartbeats and control
   frames are no messages. A connection that only answers PINGs has no pace.
2. Over its rate, the connection's reader waits. That is not silence (rule 1 of the design): the
   verdict does not listen meanwhile, and the kernel slows the peer down.
3. Who is held back again before `BREAK` is over has had no break. Without one, a peer is
   disconnected after `PATIENCE`.
"""

from __future__ import annotations

from collections.abc import Sequence

import trio

from .._exceptions import EndReason
from .._protocol.events import Event, Pong
from .._transports import Transport
from .beating import Beating
from .pacing import BREAK, PAUSE, Pace, Pacing
from .shared import Shared


class Holding(Beating):
    """The pace of a connection's peer."""

    __slots__ = ("_pace",)

    def __init__(self, transport: Transport, shared: Shared, path: str, response: bytes) -> None:
        super().__init__(transport, shared, path, response)
        #: None: nothing came lately that counts, or nothing is counted.
        self._pace: Pace | None = None

    def _count_read(self, pacing: Pacing, events: Sequence[Event]) -> None:
        """Count the bytes of a read.

        Args:
            pacing: how fast the peer may send.
            events: what they were.
        """
        pace = self._pace
        if self._is_beat(events) and (pace is None or self._is_spent(pacing, pace)):
            self._pace = None
            return
        if pace is None:
            pace = self._pace = pacing.make(self.shared.clock.current_time())
        pace.room -= self._transport.read_size
        if pace.room < 0:
            pacing.let_read(pace, self.shared.clock.current_time())

    def _is_spent(self, pacing: Pacing, pace: Pace) -> bool:
        """Whether a pace can be forgotten: nothing is left of what the peer has sent."""
        if pace.owes or pace.room < 0:
            return False
        return pacing.is_over(pace, self.shared.clock.current_time())

    def _is_beat(self, events: Sequence[Event]) -> bool:
        """Whether a read is the answer to a beat: a PONG, maybe with a text heartbeat.

        No message may come with it: it would not be counted, and each PONG would let some pass.
        """
        if len(events) > 2:
            return False
        answered = False
        for event in events:
            if type(event) is Pong:
                answered = answered or event.number == self._ping
            elif type(event) is not str or event != self.shared.heartbeat.message:
                return False
        return answered

    def _may_pass(self, pace: Pace) -> bool:
        """Whether a message may be handed on."""
        pacing = self.shared.pacing
        assert pacing is not None
        return pacing.let_pass(pace, self.shared.clock.current_time())

    async def _wait_for_turn(self) -> None:
        """Wait until a message may be handed on, and count it."""
        if (pace := self._pace) is not None:
            while not self._may_pass(pace):
                await self._hold()
            pace.turns -= 1

    @property
    def _owes(self) -> bool:
        """Whether no more bytes may be read now."""
        return self._pace is not None and self._pace.owes

    async def _hold(self) -> None:
        """Wait until the peer may send on, or disconnect it."""
        pace, pacing = self._pace, self.shared.pacing
        assert pace is not None
        assert pacing is not None
        now = trio.current_time()
        if now > pace.released_at + BREAK:
            pace.held_since = now
            if (tell := self.shared.notify.limited) is not None:
                tell(self.peer, pacing.exceeded(pace))
        until = max(now + PAUSE, pacing.free_at(pace))
        if pacing.patience is not None and until >= (latest := pace.held_since + pacing.patience):
            await trio.sleep_until(latest)
            text = f"too fast for {pacing.patience:g} s"
            self.end_nowait(EndReason.TOO_FAST, 1008, text)
            await trio.sleep_forever()  # until the scope, which is cancelled now, ends this
        await trio.sleep_until(until)
        pace.released_at = trio.current_time()
        pacing.let_read(pace, pace.released_at)
