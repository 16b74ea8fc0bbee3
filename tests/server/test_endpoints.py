"""Where a server listens, all of it."""

from __future__ import annotations

import errno
import os
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing
from websockets.frames import Opcode

from trio_beat import Connection, EndReason, Heartbeat, serve
from trio_beat._server.endpoints import open_endpoints
from trio_beat._server.given import show_address

from ..support.harness import HANGS, echo, idle
from ..support.peer import Peer, dial
from ..support.serving import serving

pytest.importorskip("fcntl", reason="locks a path")  # see `tests.support.hidden`


def tcp(*, listening: bool = True) -> socket.socket:
    sock = socket.socket()
    sock.bind(("127.0.0.1", 0))
    if listening:
        sock.listen(1)
    return sock


def unix(path: Path, *, listening: bool = True) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX)
    sock.bind(str(path))
    if listening:
        sock.listen(1)
    return sock


@contextmanager
def made(*args: Any) -> Iterator[socket.socket]:
    with socket.socket(*args) as sock:
        yield sock


async def echoed(stream: trio.SocketStream) -> None:
    """Open a WebSocket over a stream, and have a message sent back."""
    peer = await dial(0, "/", tcp=stream)
    await peer.send_text("hello")
    assert await peer.text() == "hello"
    await peer.aclose()


async def test_all_of_it_is_listened_on(tmp_path: Path) -> None:
    path, other = tmp_path / "x", tmp_path / "other"
    given = [tcp(), tcp(listening=False), unix(other), unix(tmp_path / "not", listening=False)]
    ports = [sock.getsockname()[1] for sock in given[:2]]
    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            server = await nursery.start(
                lambda **status: serve(echo, 0, uds=path, sockets=given, **status)
            )
            assert server.addresses == [("127.0.0.1", p) for p in (server.port, *ports)]
            assert server.paths == [str(path), str(other), str(tmp_path / "not")]
            for _, port in server.addresses:
                await echoed(await trio.open_tcp_stream("127.0.0.1", port))
            for name in server.paths:
                await echoed(await trio.open_unix_socket(name))
            server.drain()
    # Those of others stay.
    assert sorted(os.listdir(tmp_path)) == ["not", "other"]
    assert [sock.fileno() for sock in given] == [-1] * 4


async def test_a_path_alone_has_no_port(tmp_path: Path) -> None:
    path = tmp_path / "x"
    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            server = await nursery.start(lambda **s: serve(echo, uds=path, uds_mode=0o600, **s))
            assert path.stat().st_mode & 0o777 == 0o600
            with pytest.raises(RuntimeError, match=r"no TCP port; it listens on .*/x"):
                _ = server.port
            await echoed(await trio.open_unix_socket(str(path)))
            nursery.cancel_scope.cancel()
    assert not path.exists()


async def test_several_servers_in_one_nursery(tmp_path: Path) -> None:
    with trio.fail_after(60):
        async with (
            serving(echo, uds=tmp_path / "a") as one,
            serving(echo, uds=tmp_path / "b", sockets=[tcp()]) as two,
        ):
            assert len({one.port, *(port for _, port in two.addresses)}) == 3
            for name in (*one.paths, *two.paths):
                await echoed(await trio.open_unix_socket(name))


async def test_an_abstract_socket_has_a_name(tmp_path: Path) -> None:
    sock = socket.socket(socket.AF_UNIX)
    name = f"trio-beat-{os.getpid()}"
    sock.bind(f"\0{name}")
    with trio.fail_after(60):
        async with serving(echo, sockets=[sock]) as server:
            assert server.paths == [f"@{name}"]
            await echoed(await trio.open_unix_socket(f"\0{name}"))


async def test_when_it_drains_the_path_is_the_next_ones(tmp_path: Path) -> None:
    path = tmp_path / "x"
    with trio.fail_after(60):
        async with serving(idle, uds=path) as server:
            peer = await dial(0, "/", tcp=await trio.open_unix_socket(str(path)))
            server.drain()
            while path.exists():  # noqa: ASYNC110 - a file has no event
                await trio.sleep(0.01)
            async with serving(echo, uds=path):
                await peer.aclose()
                await echoed(await trio.open_unix_socket(str(path)))
    assert not path.exists()


@pytest.mark.parametrize("mode", ["in use", "a file"])
async def test_a_path_of_others_is_left_alone(tmp_path: Path, mode: str) -> None:
    path = tmp_path / "x"
    if mode == "in use":
        other = unix(path)
    else:
        path.write_text("precious")
        other = tcp()
    given = tcp()
    with other, pytest.raises(OSError, match=r"in use|no socket") as caught:
        await serve(idle, 0, uds=path, sockets=[given])
    assert caught.value.filename == str(path)
    assert caught.value.errno == (errno.EADDRINUSE if mode == "in use" else errno.EEXIST)
    assert path.exists()
    # It took what it was given.
    assert given.fileno() == -1


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({}, ValueError, "nowhere to listen: a port, uds or sockets"),
        ({"host": "::1", "uds": "x"}, ValueError, "host is '::1', which is of no use without"),
        ({"uds": ""}, ValueError, "uds is empty"),
        ({"uds": "@x"}, ValueError, "abstract socket has no mode"),
        ({"uds": "\0x"}, ValueError, "abstract socket has no mode"),
        ({"uds": "x\0"}, ValueError, "no path has a NUL"),
        ({"uds": b"x"}, TypeError, "uds is b'x'; it must be a path"),
        ({"uds": "x", "uds_mode": 660}, ValueError, "uds_mode is 660; .* such as 0o660"),
        ({"uds": "x", "uds_mode": -1}, ValueError, "uds_mode is -1"),
        ({"uds": "x", "uds_mode": "0660"}, TypeError, "uds_mode is '0660'; it must be a mode"),
        ({"sockets": 3}, TypeError, "sockets is 3; it must be several of socket.socket"),
        ({"sockets": [3]}, TypeError, r"sockets\[0\] is 3; it must be a socket.socket"),
        ({"port": 65536}, ValueError, "port is 65536"),
    ],
)
async def test_misuse_is_told(
    options: dict[str, Any], error: type[Exception], words: str, tmp_path: Path
) -> None:
    with pytest.raises(error, match=words):
        await serve(idle, **options)


