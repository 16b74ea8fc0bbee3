"""What the kernel tells of a peer, and what it is asked, also on other systems than Linux."""

from __future__ import annotations

import socket
import struct
import sys

import pytest
import trio
from trio.testing import MockClock

from tests.support.harness import tcp_pair
from tests.support.transports import tcp_paired
from trio_beat import Heartbeat
from trio_beat._transports import Response, kernel
from trio_beat._transports.kernel import peer_name
from trio_beat._transports.outbox import Outbox
from trio_beat._transports.tcp_info import TELLS, delivery


class TestStirring:
    async def test_unread_bytes_excuse_one_beat(self, autojump_clock: MockClock) -> None:
        async with tcp_paired() as pair:
            await pair.peer.send(b"x")
            assert pair.transport.stirring(0)
            assert not pair.transport.stirring(0)
            pair.transport.rest(heard=True)
            assert pair.transport.stirring(0)

    async def test_bytes_in_the_kernel(self, autojump_clock: MockClock) -> None:
        async with tcp_paired() as pair:
            assert not pair.transport.stirring(0)
            await pair.peer.send(b"x")
            assert pair.transport.stirring(0)
            await pair.receive()
            assert not pair.transport.stirring(0)

    async def test_an_end_of_stream_in_the_kernel(self, autojump_clock: MockClock) -> None:
        async with tcp_paired() as pair:
            await pair.peer.aclose()
            assert pair.transport.stirring(0)

    async def test_output_that_moves_out_of_the_outbox(self, autojump_clock: MockClock) -> None:
        """Where nothing tells what is acknowledged, the silence is excused while that moves."""
        async with tcp_paired() as pair:
            outbox = Outbox(Response(b"x" * 2**21))
            outbox.taken(pair.fill())
            assert not pair.transport.stirring(outbox.size)
            assert not pair.transport.stirring(outbox.size)  # nothing has moved
            with trio.move_on_after(1):
                await pair.peer.stream.receive_some(2**19)
                await pair.transport.drain(outbox)
            # Over a Unix socket, as here, it counts for some beats, where the kernel tells of more.
            for _ in range(kernel.LASTS if TELLS else 1):
                assert pair.transport.stirring(outbox.size)
            assert not pair.transport.stirring(0)

    @pytest.mark.needs_tcp_info
    async def test_output_that_moves(self, patient_clock: MockClock) -> None:
        async with tcp_paired(pair=tcp_pair) as pair:
            pair.fill()
            await trio.sleep(1)
            assert not pair.transport.stirring(0)  # it may have stood still
            assert not pair.transport.stirring(0)  # it did
            for _ in range(20):
                await pair.peer.stream.receive_some(65536)
            await trio.sleep(1)
            assert pair.transport.stirring(0)
            assert not pair.transport.stirring(0)

    async def test_output_that_was_all_taken_moves_no_more(self, patient_clock: MockClock) -> None:
        async with tcp_paired(pair=tcp_pair) as pair:
            assert not pair.transport.stirring(0)
            pair.transport.write_nowait(Response(b"abc"))
            await trio.sleep(1)
            assert not pair.transport.stirring(0)

    async def test_reachable_while_all_is_acknowledged(self, patient_clock: MockClock) -> None:
        async with tcp_paired(pair=tcp_pair) as pair:
            pair.transport.write_nowait(Response(b"abc"))
            await trio.sleep(1)
            assert not pair.transport.unreachable(0)

    @pytest.mark.needs_tcp_info
    async def test_the_kernel_says_how_far_output_has_come(self, patient_clock: MockClock) -> None:
        async with tcp_paired(pair=tcp_pair) as pair:
            sent = pair.fill()
            await trio.sleep(1)
            now = delivery(pair.sock)
            assert now is not None
            assert 0 < now.acknowledged < sent
            assert now.probes == 0
            assert 0 <= now.last_ack < 60

    async def test_a_socket_that_failed_is_the_reader_s(self, patient_clock: MockClock) -> None:
        async with tcp_paired(pair=tcp_pair) as pair:
            await pair.peer.reset()
            await trio.sleep(1)
            assert pair.transport.stirring(0)


class TestNames:
    async def test_of_tcp(self, patient_clock: MockClock) -> None:
        async with tcp_paired(pair=tcp_pair) as pair:
            host, port = pair.sock.getpeername()
            assert pair.transport.peer == f"{host}:{port}"

    async def test_of_ipv6(self) -> None:
        with socket.create_server(("::1", 0), family=socket.AF_INET6) as listener:
            port = listener.getsockname()[1]
            with socket.create_connection(("::1", port)) as sock:
                assert peer_name(sock) == f"[::1]:{port}"

    async def test_of_socket_pairs_and_of_sockets_that_are_not_connected(self) -> None:
        ours, theirs = socket.socketpair()
        with ours, theirs, socket.socket() as unconnected:
            assert peer_name(ours) == "local"
            assert peer_name(unconnected) == "unknown"


def test_the_longest_wait_of_tcp_is_set_on_linux_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """The number of the option means something else elsewhere."""
    with socket.socket() as sock:
        before = sock.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF)
        monkeypatch.setattr(sys, "platform", "darwin")
        monkeypatch.setattr(kernel, "TELLS", False)
        monkeypatch.setattr(kernel, "_TCP_RTO_MAX_MS", socket.TCP_KEEPIDLE)
        kernel.set_up(sock, 60.0)
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == 7200
        # Twice as much as was asked for (socket(7)).
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF) == 131072 != before


def test_to_linger_for_no_time_has_each_system_s_layout() -> None:
    assert struct.unpack("ii", kernel._AT_ONCE) == (1, 0)


class TestGathering:
    def test_without_sendmsg(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(sys, "platform", "win32")
        ours, theirs = socket.socketpair()
        with ours, theirs:
            buffers: list[bytes | memoryview] = [b"abc", memoryview(b"defg"), b"h" * 100_000]
            sent = kernel.send_gathered(ours, buffers)
            assert sent == 65536
            assert theirs.recv(100_000)[:8] == b"abcdefgh"


def test_ipv4_peer_of_a_socket_for_both_families_has_its_own_name() -> None:
    with socket.create_server(("::", 0), family=socket.AF_INET6, dualstack_ipv6=True) as listener:
        with socket.create_connection(("127.0.0.1", listener.getsockname()[1])) as near:
            far, _ = listener.accept()
            with far:
                assert peer_name(far) == f"127.0.0.1:{near.getsockname()[1]}"


@pytest.mark.parametrize(("misses", "seconds"), [(1, 1.0), (3, 16 / 6), (1000, 120.0)])
async def test_tcp_sends_again_while_the_peer_may_be_silent(misses: int, seconds: float) -> None:
    """Linux 6.15 and later."""
    interval = 2.0 if misses == 1 else 4.0
    with socket.create_server(("127.0.0.1", 0)) as listener:
        kernel.set_up(listener, Heartbeat(interval, misses).patience)
        with socket.create_connection(listener.getsockname()):
            sock, _ = listener.accept()
            with sock:
                try:
                    longest = sock.getsockopt(socket.IPPROTO_TCP, 44)
                except OSError:
                    pytest.skip("the kernel does not know TCP_RTO_MAX_MS")
                assert abs(longest - 1000 * seconds) <= 10  # it counts in ticks
