"""One connection of a client, from dialling to the end of the closing handshake.

::

    the block of ``async with``       the application's; cancelled when the connection is lost
    the context's nursery
    └── Session.run                   one connection
        └── a nursery
            ├── Life.run              the same as a server's: reader, heartbeat, one cancel scope
            └── Metronome.run         for one connection

1. An open session is shielded: a cancellation from outside reaches the application's block only.
2. The block then leaves the context, and the context closes the session: with a close frame, and
   within a deadline that the session's cancel scope gets at that moment.
"""

from __future__ import annotations

from collections.abc import Callable

import trio

from .._connection.connection import Connection
from .._connection.ending import CANCELLED_TIMEOUT, CLOSE_TIMEOUT, is_lost
from .._connection.life import Life
from .._connection.shared import Shared, SlowPolicy
from .._exceptions import ConnectTimeout, EndReason
from .._metronome import Metronome
from .._plain import leaves
from .._protocol.client_handshake import Opened
from .._transports.kernel import set_up
from .address import Address
from .consumer import BlockConsumer
from .dial import dial, perform_handshake
from .options import Options
from .parts import parts
from .sockets import ClientSocket


class Session:
    """One connection to a server.

    Args:
        options: the server's address, and how to connect.
        on_lost: called when the connection has ended and neither end has closed it.

    Attributes:
        connection: set as soon as it is open.
    """

    connection: Connection
    _engine: Life
    _consumer: BlockConsumer

    def __init__(self, options: Options, on_lost: Callable[[], object] = lambda: None) -> None:
        self._options = options
        self._on_lost = on_lost
        #: None: the application has not told it yet.
        self._address: Address | None = None
        #: None: there is none yet.
        self._sock: ClientSocket | None = None
        self._scope = trio.CancelScope()
        self._ended = trio.Event()

    async def run(self, *, task_status: trio.TaskStatus[Connection]) -> None:
        """Connect, pass the open connection to `task_status`, and run it until it has ended."""

        def started(connection: Connection) -> None:
            self.connection = connection
            task_status.started(connection)

        self._consumer = BlockConsumer(self._options.inbound, started)
        try:
            with self._scope:
                await self._run_connection()
        finally:
            self._consumer.forget()
            self._ended.set()

    @property
    def lived(self) -> float:
        """Seconds for which the connection was open, without the closing handshake."""
        return self._consumer.lived or 0.0

    @property
    def place(self) -> str | None:
        """Host and port, for people; None: the application has not told the URL."""
        return self._address.place if self._address else self._options.destination.place

    def shield(self) -> None:
        """Ignore cancellation from outside from now on; the caller promises to call `close`."""
        self._scope.shield = True

    async def _run_connection(self) -> None:
        try:
            sock, opened = await self._open()
            async with trio.open_nursery(strict_exception_groups=True) as tasks:
                self._engine = await self._start(tasks, sock, opened)
                await self._engine.run()
                assert self._engine.closed is not None
                if is_lost(self._engine.closed):
                    self._on_lost()
                tasks.cancel_scope.cancel()
        finally:
            if self._sock is not None:
                self._sock.abort()

    async def _open(self) -> tuple[ClientSocket, Opened]:
        timeout, handshake = self._options.connect_timeout, None
        with trio.move_on_after(timeout):
            address = await self._options.destination.address()
            self._address, handshake = address, address.handshake(self._options.compression)
            sock = self._sock = await dial(address)
            set_up(sock.sock, self._options.heartbeat.patience)
            return sock, await perform_handshake(handshake, sock)
        if handshake is None:
            asked = self._options.destination.asked
            raise ConnectTimeout(f"{asked} did not return within {timeout:g} s")
        text = f"{self.place} did not answer within {timeout:g} s"
        raise handshake.refusal() or ConnectTimeout(text)

    async def _start(self, tasks: trio.Nursery, sock: ClientSocket, opened: Opened) -> Life:
        options = self._options
        metronome = Metronome(options.heartbeat.interval, slots=1)
        await tasks.start(metronome.run)
        self._consumer.subprotocol = opened.subprotocol
        assert self._address is not None
        shared = parts()
        deflate = None
        if options.compression is not None and opened.window_bits is not None:
            deflate = shared.deflate(options.compression, opened.window_bits)
        return Life(
            sock.transport(options.message_size, opened.trailing, deflate),
            Shared(
                options.heartbeat,
                metronome,
                options.outbox,
                SlowPolicy.DISCONNECT,
                notify=shared.notify,
                expiry=shared.expiry,
                following=shared.following,
                drops_replies=True,
                under_way=shared.under_way,
            ),
            self._consumer,
            path=self._address.target,
            response=b"",
        )

    async def close(self, exc: BaseException | None) -> None:
        """Close the connection, and wait until it has ended.

        Args:
            exc: what the application's block raised; None: it did not raise.
        """
        seconds = CANCELLED_TIMEOUT if exc is not None else CLOSE_TIMEOUT + CANCELLED_TIMEOUT
        self._end_within(seconds)
        self._consumer.returned()
        code, reason = 1000, ""
        if exc is not None:
            gone = all(isinstance(leaf, trio.Cancelled | KeyboardInterrupt) for leaf in leaves(exc))
            code, reason = (1001, "going away") if gone else (1011, "internal error")
        self._engine.end_nowait(EndReason.HANDLER, code, reason)
        try:
            # A cancellation of this must not replace what the block raised.
            with trio.CancelScope(shield=exc is not None):
                await self._ended.wait()
        except trio.Cancelled:
            self._end_within(CANCELLED_TIMEOUT)
            # Bounded by the deadline of the session's scope.
            with trio.CancelScope(shield=True):
                await self._ended.wait()
            raise

    def _end_within(self, seconds: float) -> None:
        self._scope.deadline = min(self._scope.deadline, trio.current_time() + seconds)
