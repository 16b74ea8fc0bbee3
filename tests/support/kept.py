"""WebSockets that a program has accepted, and that `keep_alive` beats over."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from typing import Final, TypeAlias

import trio
import trio.testing
import trio_websocket
from trio_websocket import WebSocketConnection, WebSocketRequest
from websockets.frames import Opcode

from tests.support.harness import tls_contexts
from tests.support.peer import HANDSHAKE, Peer, dial
from trio_beat import Closed, Heartbeat
from trio_beat.trio_websocket import keep_alive

BEATS: Final = Heartbeat(1.0, 2)
MemoryStream: TypeAlias = trio.StapledStream[
    trio.testing.MemorySendStream, trio.testing.MemoryReceiveStream
]


class Kept:
    """A WebSocket that is kept alive."""

    def __init__(self, ws: WebSocketConnection) -> None:
        self.ws = ws
        self.closed: Closed | None = None
        self.over = trio.Event()
        #: When it was over.
        self.at = 0.0

    async def run(self, heartbeat: Heartbeat) -> None:
        self.closed = await keep_alive(self.ws, heartbeat=heartbeat)
        self.at = trio.current_time()
        self.over.set()


@asynccontextmanager
async def kept(
    *, tls: bool = False, queue: int = 1, heartbeat: Heartbeat = BEATS
) -> AsyncIterator[tuple[Kept, Peer]]:
    """A WebSocket that a program has accepted, and its peer.

    Args:
        tls: over TLS.
        queue: messages that may wait for the program.
        heartbeat: how it beats.
    """
    made: list[Kept] = []

    async def handle(request: WebSocketRequest) -> None:
        one = Kept(await request.accept())
        made.append(one)
        await one.run(heartbeat)

    for_server, for_client = tls_contexts() if tls else (None, None)
    serve = partial(
        trio_websocket.serve_websocket,
        handle,
        "127.0.0.1",
        0,
        for_server,
        message_queue_size=queue,
        disconnect_timeout=1,
    )
    async with trio.open_nursery() as nursery:
        server = await nursery.start(serve)
        peer = await dial(server.port, ssl_context=for_client)
        while not made:  # noqa: ASYNC110 - another task's
            await trio.sleep(0.01)
        yield made[0], peer
        nursery.cancel_scope.cancel()
    await peer.aclose()


class BytewiseStream(trio.abc.Stream):
    """Sends a byte at a time, and tells of each."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        self._stream = stream
        self.sent: Callable[[], object] = int

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        for byte in bytes(data):
            await self._stream.send_all(bytes([byte]))
            self.sent()

    async def wait_send_all_might_not_block(self) -> None:
        await self._stream.wait_send_all_might_not_block()

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        return await self._stream.receive_some(max_bytes)

    async def aclose(self) -> None:
        await self._stream.aclose()


async def answer(peer: Peer) -> None:
    """Answer PINGs until the stream ends."""
    while (frame := await peer.frame()) is not None:
        if frame.opcode is Opcode.PING:
            await peer.pong(frame)


@asynccontextmanager
async def over_streams(
    ours: trio.abc.Stream, theirs: trio.SocketStream | MemoryStream
) -> AsyncIterator[tuple[Kept, Peer]]:
    """The same over two ends of streams, which are closed behind it."""
    async with ours, theirs, trio.open_nursery() as nursery:
        await theirs.send_all(HANDSHAKE.format(target="/", headers="").encode())
        request = await trio_websocket.wrap_server_stream(nursery, ours)
        one = Kept(await request.accept())
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            head += await theirs.receive_some(1)
        nursery.start_soon(one.run, BEATS)
        yield one, Peer(theirs)
        nursery.cancel_scope.cancel()


def in_memory() -> AbstractAsyncContextManager[tuple[Kept, Peer]]:
    """The same over a stream of which no kernel tells anything."""
    return over_streams(*trio.testing.memory_stream_pair())


def unix_pair() -> tuple[trio.SocketStream, trio.SocketStream]:
    """Two ends of a Unix socket."""
    ours, theirs = trio.socket.socketpair()
    return trio.SocketStream(ours), trio.SocketStream(theirs)


async def tcp_pair(buffer: int) -> tuple[trio.SocketStream, trio.SocketStream]:
    """Two ends of a TCP connection over loopback.

    Args:
        buffer: bytes that the kernel holds at most of what the first one sends, and as many of
            what the second one has not read.
    """
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    listener.socket.setsockopt(trio.socket.SOL_SOCKET, trio.socket.SO_SNDBUF, buffer)
    sock = trio.socket.socket()
    sock.setsockopt(trio.socket.SOL_SOCKET, trio.socket.SO_RCVBUF, buffer)
    async with listener:
        await sock.connect(listener.socket.getsockname())
        return await listener.accept(), trio.SocketStream(sock)
