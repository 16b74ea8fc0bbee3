"""A network that fails: two namespaces, and a virtual cable between them that is pulled."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import pytest
import trio
from websockets.frames import Opcode

from trio_beat import EndReason, Heartbeat, Limits

from .support.command import clean_environment
from .support.peer import dial
from .support.serving import serving

pytestmark = pytest.mark.real

#: Connections of one client.
MANY = 50
#: Seconds more than a peer may be silent: beats in which the server stood still on a busy machine
#: are not judged.
BUSY = 3
SERVER, CLIENT = "198.51.100.1", "198.51.100.2"

_SERVER = """
import functools, trio
from trio_beat import Connection, Heartbeat, serve

async def handler(connection: Connection) -> None:
    begun = trio.current_time()
    if connection.path == "/read":
        print("open", flush=True)
    try:
        if connection.path == "/stuck":
            with trio.move_on_after(4):
                while True:
                    await connection.send(b"x" * 100_000)
            print("open", flush=True)
            begun = trio.current_time()
            await trio.sleep_forever()
        async for _ in connection:
            if connection.path == "/busy":
                await trio.sleep(2)  # until all that the reader can take has come
                print("open", flush=True)
                begun = trio.current_time()
                await trio.sleep_forever()
    finally:
        print(f"{connection.closed.by} {trio.current_time() - begun:.3f}", flush=True)

trio.run(functools.partial(serve, handler, 8000, host="%s", heartbeat=Heartbeat(1, misses=3)))
"""

_CLIENT = """
import trio, trio_websocket

async def main() -> None:
    async with trio_websocket.open_websocket_url("ws://%s:8000/%s") as websocket:
        for _ in range(100):
            await websocket.send_message("x")
        print("open", flush=True)
        await trio.sleep_forever()

trio.run(main)
"""


_OUR_CLIENT = """
import trio
from trio_beat import ConnectionClosed, Heartbeat, connect

async def main() -> None:
    try:
        async with connect("ws://%s:8000/read", heartbeat=Heartbeat(1, misses=3)) as connection:
            begun = trio.current_time()
            print("open", flush=True)
            async for _ in connection:
                pass
    except ConnectionClosed as exc:
        print(f"{exc.closed.by} {trio.current_time() - begun:.3f}", flush=True)

trio.run(main)
"""


_MANY_SERVER = """
import functools, time, trio
from trio_beat import Connection, Heartbeat, serve

async def handler(connection: Connection) -> None:
    print("open", flush=True)
    try:
        async for _ in connection:
            pass
    finally:
        print(f"{connection.closed.by} {time.monotonic()}", flush=True)

trio.run(functools.partial(serve, handler, 8000, host="%s", heartbeat=Heartbeat(1, misses=3)))
"""

_MANY_CLIENT = """
import trio, trio_websocket

async def one() -> None:
    async with trio_websocket.open_websocket_url("ws://%s:8000/") as websocket:
        await trio.sleep_forever()

async def main() -> None:
    async with trio.open_nursery() as nursery:
        for _ in range(%d):
            nursery.start_soon(one)

