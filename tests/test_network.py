"""A network that is really dead: two namespaces, a cable between them, and the cable is pulled."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from .command import clean_environment

pytestmark = pytest.mark.real

SERVER, CLIENT = "198.51.100.1", "198.51.100.2"

_SERVER = """
import functools, trio
from trio_beat import Connection, Heartbeat, serve

async def handler(connection: Connection) -> None:
    print("open", flush=True)
    begun = trio.current_time()
    try:
        await trio.sleep_forever()
    finally:
        print(f"{connection.closed.by} {trio.current_time() - begun:.3f}", flush=True)

trio.run(functools.partial(serve, handler, 8000, host="%s", heartbeat=Heartbeat(1, misses=3)))
"""

_CLIENT = """
import trio, trio_websocket

async def main() -> None:
    async with trio_websocket.open_websocket_url("ws://%s:8000/"):
        print("open", flush=True)
        await trio.sleep_forever()

trio.run(main)
"""


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
            pytest.skip(f"may not make network namespaces: {exc.stderr.strip()}")
        server, client = names
        _ip("-n", server, "link", "add", "cable", "type", "veth", "peer", "cable", "netns", client)
        for name, address in ((server, SERVER), (client, CLIENT)):
            _ip("-n", name, "address", "add", f"{address}/24", "dev", "cable")
            _ip("-n", name, "link", "set", "cable", "up")
        yield server, client
    finally:
        for name in made:
            _ip("netns", "delete", name)


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


def test_peer_behind_a_pulled_cable_is_gone_within_misses_and_one_beats(
    namespaces: tuple[str, str],
) -> None:
    server_namespace, client_namespace = namespaces
    processes = [_python(server_namespace, _SERVER % SERVER)]
    try:
        _wait_until_listening(server_namespace)
        processes.append(_python(client_namespace, _CLIENT % SERVER))
        outputs = [process.stdout for process in processes]
        assert outputs[0] is not None
        assert outputs[1] is not None
        assert outputs[1].readline() == "open\n"
        assert outputs[0].readline() == "open\n"
        opened = time.monotonic()
        time.sleep(3)
        _ip("-n", client_namespace, "link", "set", "cable", "down")
        pulled = time.monotonic() - opened
        reason, lived = outputs[0].readline().split()
        # The heartbeat's verdict or the kernel's, whichever comes first.
        assert reason in ("missed-beats", "lost")
        assert float(lived) - pulled <= 4.5
        assert float(lived) - pulled >= 2
    finally:
        for process in processes:
            process.kill()
            process.wait()
            assert process.stdout is not None
            process.stdout.close()
