"""What a connection is given: whom it serves, and what it shares with all others of its server."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple, Protocol

import trio

from .._exceptions import EndReason
from .._heartbeat import Heartbeat
from .._log import get_logger
from .._metronome import Metronome
from .._summary import Summary

if TYPE_CHECKING:
    from .connection import Connection

_log = get_logger("trio_beat.connection")


class SlowPolicy(enum.StrEnum):
    """What happens to a peer whose outbox is full."""

    DISCONNECT = "disconnect"  #: it is closed with 1013
    #: It loses the oldest messages that wait, and they are counted; PINGs and PONGs stay.
    DROP_OLDEST = "drop-oldest"


class Statistics(NamedTuple):
    """A connection at one moment."""

    missed_beats: int  #: in a row, so far
    latency: float | None  #: seconds that the last answered PING took; None before the first
    outbox: int  #: bytes that wait for the socket
    dropped: int  #: messages that the policy `drop-oldest` dropped


class Consumer(Protocol):
    """Whom a connection serves. All of it runs in the connection's nursery."""

    @property
    def failure(self) -> BaseException | None:
        """What the application raised, and the connection's nursery with it; None: nothing."""

    async def opened(self, connection: Connection) -> None:
        """The peer was let in; what is sent now follows the handshake."""

    def received_nowait(self, message: str | bytes) -> bool:
        """Take a message if that needs no waiting; False: `received` has to."""

    async def received(self, connection: Connection, message: str | bytes) -> None:
        """Take a message. While this waits the peer feels back-pressure, and is not judged."""

    async def receive(self) -> str | bytes:
        """Give a message to the application; raises `trio.EndOfChannel` after the last."""

    async def caught_up(self) -> None:
        """Wait until what came has been dealt with."""

    async def finished(self, connection: Connection) -> None:
        """The peer has closed: deal with what came before."""

    def closed(self, connection: Connection) -> None:
        """The connection has ended."""


@dataclass(slots=True)
class Terms:
    """What all connections of one server share."""

    heartbeat: Heartbeat
    metronome: Metronome
    outbox_size: int  #: bytes
    slow_policy: SlowPolicy
    ended: dict[EndReason, int] = field(default_factory=lambda: dict.fromkeys(EndReason, 0))
    dropped: int = 0
    sends: int = 0
    #: Thousands may end at a time, by a network that fails.
    ends: Summary = field(default_factory=lambda: Summary(_log, "connections ended"))
    #: What `trio.current_time` asks, twice a beat.
    clock: trio.abc.Clock = field(default_factory=trio.lowlevel.current_clock)
