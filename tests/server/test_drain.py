"""How a server goes away."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import Any

import pytest
import trio
import trio.testing

from tests.support.harness import tls_contexts
from tests.support.peer import HANDSHAKE, Peer, dial
from tests.support.serving import RARELY, status
from trio_beat import Connection, EndReason, Server, serve

REQUEST = HANDSHAKE.format(target="/ws/news", headers="").encode()


async def stay(connection: Connection) -> None:
    await trio.sleep_forever()


class Life:
    """When a server that was drained was gone."""

    server: Server
    begin: float
    took: float | None = None

    def drain(self) -> None:
        self.begin = trio.current_time()
        self.server.drain()

    def now(self) -> float:
        """Seconds since draining began."""
        return trio.current_time() - self.begin


@asynccontextmanager
async def life(grace: float, **options: Any) -> AsyncIterator[Life]:
    """Serve until drained, and not longer than that."""
    living = Life()

    async def live(task_status: trio.TaskStatus[Server]) -> None:
        await serve(stay, 0, grace=grace, heartbeat=RARELY, task_status=task_status, **options)
        living.took = living.now()

    async with trio.open_nursery() as nursery:
        living.server = await nursery.start(live)
        yield living
    assert living.server.statistics()[:2] == (0, 0)


async def leave(peer: Peer, living: Life, times: list[float]) -> None:
    """Answer the close frame, as a good client does."""
    close = await peer.closed()
    assert close is not None
    assert (close.code, close.reason) == (1001, "server is shutting down")
    times.append(living.now())
    await peer.send_close(1001)
    assert await peer.frame() is None
    await peer.aclose()


async def test_clients_are_sent_away_over_the_first_half_of_the_grace_time(
    patient_clock: trio.testing.MockClock,
) -> None:
    times: list[float] = []
    async with life(grace=10) as living, trio.open_nursery() as nursery:
        for _ in range(4):
            nursery.start_soon(leave, await dial(living.server.port), living, times)
        await trio.sleep(3)
        living.drain()
    assert times == [0, 1.25, 2.5, 3.75]
    assert living.took == 3.75
    assert living.server.statistics().ended[EndReason.SHUTDOWN] == 4


async def test_clients_over_tls_are_sent_away_as_well(
    patient_clock: trio.testing.MockClock,
) -> None:
    for_server, for_client = tls_contexts()
    times: list[float] = []
    async with life(grace=10, ssl_context=for_server) as living, trio.open_nursery() as nursery:
        for _ in range(2):
            peer = await dial(living.server.port, ssl_context=for_client)
            nursery.start_soon(leave, peer, living, times)
        living.drain()
    assert times == [0, 2.5]
    assert living.took == 2.5


async def test_without_connections_it_is_gone_at_once(
    patient_clock: trio.testing.MockClock,
) -> None:
    async with life(grace=10) as living:
        living.drain()
        living.drain()
    assert living.took == 0


async def test_a_peer_that_does_not_answer_is_given_its_time_and_no_more(
    patient_clock: trio.testing.MockClock,
) -> None:
    async with life(grace=20) as living:
        peer = await dial(living.server.port)
        living.drain()
        close = await peer.closed()
        assert close is not None
        assert (close.code, living.now()) == (1001, 0)
        assert await peer.frame() is None
        assert living.now() == 5
        await peer.aclose()
    assert living.took == 5


@pytest.mark.parametrize("grace", [0, 4])
async def test_no_connection_stays_longer_than_the_grace_time(
    grace: float, patient_clock: trio.testing.MockClock
) -> None:
    async with life(grace=grace) as living:
        peers = [await dial(living.server.port) for _ in range(3)]
        living.drain()
        await trio.sleep(grace)
    assert living.took == grace
    for peer in peers:
        assert await peer.closed() is not None
        await peer.aclose()
    assert living.server.statistics().ended[EndReason.SHUTDOWN] == 3


async def test_a_peer_that_leaves_meanwhile_does_not_hold_up_the_others(
    patient_clock: trio.testing.MockClock,
) -> None:
    times: list[float] = []
    async with life(grace=10) as living, trio.open_nursery() as nursery:
        peers = [await dial(living.server.port) for _ in range(4)]
        living.drain()
        await trio.testing.wait_all_tasks_blocked()  # all four are to be refused
        for peer in peers[:2]:
            await peer.aclose()
        for peer in peers[2:]:
            nursery.start_soon(leave, peer, living, times)
    assert set(times) < {0, 1.25, 2.5, 3.75}
    ended = living.server.statistics().ended
    assert sum(ended.values()) == 4


async def test_no_new_peer_is_admitted(patient_clock: trio.testing.MockClock) -> None:
    async with life(grace=10) as living:
        peer = await dial(living.server.port)
        living.drain()
        await trio.sleep(0.5)
        with pytest.raises(OSError, match="all attempts"):
            await trio.open_tcp_stream("127.0.0.1", living.server.port)
        await peer.aclose()


async def test_a_handshake_under_way_is_refused(patient_clock: trio.testing.MockClock) -> None:
    async with life(grace=10) as living:
        async with await trio.open_tcp_stream("127.0.0.1", living.server.port) as stream:
            await stream.send_all(REQUEST[:-5])
            await trio.sleep(1)
            assert living.server.statistics()[:2] == (0, 1)
            living.drain()
            answer = b"".join([bytes(data) async for data in stream])
        assert status(answer) == 503
        assert b"server is shutting down" in answer
    assert living.took == 0
    assert living.server.statistics().refused == {503: 1}


async def test_a_peer_that_connects_at_that_very_moment_is_refused_or_reset(
    patient_clock: trio.testing.MockClock,
) -> None:
    """Sockets that are accepted in the same turn in which draining begins."""

    async def come(sock: socket.socket, living: Life) -> None:
        sock.setblocking(False)
        stream = trio.SocketStream(trio.socket.from_stdlib_socket(sock))
        # Those that were not accepted are reset by the kernel.
        with suppress(trio.BrokenResourceError):
            answer = b"".join([bytes(data) async for data in stream])
            assert status(answer) == 503
        assert living.now() == 0
        await stream.aclose()

    for _ in range(10):
        async with life(grace=20) as living, trio.open_nursery() as nursery:
            for request in (REQUEST, REQUEST[:-1]) * 16:
                sock = socket.create_connection(("127.0.0.1", living.server.port))
                sock.sendall(request)
                nursery.start_soon(come, sock, living)
            living.drain()
        assert living.took == 0


async def test_a_peer_that_completes_its_request_at_that_very_moment_is_closed_or_refused(
    patient_clock: trio.testing.MockClock,
) -> None:
    for turns in list(range(6)) * 8:
        async with life(grace=20) as living:
            sock = socket.create_connection(("127.0.0.1", living.server.port))
            sock.sendall(REQUEST[:-1])
            await trio.testing.wait_all_tasks_blocked(0.01)
            living.drain()
            for _ in range(turns):
                await trio.lowlevel.checkpoint()
            sock.sendall(REQUEST[-1:])
            sock.setblocking(False)
            async with trio.SocketStream(trio.socket.from_stdlib_socket(sock)) as stream:
                answer = b"".join([bytes(data) async for data in stream])
        # A peer that was admitted is closed like the others, and given time to answer that.
        assert (answer[9:12], living.took) in ((b"503", 0), (b"101", 5))


async def test_a_peer_in_a_tls_handshake_is_not_waited_for(
    patient_clock: trio.testing.MockClock,
) -> None:
    for_server, _ = tls_contexts()
    async with life(grace=10, ssl_context=for_server) as living:
        async with await trio.open_tcp_stream("127.0.0.1", living.server.port) as stream:
            await stream.send_all(b"\x16\x03\x01")
            await trio.sleep(1)
            living.drain()
            await stream.receive_some()
    assert living.took is not None
    assert living.took <= 2


async def test_cancelling_says_1001_and_does_not_wait(
    patient_clock: trio.testing.MockClock,
) -> None:
    with trio.CancelScope() as scope:
        async with trio.open_nursery() as nursery:
            server = await nursery.start(partial(serve, stay, 0))
            peers = [await dial(server.port) for _ in range(3)]
            begin = trio.current_time()
            scope.cancel()
    assert trio.current_time() == begin
    for peer in peers:
        close = await peer.closed()
        assert close is not None
        assert close.code == 1001
        await peer.aclose()
    assert server.statistics()[:2] == (0, 0)
