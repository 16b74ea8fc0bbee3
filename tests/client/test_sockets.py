"""A client's socket until its opening handshake is over."""

from __future__ import annotations

import socket
import ssl

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from tests.support.harness import tls_contexts
from tests.support.peer import Peer, socket_pair
from trio_beat._client.sockets import ClientSocket, SecureClientSocket

ANSWER = b"HTTP/1.1 101 Switching Protocols\r\n\r\n"


def secure(sock: socket.socket) -> SecureClientSocket:
    return SecureClientSocket(sock, tls_contexts()[1], "localhost")


async def secure_pair() -> tuple[SecureClientSocket, trio.SSLStream[trio.SocketStream]]:
    peer, sock = socket_pair()
    stream = trio.SSLStream(peer.plain, tls_contexts()[0], server_side=True, https_compatible=True)
    opened = secure(sock)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(stream.do_handshake)
        await opened.shake_hands()
    return opened, stream


class TestPlain:
    async def test_waits_while_the_socket_takes_nothing(self, autojump_clock: MockClock) -> None:
        peer, sock = socket_pair()
        opened, request = ClientSocket(sock), b"x" * 1_000_000
        async with trio.open_nursery() as nursery:
            nursery.start_soon(opened.send_all, request)
            got = 0
            while got < len(request):
                got += len(await peer.stream.receive_some(65536))
        opened.abort()
        await peer.aclose()

    async def test_gives_bytes_and_then_nothing_at_the_end(self) -> None:
        peer, sock = socket_pair()
        opened = ClientSocket(sock)
        await peer.send(ANSWER)
        assert await opened.receive_some() == ANSWER
        await peer.aclose()
        assert await opened.receive_some() == b""
        opened.abort()
        opened.abort()
        assert sock.fileno() == -1


class TestTLS:
    async def test_gives_bytes_of_records_that_come_in_pieces(self) -> None:
        opened, stream = await secure_pair()
        await stream.send_all(ANSWER)
        assert await opened.receive_some() == ANSWER
        await opened.send_all(b"x" * 40_000)
        got = b""
        while len(got) < 40_000:
            got += await stream.receive_some()
        await stream.aclose()
        assert await opened.receive_some() == b""
        opened.abort()

    async def test_says_goodbye_when_it_is_closed(self) -> None:
        opened, stream = await secure_pair()
        opened.abort()
        assert await stream.receive_some() == b""
        # Without `https_compatible` it would be an error if there were no close_notify.
        await trio.aclose_forcefully(stream)

    @pytest.mark.parametrize("sent", [b"", b"\x16\x03\x03"], ids=["nothing", "half a record"])
    async def test_a_server_that_leaves_during_the_handshake(self, sent: bytes) -> None:
        peer, sock = socket_pair()
        opened = secure(sock)
        await peer.send(sent)
        assert isinstance(peer.stream, trio.SocketStream)
        await peer.stream.send_eof()
        with pytest.raises(ConnectionResetError, match="the server ended the connection"):
            await opened.shake_hands()
        opened.abort()
        await peer.aclose()

    async def test_tells_a_server_that_it_is_not_trusted(self) -> None:
        peer, sock = socket_pair()
        server = trio.SSLStream(peer.plain, tls_contexts()[0], server_side=True)
        opened = SecureClientSocket(sock, ssl.create_default_context(), "localhost")

        async def serve() -> None:
            with pytest.raises(trio.BrokenResourceError) as caught:
                await server.do_handshake()
                await server.receive_some()
            assert "UNKNOWN_CA" in str(caught.value.__cause__)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(serve)
            with pytest.raises(ssl.SSLCertVerificationError):
                await opened.shake_hands()
        opened.abort()
        await trio.aclose_forcefully(server)

    async def test_a_handshake_that_is_cancelled(self, autojump_clock: MockClock) -> None:
        peer, sock = socket_pair()
        opened = secure(sock)
        with trio.move_on_after(1) as scope:
            await opened.shake_hands()
        assert scope.cancelled_caught
        opened.abort()
        await peer.aclose()


@pytest.mark.parametrize("kind", [ClientSocket, secure], ids=["plain", "TLS"])
async def test_abort_wakes_what_waits(autojump_clock: MockClock, kind: type[ClientSocket]) -> None:
    peer, sock = socket_pair()
    opened = kind(sock)

    async def read(peer: Peer) -> None:
        with pytest.raises(trio.ClosedResourceError):
            await ClientSocket.receive_some(opened)
        await peer.aclose()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(read, peer)
        await wait_all_tasks_blocked()
        opened.abort()
