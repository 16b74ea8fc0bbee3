"""How fast peers may send."""

from __future__ import annotations

import math
from typing import Final, Literal

from .._observer import LimitName
from .._rate import FULL, Rate

#: What happens to a peer that is held back for `PATIENCE`.
RatePolicy = Literal["disconnect", "wait"]

#: Seconds of sending that a peer may save up.
_SAVED: Final = 2.0
#: What is taken of a bucket at a time is so small a part of it.
_PARTS: Final = 64
#: Seconds for which a peer is held back at least: its reader would else wake for each message.
PAUSE: Final = 0.1
#: Seconds in which a peer is not held back, and which make a break.
BREAK: Final = 1.0
#: Seconds without a break after which it is disconnected.
PATIENCE: Final = 30.0


class Pace:
    """What one peer has sent lately, and may send without more ado."""

    __slots__ = (
        "held_since",
        "kept_until",
        "messages",
        "owes",
        "received",
        "released_at",
        "room",
        "turns",
    )

    def __init__(self, turns: int, room: int, kept_until: float) -> None:
        #: Buckets of messages and of bytes (`Rate`).
        self.messages = self.received = FULL
        #: Messages and bytes that were taken of them already, and have not come yet.
        self.turns: float = turns
        self.room: float = room
        #: When its first part, which no bucket paid for, would have come back to one.
        self.kept_until = kept_until
        #: More bytes were read than there were: nothing is read now.
        self.owes = False
        #: When holding back began that had no break since, and when it ended last.
        self.held_since = self.released_at = FULL


class Pacing:
    """How fast the peers of a server may send.

    A small part of a bucket is taken at a time: that costs most messages and reads a subtraction.

    Args:
        message_rate: messages a second of a connection; 0: any.
        byte_rate: bytes a second of a connection; 0: any.
        policy: what happens to a peer that is held back for long.

    Attributes:
        patience: seconds for which a peer is held back without a break; None: for ever.
    """

    __slots__ = ("_bytes", "_messages", "_part_of_bytes", "_part_of_messages", "patience")

    def __init__(self, message_rate: float, byte_rate: float, policy: RatePolicy) -> None:
        self._messages, self._part_of_messages = _rate(message_rate)
        self._bytes, self._part_of_bytes = _rate(byte_rate)
        self.patience = PATIENCE if policy == "disconnect" else None

    def make(self, now: float) -> Pace:
        """Make the pace of a peer that has sent nothing lately."""
        return Pace(self._part_of_messages - 1, self._part_of_bytes - 1, now + _SAVED / _PARTS)

    def let_pass(self, pace: Pace, now: float) -> bool:
        """Take some of the messages that may be handed on now; returns whether there are any."""
        if self._messages is None:
            pace.turns = math.inf
        elif pace.turns < 1:
            tokens = min(self._part_of_messages, self._messages.tokens(pace.messages, now))
            if tokens < 1:
                return False
            pace.messages = self._messages.take(pace.messages, now, tokens)
            pace.turns = tokens
        return True

    def let_read(self, pace: Pace, now: float) -> None:
        """Settle what was read, and take some of the bytes that may be read now."""
        if self._bytes is None:
            pace.room = math.inf
            return
        if pace.room < 0:
            pace.received = self._bytes.take(pace.received, now, -int(pace.room))
            pace.room = 0
        tokens = min(self._part_of_bytes, self._bytes.tokens(pace.received, now))
        pace.owes = tokens < 0
        if tokens > 0 and not pace.room:
            pace.received = self._bytes.take(pace.received, now, tokens)
            pace.room = tokens

    def is_over(self, pace: Pace, now: float) -> bool:
        """Whether nothing is left of what a peer has sent: its buckets are full."""
        return max(pace.messages, pace.received, pace.kept_until) <= now

    def exceeded(self, pace: Pace) -> LimitName:
        """Which limit a peer meets that is held back."""
        return "byte_rate" if pace.owes else "message_rate"

    def free_at(self, pace: Pace) -> float:
        """When the peer may send on."""
        at = FULL
        if self._messages is not None and pace.turns < 1:
            at = max(at, self._messages.ready_at(pace.messages))
        if self._bytes is not None and pace.owes:
            at = max(at, self._bytes.settled_at(pace.received))
        return at


def _rate(rate: float) -> tuple[Rate | None, int]:
    """Make the rate, and tell what is taken of it at a time."""
    if not rate:
        return None, 1
    burst = max(1.0, _SAVED * rate)
    part = max(1, int(burst / _PARTS))
    # What was taken and has not come stays beside a full bucket (`Pacing.make`).
    return Rate(rate, max(1.0, burst - part + 1)), part
