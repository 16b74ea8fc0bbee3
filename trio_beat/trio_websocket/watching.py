"""Connections whose messages are the application's: this package beats and judges beside it.

1. The transport reads the socket and hands on what it read, except what `Frames` finds.
2. The consumer gives that to trio-websocket, and waits where it has not dealt with the bytes before
   them yet, since its queue is full: the peer is not judged meanwhile. So one read is ahead.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final, Protocol, TypeAlias

import trio
from websockets.frames import Opcode

from .._connection.beating import Engine
from .._connection.consumer import Consumer
from .._connection.life import Life
from .._exceptions import Closed, EndReason
from .._protocol.events import Event, Failure, PeerClose, Pong
from .._protocol.messages import BeatFrames, OtherFrames, Outgoing
from .._server.refusals import GOING_AWAY
from .._transports.tcp import TCPTransport
from .._transports.tls import TLSTransport
from .frames import Frames

_PING: Final = 0x80 | Opcode.PING

if TYPE_CHECKING:
    _Base: TypeAlias = TCPTransport
else:
    _Base = object


class _Watched(_Base):
    """A transport that hands on what it reads; a derived class has the slot for `frames`."""

    if not TYPE_CHECKING:
        __slots__ = ()

    frames: Frames

    def _parse(self, data: bytearray | memoryview | bytes) -> Sequence[Event]:
        frames = self.frames
        if (number := frames.answer(data)) is not None:
            return self._reads.pongs(number)
        passed, found = frames.take(bytes(data))
        events: list[Event] = [event for event in found if type(event) is Pong]
        if passed:
            events.append(passed)
        if found and isinstance(end := found[-1], PeerClose | Failure):
            self._state = end
            events.append(end)
        return events

    def write_nowait(self, item: Outgoing) -> int:
        if type(item) is BeatFrames:
            self.frames.pinged(item.number)
        elif type(item) is OtherFrames and item.frame[0] == _PING:
            self.frames.number = None
        return super().write_nowait(item)


class WatchedTCP(_Watched, TCPTransport):
    """Over TCP, or over a Unix socket."""

    __slots__ = ("frames",)


class WatchedTLS(_Watched, TLSTransport):
    """Over TLS."""

    __slots__ = ("frames",)


WatchedTransport: TypeAlias = WatchedTCP | WatchedTLS


class Below(Protocol):
    """The stream below trio-websocket, see `ServiceStream`."""

    def attach(self, engine: Engine) -> None: ...
    def give_nowait(self, data: bytes) -> bool: ...
    async def give(self, data: bytes) -> None: ...
    async def given(self) -> None: ...
    def conclude(self, closed: Closed, *, between: bool) -> None: ...


class WatchedConsumer(Consumer):
    """Gives what comes to trio-websocket.

    Args:
        stream: below it.
        frames: the peer's.
        draining: set when the service begins to shut down.
    """

    __slots__ = ("_draining", "_frames", "_stream")

    def __init__(self, stream: Below, frames: Frames, draining: trio.Event) -> None:
        self._stream = stream
        self._frames = frames
        self._draining = draining

    async def opened(self, engine: Engine) -> None:
        self._stream.attach(engine)
        if self._draining.is_set():
            engine.end_nowait(EndReason.SHUTDOWN, 1001, GOING_AWAY)

    def received_nowait(self, message: str | bytes) -> bool:
        assert isinstance(message, bytes)
        return self._stream.give_nowait(message)

    async def received(self, engine: Engine, message: str | bytes) -> None:
        assert isinstance(message, bytes)
        await self._stream.give(message)

    async def finished(self, engine: Engine) -> None:
        await self._stream.given()

    def closed(self, engine: Engine) -> None:
        assert engine.closed is not None
        self._stream.conclude(engine.closed, between=self._frames.aligned)


class Watched:
    """A WebSocket of which the service watches the peer.

    One that had ended before the service began has `closed` from the start.
    """

    __slots__ = ("_watched",)

    def __init__(self, watched: Life | Closed) -> None:
        self._watched = watched

    @property
    def closed(self) -> Closed | None:
        """How it ended; None while it is open."""
        watched = self._watched
        return watched if isinstance(watched, Closed) else watched.closed

    @property
    def latency(self) -> float | None:
        """Seconds that the last answered PING took to come back; None before the first."""
        return None if isinstance(self._watched, Closed) else self._watched.latency

    @property
    def missed_beats(self) -> int:
        """Beats that the peer has missed in a row so far."""
        return 0 if isinstance(self._watched, Closed) else self._watched.missed
