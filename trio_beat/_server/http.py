"""HTTP/1.1 by Hypercorn, over a socket whose first request is read already.

Hypercorn has no public way to serve a connection that another server accepted. Its protocol object
is driven here and in `http_protocol`, as its own ``hypercorn.trio.tcp_server`` does, and nowhere
else; the dependency is pinned to the minor version. A send is not shielded from cancellation: a
peer that does not read cannot outlive the server.

Each wait for a peer is bounded, and a byte now and then does not extend it:

- the next request's first byte comes within Hypercorn's keep-alive timeout, the rest of its head
  within the handshake timeout;
- body and answer move 4,096 bytes a second, but for 30 seconds (`Patience`);
- after its last answer a connection has `LINGER` seconds;
- a connection takes requests for a minute, and is then closed with the next answer.
"""

from __future__ import annotations

import math
import sys
from typing import Any, Final

import h11
import trio
from hypercorn.config import Config
from hypercorn.events import Closed, Event, RawData, Updated
from hypercorn.logging import Logger
from hypercorn.trio.worker_context import WorkerContext
from hypercorn.typing import AppWrapper, ConnectionState
from hypercorn.utils import parse_socket_addr, wrap_app
from websockets.datastructures import Headers

from .._exceptions import Refused
from .._log import get_logger
from .._turns import Turns
from .http_pace import BYTES, PATIENCE, REQUESTS, SLOWEST, Bucket, Pace, Patience, pay
from .http_protocol import Protocol
from .http_tasks import Tasks
from .lifespan import ASGIApp
from .pending import LINGER, PendingSocket
from .proxies import LOOKED_AT, Proxies

_log = get_logger("trio_beat.http")

#: Seconds for which the application may neither get nor give anything. (While it waits for the
#: peer's body, it is the connection's patience that ends first.)
_STALL_TIMEOUT: Final = 30.0
_LATER: Final = 5.0
#: Bytes of an answer that are sent in one step.
_PIECE: Final = 65536
#: Bytes that h11 may hold: more than the head that `find_head` lets through.
_INCOMPLETE: Final = 32 * 1024


class HTTPFront:
    """Serves an ASGI application over HTTP, one connection at a time.

    Args:
        app: the application.
        turns: those of the server.
        head_timeout: seconds for the headers of each further request of a connection.
        state: the application's, of which each request gets a shallow copy.
        proxies: tell who the client of a request is.
    """

    def __init__(
        self,
        app: ASGIApp,
        turns: Turns,
        head_timeout: float,
        state: dict[str, Any],
        proxies: Proxies,
    ) -> None:
        self.config = Config()
        self.config.logger_class = _Log
        self.config.accesslog = None
        self.config.errorlog = _log
        self.config.include_server_header = False
        self.config.h11_max_incomplete_size = _INCOMPLETE
        self.context = WorkerContext(None)
        self.pace = Pace(turns)
        self.turns = turns
        self.head_timeout = head_timeout
        self.state = state
        self.proxies = proxies
        self.app: AppWrapper = wrap_app(_bounded(app, self.pace), 0, "asgi")
        self._connections: set[_HTTPConnection] = set()

    @property
    def connections(self) -> int:
        """How many are being served."""
        return len(self._connections)

    async def serve(self, pending: PendingSocket, received: bytes) -> None:
        """Serve HTTP until the peer leaves or has been idle for too long.

        Args:
            pending: the socket; the caller closes it.
            received: what was read from it.
        """
        connection = _HTTPConnection(self, pending)
        self._connections.add(connection)
        try:
            try:
                await connection.run(received)
            except* h11.ProtocolError as group:
                # Hypercorn deals with what the application raises. This is its own machinery: a
                # malformed request can put it into a state that it does not expect.
                _log.info("%s HTTP connection failed: %s", pending.peer, _kinds(group))
                _log.debug("how it failed", exc_info=group)
            connection.end_soon()
            pending.end_output()
            await pending.linger(self.turns, connection.over_at)
        finally:
            self._connections.discard(connection)

    async def drain(self) -> None:
        """Let requests under way be answered, and close idle connections."""
        await self.context.terminated.set()
        for connection in self._connections:
            connection.close_if_idle()


