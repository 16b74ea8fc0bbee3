"""The transport over TLS: real handshakes and records, over a socket pair.

What holds for TCP as well is in `test_tcp_and_tls`.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import subprocess
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import NamedTuple

import pytest
import trio
import trustme
import websockets.exceptions
from trio.testing import MockClock, wait_all_tasks_blocked
from websockets.asyncio.client import connect
from websockets.frames import Close, Frame, Opcode

from tests.server.test_pending import client_hello
from tests.support.harness import (
    HANGS,
    echo,
    make_read_context,
    tls_contexts,
    tls_pair,
)
from tests.support.peer import HANDSHAKE, Peer
from tests.support.serving import deserted, serving
from tests.support.tls13 import Client, shake_hands
from trio_beat import Connection, EndReason
from trio_beat._protocol.events import END_OF_STREAM, Event
from trio_beat._protocol.messages import Message, Response
from trio_beat._server.pending import PendingTLS
from trio_beat._transports import Transport
from trio_beat._transports.outbox import Outbox
from trio_beat._transports.polling import Poller
from trio_beat._transports.tls import TLSTransport
from trio_beat._transports.tls_session import Bios
from trio_beat._turns import Turns

RECORD = 16384


class Pair(NamedTuple):
    peer: Peer
    transport: TLSTransport

    async def receive(self) -> list[Event]:
        await self.transport.wait_readable()
        return list(self.transport.receive_nowait() or ())

    def shrink(self) -> None:
        """Make the socket smaller than one record."""
        self.transport._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)


@asynccontextmanager
async def paired(received: bytes = b"") -> AsyncIterator[Pair]:
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
                yield Pair(peer, transport)
            finally:
                transport.abort()
                with trio.CancelScope(shield=True):
                    await peer.aclose()
            nursery.cancel_scope.cancel()
    assert not poller.watches
    assert sock.fileno() == -1


async def drain(transport: Transport, outbox: Outbox) -> None:
    while outbox.size:
        await transport.drain(outbox)


async def test_both_directions(autojump_clock: MockClock) -> None:
    async with paired() as pair:
        await pair.peer.send_text("in")
        assert await pair.receive() == ["in"]
        await drain(pair.transport, Outbox(Message("out")))
        assert await pair.peer.text() == "out"


async def test_what_came_with_the_request_is_first(autojump_clock: MockClock) -> None:
    early = Frame(Opcode.TEXT, b"early").serialize(mask=True)
    async with paired(early) as pair:
        await pair.peer.send_text("late")
        assert await pair.receive() == ["early"]
        assert await pair.receive() == ["late"]


async def test_a_wait_that_is_cancelled_loses_nothing(autojump_clock: MockClock) -> None:
    async with paired() as pair:
        with trio.move_on_after(1):
            await pair.transport.wait_readable()
        assert pair.transport.receive_nowait() is None
        await pair.peer.send_text("x")
        await pair.transport.wait_readable()
        with trio.CancelScope() as scope:
            scope.cancel()
            await pair.transport.wait_readable()
        assert pair.transport.receive_nowait() == ["x"]


class TestWriting:
    async def test_what_the_socket_takes_is_written_at_once(
        self, autojump_clock: MockClock
    ) -> None:
        async with paired() as pair:
            message = Message("x" * 3 * RECORD)
            assert pair.transport.write_nowait(message) == len(message.frame)
            assert await pair.peer.text() == "x" * 3 * RECORD

    async def test_a_record_that_is_not_taken_whole_keeps_its_last_byte_in_the_outbox(
        self, autojump_clock: MockClock
    ) -> None:
        async with paired() as pair, trio.open_nursery() as nursery:
            pair.shrink()
            a, b, c = (Message(letter * 10_000) for letter in "abc")
            taken = pair.transport.write_nowait(a)
            assert taken == len(a.frame) - 1
            outbox = Outbox(a, taken)
            outbox.append(b)
            outbox.append(c)
            assert outbox.drop_oldest(len(c.frame) + 2) == 1
            nursery.start_soon(drain, pair.transport, outbox)
            assert [await pair.peer.text() for _ in "ac"] == ["a" * 10_000, "c" * 10_000]

    async def test_a_frame_whose_first_byte_ends_a_record_is_not_dropped(
        self, autojump_clock: MockClock
    ) -> None:
        async with paired() as pair, trio.open_nursery() as nursery:
            pair.shrink()
            outbox = Outbox(Message("a" * (RECORD - 5)))
            outbox.append(Message("begun"))
            await pair.transport.drain(outbox)
            assert outbox.size == len(Message("begun").frame)
            outbox.drop_all()
            outbox.append(Message(b"behind"))
            nursery.start_soon(drain, pair.transport, outbox)
            assert await pair.peer.text() == "a" * (RECORD - 5)
            assert await pair.peer.text() == "begun"
            assert await pair.peer.frame() == Frame(Opcode.BINARY, b"behind")

    async def test_of_a_large_message_no_more_than_one_record_is_under_way(
        self, autojump_clock: MockClock
    ) -> None:
        async with paired() as pair, trio.open_nursery() as nursery:
            pair.shrink()
            message = Message("x" * 100_000)
            taken = pair.transport.write_nowait(message)
            assert taken % RECORD == RECORD - 1
            nursery.start_soon(drain, pair.transport, Outbox(message, taken))
            assert await pair.peer.text() == "x" * 100_000

    async def test_a_drain_cancelled_halfway_leaves_a_stream_that_can_be_used(
        self, autojump_clock: MockClock
    ) -> None:
        async with paired() as pair, trio.open_nursery() as nursery:
            with trio.move_on_after(1):  # what the handshake left: session tickets
                await pair.peer.frame()
            pair.shrink()
            messages = [Message(str(index) * 5000) for index in range(10)]
            outbox = Outbox(Response(b"".join(message.frame for message in messages)))
            with trio.move_on_after(1):
                await drain(pair.transport, outbox)
            assert trio.current_time() == 2
            assert 0 < outbox.size < sum(len(message.frame) for message in messages)
            nursery.start_soon(drain, pair.transport, outbox)
            texts = [await pair.peer.text() for _ in messages]
            assert texts == [str(index) * 5000 for index in range(10)]

    async def test_what_a_record_lacks_stands_before_a_ping(
        self, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        asked = []
        monkeypatch.setattr(
            "trio_beat._transports.tcp.TCPTransport.stirring",
            lambda _, queued: asked.append(queued),
        )
        async with paired() as pair:
            pair.shrink()
            message = Message(b"x" * 10_000)
            assert pair.transport.write_nowait(message) == len(message.frame) - 1
            pair.transport.stirring(1)
            assert asked == [1 + len(pair.transport._session.unsent)]
            assert asked[0] > 1000


async def test_abort_wakes_the_reader_with_an_os_error(autojump_clock: MockClock) -> None:
    async with paired() as pair, trio.open_nursery() as nursery:

        async def read() -> None:
            with pytest.raises(ConnectionAbortedError):
                await pair.receive()

        nursery.start_soon(read)
        await wait_all_tasks_blocked()
        pair.transport.abort()


async def test_abort_wakes_who_drains_with_an_os_error(autojump_clock: MockClock) -> None:
    async with paired() as pair, trio.open_nursery() as nursery:
        pair.shrink()

        async def write() -> None:
            with pytest.raises(ConnectionAbortedError):
                await drain(pair.transport, Outbox(Response(b"x" * 100_000)))

        nursery.start_soon(write)
        await wait_all_tasks_blocked()
        pair.transport.abort()
        pair.transport.abort()


async def test_after_abort_everything_is_an_os_error(autojump_clock: MockClock) -> None:
    async with paired() as pair:
        pair.transport.abort()
        with pytest.raises(OSError, match="Bad file descriptor"):
            await pair.receive()
        with pytest.raises(ConnectionAbortedError):
            await pair.transport.drain(Outbox(Response(b"x")))
        with pytest.raises(OSError, match="PROTOCOL_IS_SHUTDOWN"):
            pair.transport.write_nowait(Response(b"x"))


async def test_the_peer_s_close_notify_is_the_end_of_the_stream(
    autojump_clock: MockClock,
) -> None:
    async with paired() as pair, trio.open_nursery() as nursery:
        nursery.start_soon(pair.peer.stream.aclose)
        assert await pair.receive() == [END_OF_STREAM]
        pair.transport.abort()


async def test_an_end_without_close_notify_is_one_as_well(autojump_clock: MockClock) -> None:
    async with paired() as pair:
        await pair.peer.plain.send_eof()
        assert await pair.receive() == [END_OF_STREAM]


async def test_a_record_that_is_none_is_an_os_error_behind_what_came_before(
    autojump_clock: MockClock,
) -> None:
    async with paired() as pair:
        await pair.peer.send_text("last")
        await pair.peer.plain.send_all(b"\x17\x03\x03\x00\x20" + bytes(32))
        assert await pair.receive() == ["last"]
        with pytest.raises(ConnectionResetError, match="DECRYPTION_FAILED_OR_BAD_RECORD_MAC"):
            await pair.receive()


async def test_finish_says_goodbye_in_both_layers(autojump_clock: MockClock) -> None:
    async with paired() as pair, trio.open_nursery() as nursery:
        await drain(pair.transport, Outbox(pair.transport.close_frame(1001, "bye")))

        async def answer() -> None:
            assert await pair.peer.closed() == Close(1001, "bye")
            await trio.sleep(1)
            await pair.peer.send_close(1001)
            # An end without a close_notify would be an error here.
            assert await pair.peer.frame() is None
            await trio.sleep(1)
            await pair.peer.stream.aclose()

        nursery.start_soon(answer)
        await pair.transport.finish(answered=False)
        assert trio.current_time() == 2


async def test_finish_bears_with_a_peer_that_leaves_without_close_notify(
    autojump_clock: MockClock,
) -> None:
    async with paired() as pair, trio.open_nursery() as nursery:
        await pair.peer.plain.send_eof()
        nursery.start_soon(pair.peer.closed)
        await pair.transport.finish(answered=True)


async def test_bytes_in_the_kernel_are_stirring(autojump_clock: MockClock) -> None:
    async with paired() as pair:
        with trio.move_on_after(1):  # what the handshake left: session tickets
            await pair.peer.frame()
        assert not pair.transport.stirring(0)
        await pair.peer.send_text("x")
        assert pair.transport.stirring(0)
        await pair.receive()
        assert not pair.transport.stirring(0)


@asynccontextmanager
async def crafted(count: int) -> AsyncIterator[list[tuple[Client, socket.socket, TLSTransport]]]:
    """Clients whose records are made by hand, their sockets, and the transports of a server."""
    bios, turns = Bios(), Turns()
    reads = make_read_context(10**6, turns)
    with contextlib.ExitStack() as stack:
        poller = stack.enter_context(Poller(turns))
        trios = []
        for _ in range(count):
            ours, theirs = socket.socketpair()
            stack.enter_context(ours)
            ours.setblocking(False)
            theirs.setblocking(False)
            client, session = shake_hands(bios)
            transport = TLSTransport(theirs, session, reads, poller)
            stack.callback(transport.abort)
            trios.append((client, ours, transport))
        with trio.fail_after(HANGS):
            async with trio.open_nursery() as nursery:
                await nursery.start(poller.run)
                await nursery.start(turns.run)
                yield trios
                nursery.cancel_scope.cancel()


class Passes(trio.abc.Instrument):
    """Counts the passes of the scheduler."""

    def __init__(self) -> None:
        self.count = 0
        trio.lowlevel.add_instrument(self)

    def before_io_wait(self, timeout: float) -> None:
        self.count += 1


class TestKeyUpdates:
    """A peer may send any number of them (RFC 8446, section 4.6.3), and we pay for each."""

    async def test_floods_take_turns(self, autojump_clock: MockClock) -> None:
        passes, taken = Passes(), Counter[int]()
        done: list[int] = []

        async def read(index: int, transport: TLSTransport) -> None:
            events: list[Event] = []
            while not events:
                await transport.wait_readable()
                events += transport.receive_nowait() or ()
                taken[passes.count] += transport._session.bios.empty
            assert events == ["behind"]
            done.append(index)

        async with crafted(41) as trios, trio.open_nursery() as nursery:
            for index, (_, _, transport) in enumerate(trios):
                nursery.start_soon(read, index, transport)
            await wait_all_tasks_blocked()
            for client, sock, _ in trios[1:]:
                sock.sendall(b"".join(client.key_update() for _ in range(100)))
                sock.sendall(client.data(Frame(Opcode.TEXT, b"behind").serialize(mask=True)))
            for index in range(1000):
                if index == 20:
                    client, sock, _ = trios[0]
                    sock.sendall(client.data(Frame(Opcode.TEXT, b"behind").serialize(mask=True)))
                if index == 30:
                    assert done == [0]
                await trio.lowlevel.checkpoint()
        assert sum(taken.values()) == 40 * 100
        first, *others = sorted(taken.values(), reverse=True)
        assert first <= 40 * 4
        assert others[0] <= 8 * 4

    async def test_few_at_a_time_take_turns_as_well(self, autojump_clock: MockClock) -> None:
        passes, reads = Passes(), Counter[int]()

        async def read(transport: TLSTransport) -> None:
            while True:
                await transport.wait_readable()
                transport.receive_nowait()
                reads[passes.count] += 1

        async with crafted(40) as trios, trio.open_nursery() as nursery:
            for _, _, transport in trios:
                nursery.start_soon(read, transport)
            for _ in range(2):
                await wait_all_tasks_blocked()
                for client, sock, _ in trios:
                    sock.sendall(client.key_update())
                for _ in range(30):
                    await trio.lowlevel.checkpoint()
            nursery.cancel_scope.cancel()
        assert sum(reads.values()) == 80
        # At first nothing is known of them.
        assert sorted(reads.values())[-2] <= 8

    async def test_two_behind_a_record_that_the_socket_did_not_take_whole(
        self, autojump_clock: MockClock
    ) -> None:
        async with crafted(1) as [(client, sock, transport)], trio.open_nursery() as nursery:
            transport._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
            message, more = Message("x" * 10_000), Message("more")
            taken = transport.write_nowait(message)
            assert taken == len(message.frame) - 1
            for _ in range(2):
                sock.sendall(client.key_update(requested=True))
            sock.sendall(client.data(Frame(Opcode.TEXT, b"in").serialize(mask=True)))
            await transport.wait_readable()
            assert list(transport.receive_nowait() or ()) == ["in"]
            outbox = Outbox(message, taken)
            outbox.append(more)
            nursery.start_soon(drain, transport, outbox)
            received = b""
            while len(received) < len(message.frame) + len(more.frame):
                await trio.lowlevel.wait_readable(sock)
                received += client.receive(sock.recv(65536))
            assert received == message.frame + more.frame
            assert client.answers == 2

    async def test_who_takes_no_answer_is_lost(self, autojump_clock: MockClock) -> None:
        async with crafted(1) as [(client, sock, transport)]:
            with pytest.raises(ConnectionAbortedError, match="too many answers"):
                for _ in range(5000):
                    sock.sendall(client.key_update(requested=True))
                    await transport.wait_readable()
                    assert list(transport.receive_nowait() or ()) == []

    async def test_answers_that_wait_go_before_the_next_frame(
        self, autojump_clock: MockClock
    ) -> None:
        async with crafted(1) as [(client, sock, transport)], trio.open_nursery() as nursery:
            while not transport._session.unsent:
                sock.sendall(client.key_update(requested=True))
                await transport.wait_readable()
                transport.receive_nowait()
            message = Message("x" * 100)
            taken = transport.write_nowait(message)
            assert taken == len(message.frame) - 1
            nursery.start_soon(drain, transport, Outbox(message, taken))
            received = b""
            while len(received) < len(message.frame):
                await trio.lowlevel.wait_readable(sock)
                received += client.receive(sock.recv(65536))
            assert received == message.frame


async def test_few_handshakes_go_on_in_a_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each takes as long as dozens of messages, and who has lost a server comes back at once."""
    passes, steps = 0, Counter[int]()

    class Counted(ssl.SSLObject):
        def do_handshake(self) -> None:
            steps[passes] += 1
            super().do_handshake()

    context, _ = tls_contexts()
    monkeypatch.setattr(context, "sslobject_class", Counted)
    hello, bios, turns = client_hello(), Bios(), Turns()
    with contextlib.ExitStack() as stack:
        sockets = []
        for _ in range(50):
            ours, theirs = socket.socketpair()
            stack.enter_context(ours)
            theirs.setblocking(False)
            ours.sendall(hello)
            sockets.append(PendingTLS(theirs, context, bios, turns))
        async with trio.open_nursery() as nursery:
            await nursery.start(turns.run)
            for pending in sockets:
                stack.callback(pending.abort)
                nursery.start_soon(pending.begin)
            for passes in range(100):  # noqa: B007 - the class above looks at it
                await trio.lowlevel.checkpoint()
            nursery.cancel_scope.cancel()
    assert sum(steps.values()) == 50
    assert 1 < max(steps.values()) <= 16


