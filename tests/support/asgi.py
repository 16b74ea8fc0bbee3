"""ASGI servers: one that is played, and Hypercorn with clients for HTTP/1.1 and HTTP/2."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from typing import Any, Final

import h2.config
import h2.connection
import h2.events
import h2.settings
import trio
from hypercorn.config import Config
from hypercorn.trio import serve
from websockets.frames import Frame, Opcode

from trio_beat import Connection, Heartbeat, connect
from trio_beat.asgi import Application

#: Seconds after which a real test hangs.
HANGS: Final = 60.0
#: Events that Hypercorn's queue holds.
QUEUE: Final = 10
#: The text heartbeat, and the seconds between two.
BEAT: Final = "--heartbeat--"
INTERVAL: Final = 4.0


def websocket_scope(target: str = "/ws/news?subscribe-broadcast", **changes: Any) -> dict[str, Any]:
    """The scope of a WebSocket as Hypercorn makes it, with some changes."""
    path, _, query = target.partition("?")
    return {
        "type": "websocket",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "scheme": "ws",
        "http_version": "1.1",
        "path": path,
        "raw_path": path.encode(),
        "query_string": query.encode(),
        "root_path": "",
        "headers": [(b"host", b"example.org")],
        "client": ("192.0.2.1", 5),
        "server": ("192.0.2.9", 80),
        "subprotocols": [],
        "extensions": {"websocket.http.response": {}},
        **changes,
    }


class Played:
    """One WebSocket of an ASGI server, which is played by a test.

    Args:
        scope: changes of the scope.
    """

    def __init__(self, target: str = "/ws/news?subscribe-broadcast", **scope: Any) -> None:
        self.scope = websocket_scope(target, **scope)
        self._put, self._get = trio.open_memory_channel[dict[str, Any]](QUEUE)
        self._put.send_nowait({"type": "websocket.connect"})
        #: What the application sent, and has not been taken by `next`.
        self.sent: list[dict[str, Any]] = []
        self._something = trio.Event()
        #: While it is not None, `send` waits for it, in a shielded scope as Hypercorn does.
        self.stuck: trio.Event | None = None
        #: Set when the application has returned.
        self.returned = trio.Event()

    async def receive(self) -> Any:
        return await self._get.receive()

    async def send(self, event: Any) -> None:
        await trio.lowlevel.checkpoint()
        if self.stuck is not None:
            with trio.CancelScope(shield=True):
                await self.stuck.wait()
        self.sent.append(dict(event))
        self._something.set()

    async def run(self, app: Application) -> None:
        """Call the application."""
        try:
            await app(self.scope, self.receive, self.send)
        finally:
            self.returned.set()

    async def says(self, payload: str | bytes) -> None:
        """The peer sends a message; waits while the queue is full, as all of a connection would."""
        text = isinstance(payload, str)
        message = {"text": payload if text else None, "bytes": None if text else payload}
        await self._put.send({"type": "websocket.receive", **message})

    async def leaves(self, code: int = 1006) -> None:
        """The peer is gone."""
        await self._put.send({"type": "websocket.disconnect", "code": code})

    async def next(self) -> dict[str, Any]:
        """Wait for the next event that the application sends."""
        while not self.sent:
            self._something = trio.Event()
            await self._something.wait()
        return self.sent.pop(0)


@asynccontextmanager
async def playing(app: Application, played: Played | None = None) -> AsyncIterator[Played]:
    """A WebSocket of an application whose lifespan is open already; accepted."""
    played = played or Played()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(played.run, app)
        assert (await played.next())["type"] == "websocket.accept"
        yield played
        nursery.cancel_scope.cancel()


async def answer(app: Any, scope: dict[str, Any], *events: str) -> list[dict[str, Any]]:
    """Call an application with the events of these types; returns what it sends."""
    sent: list[dict[str, Any]] = []
    waiting = list(events)

    async def receive() -> dict[str, Any]:
        return {"type": waiting.pop(0)}

    async def send(event: Any) -> None:
        sent.append(dict(event))

    await app(scope, receive, send)
    return sent


@asynccontextmanager
async def hypercorn(app: Any, **config: Any) -> AsyncIterator[int]:
    """Serve an application by Hypercorn's Trio worker, in this process; gives the port."""
    made = Config()
    made.bind = ["127.0.0.1:0"]
    made.graceful_timeout = 1.0
    for name, value in config.items():
        setattr(made, name, value)
    stop = trio.Event()
    with trio.fail_after(HANGS):
        async with trio.open_nursery() as nursery:
            # Hypercorn's types are those of its own.
            run: Any = partial(serve, app, made, shutdown_trigger=stop.wait, mode="asgi")
            (url,) = await nursery.start(run)
            try:
                yield int(url.rpartition(":")[2])
            finally:
                stop.set()


