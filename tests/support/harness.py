"""A connection over a socket pair, with everything that a server would give it."""

from __future__ import annotations

import socket
import ssl
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager, suppress
from functools import cache
from typing import Literal

import trio
import trio.testing
import trustme
from websockets.frames import Close, Frame, Opcode

from tests.support.peer import Peer, Trickle, socket_pair
from tests.support.turns import giving_turns
from trio_beat._connection.connection import Connection
from trio_beat._connection.expiry import Expiry
from trio_beat._connection.handler import Handler, HandlerConsumer, HandlerErrors, InboxConsumer
from trio_beat._connection.life import Life
from trio_beat._connection.shared import Shared, SlowPolicy
from trio_beat._exceptions import Closed
from trio_beat._heartbeat import Heartbeat
from trio_beat._metronome import Metronome
from trio_beat._observer import Counters, Notifier, Observer
from trio_beat._protocol.deflate import Deflate
from trio_beat._server.pending import PendingTLS
from trio_beat._transports import Reply, Transport
from trio_beat._transports.framing import ReadContext
from trio_beat._transports.kernel import set_up
from trio_beat._transports.polling import Poller
from trio_beat._transports.tcp import TCPTransport
from trio_beat._transports.tls import TLSTransport
from trio_beat._transports.tls_session import Bios, Session
from trio_beat._transports.unfinished import Unfinished
from trio_beat._turns import Turns

INTERVAL = 4.0
#: Seconds after which the first connection of a metronome has its first beat: the width of a slot.
FIRST_BEAT = 1 / 4
#: Virtual seconds after which a test hangs.
HANGS = 1000.0


def tls_contexts(version: ssl.TLSVersion | None = None) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """A server's context, and that of a client that trusts it and speaks this version."""
    return _tls_contexts(version)


def make_read_context(
    message_size: int,
    turns: Turns | None = None,
    *,
    buffer_size: int = 131072,
    message_timeout: float = 60.0,
    unfinished: int = 2**26,
    clock: Callable[[], float] = trio.current_time,
) -> ReadContext:
    """What the transports of one server share."""
    return ReadContext(
        message_size,
        turns or Turns(),
        Unfinished(message_timeout, unfinished, clock),
        buffer_size=buffer_size,
    )


@cache
def _tls_contexts(version: ssl.TLSVersion | None) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    authority = trustme.CA()
    server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("localhost").configure_cert(server)
    client = ssl.create_default_context()
    authority.configure_trust(client)
    if version is not None:
        client.minimum_version = client.maximum_version = version
    return server, client


def tcp_pair() -> tuple[Peer, socket.socket]:
    """Like `socket_pair`, over TCP: for what only TCP can do. Use it with `patient_clock`.

    The second socket is set up like those of a server with the default heartbeat.
    """
    with socket.create_server(("127.0.0.1", 0)) as listener:
        ours = socket.create_connection(listener.getsockname())
        theirs, _ = listener.accept()
    ours.setblocking(False)
    theirs.setblocking(False)
    set_up(theirs, Heartbeat().patience)
    return Peer(trio.SocketStream(trio.socket.from_stdlib_socket(ours))), theirs


def pending_tls(
    sockets: Iterable[socket.socket], context: ssl.SSLContext, turns: Turns
) -> list[PendingTLS]:
    """Sockets that one server has accepted, before their TLS handshakes.

    Args:
        sockets: the server's ends.
        context: the server's.
        turns: of the handshakes.
    """
    bios = Bios()
    return [PendingTLS(sock, context, bios, turns) for sock in sockets]


async def tls_handshake(
    peer: Peer, sock: socket.socket, version: ssl.TLSVersion | None = None
) -> tuple[trio.SSLStream[Trickle], PendingTLS]:
    """Do the TLS handshake of a peer and a pending socket.

    The peer's TLS goes over a `Trickle`.
    """
    server, client = tls_contexts(version)
    stream = trio.SSLStream(Trickle(peer.plain), client, server_hostname="localhost")
    async with giving_turns() as turns, trio.open_nursery() as nursery:
        [pending] = pending_tls([sock], server, turns)
        nursery.start_soon(stream.do_handshake)
        nursery.start_soon(pending.begin)
    return stream, pending


async def tls_pair(
    pair: Callable[[], tuple[Peer, socket.socket]] = socket_pair,
    version: ssl.TLSVersion | None = None,
) -> tuple[Peer, socket.socket, Session]:
    """A peer and a socket, their TLS handshake done, and the socket's session.

    The peer's TLS goes over a `Trickle`.
    """
    plain, sock = pair()
    ours, pending = await tls_handshake(plain, sock, version)
    assert pending._session is not None
    return Peer(ours), sock, pending._session