trio.run(main)
"""

#: A classic BPF program (packet(7)): it passes four of five packets.
_LOSE_A_FIFTH = "4,32 0 0 4294963256,53 1 0 858993459,6 0 0 2,6 0 0 4294967295"


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True, text=True)


@pytest.fixture
def namespaces() -> Iterator[tuple[str, str]]:
    """Names of two network namespaces with a cable between them."""
    if shutil.which("ip") is None:
        pytest.skip("no ip (iproute2) on this machine")
    names = tuple(f"beat-{side}-{os.getpid()}" for side in ("server", "client"))
    made: list[str] = []
    try:
        try:
            for name in names:
                _ip("netns", "add", name)
                made.append(name)
        except subprocess.CalledProcessError as exc:
            pytest.skip(f"not permitted to make network namespaces: {exc.stderr.strip()}")
        server, client = names
        _ip("-n", server, "link", "add", "cable", "type", "veth", "peer", "cable", "netns", client)
        for name, address in ((server, SERVER), (client, CLIENT)):
            _ip("-n", name, "address", "add", f"{address}/24", "dev", "cable")
            _ip("-n", name, "link", "set", "cable", "up")
        yield server, client
    finally:
        for name in made:
            _ip("netns", "delete", name)


def _lose(namespace: str) -> None:
    """Lose 20 % of the packets that arrive here."""
    if shutil.which("tc") is None:
        pytest.skip("no tc (iproute2) on this machine")
    device = ["dev", "cable"]
    try:
        for words in (
            ["qdisc", "add", *device, "clsact"],
            ["filter", "add", *device, "ingress", "bpf", "da", "bytecode", _LOSE_A_FIFTH],
        ):
            command = ["ip", "netns", "exec", namespace, "tc", *words]
            subprocess.run(command, check=True, capture_output=True, text=True)
    except subprocess.CalledProcessError as exc:
        pytest.skip(f"not permitted to drop packets: {exc.stderr.strip()}")


def _python(namespace: str, program: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        ["ip", "netns", "exec", namespace, sys.executable, "-c", program],
        stdout=subprocess.PIPE,
        text=True,
        env=clean_environment(),
        cwd=Path(__file__).parent.parent,
    )


def _wait_until_listening(namespace: str) -> None:
    for _ in range(100):
        listening = subprocess.run(
            ["ip", "netns", "exec", namespace, "cat", "/proc/net/tcp"],
            check=True,
            capture_output=True,
            text=True,
        )
        if ":1F40 00000000:0000 0A" in listening.stdout:
            return
        time.sleep(0.1)
    pytest.fail("the server does not listen")


def _kill(processes: list[subprocess.Popen[str]]) -> None:
    for process in processes:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


@pytest.mark.parametrize(
    ("handler", "reasons", "beats"),
    [
        # Missed beats end it.
        ("read", ("missed-beats",), 4),
        # The handler does not read, so silence proves nothing: unacknowledged PINGs end it.
        pytest.param("busy", ("lost",), 6, marks=pytest.mark.needs_tcp_info),
        # And the peer's window is closed: nothing is in flight but rare probes.
        pytest.param("stuck", ("lost",), 20, marks=pytest.mark.needs_tcp_info),
    ],
)
def test_peer_behind_a_pulled_cable_is_gone(
    handler: str, reasons: tuple[str, ...], beats: int, namespaces: tuple[str, str]
) -> None:
    server_namespace, client_namespace = namespaces
    processes = [_python(server_namespace, _SERVER % SERVER)]
    try:
        _wait_until_listening(server_namespace)
        processes.append(_python(client_namespace, _CLIENT % (SERVER, handler)))
        outputs = [process.stdout for process in processes]
        assert outputs[0] is not None
        assert outputs[1] is not None
        assert outputs[1].readline() == "open\n"
        assert outputs[0].readline() == "open\n"
        opened = time.monotonic()
        time.sleep(6)
        _ip("-n", client_namespace, "link", "set", "cable", "down")
        pulled = time.monotonic() - opened
        reason, lived = outputs[0].readline().split()
        assert reason in reasons
        assert 2 <= float(lived) - pulled <= beats + BUSY
    finally:
        _kill(processes)


def test_both_ends_of_a_pulled_cable_know_it(namespaces: tuple[str, str]) -> None:
    server_namespace, client_namespace = namespaces
    processes = [_python(server_namespace, _SERVER % SERVER)]
    try:
        _wait_until_listening(server_namespace)
        processes.append(_python(client_namespace, _OUR_CLIENT % SERVER))
        outputs = [process.stdout for process in processes]
        for output in outputs:
            assert output is not None
            assert output.readline() == "open\n"
        opened = time.monotonic()
        time.sleep(3)
        _ip("-n", client_namespace, "link", "set", "cable", "down")
        pulled = time.monotonic() - opened
        for output in outputs:
            assert output is not None
            reason, lived = output.readline().split()
            assert reason == "missed-beats"
            assert 2 <= float(lived) - pulled <= 4 + BUSY
    finally:
        _kill(processes)


async def test_peer_that_sends_but_does_not_read_is_alive() -> None:
    """Its window stays closed for longer than it may be silent, and the kernel must allow that."""
    heartbeat = Heartbeat(0.2, misses=2)
    async with serving(heartbeat=heartbeat, limits=Limits(outbox=2**26)) as server:
        deaf = await dial(server.port, "/ws/news?subscribe-broadcast")
        publisher = await dial(server.port, "/ws/news?publish-broadcast")
        for _ in range(20):
            await publisher.send_frame(Opcode.BINARY, b"x" * 2**19)
        for _ in range(40):
            await trio.sleep(0.1)
            await deaf.send_frame(Opcode.PONG)
        assert server.statistics().ended[EndReason.LOST] == 0
        assert server.statistics().ended[EndReason.MISSED_BEATS] <= 1  # the publisher
        assert server.statistics().connections >= 1
        for peer in (deaf, publisher):
            await peer.aclose()


@pytest.fixture
def many(namespaces: tuple[str, str]) -> Iterator[tuple[subprocess.Popen[str], IO[str]]]:
    """A process with `MANY` connections, beating every second, and what the server prints."""
    processes = [_python(namespaces[0], _MANY_SERVER % SERVER)]
    try:
        _wait_until_listening(namespaces[0])
        processes.append(_python(namespaces[1], _MANY_CLIENT % (SERVER, MANY)))
        output = processes[0].stdout
        assert output is not None
        assert [output.readline() for _ in range(MANY)] == ["open\n"] * MANY
        yield processes[1], output
    finally:
        _kill(processes)


# Seven where packets are lost; and what was sent and lost before the stop comes up to three later.
@pytest.mark.parametrize(("lossy", "intervals"), [(False, 4), (True, 7 + 3)])
def test_a_stopped_process_is_gone_though_its_kernel_acknowledges(
    lossy: bool,
    intervals: int,
    many: tuple[subprocess.Popen[str], IO[str]],
    namespaces: tuple[str, str],
) -> None:
    """At the same beat as a silent peer; a little later where packets are lost."""
    client, output = many
    time.sleep(2)
    if lossy:
        for namespace in namespaces:
            _lose(namespace)
        time.sleep(1)
    client.send_signal(signal.SIGSTOP)
    stopped = time.monotonic()
    ends = [output.readline().split() for _ in range(MANY)]
    assert {reason for reason, _ in ends} == {"missed-beats"}
    assert max(float(when) for _, when in ends) - stopped <= intervals + BUSY


@pytest.mark.needs_tcp_info
def test_a_peer_that_answers_late_because_packets_are_lost_is_alive(
    many: tuple[subprocess.Popen[str], IO[str]], namespaces: tuple[str, str]
) -> None:
    """Nearly all are: a fifth of the packets is lost each way, at a beat a second."""
    _, output = many
    for namespace in namespaces:
        _lose(namespace)
    time.sleep(20)
    os.set_blocking(output.fileno(), False)
    ended: list[bytes] = []
    with contextlib.suppress(BlockingIOError):  # nothing came
        ended = os.read(output.fileno(), 65536).splitlines()
    assert len(ended) <= MANY // 5
