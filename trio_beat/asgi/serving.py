"""The ASGI application: its connections and its lifespan.

::

    Application.lifespan          (the caller's task)
    └── a nursery                 what sends and receives for connections (`ASGITransport`)
        └── the hub's context     where the application opens the hub
            └── a nursery         what `Service` starts

    Application.__call__          (the server's task, one for each connection)
    └── Service.run               as over sockets

1. A call of the application ends a little after its connection: the server's functions may hold it.
   Channels, places and counts are given back at once.
2. Nothing is served outside of the lifespan, and nothing is opened by a call that serves.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from typing import Any, Final, Literal, TypeAlias

import trio

from .._channels.hub import Hub, open_hub
from .._channels.permissions import Permissions
from .._checks import check_kind, check_prefix, check_seconds, check_subprotocols, in_trio
from .._connection.connection import Connection
from .._connection.consumer import Consumer
from .._connection.handler import Handler, HandlerErrors
from .._exceptions import BackendError, HubClosed, Refused
from .._heartbeat import Heartbeat
from .._log import get_logger
from .._observer import Observer
from .._plain import Plain, leaves
from .._server.consumers import Admitted
from .._server.gate import Admit
from .._server.limits import Limits, ServerStatistics
from .._server.origins import Origins
from .._server.service import Entry, Service
from .._transports.asgi import ASGITransport, Receive, Send
from .answers import NOT_TRIO, refuse, refuse_asyncio
from .block import BlockConsumer
from .running import Running
from .scopes import Scope, client, request, subprotocol

_log = get_logger("trio_beat.server")

#: How an application is told of a hub: an open one, or what opens one with the lifespan.
HubSource: TypeAlias = (
    Hub | AbstractAsyncContextManager[Hub] | Callable[[], AbstractAsyncContextManager[Hub]] | str
)

#: Heartbeats that send before other tasks get a turn. Each is a task that lasts for some rounds of
#: Trio's loop: of 64 at once the collector costs half of what their beats cost.
_TURN: Final = 2
_CLOSED: Final = (
    "trio_beat.asgi: the application's lifespan is not open: it has ended, or the application that "
    "this one is mounted in was not given its `lifespan`"
)
#: Hypercorn's shielded `send` may last until TCP gives up, and what failed is raised no sooner.
_HELD: Final = "the application has failed; it ends once the server has given up what it sends"
_ACCEPTED: Final = (
    "the WebSocket was accepted already; do not call its accept(), since `Application` does that "
    "once the peer is admitted"
)
_UNANSWERED: Final = (
    "heartbeat.message is None: over ASGI no PONG is seen, and a silent peer cannot be noticed"
)


async def _no_handler(connection: Connection) -> None:
    raise Refused(404, "no WebSocket here")


class Application:
    """An ASGI 3 application; `application` makes it."""

    def __init__(
        self,
        handler: Handler | None,
        hub: HubSource | None,
        *,
        handler_errors: Literal["raise", "close"],
        heartbeat: Heartbeat,
        admit: Admit | None,
        permissions: Permissions | None,
        refuse_by: Literal["status", "close"],
        allowed_origins: Sequence[str],
        path_prefix: str,
        subprotocols: Sequence[str],
        limits: Limits,
        grace: float,
        observer: Observer | None,
    ) -> None:
        _check_served(handler, hub, admit, permissions)
        check_prefix(path_prefix)
        check_kind("heartbeat", heartbeat, Heartbeat, "a Heartbeat")
        check_kind("limits", limits, Limits, "a Limits")
        check_seconds("grace", grace, zero=True)
        if refuse_by not in ("status", "close"):
            raise ValueError(f"refuse_by is {refuse_by!r}; it must be 'status' or 'close'")
        HandlerErrors(handler_errors)
        self._handler = handler
        self._handler_errors = handler_errors
        self._source = hub
        self._heartbeat = heartbeat
        self._admit = admit
        self._permissions = permissions
        self._refuse_by = refuse_by
        self._origins = Origins(allowed_origins)
        self._path_prefix = path_prefix
        self._subprotocols = check_subprotocols(subprotocols)
        self._limits = limits
        self._grace = grace
        self._observer = observer
        self._running: Running | None = None
        #: What was logged and is not logged again.
        self._told: set[str] = set()

    @property
    def hub(self) -> Hub:
        """The hub, while the lifespan lasts.

        Raises:
            HubClosed: the lifespan is not open, or there is no hub.
        """
        if self._running is None or self._running.hub is None:
            raise HubClosed("the application has no hub" if self._source is None else _CLOSED)
        return self._running.hub

    def statistics(self) -> ServerStatistics:
        """The application at this moment; ``pending``, ``http`` and ``unfinished`` are 0.

        Raises:
            RuntimeError: the lifespan is not open.
        """
        if self._running is None:
            raise RuntimeError(_CLOSED)
        return self._running.service.statistics()

    def lifespan(self, app: object = None) -> AbstractAsyncContextManager[None]:
        """Open the hub, and serve connections while the context lasts.

        For the application that this one is mounted in: the ``lifespan`` of Starlette, FastAPI and
        Litestar, ``while_serving`` of Quart-Trio. Served alone, the application does it itself. On
        the way out connections are closed with 1001 within the grace time. Where the hub fails, its
        connections are closed with 1012, and what it raised is raised here.

        Args:
            app: the outer application, which is not used.

        Raises:
            RuntimeError: it is open already, or Trio does not run.
            BackendError: the hub cannot be opened.
        """
        return Plain(self._lifespan())

    @asynccontextmanager
    async def _lifespan(self) -> AsyncIterator[None]:
        if not in_trio():
            raise RuntimeError(NOT_TRIO)
        if self._running is not None:
            raise RuntimeError("the application's lifespan is open already")
        if self._heartbeat.message is None:
            self._tell_once(_UNANSWERED)
        async with trio.open_nursery() as nursery:
            try:
                async with AsyncExitStack() as stack:
                    hub = await self._open_hub(stack)
                    running = Running(self._service(hub), hub, nursery.start_soon)
                    try:
                        tasks = await stack.enter_async_context(trio.open_nursery())
                        await running.service.start(tasks)
                        self._running = running
                        yield
                        await running.drain(self._grace)
                        tasks.cancel_scope.cancel()
                    except BaseException:
                        await running.give_up()
                        raise
                    finally:
                        self._running = None
                        running.service.tell()
            except Exception as exc:
                if nursery.child_tasks:
                    _log.error(_HELD, exc_info=exc)
                raise
            nursery.cancel_scope.cancel()

    async def _open_hub(self, stack: AsyncExitStack) -> Hub | None:
        source = self._source
        if source is None or isinstance(source, Hub):
            return source
        if isinstance(source, str):
            source = open_hub(source)
        elif not isinstance(source, AbstractAsyncContextManager):
            source = source()
        hub = await stack.enter_async_context(source)
        check_kind("what the hub's context manager gives", hub, Hub, "a Hub")
        return hub

    def _service(self, hub: Hub | None) -> Service:
        handler = self._handler
        if handler is None and hub is None:
            handler = _no_handler
        service = Service(
            handler=handler,
            handler_errors=self._handler_errors,
            hub=hub,
            admit=self._admit,
            permissions=self._permissions,
            origins=self._origins,
            path_prefix=self._path_prefix,
            heartbeat=self._heartbeat,
            limits=self._limits,
            observer=self._observer,
        )
        service.shared.metronome.turn = _TURN
        return service

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Serve a WebSocket, or the lifespan; a request over HTTP gets 426."""
        # Any: each framework has types of its own for these.
        if scope["type"] != "websocket" or not in_trio():
            await self._serve_other(scope, receive, send)
            return
        entered = await self._enter(scope, receive, send)
        if entered is None:
            return
        running, entry, transport = entered
        run = running.run(entry, transport)
        # The call lasts as long as the connection, and would keep them.
        del scope, receive, send, entered, entry
        try:
            await run
        finally:
            await running.leave(transport)

    async def _serve_other(self, scope: Scope, receive: Receive, send: Send) -> None:
        if not in_trio():
            self._tell_once(NOT_TRIO)
            await refuse_asyncio(scope, receive, send)
            return
        match scope["type"]:
            case "lifespan":
                await self._serve_lifespan(receive, send)
            case "http":
                text = "this is the address of a WebSocket, and not a WebSocket handshake"
                upgrade = {"Upgrade": "websocket"} if scope["http_version"] < "2" else {}
                await refuse(scope, send, Refused(426, text, upgrade))
            case other:
                raise RuntimeError(f"scope of type {other!r} is not served")

    def connection(
        self, scope: Any, receive: Any, send: Any
    ) -> AbstractAsyncContextManager[Connection]:
        """Open a connection within an endpoint of another framework, which has not accepted it.

        The block is like a handler: it is cancelled when the connection ends, without an exception
        behind it, and when it is left the connection is closed with 1000, or 1011 where it raises.
        The endpoint should return then.

        Args:
            scope: of the WebSocket, as the two that follow: ``websocket.scope``,
                ``websocket.receive`` and ``websocket.send`` of a ``starlette.WebSocket``.
            receive: the server's function.
            send: the server's function.

        Raises:
            Refused: the peer was refused, and is answered already; or it has left.
            RuntimeError: the endpoint has accepted the WebSocket; that is seen by a message.
        """
        return Plain(self._connection(scope, receive, send))

    @asynccontextmanager
    async def _connection(
        self, scope: Scope, receive: Receive, send: Send
    ) -> AsyncIterator[Connection]:
        block = trio.CancelScope()

        async def run(*, task_status: trio.TaskStatus[tuple[Connection, BlockConsumer]]) -> None:
            def make(admitted: Admitted) -> Consumer:
                return BlockConsumer(self._limits.inbound, admitted, task_status.started)

            entered = await self._enter(scope, receive, send, make)
            if entered is None:
                raise Refused(400, "the peer has left")
            running, entry, transport = entered
            try:
                await running.run(entry, transport)
                block.cancel()
            finally:
                await running.leave(transport)

        async with trio.open_nursery() as nursery:
            connection, consumer = await nursery.start(run)
            with block:
                try:
                    yield connection
                except BaseException as exc:
                    left = all(isinstance(leaf, trio.Cancelled) for leaf in leaves(exc))
                    consumer.end(*((1001, "") if left else (1011, "internal error")))
                    raise
                consumer.end(1000, "")

    async def _enter(
        self,
        scope: Scope,
        receive: Receive,
        send: Send,
        consumer: Callable[[Admitted], Consumer] | None = None,
    ) -> tuple[Running, Entry, ASGITransport] | None:
        """Decide about a handshake; gives a connection that is to be run at once, or None.

        Args:
            consumer: makes the connection's consumer; then a refusal is raised as well.
        """
        if not await _asks(receive):
            return None
        running = self._running
        if running is None:
            self._tell_once(_CLOSED)
            await self._refuse(scope, send, Refused(500, _CLOSED), consumer)
            return None
        asking = client(scope)
        agreed = subprotocol(scope, self._subprotocols)
        transport = ASGITransport(
            receive,
            send,
            running.start_soon,
            peer=asking.peer,
            subprotocol=agreed,
            message_size=self._limits.message_size,
            inbound=self._limits.inbound,
            answered=self._heartbeat.message is not None,
            shares=scope.get("http_version", "1.1") >= "2",
        )
        try:
            self._check_served_here(running, consumer)
            asked = request(scope, asking)
            entry = await running.service.admit(asked, asking, agreed, consumer)
        except Refused as refusal:
            # An application may raise one object again and again.
            refusal.__traceback__ = refusal.__context__ = None
            running.service.refusals.note(asking.peer, refusal)
            if self._refuse_by == "close" and refusal.status in (401, 403):
                await running.refuse_by_close(transport, send, refusal, agreed)
                if consumer is not None:
                    raise
            else:
                await self._refuse(scope, send, refusal, consumer)
            return None
        return running, entry, transport

    def _check_served_here(self, running: Running, consumer: object) -> None:
        if consumer is None and self._handler is None and running.hub is None:
            raise Refused(404, "no WebSocket here")

    async def _refuse(
        self,
        scope: Scope,
        send: Send,
        refusal: Refused,
        consumer: Callable[[Admitted], Consumer] | None,
    ) -> None:
        await refuse(scope, send, refusal)
        if consumer is not None:
            raise refusal

    async def _serve_lifespan(self, receive: Receive, send: Send) -> None:
        """Open the lifespan for a server that serves this application alone."""
        await receive()
        started, failed = False, ""
        try:
            async with self.lifespan():
                started = True
                await send({"type": "lifespan.startup.complete"})
                await receive()
        except Exception as exc:
            if started:
                raise
            failed = f"{type(exc).__name__}: {exc}"
            # What a hub cannot be opened with is no bug, and said in one line.
            bug = None if isinstance(exc, BackendError) else exc
            _log.error("the application did not start: %s", failed, exc_info=bug)
        if failed:
            # Hypercorn raises here, and shows what it would be raised behind.
            await send({"type": "lifespan.startup.failed", "message": failed})
        else:
            await send({"type": "lifespan.shutdown.complete"})

    def _tell_once(self, text: str) -> None:
        if text not in self._told:
            self._told.add(text)
            _log.warning("%s", text)


async def _asks(receive: Receive) -> bool:
    """Whether a peer waits for the handshake's answer; it may have left already.

    Raises:
        RuntimeError: it was answered.
    """
    kind = (await receive())["type"]
    if kind not in ("websocket.connect", "websocket.disconnect"):
        raise RuntimeError(f"{kind!r} was received: {_ACCEPTED}")
    return bool(kind == "websocket.connect")


def _check_served(handler: object, hub: object, admit: object, permissions: object) -> None:
    if handler is not None and not callable(handler):
        raise TypeError(f"handler is {handler!r}; it must be an async function, a hub, or None")
    kinds = (Hub, AbstractAsyncContextManager, str)
    if hub is not None and not isinstance(hub, kinds) and not callable(hub):
        raise TypeError(f"hub is {hub!r}; it must be a Hub, what opens one, a URL, or None")
    if admit is not None and not callable(admit):
        raise TypeError(f"admit is {admit!r}; it must be an async function, or None")
    if permissions is not None:
        check_kind("permissions", permissions, Permissions, "a Permissions, or None")
        if handler is not None or hub is None:
            raise ValueError("permissions are of no use without a hub, or beside a handler")
