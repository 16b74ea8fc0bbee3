"""Transports over sockets, with what a server would give them, and their peers."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import NamedTuple

import trio
from websockets.protocol import SERVER

from tests.support.harness import HANGS, make_read_context, tls_contexts, tls_pair
from tests.support.peer import Peer, socket_pair
from trio_beat._client.sockets import ClientSocket, SecureClientSocket
from trio_beat._protocol.deflate import Deflate
from trio_beat._protocol.events import Event
from trio_beat._protocol.messages import Message, Response
from trio_beat._transports import Transport
from trio_beat._transports.client import ClientTransport
from trio_beat._transports.outbox import Outbox
from trio_beat._transports.polling import Poller
from trio_beat._transports.tcp import TCPTransport
from trio_beat._transports.tls import TLSTransport
from trio_beat._turns import Turns

#: Bytes that one read of a plain socket takes.
BUFFER = 64


class TCPPair(NamedTuple):
    """A peer, and a transport over a plain socket."""

    peer: Peer
    sock: socket.socket
    transport: TCPTransport

    async def receive(self) -> list[Event]:
        """Wait for what comes, and take it."""
        await self.transport.wait_readable()
        return list(self.transport.receive_nowait() or ())

    async def ready(self) -> bool:
        """Whether a wait returns without anything else happening."""
        with trio.move_on_after(1):
            await self.transport.wait_readable()
            return True
        return False

    def fill(self) -> int:
        """Write until the socket takes no more; returns how many bytes it took."""
        total = 0
        while taken := self.transport.write_nowait(Response(b"\0" * 65536)):
            total += taken
        return total


@asynccontextmanager
async def tcp_paired(
    received: bytes = b"",
    pair: Callable[[], tuple[Peer, socket.socket]] = socket_pair,
    buffer_size: int = BUFFER,
) -> AsyncIterator[TCPPair]:
    """A transport over a plain socket, whose poller runs.

    Args:
        received: what came behind the handshake's request.
        pair: makes the sockets.
        buffer_size: bytes that one read takes.
    """
    peer, sock = pair()
    turns = Turns()
    with trio.fail_after(HANGS), Poller(turns) as poller:
        async with trio.open_nursery() as nursery:
            await nursery.start(poller.run)
            await nursery.start(turns.run)
            reads = make_read_context(10**6, turns, buffer_size=buffer_size)
            transport = TCPTransport(sock, reads, poller, received)
            try:
                yield TCPPair(peer, sock, transport)
            finally:
                transport.abort()
                with trio.CancelScope(shield=True):
                    await peer.aclose()
            nursery.cancel_scope.cancel()
    assert not poller.watches


class TLSPair(NamedTuple):
    """A peer, and a transport over TLS."""

    peer: Peer
    sock: socket.socket
    transport: TLSTransport

    async def receive(self) -> list[Event]:
        """Wait for what comes, and take it."""
        await self.transport.wait_readable()
        return list(self.transport.receive_nowait() or ())

    def shrink(self) -> None:
        """Make the socket smaller than one record."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)


@asynccontextmanager
async def tls_paired(received: bytes = b"") -> AsyncIterator[TLSPair]:
    """A transport over TLS, whose poller runs.

    Args:
        received: what came behind the handshake's request.
    """
    peer, sock, session = await tls_pair()
    turns = Turns()
    with trio.fail_after(HANGS), Poller(turns) as poller:
        async with trio.open_nursery() as nursery:
            await nursery.start(poller.run)
            await nursery.start(turns.run)
            transport = TLSTransport(
                sock, session, make_read_context(10**6, turns), poller, received
            )
            try:
                yield TLSPair(peer, sock, transport)
            finally:
                transport.abort()
                with trio.CancelScope(shield=True):
                    await peer.aclose()
            nursery.cancel_scope.cancel()
    assert not poller.watches
    assert sock.fileno() == -1


class ClientPair(NamedTuple):
    """A server that a test plays, and a client's transport."""

    peer: Peer
    sock: socket.socket
    transport: ClientTransport

    async def receive(self) -> list[Event]:
        """Wait for what comes, and take it."""
        await self.transport.wait_readable()
        return list(self.transport.receive_nowait() or ())

    def fill(self) -> tuple[list[bytes], Outbox]:
        """Write until the socket takes no more; returns the payloads, and what of them waits."""
        sent: list[bytes] = []
        while True:
            sent.append(bytes([65 + len(sent) % 26]) * 50_000)
            item = Message(sent[-1])
            if (taken := self.transport.write_nowait(item)) < item.size:
                return sent, Outbox(item, taken)


@asynccontextmanager
async def client_paired(
    *, secure: bool, received: bytes = b"", deflate: Deflate | None = None
) -> AsyncIterator[ClientPair]:
    """A client's transport over a socket pair.

    Args:
        secure: over TLS.
        received: what came behind the handshake's response.
        deflate: what the handshake agreed on; None: nothing.
    """
    peer, sock = socket_pair()
    opened = ClientSocket(sock)
    stream: trio.SocketStream | trio.SSLStream[trio.SocketStream] = peer.plain
    with trio.fail_after(HANGS):
        if secure:
            server, client = tls_contexts()
            stream = trio.SSLStream(peer.plain, server, server_side=True, https_compatible=True)
            opened = SecureClientSocket(sock, client, "localhost")
            async with trio.open_nursery() as nursery:
                nursery.start_soon(stream.do_handshake)
                await opened.shake_hands()
        transport = opened.transport(10**6, received, deflate)
        assert isinstance(transport, ClientTransport)
        peer = Peer(stream, SERVER)
        try:
            yield ClientPair(peer, sock, transport)
        finally:
            transport.abort()
            with trio.CancelScope(shield=True):
                await peer.aclose()
    assert sock.fileno() == -1


async def drain(transport: Transport, outbox: Outbox) -> None:
    """Write all of an outbox."""
    while outbox.size:
        await transport.drain(outbox)