async def test_session_tickets_go_with_the_handshake(patient_clock: MockClock) -> None:
    """What carries them acknowledges the client's last word, for which Nagle's algorithm waits."""
    for_server, for_client = tls_contexts(ssl.TLSVersion.TLSv1_3)
    async with serving(ssl_context=for_server) as server:
        tcp = await trio.open_tcp_stream("127.0.0.1", server.port)
        stream = trio.SSLStream(tcp, for_client, server_hostname="localhost")
        await stream.do_handshake()
        with trio.fail_after(1):
            await trio.lowlevel.wait_readable(tcp.socket)
        await trio.aclose_forcefully(stream)


@contextlib.contextmanager
def openssl(port: int, authority: Path, *options: str) -> Iterator[subprocess.Popen[bytes]]:
    command = ["openssl", "s_client", "-brief", "-verify_return_error", "-CAfile", str(authority)]
    command += ["-servername", "localhost", "-connect", f"127.0.0.1:{port}", *options]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as process:
        try:
            yield process
        finally:
            process.kill()
            assert process.stdout is not None
            process.stdout.read()


@pytest.fixture
def authority(tmp_path: Path) -> tuple[ssl.SSLContext, Path]:
    """A server's context, and the file of who vouches for it."""
    ca = trustme.CA()
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    ca.issue_cert("localhost").configure_cert(context)
    ca.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    return context, tmp_path / "ca.pem"