def answering(url: str, **options: Any) -> AbstractAsyncContextManager[Connection]:
    """Connect as a client of an application does: it sends text heartbeats back and hides them."""
    return connect(url, heartbeat=Heartbeat(INTERVAL, message=BEAT), **options)


def masked(opcode: Opcode, payload: bytes) -> bytes:
    """A client's frame."""
    return Frame(opcode, payload).serialize(mask=True)


def ends(app: Application) -> dict[str, int]:
    """How connections ended so far."""
    return {str(by): count for by, count in app.statistics().ended.items() if count}


class H2Client:
    """A client of HTTP/2 without TLS, with several WebSockets (RFC 8441) over one connection."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self._stream = stream
        config = h2.config.H2Configuration(client_side=True, header_encoding="utf-8")
        self._h2 = h2.connection.H2Connection(config)
        self._lock = trio.Lock()
        self._changed = trio.Event()
        #: By stream: the status, the bytes that came, and how it ended.
        self.statuses: dict[int, str] = {}
        self.received: dict[int, bytearray] = {}
        self.ended: dict[int, str] = {}
        self.connectable = False

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Read, until the connection ends."""
        self._h2.initiate_connection()
        await self._flush()
        task_status.started()
        while data := await self._stream.receive_some():
            for event in self._h2.receive_data(data):
                self._take(event)
            await self._flush()
            self._tell()
        self.ended[0] = "end of stream"
        self._tell()

    def _take(self, event: h2.events.Event) -> None:
        match event:
            case h2.events.RemoteSettingsChanged():
                code = h2.settings.SettingCodes.ENABLE_CONNECT_PROTOCOL
                self.connectable |= code in event.changed_settings
            case h2.events.ResponseReceived():
                assert event.stream_id is not None
                headers: Any = event.headers  # texts, by the configuration
                self.statuses[event.stream_id] = dict(headers)[":status"]
            case h2.events.DataReceived():
                assert event.stream_id is not None
                self.received.setdefault(event.stream_id, bytearray()).extend(event.data or b"")
                size = event.flow_controlled_length or 0
                self._h2.acknowledge_received_data(size, event.stream_id)
            case h2.events.StreamEnded() | h2.events.StreamReset():
                assert event.stream_id is not None
                self.ended[event.stream_id] = type(event).__name__

    def _tell(self) -> None:
        self._changed.set()
        self._changed = trio.Event()

    async def _flush(self) -> None:
        async with self._lock:
            if data := self._h2.data_to_send():
                await self._stream.send_all(data)

    async def until(self, condition: Any) -> None:
        """Wait until a condition holds."""
        while not condition():
            await self._changed.wait()

    async def connect(self, target: str) -> int:
        """Open a WebSocket; gives its stream."""
        await self.until(lambda: self.connectable)
        number: int = self._h2.get_next_available_stream_id()
        headers = [
            (":method", "CONNECT"),
            (":protocol", "websocket"),
            (":scheme", "http"),
            (":path", target),
            (":authority", "example.org"),
            ("sec-websocket-version", "13"),
        ]
        self._h2.send_headers(number, headers)
        await self._flush()
        await self.until(lambda: number in self.statuses)
        return number

    async def send(self, number: int, opcode: Opcode, payload: bytes) -> None:
        """Send a frame on a stream."""
        self._h2.send_data(number, masked(opcode, payload))
        await self._flush()


@asynccontextmanager
async def h2_client(port: int) -> AsyncIterator[H2Client]:
    """A connection of HTTP/2."""
    stream = await trio.open_tcp_stream("127.0.0.1", port)
    async with stream, trio.open_nursery() as nursery:
        client = H2Client(stream)
        await nursery.start(client.run)
        yield client
        nursery.cancel_scope.cancel()