async def test_what_cannot_listen_is_told_and_not_touched(tmp_path: Path) -> None:
    closed = tcp()
    closed.close()
    good = tcp()
    ours, theirs = socket.socketpair()
    with (
        good,
        ours,
        theirs,
        made() as unbound,
        made(socket.AF_UNIX) as nameless,
        made(socket.AF_INET, socket.SOCK_DGRAM) as udp,
        made(socket.AF_NETLINK, socket.SOCK_DGRAM) as foreign,
    ):
        for sock, words in (
            (closed, "is closed"),
            (ours, "is connected; it must be bound, or listen"),
            (unbound, "is not bound"),
            (nameless, "is not bound"),
            (udp, "is of SOCK_DGRAM; it must be of SOCK_STREAM"),
            (foreign, "is of AF_NETLINK; it must be of AF_INET, AF_INET6 or AF_UNIX"),
            (good, "is given twice"),
        ):
            with pytest.raises(ValueError, match=rf"sockets\[1\] {words}"):
                await serve(idle, 0, uds=tmp_path / "x", sockets=[good, sock])
            assert sock is closed or sock.fileno() != -1
        assert good.getblocking()
    assert os.listdir(tmp_path) == []


async def test_who_cannot_listen_after_all_is_named() -> None:
    with tcp(listening=False) as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        port = taken.getsockname()[1]
        with made() as first:
            # Both are bound; only one may listen.
            first.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 0)
            first.bind(("127.0.0.1", port))
            first.listen()
            with pytest.raises(OSError, match="in use") as caught:
                await open_endpoints(None, "127.0.0.1", None, 0o660, [taken])
    assert caught.value.filename == f"127.0.0.1:{port}"


async def test_when_it_is_cancelled_before_it_listens_nothing_is_left(tmp_path: Path) -> None:
    given = tcp()
    with trio.CancelScope() as scope:
        scope.cancel()
        await serve(idle, 0, uds=tmp_path / "x", sockets=[given])
    assert given.fileno() == -1
    assert os.listdir(tmp_path) == []


async def test_a_silent_peer_of_a_path_is_dead_and_one_that_answers_lives(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    ended: dict[str, float] = {}

    async def handler(connection: Connection) -> None:
        assert connection.request is not None
        assert connection.peer == "local"
        try:
            async for _ in connection:
                pass
        finally:
            ended[connection.request.path] = trio.current_time()

    async def answer(peer: Peer) -> None:
        while (frame := await peer.frame()) is not None:
            if frame.opcode is Opcode.PING:
                await peer.pong(frame)

    path = str(tmp_path / "x")
    with trio.fail_after(HANGS):
        async with serving(handler, uds=path, heartbeat=Heartbeat(4.0)) as server:
            silent, live = [
                await dial(0, target, tcp=await trio.open_unix_socket(path))
                for target in ("/silent", "/live")
            ]
            began = trio.current_time()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(answer, live)
                assert await silent.closed() is None  # a dead peer is told nothing
                await trio.sleep(100)
                assert list(ended) == ["/silent"]
                assert 12 <= ended["/silent"] - began <= 16
                assert server.statistics().ended[EndReason.MISSED_BEATS] == 1
                nursery.cancel_scope.cancel()
            await silent.aclose()
            await live.aclose()


async def test_a_slow_peer_of_a_path_lives_and_one_that_has_stopped_is_dead(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    size = 600_000

    async def handler(connection: Connection) -> None:
        connection.send_nowait(b"\0" * size)
        async for _ in connection:
            pass

    path = str(tmp_path / "x")
    with trio.fail_after(HANGS):
        async with serving(handler, uds=path, heartbeat=Heartbeat(4.0)) as server:
            slow, stopped = [
                await dial(0, "/", tcp=await trio.open_unix_socket(path)) for _ in range(2)
            ]
            began, taken = trio.current_time(), 0
            # Some came with the answer to the handshake.
            while taken < size - 100_000:
                # It takes what lies before a PING before that one: it has no way to answer it.
                taken += len(await slow.plain.receive_some(8192))
                await trio.sleep(1)
                if trio.current_time() > began + 17:
                    assert server.statistics().connections == 1
            assert server.statistics().ended[EndReason.MISSED_BEATS] == 1
            await slow.aclose()
            await stopped.aclose()


@pytest.mark.real
@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a listener is not shut down")
@pytest.mark.parametrize("kind", ["tcp", "unix"])
async def test_one_that_another_process_shuts_down_ends_the_server(
    kind: str, tmp_path: Path
) -> None:
    listener = tcp() if kind == "tcp" else unix(tmp_path / "x")
    where = show_address(listener)
    with listener.dup() as other, trio.fail_after(HANGS):
        gone = pytest.RaisesExc(
            OSError, match="does not listen any more", check=lambda exc: exc.filename == where
        )
        with pytest.RaisesGroup(gone, flatten_subgroups=True):
            async with trio.open_nursery() as nursery:
                await nursery.start(partial(serve, idle, sockets=[listener]))
                other.shutdown(socket.SHUT_RDWR)