@pytest.mark.real
@pytest.mark.parametrize("command", [b"K\n", b"k\n"], ids=["both", "theirs"])
async def test_openssl_s_client_updates_its_keys(
    command: bytes, authority: tuple[ssl.SSLContext, Path]
) -> None:
    """RFC 8446, section 4.6.3; Python's own client cannot."""
    context, file = authority
    with trio.fail_after(60):
        async with serving(echo, ssl_context=context) as server:
            with openssl(server.port, file) as process:
                assert process.stdin is not None
                assert process.stdout is not None
                output, wait = process.stdout.fileno(), trio.lowlevel.wait_readable
                received = b""
                lines = [HANDSHAKE.format(target="/ws/x", headers="").encode()]
                for text in ("before", "between", "behind"):
                    lines += [Frame(Opcode.TEXT, text.encode()).serialize(mask=True), command]
                expected = [b"\r\n\r\n", b"before", b"before", b"between", b"between", b"behind"]
                for line, answer in zip(lines, expected, strict=False):
                    process.stdin.write(line)
                    process.stdin.flush()
                    if line == command:
                        # It takes one command for each read.
                        await trio.sleep(0.5)
                    while answer not in received:
                        await wait(output)
                        received += process.stdout.read1(65536)  # type: ignore[attr-defined]
            assert server.statistics().accepted == 1


