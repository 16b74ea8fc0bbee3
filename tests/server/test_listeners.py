"""Where a server listens."""

from __future__ import annotations

import errno
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress

import pytest
import trio

from trio_beat._server.listeners import describe, open_listeners, open_listeners_of_workers

from ..support.serving import ask, serving

LOCAL = {socket.AF_INET: "127.0.0.1", socket.AF_INET6: "::1"}


@contextmanager
def closed(listeners: list[socket.socket]) -> Iterator[list[socket.socket]]:
    with ExitStack() as stack:
        for listener in listeners:
            stack.enter_context(listener)
        yield listeners


@pytest.mark.parametrize(
    ("host", "addresses"),
    [
        ("127.0.0.1", ["127.0.0.1"]),
        ("::1", ["::1"]),
        ("[::1]", ["::1"]),
        ("::", ["::", "0.0.0.0"]),
        ("[::]", ["::", "0.0.0.0"]),
        ("0.0.0.0", ["0.0.0.0"]),
        (["127.0.0.1", "::1"], ["127.0.0.1", "::1"]),
        (["127.0.0.1", "127.0.0.1"], ["127.0.0.1"]),
        (["127.0.0.2", "127.0.0.1"], ["127.0.0.2", "127.0.0.1"]),
        (["127.0.0.1", "0.0.0.0"], ["0.0.0.0"]),
        (["127.0.0.1", "::"], ["::", "0.0.0.0"]),
        (["::1", "127.0.0.1", "::1", "0.0.0.0"], ["::1", "0.0.0.0"]),
    ],
)
async def test_each_address_has_one_listener_and_all_have_one_port(
    host: str | Sequence[str], addresses: list[str]
) -> None:
    with closed(await open_listeners(0, host)) as listeners:
        assert [listener.getsockname()[0] for listener in listeners] == addresses
        assert len({listener.getsockname()[1] for listener in listeners}) == 1
        for listener in listeners:
            assert listener.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
            assert not listener.getblocking()


@pytest.mark.parametrize("host", [None, "", "::", ["", "127.0.0.1"]])
async def test_no_host_is_all_of_both_families(
    host: str | None, patient_clock: trio.testing.MockClock
) -> None:
    async with serving(host=host) as server:
        assert {address for address, _ in server.addresses} == {"0.0.0.0", "::"}
        for family, address in LOCAL.items():
            sock = trio.socket.socket(family)
            await sock.connect((address, server.port))
            sock.close()
        assert (await ask(server.port, b"GET / HTTP/1.1\r\n\r\n")).startswith(b"HTTP/1.1 4")


async def test_name_and_address_of_the_same_are_one() -> None:
    with closed(await open_listeners(0, ["localhost", "127.0.0.1"])) as listeners:
        addresses = [listener.getsockname()[0] for listener in listeners]
        assert addresses.count("127.0.0.1") == 1


@pytest.mark.parametrize(
    ("hosts", "named", "why"),
    [
        (["127.0.0.1", "192.0.2.1"], "192.0.2.1:0", "Cannot assign"),
        (["127.0.0.1", "2001:db8::1"], "[2001:db8::1]:0", "Cannot assign"),
        (["127.0.0.1", "no such host"], "no such host:0", None),
        (["a..b"], "a..b:0", "no host can have this name"),
        (["a" * 64], f"{'a' * 64}:0", None),
        (["[::1"], "[::1:0", None),
    ],
)
async def test_what_cannot_be_listened_on_is_named_and_nothing_stays_open(
    hosts: list[str], named: str, why: str | None
) -> None:
    with pytest.raises(OSError, match=why) as caught:
        await open_listeners(0, hosts)
    assert caught.value.filename == named
    assert caught.value.strerror


async def test_port_that_is_taken_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(OSError, match="already in use") as caught:
            await open_listeners(port, ["::1", "127.0.0.1"])
    assert caught.value.filename == f"127.0.0.1:{port}"


async def test_what_stands_for_all_is_described_by_what_can_be_opened() -> None:
    with closed(await open_listeners(0, "::")) as listeners:
        port = listeners[0].getsockname()[1]
        assert describe(listeners) == (
            [f"[::1]:{port}", f"127.0.0.1:{port}"],
            [f"[::]:{port}", f"0.0.0.0:{port}"],
        )
    with closed(await open_listeners(0, ["127.0.0.1", "::1"])) as listeners:
        port = listeners[0].getsockname()[1]
        assert describe(listeners) == ([f"127.0.0.1:{port}", f"[::1]:{port}"], [])


#: Prints where it listens; in a network namespace where IPv6 is switched off.
_WITHOUT_IPV6 = """
import trio
from trio_beat._server.listeners import open_listeners
for host in ("localhost", ["127.0.0.1", "::1"]):
    try:
        print([s.getsockname()[0] for s in trio.run(open_listeners, 0, host)])
    except OSError as exc:
        print(exc.filename, exc.strerror)
"""


