"""The Trio client: `connect`, and `reconnecting`.

::

    the block of ``async with``       the application's; cancelled when the connection is lost
    a nursery of the context's
    └── _Visit.run                    one connection, from the first packet to the goodbye
        └── (engine: a nursery)
            ├── Life.run              the same as a server's: reader, heartbeat, one cancel scope
            ├── the metronome         with one seat
            └── trio-websocket's reader, and the tasks of its transport

1. What runs is sheltered from a cancellation that comes from outside. That one reaches the
   application's block, which leaves the context, which ends the connection: with a close frame,
   and within a deadline that the shelter then gets.
2. The context raises what the block raised as it was (see `_plain`). A nursery would wrap it in a
   group, and so its nursery is left with nothing to tell.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Final, Self

import trio
from wsproto.utilities import LocalProtocolError

from .._checks import check_kind, check_seconds, check_whole
from .._connection.connection import Connection
from .._connection.ending import CANCELLED_TIMEOUT, CLOSE_TIMEOUT
from .._connection.life import Life
from .._connection.shared import Shared, SlowPolicy
from .._exceptions import (
    Closed,
    ConnectFailed,
    ConnectionClosed,
    ConnectionLost,
    ConnectTimeout,
    EndReason,
    HandshakeRefused,
    TLSFailed,
    ended,
)
from .._heartbeat import Heartbeat
from .._log import get_logger
from .._metronome import Metronome
from .._plain import Plain, leaves
from .._protocol.client_handshake import Opened
from .._transports.kernel import set_up
from .._transports.trio_websocket import ClientStream
from .backoff import Backoff, forbids
from .consumer import BlockConsumer, is_lost
from .dial import Address, dial, establish, make_address, shake_hands

_log = get_logger("trio_beat.client")

#: Statuses of a refusal that say nothing about the next attempt (RFC 9110, RFC 6585).
_PASSING: Final = frozenset({408, 425, 429})


@dataclass(frozen=True, slots=True)
class _Plan:
    """What `connect` and `reconnecting` are told."""

    address: Address
    heartbeat: Heartbeat
    connect_timeout: float
    message_size: int
    inbound: int
    outbox: int

    def __post_init__(self) -> None:
        check_kind("heartbeat", self.heartbeat, Heartbeat, "a Heartbeat")
        for name in ("message_size", "inbound", "outbox"):
            check_whole(name, getattr(self, name))
        check_seconds("connect_timeout", self.connect_timeout, endless=True)


class _Visit:
    """One connection to a server.

    Args:
        plan: where to, and how.
        lost: called when the connection has ended, and neither end wanted that.
    """

    connection: Connection
    _engine: Life
    _consumer: BlockConsumer

    def __init__(self, plan: _Plan, lost: Callable[[], object] = lambda: None) -> None:
        self._plan = plan
        self._lost = lost
        self._shelter = trio.CancelScope()
        self._ended = trio.Event()

    async def run(self, *, task_status: trio.TaskStatus[Connection]) -> None:
        """Connect, give the open connection to `task_status`, and stay until it has ended."""

        def started(connection: Connection) -> None:
            self.connection = connection
            task_status.started(connection)

        self._consumer = BlockConsumer(self._plan.inbound, started)
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
        address, opening = self._plan.address, self._plan.address.opening()
        with trio.move_on_after(self._plan.connect_timeout):
            sock, line = await dial(address)
            sockets.callback(line.abort)
            set_up(sock, self._plan.heartbeat.patience)
            return sock, line, await shake_hands(opening, line)
        text = f"{address.place} did not answer within {self._plan.connect_timeout:g} s"
        raise opening.refusal() or ConnectTimeout(text)

    async def _establish(
        self, engine: trio.Nursery, sock: socket.socket, line: ClientStream, opened: Opened
    ) -> Life:
        plan = self._plan
        transport = await establish(sock, line, opened.behind, engine, plan.message_size)
        metronome = Metronome(plan.heartbeat.interval, slots=1)
        await engine.start(metronome.run)
        self._consumer.subprotocol = opened.subprotocol
        return Life(
            transport,
            Shared(plan.heartbeat, metronome, plan.outbox, SlowPolicy.DISCONNECT),
            self._consumer,
            path=plan.address.target,
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


class _Context:
    """What both contexts have in common: a nursery, entered and left by hand.

    A generator with a ``yield`` inside of a nursery would do it in fewer lines, and break where it
    is not run to its end (`trio.open_nursery`). As with a nursery's own, an interrupt at the
    keyboard does not come in between, except where something is waited for.
    """

    def __init__(
        self,
        url: str,
        *,
        heartbeat: Heartbeat = Heartbeat(interval=5.0),  # noqa: B008 - immutable
        ssl_context: ssl.SSLContext | None = None,
        headers: Mapping[str, str] | Iterable[tuple[str, str]] = (),
        subprotocols: Sequence[str] = (),
        connect_timeout: float = 10.0,
        message_size: int = 2**20,
        inbound: int = 16,
        outbox: int = 2**20,
    ) -> None:
        address = make_address(url, headers, subprotocols, ssl_context)
        self._plan = _Plan(address, heartbeat, connect_timeout, message_size, inbound, outbox)
        self._visit: _Visit | None = None
        self._entered = self._left = False

    async def _enter(self) -> None:
        if self._entered:
            raise RuntimeError("this context was entered before; make another one")
        self._entered = True
        self._manager = trio.open_nursery()
        self._nursery = await self._manager.__aenter__()

    async def _open(self, visit: _Visit) -> Connection:
        connection: Connection = await self._nursery.start(visit.run, name="trio_beat client")
        # Not earlier: this may be cancelled although the connection is open.
        visit.shelter()
        self._visit = visit
        return connection

    async def _leave(self, exc: BaseException | None) -> None:
        self._left = True
        try:
            if self._visit is not None:
                await self._visit.leave(exc)
        finally:
            self._nursery.cancel_scope.cancel()
            # Not what the block has raised: this has nothing to tell but of a task that failed.
            await Plain(self._manager).__aexit__(None, None, None)


class connect(_Context):  # noqa: N801 - is called like a function
    """Connect to a WebSocket server, and stay connected while the context lasts.

    The context gives an open `Connection` that beats like a server's. When neither end wanted it
    to end (the server fell silent, its socket failed, it broke the protocol) the block is
    cancelled, and `ConnectionLost` raised in its place; iterating over it may end just before. (At
    once; but a server that broke the protocol, or was too slow, is first given up to 10 seconds for
    its goodbye.) When the server closes, the block is not
    cancelled: iterating ends, and other operations raise `ConnectionClosed`. When the block is
    left, the connection is closed: with 1000 and within 5 seconds, or with 1001 (cancelled) or 1011
    (raised) and within one. What the block raises comes through as it is.

    Args:
        url: ``ws://host[:port]/path?query``, or ``wss://`` for TLS; a user and password in it are
            sent as a header (RFC 7617).
        heartbeat: how the connection beats, and when the server counts as dead. Its `message` is
            for servers that expect one: others take it for a message of yours.
        ssl_context: for ``wss://``, for example with a private authority; None: the system's
            authorities.
        headers: that go with the request.
        subprotocols: names that are offered, the preferred one first.
        connect_timeout: seconds for TCP, TLS and the handshake together; `math.inf`: no limit.
        message_size: bytes of a message that the server sends, characters where it is text; beyond
            that the connection ends.
        inbound: messages that wait for the block before the server feels back-pressure.
        outbox: bytes that wait for the socket before the server counts as too slow.

    Raises:
        TypeError: an argument is of another type.
        ValueError: an argument can never be right.
        ConnectFailed: there is no connection, see its subclasses. On entering the context.
        ConnectionLost: the connection has been lost. On leaving the context.
    """

    @trio.lowlevel.enable_ki_protection
    async def __aenter__(self) -> Connection:
        await self._enter()
        self._block = trio.CancelScope()
        try:
            connection = await self._open(_Visit(self._plan, lost=self._block.cancel))
        except BaseException:
            await self._leave(None)
            raise
        self._block.__enter__()
        return connection

    @trio.lowlevel.enable_ki_protection
    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool:
        assert self._visit is not None
        connection, left = self._visit.connection, exc
        try:
            if self._block.__exit__(exc_type, exc, traceback):
                left = None
        except BaseException as rest:  # what a group holds beside our cancellation
            left = rest
        await self._leave(exc)
        if is_lost(connection) and (left is None or _is_about(left, connection)):
            assert connection.closed is not None
            raise ConnectionLost(connection.closed) from None
        if left is not exc and left is not None:
            raise left
        return left is None


def _is_about(exc: BaseException, connection: Connection) -> bool:
    """Whether a group tells of nothing but the end of this connection."""
    if isinstance(exc, BaseExceptionGroup):
        return all(_is_about(inner, connection) for inner in exc.exceptions)
    return isinstance(exc, ConnectionClosed) and exc.closed is connection.closed


class reconnecting(_Context):  # noqa: N801 - is called like a function
    """Connect to a WebSocket server again and again, while the context lasts.

    The context is iterated over; each time round gives a live `Connection`, as soon as there is
    one. The one before is closed then, where it is still open. When a connection is lost, the body
    of the loop is not cancelled: its iteration over the messages ends, and other operations raise
    `ConnectionClosed`, a reason to go round again. Leaving the loop leaves the last connection open
    until the context is left. Between two attempts there is a pause of 1 to 4
    seconds at first and of up to 30 later, drawn by chance; it becomes short again only after
    a connection has lived for one interval, and is at least 8 seconds where the server asks to come
    later (close codes 1012 and 1013, HTTP statuses 429 and 503).

    Args:
        url, heartbeat, ssl_context, headers, subprotocols, connect_timeout, message_size, inbound,
            outbox: see `connect`.

    Raises:
        TypeError: an argument is of another type.
        ValueError: an argument can never be right.
        ConnectionClosed: the server has closed with 1008, or 4000 to 4099: not to come back. On
            going round.
        HandshakeRefused: the server does not let this client in. On going round.
        TLSFailed: the server's certificate is not trusted. On going round.
    """

    @trio.lowlevel.enable_ki_protection
    async def __aenter__(self) -> Self:
        await self._enter()
        self._backoff = Backoff(self._plan.heartbeat.interval)
        #: Cancelled when the context is left; None while nobody goes round.
        self._going_round: trio.CancelScope | None = None
        self._not_before = trio.current_time()
        return self

    @trio.lowlevel.enable_ki_protection
    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._going_round is not None:
            # A task that does not belong to the block: it must not hold up who leaves.
            self._going_round.cancel()
        await self._leave(exc)

    def __aiter__(self) -> Self:
        return self

    @trio.lowlevel.enable_ki_protection
    async def __anext__(self) -> Connection:
        if not self._entered or self._left:
            raise RuntimeError("this is for inside: async with reconnecting(...) as connections")
        if self._going_round is not None:
            raise RuntimeError("another task is going round already")
        self._going_round = trio.CancelScope()
        try:
            with self._going_round:
                return await self._go_round()
        finally:
            self._going_round = None
        raise RuntimeError("the context of reconnecting was left meanwhile")

    async def _go_round(self) -> Connection:
        if (visit := self._visit) is not None:
            await visit.leave(None)
            self._visit = None
            closed = visit.connection.closed
            assert closed is not None
            if closed.by is EndReason.PEER and forbids(closed.code):
                raise ended(closed)
            code = closed.code if closed.by is EndReason.PEER else 1006
            self._put_off(closed, code, visit.lived)
        while True:
            # Whoever gives up in a pause does not make it shorter.
            await trio.sleep_until(self._not_before)
            try:
                return await self._open(_Visit(self._plan))
            except ConnectFailed as exc:
                if _is_final(exc):
                    raise
                self._put_off(exc, getattr(exc, "status", 1006))

    def _put_off(self, why: Closed | ConnectFailed, code: int, lived: float = 0.0) -> None:
        pause = self._backoff.pause(code, lived=lived)
        text, place = str(why), self._plan.address.place
        where = "" if place in text else f"{place}: "
        _log.info("%s%s; again in %.1f s", where, text, pause)
        self._not_before = trio.current_time() + pause


def _is_final(exc: ConnectFailed) -> bool:
    """Whether another attempt would end in the same way."""
    if isinstance(exc, HandshakeRefused):
        return exc.status < 500 and exc.status not in _PASSING
    return isinstance(exc, TLSFailed) and exc.untrusted
