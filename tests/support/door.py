"""Where a client knocks: a server's side of a socket pair, played by the test."""

from __future__ import annotations

import socket
from collections.abc import Awaitable, Callable, Iterator

import pytest
import trio
from websockets.frames import Opcode
from websockets.protocol import SERVER

from tests.support.peer import Peer
from trio_beat._client import session
from trio_beat._client.address import Address
from trio_beat._protocol.handshake import accept, find_head
from trio_beat._transports.trio_websocket import ClientStream

URL = "ws://localhost/ws/news?subscribe-broadcast"


class Door:
    """Takes the place of TCP for the clients of a test."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._send, self._receive = trio.open_memory_channel[Peer](100)
        #: The server's ends.
        self.sockets: list[socket.socket] = []
        #: When somebody knocked.
        self.times: list[float] = []
        #: Raised for the next who come, in this order.
        self.errors: list[Exception] = []
        #: The last request.
        self.request = ""
        monkeypatch.setattr(session, "dial", self._dial)

    async def _dial(self, address: Address) -> tuple[socket.socket, ClientStream]:
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
        return ours, ClientStream(trio.SocketStream(trio.socket.from_stdlib_socket(ours)))

    async def knock(self) -> Peer:
        """Wait for somebody, and read the request.

        Raises:
            trio.EndOfChannel: it left before the end of it.
        """
        peer = await self._receive.receive()
        data = b""
        while b"\r\n\r\n" not in data:
            chunk = await peer.stream.receive_some(65536)
            if not chunk:
                raise trio.EndOfChannel
            data += chunk
        self.request = data.decode("latin-1")
        return peer

    async def accept(self, *subprotocols: str, header: str = "", behind: bytes = b"") -> Peer:
        """Let somebody in.

        Args:
            subprotocols: that the server speaks.
            header: one more of the answer.
            behind: bytes that are sent together with it.
        """
        peer = await self.knock()
        head = find_head(self.request.encode("latin-1"))
        assert head is not None
        response, _ = accept(head, subprotocols)
        if header:
            response = response.replace(b"\r\n\r\n", f"\r\n{header}\r\n\r\n".encode())
        await peer.send(response + behind)
        return peer

    async def refuse(self, status: int, body: str = "") -> None:
        """Send somebody away."""
        peer = await self.knock()
        head = f"HTTP/1.1 {status} Whatever\r\nContent-Length: {len(body)}\r\n\r\n"
        await peer.send((head + body).encode())
        await peer.stream.receive_some(1)
        await peer.aclose()


async def be(door: Door, play: Callable[[Peer], Awaitable[object]]) -> None:
    """Let a client in, and be its server."""
    await play(await door.accept())


async def answer_pings(peer: Peer, after: float = 0.0) -> None:
    """Be a server that is alive, until the client closes."""
    while (frame := await peer.frame()) is not None:
        if frame.opcode is Opcode.PING:
            await trio.sleep(after)
            await peer.pong(frame)
        elif frame.opcode is Opcode.CLOSE:
            await peer.send_frame(Opcode.CLOSE, bytes(frame.data))
            break
    await peer.aclose()


@pytest.fixture
def door(monkeypatch: pytest.MonkeyPatch) -> Iterator[Door]:
    """A door at which every client of the test knocks."""
    there = Door(monkeypatch)
    yield there
    for sock in there.sockets:
        sock.close()
