"""HTTP at its limits, on as many connections as are allowed, and an echo beside it."""

from __future__ import annotations

import functools
import multiprocessing
import socket
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from selectors import EVENT_READ, EVENT_WRITE, DefaultSelector

import pytest
import trio

from tests.support.command import command
from tests.support.peer import Peer, dial

pytestmark = [pytest.mark.real, pytest.mark.benchmark]

SECONDS = 5.0
#: Beyond this, most echoes have stood behind HTTP. (It is 0.05 on a machine that is not shared.)
SLOW = 0.5
GET = b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"
HEAD = b"POST /api/publish/x HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer t\r\n%b\r\n\r\n"
CHUNKS = HEAD % b"Transfer-Encoding: chunked" + b"1\r\nx\r\n" * 100_000
BODY = HEAD % b"Content-Length: 1000000" + b"x" * 1_000_000
REFUSED = b"GET /ws/ HTTP/1.1\r\nHost: x\r\n\r\n"
#: A head that comes in many pieces.
PIECES = b"GET / HTTP/1.1\r\n" + b"A:b\r\n" * 100


def attack(port: int, count: int, data: bytes, again: bool, piece: int, seconds: float) -> None:
    """Send on many connections as much as is taken.

    Args:
        again: what is over begins again, on the same connection or, where that was closed, on
            another one.
        piece: bytes that are sent at once.
    """
    until = time.monotonic() + seconds
    with DefaultSelector() as selector:

        def begin() -> None:
            sock = socket.socket()
            sock.setblocking(False)
            sock.connect_ex(("127.0.0.1", port))
            selector.register(sock, EVENT_READ | EVENT_WRITE, [data])

        for _ in range(count):
            begin()
        while time.monotonic() < until:
            for key, events in selector.select(0.1):
                sock = key.fileobj
                assert isinstance(sock, socket.socket)
                try:
                    if events & EVENT_READ and not sock.recv(65536):
                        raise ConnectionResetError
                    rest = key.data
                    if events & EVENT_WRITE:
                        rest[0] = rest[0][sock.send(rest[0][:piece]) :] or data
                except BlockingIOError:
                    continue
                except OSError:
                    selector.unregister(sock)
                    sock.close()
                    if again:
                        begin()
        for key in list(selector.get_map().values()):
            assert isinstance(key.fileobj, socket.socket)
            key.fileobj.close()


@contextmanager
def attacked(function: Callable[[], None]) -> Iterator[None]:
    process = multiprocessing.get_context("spawn").Process(target=function)
    process.start()
    try:
        yield
    finally:
        process.join(SECONDS * 4)
        if process.exitcode is None:
            process.kill()
            process.join()


async def echoes(peer: Peer, seconds: float) -> list[float]:
    """How long each echo takes, of one every 20 ms."""
    took = []
    until = trio.current_time() + seconds
    while trio.current_time() < until:
        begun = trio.current_time()
        with trio.fail_after(20):
            await peer.send_text("hello")
            assert await peer.text() == "hello"
        took.append(trio.current_time() - begun)
        await trio.sleep(0.02)
    return took


@pytest.mark.parametrize(
    ("data", "again", "piece"),
    [
        (GET, True, 65536),
        (CHUNKS, True, 65536),
        (BODY, True, 65536),
        (GET.replace(b"Host: x", b"Host: x\r\nConnection: close"), True, 65536),
        (REFUSED, True, 65536),
        (PIECES, True, 1),
    ],
    ids=["requests", "chunks", "bodies", "one request each", "refused", "pieces"],
)
async def test_an_echo_beside_much_http_is_not_kept_waiting(
    data: bytes, again: bool, piece: int, tmp_path: Path
) -> None:
    with command(tmp_path, "--publish-token=t", "--log-level=error", "--interval=1") as running:
        peer = await dial(running.port, "/ws/echo?subscribe-broadcast&publish-broadcast&echo")
        function = functools.partial(attack, running.port, 1024, data, again, piece, SECONDS)
        try:
            with attacked(function):
                await trio.sleep(1)
                took = await echoes(peer, SECONDS - 1)
        finally:
            await peer.aclose()
        median, longest = statistics.median(took), max(took)
        assert median < SLOW, f"longest {longest:.3f} s"
        assert running.process.poll() is None