@pytest.mark.real
async def test_openssl_s_client_may_not_renegotiate(
    authority: tuple[ssl.SSLContext, Path],
) -> None:
    context, file = authority
    with trio.fail_after(60):
        async with serving(echo, ssl_context=context) as server:
            with openssl(server.port, file, "-tls1_2") as process:
                assert process.stdin is not None
                assert process.stdout is not None
                process.stdin.write(HANDSHAKE.format(target="/ws/x", headers="").encode())
                process.stdin.flush()
                received = b""
                while b"\r\n\r\n" not in received:
                    await trio.lowlevel.wait_readable(process.stdout.fileno())
                    received += process.stdout.read1(65536)  # type: ignore[attr-defined]
                await trio.sleep(0.5)
                process.stdin.write(b"R\n")
                process.stdin.flush()
                # It takes the refusal for the end.
                await trio.to_thread.run_sync(process.wait)
            await deserted(server)
            assert server.statistics().accepted == 1


@pytest.mark.real
@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
@pytest.mark.parametrize("ends", ["client", "server"])
async def test_websockets_own_client(ends: str, version: ssl.TLSVersion) -> None:
    for_server, for_client = tls_contexts(version)
    sizes = [0, 1, 125, 126, RECORD - 4, RECORD, RECORD + 1, 65536, 500_000]

    async def handler(connection: Connection) -> None:
        async for message in connection:
            if message == "close":
                await connection.aclose(4000, "as you wish")
            await connection.send(message)

    # The one with threads reads and writes one TLS session in two of them.
    async def talk(port: int) -> int | None:
        url = f"wss://localhost:{port}/"
        async with connect(url, ssl=for_client, proxy=None) as websocket, asyncio.timeout(50):
            for size in sizes:
                await websocket.send("x" * size)
                assert await websocket.recv() == "x" * size
            for index in range(100):
                await websocket.send(str(index))
            assert [await websocket.recv() for _ in range(100)] == [str(i) for i in range(100)]
            if ends == "client":
                await websocket.close(4001, "enough")
            else:
                await websocket.send("close")
                with pytest.raises(websockets.exceptions.ConnectionClosed):
                    await websocket.recv()
            return websocket.close_code

    with trio.fail_after(60):
        async with serving(handler, host="localhost", ssl_context=for_server) as server:
            code = await trio.to_thread.run_sync(lambda: asyncio.run(talk(server.port)))
            await deserted(server)
            ended = server.statistics().ended
    by_client = ends == "client"
    assert code == (4001 if by_client else 4000)
    assert ended[EndReason.PEER if by_client else EndReason.HANDLER] == 1
