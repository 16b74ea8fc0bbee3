"""Hypercorn's HTTP/1.1 and HTTP/2 over a socket that the front door has read from already.

Hypercorn has no public way to serve a connection that somebody else accepted, so its protocol
objects are driven here as its own ``hypercorn.trio.tcp_server`` does, and nowhere else; the
dependency is pinned to the minor version. Two things are done differently: a send is not shielded
from cancellation, so that a peer that does not read cannot outlive the server, and HTTP/2 as
browsers speak it does not offer WebSockets (RFC 8441), which they would otherwise use in place of
the native engine.
"""

from __future__ import annotations

import logging
import math
import sys
from collections.abc import Awaitable, Callable
from typing import Any, Final

import h2.exceptions
import h2.settings
import h11
import trio
from hypercorn.config import Config
from hypercorn.events import Closed, Event, RawData, Updated
from hypercorn.logging import Logger
from hypercorn.protocol import ProtocolWrapper
from hypercorn.protocol.h2 import H2Protocol
from hypercorn.trio.task_group import TaskGroup
from hypercorn.trio.worker_context import WorkerContext
from hypercorn.typing import AppWrapper, ConnectionState
from hypercorn.utils import parse_socket_addr, wrap_app

from .._front_door import LINGER, Visitor

_log = logging.getLogger("trio_beat.http")

#: An ASGI 3 application.
ASGIApp = Callable[[Any, Any, Any], Awaitable[None]]

#: Seconds for which nothing may move on a connection while a request is being answered.
_STALL_TIMEOUT: Final = 30.0
#: Bytes a second that a peer must take of a body that is sent at once.
_SLOWEST: Final = 4096.0
_PREFACE: Final = b"PRI * HTTP/2.0\r\n"


class HTTPFront:
    """Serves an ASGI application over HTTP, one connection at a time.

    Args:
        app: the application.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.config = Config()
        self.config.logger_class = _Log
        self.config.accesslog = None
        self.config.errorlog = _log
        self.config.include_server_header = False
        self.context = WorkerContext(None)
        self.app: AppWrapper = wrap_app(_bounded(app), 0, "asgi")
        self._connections: set[_HTTPConnection] = set()

    @property
    def connections(self) -> int:
        """How many are being served."""
        return len(self._connections)

    async def serve(self, visitor: Visitor, received: bytes) -> None:
        """Serve HTTP until the peer leaves or has been idle for too long.

        Args:
            visitor: the socket; the caller closes it.
            received: what was read from it.
        """
        connection = _HTTPConnection(self, visitor)
        self._connections.add(connection)
        try:
            try:
                await connection.run(received)
            except* Exception as group:
                # What the application raises Hypercorn has dealt with. This is its own machinery,
                # which a malformed request can put into a state that it does not expect; that
                # must not end the server.
                _log.info("%s HTTP connection failed: %r", visitor.peer, group.exceptions)
                _log.debug("how it failed", exc_info=group)
            visitor.end_output()
            with trio.move_on_after(LINGER):
                while await visitor.receive_some():
                    pass
        finally:
            self._connections.discard(connection)

    async def drain(self) -> None:
        """Let requests under way be answered, and close idle connections."""
        await self.context.terminated.set()
        for connection in self._connections:
            connection.close_if_idle()


def _bounded(app: ASGIApp) -> ASGIApp:
    """End a request of which the application neither gets nor gives anything for too long."""

    async def bounded(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await app(scope, receive, send)
            return

        def wait(size: int = 0) -> None:
            life.deadline = trio.current_time() + _STALL_TIMEOUT + size / _SLOWEST

        async def receive_in_time() -> Any:
            wait()
            event = await receive()
            wait()
            return event

        async def send_in_time(event: Any) -> None:
            wait(len(event.get("body", b"")))
            await send(event)
            wait()

        with trio.CancelScope() as life:
            wait()
            await app(scope, receive_in_time, send_in_time)

    return bounded


class _HTTPConnection:
    def __init__(self, front: HTTPFront, visitor: Visitor) -> None:
        self._front = front
        self._visitor = visitor
        #: Ends everything; for a connection in which nothing moves any more.
        self._life = trio.CancelScope()
        #: Ends the reading only: what was asked for is still answered.
        self._reading = trio.CancelScope()
        self._idle = True
        self._send_lock = trio.StrictFIFOLock()
        self._protocol: ProtocolWrapper

    async def run(self, received: bytes) -> None:
        visitor, config = self._visitor, self._front.config
        family = visitor.sock.family
        try:
            client = parse_socket_addr(family, visitor.sock.getpeername())
            server = parse_socket_addr(family, visitor.sock.getsockname())
        except OSError:
            return
        http2 = visitor.alpn == "h2" or received.startswith(_PREFACE)
        with self._life:
            async with TaskGroup() as task_group:
                self._protocol = ProtocolWrapper(
                    self._front.app,
                    config,
                    self._front.context,
                    task_group,
                    ConnectionState({}),
                    visitor.secure,
                    client,
                    server,
                    self._protocol_send,
                    "h2" if http2 else "http/1.1",
                )
                if isinstance(self._protocol.protocol, H2Protocol):
                    _offer_no_websockets(self._protocol.protocol, config)
                await self._protocol.initiate()
                self._set_idle(True)
                with self._reading:
                    data = received or await self._receive()
                    while data:
                        self._moved()
                        await self._protocol.handle(RawData(data))
                        data = await self._receive()
                self._life.deadline = trio.current_time() + LINGER
                await self._protocol.handle(Closed())

    async def _receive(self) -> bytes:
        try:
            return await self._visitor.receive_some()
        except OSError:
            return b""

    def close_if_idle(self) -> None:
        if self._idle:
            self._reading.cancel()

    def _moved(self) -> None:
        if not self._reading.cancel_called:
            self._life.deadline = trio.current_time() + _STALL_TIMEOUT

    def _set_idle(self, idle: bool) -> None:
        self._idle = idle
        keep_alive = self._front.config.keep_alive_timeout if idle else math.inf
        self._reading.deadline = trio.current_time() + keep_alive
        self._moved()

    async def _protocol_send(self, event: Event) -> None:
        if isinstance(event, RawData):
            async with self._send_lock:
                try:
                    await self._visitor.send_all(event.data)
                except OSError:
                    self._reading.cancel()
                else:
                    self._moved()
        elif isinstance(event, Closed):
            self._visitor.end_output()
            self._reading.cancel()
        elif isinstance(event, Updated):
            self._set_idle(event.idle)


class _Log(Logger):
    """Hypercorn's, which takes a request that breaks its own machinery for an application's bug."""

    async def exception(self, message: str, *args: Any, **kwargs: Any) -> None:
        error = sys.exc_info()[1]
        if isinstance(error, h11.ProtocolError | h2.exceptions.H2Error):
            _log.info("HTTP request failed: %r", error)
        else:
            await super().exception(message, *args, **kwargs)


def _offer_no_websockets(protocol: H2Protocol, config: Config) -> None:
    codes = h2.settings.SettingCodes
    protocol.connection.local_settings = h2.settings.Settings(
        client=False,
        initial_values={
            codes.MAX_CONCURRENT_STREAMS: config.h2_max_concurrent_streams,
            codes.MAX_HEADER_LIST_SIZE: config.h2_max_header_list_size,
        },
    )
