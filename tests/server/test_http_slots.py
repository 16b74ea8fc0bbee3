"""A slot for HTTP is not held with little effort: each wait for a peer ends in time."""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import trio

from tests.support.serving import serving
from trio_beat import Limits, Server
from trio_beat._server import http_pace
from trio_beat._server.pending import LINGER_BYTES

GET = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
HEAD = b"POST %b HTTP/1.1\r\nHost: x\r\n%b\r\n\r\n"
UPGRADE = b"GET /%b HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n%b\r\n"
KEY = b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n"


async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
    """Read a request to its end and answer it; /early answers first, /endless never ends."""
    if scope["type"] == "lifespan":
        return
    if scope["type"] == "websocket":
        await send({"type": "websocket.http.response.start", "status": 404, "headers": []})
        await send({"type": "websocket.http.response.body", "body": b"denied"})
        await trio.sleep_forever()
    if scope["path"] != "/early":
        while (event := await receive()).get("more_body"):
            pass
        if event["type"] == "http.disconnect":
            return
    headers = [] if scope["path"] == "/endless" else [(b"content-length", b"6")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    while scope["path"] == "/endless":
        await send({"type": "http.response.body", "body": b"x" * 65536, "more_body": True})
    await send({"type": "http.response.body", "body": b"answer"})
    while (await receive())["type"] != "http.disconnect":
        pass


async def nothing(stream: trio.SocketStream) -> None:
    await trio.sleep_forever()


async def trickle(stream: trio.SocketStream) -> None:
    """Send a byte now and then, and take nothing."""
    while True:
        await trio.sleep(1.9)
        await stream.send_all(b"x")


async def sip(stream: trio.SocketStream) -> None:
    """Take a byte now and then."""
    while True:
        await trio.sleep(1.9)
        await stream.receive_some(1)


async def ask_again(stream: trio.SocketStream) -> None:
    """Ask for a small answer now and then."""
    while True:
        await trio.sleep(3)
        await stream.send_all(GET)


Habit = Callable[[trio.SocketStream], Awaitable[None]]


async def held(server: Server, data: bytes, habit: Habit) -> float:
    """For how many seconds a peer holds a slot."""
    stream = await trio.open_tcp_stream("127.0.0.1", server.port)
    async with trio.open_nursery() as nursery:

        async def persist() -> None:
            with contextlib.suppress(trio.BrokenResourceError):
                await habit(stream)

        await stream.send_all(data)
        with trio.fail_after(200):
            while server.statistics().http != 1:  # noqa: ASYNC110 - it has no event
                await trio.sleep(0.25)
            begun = trio.current_time()
            nursery.start_soon(persist)
            while server.statistics().http != 0:  # noqa: ASYNC110 - it has no event
                await trio.sleep(0.25)
        nursery.cancel_scope.cancel()
    await trio.aclose_forcefully(stream)
    return trio.current_time() - begun


@pytest.mark.slow
@pytest.mark.parametrize("habit", [nothing, trickle])
@pytest.mark.parametrize(
    ("data", "seconds"),
    [
        # Behind the last answer.
        (GET.replace(b"Host: x", b"Host: x\r\nConnection: close"), 2),
        (b"GET / HTTP/1.0\r\n\r\n", 2),
        (b"GET / HTTP/1.1\r\n\r\n", 2),
        (GET.replace(b"Host: x", b"Host: x\r\nX : y"), 2),
        (GET + b"(garbage", 2),
        (GET + b"GET / HTTP/9.9\r\n\r\n", 2),
        (HEAD % (b"/early", b"Content-Length: 100"), 2),
        (HEAD % (b"/", b"Content-Length: 5\r\nTransfer-Encoding: chunked"), 2),
        (HEAD % (b"/", b"Transfer-Encoding: chunked") + b"x\r\n", 2),
        # An upgrade that the application does not take, with and without what it needs.
        (UPGRADE % (b"", b""), 2),
        (UPGRADE % (b"", KEY), 2),
        (UPGRADE % (b"", KEY) + b"early", 2),
        # A body that does not come.
        (HEAD % (b"/", b"Content-Length: 1000"), 32),
        (HEAD % (b"/", b"Content-Length: 1000\r\nExpect: 100-continue"), 32),
        (HEAD % (b"/", b"Transfer-Encoding: chunked") + b"400\r\n", 32),
    ],
)
async def test_a_byte_now_and_then_holds_no_slot(
    data: bytes, seconds: float, habit: Habit, patient_clock: trio.testing.MockClock
) -> None:
    async with serving(app=app) as server:
        assert await held(server, data, habit) == pytest.approx(seconds, abs=0.8)


@pytest.mark.slow
@pytest.mark.parametrize("leaves", [False, True])
async def test_a_body_in_tiny_pieces_holds_no_slot(
    leaves: bool, patient_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As if others took most of the steps.
    monkeypatch.setattr(http_pace, "STEPS", (10.0, 10.0))

    async def leave(stream: trio.SocketStream) -> None:
        if leaves:
            await stream.aclose()

    async with serving(app=app) as server:
        data = HEAD % (b"/", b"Transfer-Encoding: chunked") + b"1\r\nx\r\n" * 5000
        assert await held(server, data, leave) == pytest.approx(31, abs=2)


@pytest.mark.slow
async def test_headers_that_trickle_hold_no_slot(patient_clock: trio.testing.MockClock) -> None:
    async def begin_another(stream: trio.SocketStream) -> None:
        await trio.sleep(4)
        for byte in GET:
            await stream.send_all(bytes([byte]))
            await trio.sleep(2)

    async with serving(app=app, limits=Limits(handshake_timeout=10)) as server:
        # The rest of the idle time, the handshake timeout, and that for the last answer.
        assert await held(server, GET, begin_another) == pytest.approx(16, abs=0.8)


@pytest.mark.slow
async def test_small_requests_now_and_then_hold_a_slot_for_a_minute(
    patient_clock: trio.testing.MockClock,
) -> None:
    async with serving(app=app) as server:
        assert await held(server, GET, ask_again) == pytest.approx(62, abs=2)


@pytest.mark.slow
@pytest.mark.parametrize("habit", [nothing, sip])
async def test_answer_that_is_not_taken_holds_no_slot(
    habit: Habit, patient_clock: trio.testing.MockClock
) -> None:
    async with serving(app=app) as server:
        seconds = await held(server, GET.replace(b"/ ", b"/endless ", 1), habit)
        assert seconds == pytest.approx(32, abs=0.8)


@pytest.mark.slow
async def test_body_that_comes_steadily_is_waited_for(
    patient_clock: trio.testing.MockClock,
) -> None:
    async with serving(app=app) as server:
        stream = await trio.open_tcp_stream("127.0.0.1", server.port)
        await stream.send_all(HEAD % (b"/", b"Content-Length: 500000"))
        for _ in range(50):
            await trio.sleep(2)
            await stream.send_all(b"x" * 10_000)
        answer = b""
        while b"answer" not in answer:
            answer += await stream.receive_some(4096)
        assert answer.startswith(b"HTTP/1.1 200 ")
        await stream.aclose()


@pytest.mark.parametrize(
    "data",
    [GET.replace(b"Host: x", b"Host: x\r\nX : y"), b"hello\r\n\r\n"],
    ids=["http", "pending"],
)
async def test_behind_the_last_answer_little_is_read(
    data: bytes, patient_clock: trio.testing.MockClock
) -> None:
    async with serving(app=app) as server:
        stream = await trio.open_tcp_stream("127.0.0.1", server.port)
        await stream.send_all(data)
        sent = 0
        with pytest.raises(trio.BrokenResourceError):
            while True:
                await stream.send_all(b"x" * 65536)
                sent += 65536
        # What was read, and what the kernel's buffers took.
        assert LINGER_BYTES <= sent < LINGER_BYTES + 16 * 2**20
        assert trio.current_time() < 1
        await trio.aclose_forcefully(stream)