@pytest.mark.real
def test_where_ipv6_is_switched_off_a_name_stands_for_ipv4_alone() -> None:
    line = (
        "echo 1 > /proc/sys/net/ipv6/conf/all/disable_ipv6; "
        f"ip link set lo up && exec {sys.executable} -W ignore -c '{_WITHOUT_IPV6}'"
    )
    done = subprocess.run(
        ["unshare", "--net", "--map-root-user", "/bin/sh", "-c", line],
        capture_output=True,
        text=True,
        check=False,
        timeout=20,
    )
    if "unshare" in done.stderr:
        pytest.skip("no network namespace of one's own: " + done.stderr)
    assert done.stdout.splitlines() == [
        "['127.0.0.1']",
        "[::1]:0 Cannot assign requested address",
    ], done.stderr


class _IPv4Alone(socket.socket):
    """As with a kernel that has no IPv6 at all."""

    def __init__(self, family: int = -1, *args: int, **options: int) -> None:
        if family == socket.AF_INET6:
            raise OSError(errno.EAFNOSUPPORT, "Address family not supported by protocol")
        super().__init__(family, *args, **options)


async def test_where_there_is_no_ipv6_no_host_stands_for_ipv4_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("trio_beat._server.listeners.socket.socket", _IPv4Alone)
    with closed(await open_listeners(0, "")) as listeners:
        assert [listener.getsockname()[0] for listener in listeners] == ["0.0.0.0"]
    with pytest.raises(OSError, match="not supported") as caught:
        await open_listeners(0, "::")
    assert caught.value.filename == "[::]:0"


class TestOfWorkers:
    """A set for each worker, over which the kernel spreads peers."""

    @pytest.fixture
    def workers(self) -> Iterator[list[list[socket.socket]]]:
        listeners = open_listeners_of_workers(0, ["127.0.0.1", "::1"], 3)
        with closed([listener for own in listeners for listener in own]):
            yield listeners

    def test_each_has_all_addresses(self, workers: list[list[socket.socket]]) -> None:
        assert len(workers) == 3
        port = workers[0][0].getsockname()[1]
        for own in workers:
            assert [s.getsockname()[:2] for s in own] == [("127.0.0.1", port), ("::1", port)]
            for listener in own:
                assert listener.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
                assert not listener.getblocking()

    def test_all_get_some_peers(self, workers: list[list[socket.socket]]) -> None:
        """With 90 connections one gets none once in 10 ** 15 times."""
        port = workers[0][0].getsockname()[1]
        with ExitStack() as stack:
            for _ in range(90):
                stack.enter_context(socket.create_connection(("127.0.0.1", port)))
            counts = []
            for listener, _ in workers:
                counts.append(0)
                with suppress(BlockingIOError):
                    while True:
                        stack.enter_context(listener.accept()[0])
                        counts[-1] += 1
        assert sum(counts) == 90
        assert min(counts) > 0

    async def test_the_place_is_taken(self, workers: list[list[socket.socket]]) -> None:
        """For servers with workers and without, although the system would share it."""
        port = workers[0][0].getsockname()[1]
        with pytest.raises(OSError, match="in use") as caught:
            open_listeners_of_workers(port, "127.0.0.1", 2)
        assert caught.value.filename == f"127.0.0.1:{port}"
        with pytest.raises(OSError, match="in use"):
            await open_listeners(port, "127.0.0.1")

    def test_one_gets_the_place_of_those_that_begin_together(self) -> None:
        for _ in range(50):
            with socket.create_server(("127.0.0.1", 0)) as sock:
                port = sock.getsockname()[1]
            together = threading.Barrier(3)
            claimed: list[list[list[socket.socket]]] = []

            def claim(
                port: int = port,
                together: threading.Barrier = together,
                claimed: list[list[list[socket.socket]]] = claimed,
            ) -> None:
                together.wait()
                with suppress(OSError):
                    claimed.append(open_listeners_of_workers(port, "127.0.0.1", 2))

            threads = [threading.Thread(target=claim) for _ in range(3)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            with closed([s for workers in claimed for own in workers for s in own]):
                assert len(claimed) == 1

    def test_a_name_that_is_not_there(self) -> None:
        with pytest.raises(socket.gaierror) as caught:
            open_listeners_of_workers(8000, "no.such.host.invalid", 2)
        assert caught.value.filename == "no.such.host.invalid:8000"

    def test_elsewhere_all_have_the_same(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(sys, "platform", "darwin")
        first, second = open_listeners_of_workers(0, None, 2)
        with closed(first):
            assert first == second
