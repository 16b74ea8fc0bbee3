"""A server that a test plays itself, frame by frame, at the other end of a socket pair."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Awaitable, Callable, Iterator

import pytest
import trio
from websockets.frames import Opcode
from websockets.protocol import SERVER

from tests.support.peer import Peer, PeerStream
from trio_beat import Heartbeat, connect
from trio_beat._client import session
from trio_beat._client.address import Address
from trio_beat._client.sockets import ClientSocket
from trio_beat._protocol.handshake import accept
from trio_beat._protocol.head import find_head

URL = "ws://localhost/ws/news?subscribe-broadcast"


class FakeServer:
    """Replaces TCP for the clients of a test.

    Attributes:
        sockets: the server's ends of all connections.
        times: when clients have dialled.
        errors: raised for the next clients that dial, in this order.
        request: the last one that was read.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._send, self._receive = trio.open_memory_channel[Peer](100)
        self.sockets: list[socket.socket] = []
        self.times: list[float] = []
        self.errors: list[Exception] = []
        self.request = ""
        monkeypatch.setattr(session, "dial", self._dial)

    async def _dial(self, address: Address) -> ClientSocket:
        await trio.lowlevel.checkpoint()
        self.times.append(trio.current_time())
        if self.errors:
            raise self.errors.pop(0)
        ours, theirs = socket.socketpair()
        for sock in (ours, theirs):
            sock.setblocking(False)
        stream = trio.SocketStream(trio.socket.from_stdlib_socket(theirs))
        self.sockets.append(theirs)
        self._send.send_nowait(Peer(stream, SERVER))
        return ClientSocket(ours)

    async def wait_dialled(self) -> Peer:
        """Wait until a client dials."""
        return await self._receive.receive()

    async def receive_request(self) -> Peer:
        """Wait until a client dials, and read its request.

        Raises:
            trio.EndOfChannel: it left before the end of it.
        """
        peer = await self.wait_dialled()
        data = b""
        while b"\r\n\r\n" not in data:
            chunk = await peer.stream.receive_some(65536)
            if not chunk:
                raise trio.EndOfChannel
            data += chunk
        self.request = data.decode("latin-1")
        return peer

    async def accept(self, *subprotocols: str, header: str = "", behind: bytes = b"") -> Peer:
        """Accept the opening handshake of the next client.

        Args:
            subprotocols: that the server speaks.
            header: one more of the answer.
            behind: bytes that are sent together with the answer.
        """
        peer = await self.receive_request()
        head = find_head(self.request.encode("latin-1"))
        assert head is not None
        response, _ = accept(head, subprotocols)
        if header:
            response = response.replace(b"\r\n\r\n", f"\r\n{header}\r\n\r\n".encode())
        await peer.send(response + behind)
        return peer

    async def refuse(self, status: int, body: str = "") -> None:
        """Refuse the opening handshake of the next client."""
        peer = await self.receive_request()
        head = f"HTTP/1.1 {status} Whatever\r\nContent-Length: {len(body)}\r\n\r\n"
        await peer.send((head + body).encode())
        await peer.stream.receive_some(1)
        await peer.aclose()

    async def play(self, script: Callable[[Peer], Awaitable[object]]) -> None:
        """Accept the next client, and run a script as its server."""
        await script(await self.accept())


async def accept_handshake(stream: PeerStream) -> Peer:
    """Accept the opening handshake of a client that has connected by TCP."""
    data = b""
    while (head := find_head(data) if data else None) is None:
        data += await stream.receive_some()
    response, _ = accept(head, ())
    await stream.send_all(response)
    return Peer(stream, SERVER)


async def answer_pings(peer: Peer, after: float = 0.0) -> None:
    """Be a server that is alive, until the client closes."""
    while (frame := await peer.frame()) is not None:
        if frame.opcode is Opcode.PING:
            await trio.sleep(after)
            await peer.pong(frame)
        elif frame.opcode is Opcode.CLOSE:
            with contextlib.suppress(trio.BrokenResourceError):  # it need not wait for an answer
                await peer.send_frame(Opcode.CLOSE, bytes(frame.data))
            break
    await peer.aclose()


def connect_to_silence(fake_server: FakeServer, nursery: trio.Nursery) -> connect:
    """Connect to a server that accepts the client, and neither reads nor sends afterwards."""
    nursery.start_soon(fake_server.accept)
    return connect(URL, heartbeat=Heartbeat(4.0, misses=3))


@pytest.fixture
def fake_server(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeServer]:
    """The server of every client of the test."""
    fake_server = FakeServer(monkeypatch)
    yield fake_server
    for sock in fake_server.sockets:
        sock.close()
