"""The application under real Hypercorn, over HTTP/1.1 and HTTP/2."""

from __future__ import annotations

import sys
from typing import Any

import httpx
import pytest
import trio
from websockets.frames import Close, Opcode

from tests.support.asgi import HANGS, answering, h2_client, hypercorn
from trio_beat import Connection, EndReason, Heartbeat, Limits, open_hub
from trio_beat.asgi import Application, application

pytestmark = pytest.mark.real

BEAT = "--heartbeat--"
RARELY = Heartbeat(3600, message=BEAT)
TARGET = "/ws/news?subscribe-broadcast&publish-broadcast&echo"


async def behave(connection: Connection) -> None:
    """Do as the URL says."""
    match connection.path:
        case "/stuck":
            await trio.sleep_forever()
        case "/close":
            await connection.aclose(4000, "enough")
        case _:
            async for message in connection:
                await connection.send(message)


async def ended(app: Application, by: EndReason, count: int = 1) -> None:
    """Wait until so many connections have ended in this way."""
    while app.statistics().ended[by] < count:  # noqa: ASYNC110 - it has no event
        await trio.sleep(0.01)


class TestHTTP1:
    async def test_messages_and_beats_go_both_ways(self) -> None:
        app = application(open_hub(), heartbeat=Heartbeat(0.05, 100, BEAT))
        async with hypercorn(app) as port:
            url = f"ws://127.0.0.1:{port}{TARGET}"
            async with answering(url) as connection:
                for message in ("text", b"bytes", "x" * 100_000):
                    await connection.send(message)
                    assert await connection.receive() == message
                await app.hub.publish("broadcast:news", "from here")
                assert await connection.receive() == "from here"
            await ended(app, EndReason.PEER)

    async def test_the_close_is_told(self) -> None:
        app = application(behave, heartbeat=RARELY)
        async with hypercorn(app) as port:
            async with answering(f"ws://127.0.0.1:{port}/close") as connection:
                assert [message async for message in connection] == []
                assert connection.closed is not None
                assert connection.closed[1:] == (4000, "enough")

    async def test_a_refusal_has_its_status_and_text(self) -> None:
        async with hypercorn(application(open_hub())) as port, httpx.AsyncClient() as client:
            headers = {
                "Connection": "Upgrade",
                "Upgrade": "websocket",
                "Sec-WebSocket-Version": "13",
                "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
            }
            answer = await client.get(f"http://127.0.0.1:{port}/nowhere", headers=headers)
            assert answer.status_code == 404
            assert answer.text.startswith("nothing at '/nowhere', expected /ws/<facility>")
            assert len(answer.headers.get_list("date")) == 1
            answer = await client.get(f"http://127.0.0.1:{port}/nowhere")
            assert answer.status_code == 426

    async def test_a_shutdown_tells_the_peer(self) -> None:
        app = application(open_hub(), heartbeat=RARELY)
        async with trio.open_nursery() as nursery:
            opened, closed = trio.Event(), []

            async def client(port: int) -> None:
                url = f"ws://127.0.0.1:{port}{TARGET}"
                async with answering(url) as connection:
                    opened.set()
                    assert [message async for message in connection] == []
                    closed.append(connection.closed)

            async with hypercorn(app, graceful_timeout=0.1) as port:
                nursery.start_soon(client, port)
                await opened.wait()
        assert closed[0] is not None
        assert closed[0].code == 1001

    @pytest.mark.slow
    async def test_a_dead_peer_frees_its_channels_though_send_hangs(self) -> None:
        heartbeat = Heartbeat(0.2, 3, BEAT)
        limits = Limits(outbox=2**28, message_size=2**26)
        app = application(open_hub(), heartbeat=heartbeat, limits=limits)
        async with hypercorn(app, graceful_timeout=0.1) as port:
            async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
                request = (
                    f"GET {TARGET} HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\n"
                    "Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
                    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
                )
                await stream.send_all(request.encode())
                assert (await stream.receive_some()).startswith(b"HTTP/1.1 101 ")
                # More than the kernels hold: Hypercorn's shielded send waits.
                await app.hub.publish("broadcast:news", b"\0" * 2**26)
                await ended(app, EndReason.MISSED_BEATS)
                assert app.statistics().connections == 0
                assert app.hub.statistics().channels == 0


class TestHTTP2:
    async def test_messages_go_both_ways(self) -> None:
        app = application(open_hub(), heartbeat=RARELY)
        async with hypercorn(app) as port, h2_client(port) as client:
            one, two = await client.connect(TARGET), await client.connect(TARGET)
            assert client.statuses == {one: "200", two: "200"}
            await client.send(one, Opcode.TEXT, b"hello")
            for stream in (one, two):
                await client.until(
                    lambda it=stream: b"\x81\x05hello" in client.received.get(it, b"")
                )

    async def test_a_refusal_ends_its_stream(self) -> None:
        app = application(open_hub(), heartbeat=RARELY)
        async with hypercorn(app) as port, h2_client(port) as client:
            stream = await client.connect("/nowhere")
            await client.until(lambda: stream in client.ended)
            assert client.statuses[stream] == "404"

    @pytest.mark.parametrize("target", ["/stuck", "/close"])
    async def test_no_handler_costs_a_neighbour_its_life(self, target: str) -> None:
        app = application(behave, heartbeat=RARELY, limits=Limits(inbound=2))
        async with hypercorn(app) as port, h2_client(port) as client:
            other, neighbour = await client.connect(target), await client.connect("/echo")
            for number in range(50):
                await client.send(other, Opcode.TEXT, b"more")
                await client.send(neighbour, Opcode.TEXT, b"%02d" % number)
            await client.until(lambda: other in client.ended)
            # Also what comes behind the end of the stream.
            await client.send(other, Opcode.TEXT, b"late")
            await client.send(neighbour, Opcode.TEXT, b"last")
            await client.until(lambda: client.received[neighbour].endswith(b"last"))
            assert client.received[neighbour].count(b"\x81\x02") == 50
            assert set(client.ended) == {other}
            by = EndReason.INBOX_FULL if target == "/stuck" else EndReason.HANDLER
            await client.send(other, Opcode.CLOSE, Close(1000, "").serialize())
            await ended(app, by)

    async def test_a_dead_peers_stream_is_ended(self) -> None:
        app = application(behave, heartbeat=Heartbeat(0.1, 3, BEAT))
        async with hypercorn(app) as port, h2_client(port) as client:
            stream = await client.connect("/echo")
            await client.until(lambda: stream in client.ended)
            assert client.received[stream].endswith(b"\x88\x02\x03\xe9")
            await ended(app, EndReason.MISSED_BEATS)


@pytest.mark.slow
async def test_the_command_refuses_asyncio(tmp_path: Any) -> None:
    """As ``hypercorn`` is started without ``--worker-class trio``."""
    module = "from trio_beat.asgi import application\napp = application('memory://')\n"
    (tmp_path / "mine.py").write_text(module)
    with trio.fail_after(HANGS):
        done = await trio.run_process(
            [sys.executable, "-m", "hypercorn", "mine:app", "--bind", "127.0.0.1:0"],
            cwd=tmp_path,
            capture_stderr=True,
            capture_stdout=True,
            check=False,
        )
    said = (done.stdout + done.stderr).decode()
    assert "trio_beat.asgi runs under Trio, and this server runs asyncio" in said