def _kinds(group: BaseExceptionGroup[BaseException]) -> str:
    """What kinds of exceptions they are. Their texts may quote what the peer sent."""
    return ", ".join(type(exc).__name__ for exc in group.exceptions)


def _bounded(app: ASGIApp, pace: Pace) -> ASGIApp:
    """Take a step for each event sent, and end a request in which there is none for too long."""

    async def bounded(scope: Any, receive: Any, send: Any) -> None:
        def wait(more: float = 0.0) -> None:
            if scope["type"] == "http":
                life.deadline = trio.current_time() + _STALL_TIMEOUT + more

        async def receive_in_time() -> Any:
            wait(_LATER)
            event = await receive()
            wait()
            return event

        async def send_in_time(event: Any) -> None:
            await pace.step()
            wait(len(event.get("body", b"")) / SLOWEST + _LATER)
            await send(event)
            wait()

        with trio.CancelScope() as life:
            wait()
            await app(scope, receive_in_time, send_in_time)
        if life.cancelled_caught:
            # It explains the 500 to the application's author.
            _log.warning(
                "the application neither took nor gave anything for %g s: its request is ended",
                _STALL_TIMEOUT,
            )

    return bounded


def _more_steps(head: bytes) -> int:
    """How many more steps it takes to parse the head of a request: the largest take 1 ms."""
    return head.count(b"\n") // 32 + len(head) // 4096


