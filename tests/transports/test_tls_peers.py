"""The transport over TLS, and clients of others."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio
import trustme
import websockets.exceptions
from trio.testing import MockClock
from websockets.asyncio.client import connect
from websockets.frames import Frame, Opcode

from tests.support.harness import (
    echo,
    tls_contexts,
)
from tests.support.peer import HANDSHAKE
from tests.support.serving import deserted, serving
from trio_beat import Connection, EndReason

#: Bytes of one record's content at most (RFC 8446, section 5.1).
RECORD = 16384


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
    """A server's context, and the file of its certificate authority."""
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
