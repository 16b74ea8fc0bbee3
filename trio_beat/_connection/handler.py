"""Consumers with an application's code behind them: a server's handler, a client's block."""

from __future__ import annotations

import logging
from collections.abc import Awaitable
from dataclasses import dataclass
from typing import Literal, Protocol

import trio

from .._checks import check_async
from .._exceptions import ConnectionClosed, EndReason, split
from .._identity import Identity
from .._log import get_logger
from .._protocol.request import Request
from .beating import Engine
from .connection import Connection
from .consumer import Consumer
from .inbox import Inbox

_log = get_logger("trio_beat.connection")


class Handler(Protocol):
    """What an application runs for each connection: an async function, or what acts like one."""

    def __call__(self, connection: Connection, /) -> Awaitable[object]:
        """Serve a connection until it ends, or until this returns; the result is ignored.

        Args:
            connection: an open one. What this raises is told under `serve`.
        """


@dataclass(frozen=True, slots=True)
class HandlerErrors:
    """What to do with exceptions of the handlers of a server.

    Args:
        policy: ``raise``: they propagate out of the server. ``close``: each is logged with its
            traceback, and ends its own connection only.
    """

    policy: Literal["raise", "close"] = "raise"

    def __post_init__(self) -> None:
        if self.policy not in ("raise", "close"):
            raise ValueError(f"handler_errors is {self.policy!r}; it must be 'raise' or 'close'")


def _runs(task: trio.lowlevel.Task) -> bool:
    nursery = task.parent_nursery
    return nursery is not None and task in nursery.child_tasks


class InboxConsumer(Consumer):
    """Gives messages to the application's code through a bounded buffer.

    Args:
        inbound_size: how many messages may wait for it before the reader stops reading.
        subprotocol: what the handshake agreed on, or None.
        request: what a server's peer asked with, or None.
        identity: who a server's peer is, or None.
    """

    __slots__ = (
        "_busy",
        "_inbox",
        "_progress",
        "_readers",
        "_running",
        "failure",
        "identity",
        "request",
        "subprotocol",
    )

    def __init__(
        self,
        inbound_size: int,
        subprotocol: str | None = None,
        request: Request | None = None,
        identity: Identity | None = None,
    ) -> None:
        self._inbox = Inbox(inbound_size)
        self._running = False
        #: Set when the code asks for a message or returns; None while nothing waits for that.
        self._progress: trio.Event | None = None
        #: Tasks that wait for a message.
        self._readers = 0
        #: Tasks that have taken a message and not asked for another one; None: none has.
        self._busy: set[trio.lowlevel.Task] | None = None
        self.failure: BaseException | None = None
        self.subprotocol = subprotocol
        self.request = request
        self.identity = identity

    def forget_failure(self) -> None:
        self.failure = None

    @property
    def user(self) -> str | None:
        return None if self.identity is None else self.identity.user

    @property
    def session(self) -> str | None:
        return None if self.identity is None else self.identity.session

    async def opened(self, engine: Engine) -> None:
        self._running = True

    def connection(self, engine: Engine) -> Connection:
        """Make what the application's code is given."""
        return Connection(engine, self)

    def returned(self) -> None:
        """The application's code has returned."""
        self._running = False
        self._note_progress()

    def received_nowait(self, message: str | bytes) -> bool:
        return self._inbox.put_nowait(message)

    async def received(self, engine: Engine, message: str | bytes) -> None:
        await self._inbox.put(message)

    async def receive(self) -> str | bytes:
        """Give a message to the application; raises `trio.EndOfChannel` after the last."""
        task = trio.lowlevel.current_task()
        if self._busy is not None:
            self._busy.discard(task)
            self._busy = self._busy or None
            self._note_progress()
        self._readers += 1
        try:
            message = await self._inbox.get()
        finally:
            self._readers -= 1
        if self._busy is None:
            self._busy = set()
        self._busy.add(task)
        return message

    @property
    def waiting(self) -> int:
        """Messages that the code has not taken yet."""
        return len(self._inbox)

    @property
    def _behind(self) -> bool:
        """Whether the code has not dealt with all that came."""
        if not self._running:
            return False
        return len(self._inbox) > 0 or any(_runs(task) for task in self._busy or ())

    def _note_progress(self) -> None:
        if self._progress is not None:
            self._progress.set()
            self._progress = None

    async def _wait_for_progress(self) -> None:
        self._progress = trio.Event()
        await self._progress.wait()

    async def finished(self, engine: Engine) -> None:
        if engine.closed is None:  # the code may still answer what came before
            while self._behind:
                await self._wait_for_progress()
            return
        self._inbox.close()
        if self._readers or self._behind:
            while self._running:
                await self._wait_for_progress()

    def closed(self, engine: Engine) -> None:
        self._inbox.discard()
        self._busy = None


class HandlerConsumer(InboxConsumer):
    """Runs a handler in the connection's nursery.

    Args:
        handler: called with the `Connection`. When it returns, the connection is closed with 1000.
            When it raises, the connection is closed with 1011, and `errors` applies; not to
            `ConnectionClosed`, which only closes it where it is open.
        inbound_size: how many messages may wait for it before the reader stops reading.
        errors: what to do with the exceptions of handlers.
        subprotocol: what the handshake agreed on, or None.
        request: what a server's peer asked with, or None.
        identity: who a server's peer is, or None.
    """

    __slots__ = ("_errors", "_handler")

    def __init__(
        self,
        handler: Handler,
        inbound_size: int,
        errors: HandlerErrors,
        subprotocol: str | None = None,
        request: Request | None = None,
        identity: Identity | None = None,
    ) -> None:
        super().__init__(inbound_size, subprotocol, request, identity)
        self._handler = handler
        self._errors = errors

    async def opened(self, engine: Engine) -> None:
        await super().opened(engine)
        engine.start_soon(self._run)

    async def _run(self, engine: Engine) -> None:
        try:
            await check_async("handler", self._handler(self.connection(engine)))
            engine.end_nowait(EndReason.HANDLER, 1000, "")
        except BaseException as exc:
            rest = self._deal_with(exc, engine)
            try:
                if rest is exc:
                    raise
                if rest is not None:
                    raise rest from rest.__cause__
            finally:
                del rest  # its traceback holds this frame
        finally:
            self.returned()

    def _deal_with(self, exc: BaseException, engine: Engine) -> BaseException | None:
        """Note what a handler raised, and return what is to propagate."""
        ended, rest = split(exc, lambda e: isinstance(e, ConnectionClosed))
        # A connection that has ended is an everyday event and must not end the server. Where it is
        # not the handler's own, the handler should have expected it: its connection ends, too.
        if ended is not None and engine.closed is None:
            self._give_up(engine, ended, logging.WARNING)
        if rest is None:
            return None
        leaving, failed = split(rest, lambda e: not isinstance(e, Exception | BaseExceptionGroup))
        if failed is None:
            return rest
        if self._errors.policy == "raise":
            self.failure = rest
            return rest
        if (tell := engine.shared.notify.handler_failed) is not None:
            tell(engine, failed)
        self._give_up(engine, failed, logging.ERROR)
        return leaving

    def _give_up(self, engine: Engine, exc: BaseException, level: int) -> None:
        _log.log(level, "%s handler failed", engine.peer, exc_info=exc)
        engine.end_nowait(EndReason.HANDLER, 1011, "internal error")
