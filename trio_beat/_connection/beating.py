"""The heartbeat of a connection: judges the last beat, and sends the next PING.

1. `_beat_on` is asked at each beat, in the metronome's task. Where there is nothing to judge and
   nothing waits, it sends the PING in place, and the heartbeat's task is not woken.
2. Everything else is judged by the heartbeat's task: `Verdict` decides, and the transport tells
   what may excuse a silent peer.
3. A PONG answers its PING and all before (RFC 6455, section 5.5.3). The oldest PING that waits for
   one is timed.
"""

from __future__ import annotations

from typing import TypeAlias

from .._exceptions import EndReason
from .._heartbeat import Verdict
from .._metronome import Beat
from .._protocol.messages import make_beat
from .._transports import Transport
from .ending import Ending
from .shared import Shared


class Beating(Ending):
    """The heartbeat of a connection."""

    __slots__ = ("_ping", "_pinged_at", "_verdict")

    def __init__(self, transport: Transport, shared: Shared, path: str, response: bytes) -> None:
        super().__init__(transport, shared, path, response)
        self._verdict = Verdict(shared.heartbeat.misses)
        #: The oldest PING that waits for its PONG, or -1.
        self._ping = -1
        self._pinged_at = 0.0

    @property
    def missed(self) -> int:
        """Beats that the peer has missed in a row."""
        return self._verdict.missed

    async def _beat(self) -> None:
        # Judged in a call: variables of this coroutine would live as long as the connection.
        seat = self.shared.metronome.seat()
        try:
            while self.closed is None:
                self._judge(await seat.beat(self._beat_on))
        finally:
            seat.leave()

    def _beat_on(self, beat: Beat) -> Beat | None:
        """Go on in place where the last beat is easily judged; else give this one back."""
        going = self.closed is None and self.outbox is None
        if not (going and beat.whole and self._verdict.clear):
            return beat
        self._judge(beat)
        return None

    def _judge(self, beat: Beat) -> None:
        """Judge the last beat, and send the next one where the connection goes on."""
        transport, verdict, heartbeat = self._transport, self._verdict, self.shared.heartbeat
        # Then the first silent beat is the last, and needs one before it to be compared with.
        strict = heartbeat.misses == 1
        silent, asked = verdict.silent, verdict.silent or strict
        stirring = asked and transport.stirring(self.waiting)
        fair = beat.whole and not (silent and stirring)
        lossy = silent and transport.lossy()
        # One that is asked once a beat cannot be exact: half a beat is granted.
        if not verdict.listening and transport.unreachable(
            (heartbeat.misses + 0.5) * heartbeat.interval
        ):
            self._lost(TimeoutError("nothing is acknowledged"))
        dead = verdict.beat(fair=fair, lossy=lossy)
        if (tell := self.shared.notify.beat) is not None:
            tell(self, verdict.missed, self.latency)
        if dead:
            self.end_nowait(EndReason.MISSED_BEATS, 1006, f"{verdict.missed} in a row")
        if self.closed is None:
            transport.rest(
                heard=not (silent or verdict.missed or strict),
                listening=beat.whole and verdict.listening,
            )
            self.send_beat(beat)

    def send_beat(self, beat: Beat) -> None:
        """Send a PING, and the text heartbeat where there is one."""
        if self._ping < 0:
            self._ping, self._pinged_at = beat.number, self.shared.clock.current_time()
        item = make_beat(beat.number, self.shared.heartbeat.message)
        if self.outbox is None:
            self._put(item)
        else:
            self.outbox.append_beat(item)

    def _ponged(self, number: int) -> None:
        if number == self._ping:
            self.latency = self.shared.clock.current_time() - self._pinged_at
        if number >= 0:
            self._ping = -1


#: A connection as its application side has it: it sends, ends, and runs tasks.
Engine: TypeAlias = Beating
