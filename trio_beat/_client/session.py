"""One connection of a client, from the first packet to the closing handshake.

::

    the block of ``async with``       the application's; cancelled when the connection is lost
    the context's nursery
    └── Session.run                   one connection
        └── (engine: a nursery)
            ├── Life.run              the same as a server's: reader, heartbeat, one cancel scope
            ├── Metronome.run         for one connection
            └── trio-websocket's reader, and the tasks of its transport

A cancellation from outside does not reach a session. It reaches the application's block, which
leaves the context, which closes the session: with a close frame, and within a deadline that the
session's cancel scope gets then.
"""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Callable

import trio
from wsproto.utilities import LocalProtocolError

from .._connection.connection import Connection
from .._connection.ending import CANCELLED_TIMEOUT, CLOSE_TIMEOUT
from .._connection.life import Life
from .._connection.shared import Shared, SlowPolicy
from .._exceptions import ConnectTimeout, EndReason
from .._metronome import Metronome
from .._plain import leaves
from .._protocol.client_handshake import Opened
from .._transports.kernel import set_up
from .._transports.trio_websocket import ClientStream
from .consumer import BlockConsumer, is_lost
from .dial import dial, establish, shake_hands
from .options import Options


class Session:
    """One connection to a server.

    Args:
        options: where to, and how.
        lost: called when the connection has ended, and neither end wanted that.
    """

    connection: Connection
    _engine: Life
    _consumer: BlockConsumer

    def __init__(self, options: Options, lost: Callable[[], object] = lambda: None) -> None:
        self._options = options
        self._lost = lost
        self._shelter = trio.CancelScope()
        self._ended = trio.Event()

    async def run(self, *, task_status: trio.TaskStatus[Connection]) -> None:
        """Connect, give the open connection to `task_status`, and stay until it has ended."""

        def started(connection: Connection) -> None:
            self.connection = connection
            task_status.started(connection)

        self._consumer = BlockConsumer(self._options.inbound, started)
        try:
            with self._shelter:
                await self._live()
        finally:
            self._consumer.forget()
            self._ended.set()

    @property
    def lived(self) -> float:
        """Seconds for which the connection was open, without the goodbye."""
        return self._consumer.lived or 0.0

    def shelter(self) -> None:
        """From now on, whoever is cancelled calls `leave`."""
        self._shelter.shield = True

    async def _live(self) -> None:
        with contextlib.ExitStack() as sockets:
            sock, line, opened = await self._reach(sockets)
            try:
                async with trio.open_nursery(strict_exception_groups=True) as engine:
                    self._engine = await self._establish(engine, sock, line, opened)
                    await self._engine.run()
                    if is_lost(self._engine):
                        self._lost()
                    engine.cancel_scope.cancel()
            except BaseExceptionGroup as group:
                # trio-websocket trips over a PING that meets its close frame on the way.
                _, other = group.split(LocalProtocolError)
                if other is not None:
                    raise other from None

    async def _reach(
        self, sockets: contextlib.ExitStack
    ) -> tuple[socket.socket, ClientStream, Opened]:
        address, opening = self._options.address, self._options.address.opening()
        with trio.move_on_after(self._options.connect_timeout):
            sock, line = await dial(address)
            sockets.callback(line.abort)
            set_up(sock, self._options.heartbeat.patience)
            return sock, line, await shake_hands(opening, line)
        text = f"{address.place} did not answer within {self._options.connect_timeout:g} s"
        raise opening.refusal() or ConnectTimeout(text)

    async def _establish(
        self, engine: trio.Nursery, sock: socket.socket, line: ClientStream, opened: Opened
    ) -> Life:
        options = self._options
        transport = await establish(sock, line, opened.behind, engine, options.message_size)
        metronome = Metronome(options.heartbeat.interval, slots=1)
        await engine.start(metronome.run)
        self._consumer.subprotocol = opened.subprotocol
        return Life(
            transport,
            Shared(options.heartbeat, metronome, options.outbox, SlowPolicy.DISCONNECT),
            self._consumer,
            path=options.address.target,
            response=b"",
        )

    async def leave(self, exc: BaseException | None) -> None:
        """The block has been left: close the connection, and wait until it is gone."""
        seconds = CANCELLED_TIMEOUT if exc is not None else CLOSE_TIMEOUT + CANCELLED_TIMEOUT
        self._end_within(seconds)
        self._consumer.returned()
        code, reason = 1000, ""
        if exc is not None:
            gone = all(isinstance(leaf, trio.Cancelled | KeyboardInterrupt) for leaf in leaves(exc))
            code, reason = (1001, "going away") if gone else (1011, "internal error")
        self._engine.end_nowait(EndReason.HANDLER, code, reason)
        try:
            # What the block raised must not get lost behind a cancellation of this.
            with trio.CancelScope(shield=exc is not None):
                await self._ended.wait()
        except trio.Cancelled:
            self._end_within(CANCELLED_TIMEOUT)
            # Not for long: the shelter's deadline ends what is waited for.
            with trio.CancelScope(shield=True):
                await self._ended.wait()
            raise

    def _end_within(self, seconds: float) -> None:
        self._shelter.deadline = min(self._shelter.deadline, trio.current_time() + seconds)
