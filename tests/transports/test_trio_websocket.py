"""What trio-websocket does not say, and the line below it tells."""

from __future__ import annotations

import socket
from functools import partial
from typing import cast

import pytest
import trio
from trio.testing import MockClock
from trio_websocket import WebSocketConnection

from tests.support.peer import Peer
from trio_beat._protocol.messages import Message, Response, make_close
from trio_beat._transports.outbox import Outbox
from trio_beat._transports.trio_websocket import ClientStream, TrioWebSocketTransport

#: RFC 6455, section 1.3.
REQUEST = b"GET / HTTP/1.1\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
SWITCHED = (
    b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n"
)


def pair() -> tuple[ClientStream, Peer]:
    ours, theirs = (_stream(sock) for sock in socket.socketpair())
    return ClientStream(ours), Peer(theirs)


async def opened(behind: bytes = b"") -> tuple[ClientStream, Peer]:
    """trio-websocket's own handshake is over."""
    line, peer = pair()
    line.open(behind)
    await line.send_all(REQUEST)
    assert await line.receive_some(4096) == SWITCHED + behind
    return line, peer


def _stream(sock: socket.socket) -> trio.SocketStream:
    sock.setblocking(False)
    return trio.SocketStream(trio.socket.from_stdlib_socket(sock))


class TestLine:
    async def test_tells_of_each_byte_before_a_message_is_whole(self) -> None:
        line, peer = await opened()
        noted = []
        line.note(lambda: noted.append(1))
        await peer.send(b"x")
        assert await line.receive_some(10) == b"x"
        assert noted == [1]
        await peer.aclose()
        assert await line.receive_some(10) == b""
        assert line.eof
        line.abort()

    async def test_notes_a_close_frame_that_is_sent(self, nursery: trio.Nursery) -> None:
        line, peer = await opened()
        nursery.start_soon(line.write)
        await line.send_all(Message("x").frame)
        assert not line.closing.is_set()
        await line.send_all(make_close(1000, "").frame)
        await line.closing.wait()
        assert line.close_frame == make_close(1000, "").frame
        await line.wait_send_all_might_not_block()
        line.abort()
        await peer.aclose()

    async def test_who_sends_on_and_does_not_close_is_cut_off(
        self, autojump_clock: MockClock
    ) -> None:
        line, peer = await opened()
        await line.send_all(make_close(1000, "").frame)
        read = 0

        async def flood() -> None:
            with pytest.raises(trio.BrokenResourceError):
                while True:
                    await peer.send(b"x" * 65536)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(flood)
            with pytest.raises(trio.BrokenResourceError, match="sends on, and does not close"):
                while True:
                    read += len(await line.receive_some(65536))
        assert 4_000_000 < read <= 2**22
        await peer.aclose()

    async def test_passes_the_handshake_on(self) -> None:
        line, peer = pair()
        await line.send_all(b"GET")
        assert await peer.stream.receive_some() == b"GET"
        await peer.send(b"HTTP")
        assert await line.receive_some() == b"HTTP"
        line.abort()
        await peer.aclose()

    async def test_plays_a_handshake_and_gives_what_stood_behind_the_server_s(self) -> None:
        line, peer = pair()
        line.open(b"behind")
        await line.send_all(REQUEST)
        await peer.send(b" and more")
        got = b""
        while not got.endswith(b"more"):
            got += await line.receive_some(10)
        assert got == SWITCHED + b"behind and more"
        line.abort()
        await peer.aclose()

    async def test_two_may_read(self, autojump_clock: MockClock) -> None:
        line, peer = await opened()
        got: list[bytes] = []

        async def read() -> None:
            got.append(bytes(await line.receive_some()))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(read)
            nursery.start_soon(read)
            await trio.testing.wait_all_tasks_blocked()
            await peer.send(b"1")
            await trio.testing.wait_all_tasks_blocked()
            await peer.aclose()
        assert got == [b"1", b""]
        line.abort()


class TestOutbox:
    """What `drain` relies on."""

    def test_gives_whole_items(self) -> None:
        one, two = Message("one"), Message("two")
        outbox = Outbox(one)
        outbox.append(two)
        assert outbox.first is one
        outbox.taken(len(one.frame))
        assert (outbox.first, outbox.size) == (two, len(two.frame))


class TestTransport:
    async def test_raises_no_exception_twice(self) -> None:
        ours, theirs = socket.socketpair()
        line = ClientStream(_stream(ours))
        # Nothing of it is needed for this.
        websocket = cast("WebSocketConnection", None)
        transport = TrioWebSocketTransport(ours, line, websocket, 10)
        transport.abort()
        raised = []
        for call in (transport.wait_readable, partial(transport.drain, Outbox(Response(b"x")))) * 2:
            with pytest.raises(ConnectionAbortedError, match="socket was closed") as caught:
                await call()
            raised.append(caught.value)
        assert len(set(map(id, raised))) == 4
        theirs.close()