class _HTTPConnection:
    def __init__(self, front: HTTPFront, pending: PendingSocket) -> None:
        self._front = front
        self._pending = pending
        #: Ends everything.
        self._life = trio.CancelScope()
        #: Ends the reading only: what was asked for is still answered.
        self._reading = trio.CancelScope()
        #: No request is under way ...
        self._idle = True
        #: ... but the first bytes of one have come.
        self._head_begun = False
        #: The last answer has been sent.
        self._closed = False
        #: When the socket is closed; infinite while more may be asked for.
        self.over_at = math.inf
        self._requests = Bucket(*REQUESTS)
        self._bytes = Bucket(*BYTES)
        self._taking = Patience()
        self._giving = Patience()
        self._send_lock = trio.StrictFIFOLock()
        self._protocol: Protocol
        #: Host and port at the other end of the socket.
        self._client: tuple[str, int] | None = None

    async def run(self, received: bytes) -> None:
        pending, front = self._pending, self._front
        family = pending.sock.family
        try:
            self._client = parse_socket_addr(family, pending.sock.getpeername())
            server = parse_socket_addr(family, pending.sock.getsockname())
        except OSError:
            self.end_soon()
            return
        with self._life:
            async with Tasks(self._step) as task_group:
                self._protocol = Protocol(
                    front.app,
                    front.config,
                    front.context,
                    task_group,
                    ConnectionState(front.state),
                    pending.secure,
                    self._client,
                    server,
                    self._protocol_send,
                    told=self._told,
                )
                self._set_idle()
                with self._reading:
                    await self._read(received)
                if self._head_begun and trio.current_time() >= self._reading.deadline:
                    text = f"no request within {front.head_timeout:g} s"
                    await self._protocol.refuse(Refused(408, text))
                self.end_soon()
                # Many may leave at once.
                await front.turns.take()
                await self._protocol.handle(Closed())

    def _told(self, headers: list[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
        """Let the application see a request as a trusted proxy got it: one serves many clients.

        Args:
            headers: the request's; names are in lower case.

        Returns:
            Those that the application gets.
        """
        named = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in headers]
        looked_at = Headers(pair for pair in named if pair[0] in LOOKED_AT)
        client = self._front.proxies.client(self._pending, looked_at)
        self._pending.client_name = client.peer
        # A port of 0 is one that is not known, as with Uvicorn.
        self._protocol.client = (str(client.address), 0) if client.forwarded else self._client
        self._protocol.ssl = client.scheme == "https"
        if client.host == looked_at.get("Host", ""):
            return headers
        others = [(name, value) for name, value in headers if name != b"host"]
        return [(b"host", client.host.encode("latin-1")), *others]

    async def _read(self, received: bytes) -> None:
        data = received
        while data:
            if self._idle and not self._head_begun:
                self._head_begun = True
                self._reading.deadline = trio.current_time() + self._front.head_timeout
            await pay(self._bytes, len(data))
            try:
                await self._step()
                await self._protocol.handle(RawData(data))
            except trio.TooSlowError:
                await self._give_up()
                return
            self._moved()
            data = await self._receive()

    async def _step(self) -> None:
        """Take a step.

        A body that takes many of them, since it comes in tiny pieces, has no more time than one
        that comes slowly: what the kernel holds of it would keep us busy long after its sender.
        """
        if self._protocol.expects_body:
            await self._taking.wait(self._front.pace.step)
        else:
            await self._front.pace.step()

    async def _give_up(self) -> None:
        text = f"the body came slower than {SLOWEST:g} bytes a second for {PATIENCE:g} s"
        await self._protocol.refuse(Refused(408, text))

    async def _receive(self) -> bytes:
        try:
            if not self._protocol.expects_body:
                return await self._pending.receive_some()
            data = await self._taking.wait(self._pending.receive_some)
        except OSError:
            return b""
        except trio.TooSlowError:
            await self._give_up()
            return b""
        self._taking.earn(len(data))
        return data

    def close_if_idle(self) -> None:
        """Read no further request."""
        if self._idle:
            self._reading.cancel()

    def _moved(self) -> None:
        """Of an application's WebSocket is known only whether anything moves."""
        if self._protocol.upgraded and self.over_at == math.inf:
            self._life.deadline = trio.current_time() + _STALL_TIMEOUT

    def end_soon(self) -> None:
        """Nothing more is asked for."""
        self.over_at = min(self.over_at, trio.current_time() + LINGER)
        self._life.deadline = self.over_at

    def _set_idle(self) -> None:
        self._idle = True
        self._head_begun = False
        self._reading.deadline = trio.current_time() + self._front.config.keep_alive_timeout

    async def _begin_request(self) -> None:
        self._idle = self._head_begun = False
        self._reading.deadline = math.inf
        self._taking, self._giving = Patience(), Patience()
        await pay(self._requests, 1)
        for _ in range(_more_steps(self._protocol.head)):
            await self._front.pace.step()

    async def _protocol_send(self, event: Event) -> None:
        if isinstance(event, RawData):
            async with self._send_lock:
                await self._send(event.data)
        elif isinstance(event, Closed):
            self._closed = True
            self._pending.end_output()
            self._reading.cancel()
            self.end_soon()
        elif isinstance(event, Updated):
            if event.idle:
                self._set_idle()
            else:
                await self._begin_request()

    async def _send(self, data: bytes) -> None:
        for begin in range(0, len(data), _PIECE):
            if begin:
                await self._front.pace.step()
            if self._closed:
                return
            piece = data[begin : begin + _PIECE]
            try:
                await self._giving.wait(self._pending.send_all, piece)
            except OSError:
                self._reading.cancel()
                return
            except trio.TooSlowError:
                self._life.cancel()
                await trio.lowlevel.checkpoint()
            self._giving.earn(len(piece))
            self._moved()


class _Log(Logger):
    """Hypercorn's, which takes a request that breaks its own machinery for an application's bug."""

    async def exception(self, message: str, *args: Any, **kwargs: Any) -> None:
        error = sys.exc_info()[1]
        if isinstance(error, h11.ProtocolError):
            _log.info("HTTP request failed: %s", type(error).__name__)
        else:
            await super().exception(message, *args, **kwargs)
