"""What trio-websocket does not tell, and the stream below it does."""

from __future__ import annotations

import socket

import pytest
import trio
from trio.testing import MockClock

from tests.support.peer import Peer
from trio_beat import Message
from trio_beat._transports.client_stream import ClientStream

#: RFC 6455, section 1.3.
#: A close frame of code 1000 (RFC 6455, section 5.5.1).
CLOSE = b"\x88\x02\x03\xe8"
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
    stream, peer = pair()
    stream.open(behind)
    await stream.send_all(REQUEST)
    assert await stream.receive_some(4096) == SWITCHED + behind
    return stream, peer


def _stream(sock: socket.socket) -> trio.SocketStream:
    sock.setblocking(False)
    return trio.SocketStream(trio.socket.from_stdlib_socket(sock))


async def test_tells_of_each_byte_before_a_message_is_whole() -> None:
    stream, peer = await opened()
    noted = []
    stream.note(lambda: noted.append(1))
    await peer.send(b"x")
    assert await stream.receive_some(10) == b"x"
    assert noted == [1]
    await peer.aclose()
    assert await stream.receive_some(10) == b""
    assert stream.eof
    stream.abort()


async def test_notes_a_close_frame_that_is_sent(nursery: trio.Nursery) -> None:
    stream, peer = await opened()
    nursery.start_soon(stream.write)
    await stream.send_all(Message("x").frame)
    assert not stream.closing.is_set()
    await stream.send_all(CLOSE)
    await stream.closing.wait()
    assert stream.close_frame == CLOSE
    await stream.wait_send_all_might_not_block()
    stream.abort()
    await peer.aclose()


async def test_peer_that_sends_on_and_does_not_close_is_cut_off(autojump_clock: MockClock) -> None:
    stream, peer = await opened()
    await stream.send_all(CLOSE)
    read = 0

    async def flood() -> None:
        with pytest.raises(trio.BrokenResourceError):
            while True:
                await peer.send(b"x" * 65536)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(flood)
        with pytest.raises(trio.BrokenResourceError, match="sends on, and does not close"):
            while True:
                read += len(await stream.receive_some(65536))
    assert 4_000_000 < read <= 2**22
    await peer.aclose()


async def test_passes_the_handshake_on() -> None:
    stream, peer = pair()
    await stream.send_all(b"GET")
    assert await peer.stream.receive_some() == b"GET"
    await peer.send(b"HTTP")
    assert await stream.receive_some() == b"HTTP"
    stream.abort()
    await peer.aclose()


async def test_does_a_handshake_and_then_gives_what_was_behind_the_server_s() -> None:
    stream, peer = pair()
    stream.open(b"behind")
    await stream.send_all(REQUEST)
    await peer.send(b" and more")
    got = b""
    while not got.endswith(b"more"):
        got += await stream.receive_some(10)
    assert got == SWITCHED + b"behind and more"
    stream.abort()
    await peer.aclose()


async def test_two_may_read(autojump_clock: MockClock) -> None:
    stream, peer = await opened()
    got: list[bytes] = []

    async def read() -> None:
        got.append(bytes(await stream.receive_some()))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(read)
        nursery.start_soon(read)
        await trio.testing.wait_all_tasks_blocked()
        await peer.send(b"1")
        await trio.testing.wait_all_tasks_blocked()
        await peer.aclose()
    assert got == [b"1", b""]
    stream.abort()
