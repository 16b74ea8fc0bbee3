"""What is written in two ways does the same in both."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import pytest
import trio

from tests.support.documents import examples, program
from trio_beat import Connection, HandshakeRefused, connect

pytestmark = pytest.mark.real

_WEBSOCKETS, _WEBSOCKETS_HERE, _TRIO_WEBSOCKET, _TRIO_WEBSOCKET_HERE, _CHANNELS_HERE = range(5)


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        port: int = sock.getsockname()[1]
        return port


@asynccontextmanager
async def _running(number: int) -> AsyncIterator[str]:
    """Run an example; gives its URL, without a path, once it listens."""
    port = _free_port()
    with trio.fail_after(60):
        async with program(examples("migrating", "python")[number], port) as running:
            while True:
                assert running.process.poll() is None
                try:
                    async with await trio.open_tcp_stream("127.0.0.1", port):
                        break
                except OSError:
                    await trio.sleep(0.05)
            yield f"ws://127.0.0.1:{port}"


async def _open(stack: AsyncExitStack, url: str) -> Connection:
    connection = await stack.enter_async_context(connect(url))
    # What it gets itself tells that its handler has begun.
    await connection.send("first")
    while await connection.receive() != "first":
        pass
    return connection


@pytest.mark.parametrize("number", [_WEBSOCKETS, _WEBSOCKETS_HERE, _CHANNELS_HERE])
async def test_what_one_sends_reaches_all(number: int) -> None:
    async with _running(number) as url, AsyncExitStack() as stack:
        one = await _open(stack, f"{url}/room")
        two = await _open(stack, f"{url}/room")
        assert await one.receive() == "first"
        await two.send("second")
        assert [await one.receive(), await two.receive()] == ["second", "second"]


@pytest.mark.parametrize("number", [_TRIO_WEBSOCKET, _TRIO_WEBSOCKET_HERE])
async def test_an_echo_behind_one_path(number: int) -> None:
    async with _running(number) as url:
        async with connect(f"{url}/echo") as connection:
            await connection.send("hello")
            assert await connection.receive() == "hello"
        with pytest.raises(HandshakeRefused, match="no such path") as caught:
            async with connect(f"{url}/other"):
                pytest.fail("it was accepted")
        assert caught.value.status == 404