class Link:
    """A connection that runs, and its peer.

    Args:
        peer: the other end of the transport's socket.
        transport: the connection's.
        shared: what the connection shares with others.
        consumer: the connection's application side, with an inbox.
        response: that of the handshake.
        reads: what the transport shares with others.
    """

    def __init__(
        self,
        peer: Peer,
        transport: Transport,
        shared: Shared,
        consumer: InboxConsumer,
        response: bytes,
        reads: ReadContext,
    ) -> None:
        self.peer = peer
        self.transport = transport
        self.reads = reads
        self.shared = shared
        self.consumer = consumer
        self.engine = Life(transport, shared, consumer, path="/ws/x", response=response)
        #: For the test, which is no handler, to do what one does.
        self.connection = Connection(self.engine, consumer)
        #: Cancels the connection, and nothing else.
        self.scope = trio.CancelScope()
        #: What `Life.run` raised.
        self.error: BaseException | None = None
        self.ended_at: float | None = None
        self._ended = trio.Event()
        #: Whose descendants are the connection's tasks.
        self.task: trio.lowlevel.Task | None = None

    async def run(self) -> None:
        self.task = trio.lowlevel.current_task()
        try:
            with self.scope:
                await self.engine.run()
        except Exception as exc:  # for the test to look at
            self.error = exc
        finally:
            self.ended_at = trio.current_time()
            self._ended.set()

    async def ended(self) -> Closed:
        """Wait until the connection has ended."""
        await self._ended.wait()
        assert self.connection.closed is not None
        return self.connection.closed

    def answer_ping(self) -> None:
        """Answer a PING that the reader has taken."""
        self.engine._send_reply(Reply(Frame(Opcode.PONG, b"").serialize(mask=False)))

    @property
    def counters(self) -> Counters:
        """The counts of what the connection shares with others."""
        return self.shared.notify.counters

    @property
    def followed(self) -> int:
        """How many calls its end would make."""
        return len(self.shared.following._calls.get(self.engine, ()))

    @property
    def running(self) -> bool:
        return not self._ended.is_set()

    def clog(self) -> int:
        """Send until something waits in the outbox; returns how many messages it took."""
        count = 0
        while not self.connection.statistics().outbox:
            self.connection.send_nowait(b"\0" * 10_000)
            count += 1
        return count

    async def answer(self, after: float = 0.0) -> None:
        """Be a peer that is alive: answer every PING, some seconds later."""
        with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            while (frame := await self.peer.frame()) is not None:
                if frame.opcode is Opcode.PING:
                    await trio.sleep(after)
                    await self.peer.pong(frame)

    def edge(self) -> None:
        """Tell the transport that there may be something to read, as epoll does."""
        from trio_beat._transports import epoll  # not everywhere, see `tests.support.hidden`

        assert isinstance(self.transport, TCPTransport)
        assert isinstance(self.transport._watch, epoll.Watch)
        self.transport._watch._edge(stays=True)

    async def answer_close(self) -> Close | None:
        """Be a peer that keeps the rules: answer the close frame, and leave after the server."""
        close = await self.peer.closed()
        if close is not None:
            await self.peer.send_frame(Opcode.CLOSE)
            assert await self.peer.frame() is None
        await self.peer.aclose()
        return close


async def idle(_: Connection) -> None:
    """A handler that does not care."""
    await trio.sleep_forever()


async def take_all(connection: Connection) -> None:
    """A handler that reads until the peer closes."""
    async for _ in connection:
        pass


async def echo(connection: Connection) -> None:
    """A handler that sends back what comes."""
    async for message in connection:
        await connection.send(message)


@asynccontextmanager
async def linked(
    handler: Handler = idle,
    *,
    consumer: InboxConsumer | None = None,
    heartbeat: Heartbeat = Heartbeat(INTERVAL),  # noqa: B008 - immutable
    outbox: int = 2**20,
    slow_policy: SlowPolicy = SlowPolicy.DISCONNECT,
    inbound: int = 16,
    message_size: int = 2**20,
    message_timeout: float = 60.0,
    unfinished: int = 2**26,
    response: bytes = b"",
    received: bytes = b"",
    pair: Callable[[], tuple[Peer, socket.socket]] = socket_pair,
    handler_errors: Literal["raise", "close"] = "raise",
    secure: bool | ssl.TLSVersion = False,
    observer: Observer | None = None,
    deflate: Deflate | None = None,
) -> AsyncIterator[Link]:
    """Run a connection while the context lasts, and check that nothing of it is left behind.

    Args:
        secure: whether there is TLS; a version of it.
        deflate: what the handshake agreed on; the peer compresses too.
    """
    metronome, turns = Metronome(heartbeat.interval), Turns()
    reads = make_read_context(
        message_size, turns, message_timeout=message_timeout, unfinished=unfinished
    )
    # The wall clock goes with the virtual one.
    expiry = Expiry(trio.current_time)
    shared = Shared(heartbeat, metronome, outbox, slow_policy, Notifier(observer), expiry=expiry)
    consumer = consumer or HandlerConsumer(handler, inbound, HandlerErrors(handler_errors))
    with trio.fail_after(HANGS), Poller(turns) as poller:
        async with trio.open_nursery() as nursery:
            await nursery.start(metronome.run)
            await nursery.start(poller.run)
            await nursery.start(turns.run)
            nursery.start_soon(expiry.run)
            transport: Transport
            sock: socket.socket
            if secure:
                version = secure if isinstance(secure, ssl.TLSVersion) else None
                peer, sock, session = await tls_pair(pair, version)
                transport = TLSTransport(sock, session, reads, poller, received, deflate)
            else:
                peer, sock = pair()
                transport = TCPTransport(sock, reads, poller, received, deflate)
            if deflate is not None:
                peer.compress(window_bits=deflate.compression.window_bits)
            link = Link(peer, transport, shared, consumer, response, reads)
            nursery.start_soon(link.run)
            try:
                yield link
            finally:
                link.scope.cancel()
                with trio.fail_after(HANGS, shield=True):
                    await link.ended()
                    await peer.aclose()
                nursery.cancel_scope.cancel()
    assert not any(it.connection for it in expiry._heap), "deadlines left"
    assert not shared.following._calls, "calls left for its end"
    assert not shared.orders
    assert not shared.under_way
    assert not any(metronome.seats), "seats left in the metronome"
    assert not poller.watches, "watches left in the poller"
    assert not reads.unfinished._messages, "messages left that are not finished"
    assert sock.fileno() == -1, "socket left open"


class Steps(trio.abc.Instrument):
    """Counts the steps of one task."""

    def __init__(self, name: str) -> None:
        self.name, self.count = name, 0

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        self.count += task.name == self.name
