"""KeyUpdates, of which a peer may send any number."""

from __future__ import annotations

import contextlib
import socket
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import NamedTuple

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked
from websockets.frames import Frame, Opcode

from tests.support.harness import HANGS, make_read_context
from tests.support.tls13 import Client, shake_hands
from tests.support.transports import drain
from tests.support.turns import make_turns
from trio_beat import Message
from trio_beat._transports import Event
from trio_beat._transports.outbox import Outbox
from trio_beat._transports.polling import Poller
from trio_beat._transports.tls import TLSTransport
from trio_beat._transports.tls_session import Bios


class Crafted(NamedTuple):
    """A client whose records are made by hand, and a server's transport for it."""

    client: Client
    sock: socket.socket  #: the client's
    transport: TLSTransport
    theirs: socket.socket  #: the transport's


@asynccontextmanager
async def crafted(count: int) -> AsyncIterator[list[Crafted]]:
    """Clients of one server."""
    bios = Bios()
    with contextlib.ExitStack() as stack:
        turns = make_turns()
        reads = make_read_context(10**6, turns)
        poller = stack.enter_context(Poller(turns))
        those = []
        for _ in range(count):
            ours, theirs = socket.socketpair()
            stack.enter_context(ours)
            ours.setblocking(False)
            theirs.setblocking(False)
            client, session = shake_hands(bios)
            transport = TLSTransport(theirs, session, reads, poller)
            stack.callback(transport.abort)
            those.append(Crafted(client, ours, transport, theirs))
        with trio.fail_after(HANGS):
            async with trio.open_nursery() as nursery:
                await nursery.start(poller.run)
                await nursery.start(turns.run)
                yield those
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

        async with crafted(41) as those, trio.open_nursery() as nursery:
            for index, it in enumerate(those):
                nursery.start_soon(read, index, it.transport)
            await wait_all_tasks_blocked()
            for client, sock, *_ in those[1:]:
                sock.sendall(b"".join(client.key_update() for _ in range(100)))
                sock.sendall(client.data(Frame(Opcode.TEXT, b"behind").serialize(mask=True)))
            for index in range(1000):
                if index == 20:
                    client, sock, *_ = those[0]
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

        async with crafted(40) as those, trio.open_nursery() as nursery:
            for it in those:
                nursery.start_soon(read, it.transport)
            for _ in range(2):
                await wait_all_tasks_blocked()
                for client, sock, *_ in those:
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
        async with (
            crafted(1) as [(client, sock, transport, theirs)],
            trio.open_nursery() as nursery,
        ):
            theirs.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
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

    async def test_peer_that_takes_no_answer_is_lost(self, autojump_clock: MockClock) -> None:
        async with crafted(1) as [(client, sock, transport, _)]:
            with pytest.raises(ConnectionAbortedError, match="too many answers"):
                for _ in range(5000):
                    sock.sendall(client.key_update(requested=True))
                    await transport.wait_readable()
                    assert list(transport.receive_nowait() or ()) == []

    async def test_answers_that_wait_go_before_the_next_frame(
        self, autojump_clock: MockClock
    ) -> None:
        async with crafted(1) as [(client, sock, transport, _)], trio.open_nursery() as nursery:
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
