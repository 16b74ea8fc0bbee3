"""HTTP as it is served: what goes wrong on one connection ends that one, and in time."""

from __future__ import annotations

import logging
import random
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from tests.support.harness import tls_contexts, tls_handshake
from tests.support.peer import Trickle, socket_pair
from tests.support.serving import ask, deserted, serving, status
from trio_beat import Limits, Server
from trio_beat._server.pending import PendingTLS

GET = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
#: Bytes that no socket takes at once.
LARGE = 2**23
UPLOAD = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n12345"


async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
    """Read the whole of a request, and answer it; or do what its path says."""
    if scope["type"] == "lifespan":
        return
    if scope["type"] == "websocket":
        if scope["path"] == "/slowly":
            await send({"type": "websocket.http.response.start", "status": 404, "headers": []})
            await send({"type": "websocket.http.response.body", "body": b"no", "more_body": True})
            await trio.sleep_forever()
        await send({"type": "websocket.close"})
        return
    while scope["path"] != "/unread" and (await receive()).get("more_body"):
        pass
    if scope["path"] == "/fail":
        raise ZeroDivisionError
    if scope["path"] == "/large":
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"x" * LARGE})
        return
    headers = [] if scope["path"] == "/endless" else [(b"content-length", b"6")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    while scope["path"] == "/endless":
        body = {"type": "http.response.body", "body": b"x" * 65536, "more_body": True}
        await send(body)
    await send({"type": "http.response.body", "body": b"answer"})


async def open_stream(server: Server, data: bytes = b"") -> trio.SocketStream:
    stream = await trio.open_tcp_stream("127.0.0.1", server.port)
    if data:
        await stream.send_all(data)
    return stream


async def read_until(stream: trio.SocketStream, end: bytes) -> bytes:
    data = b""
    while end not in data:
        chunk = await stream.receive_some(65536)
        assert chunk, data
        data += chunk
    return data


async def http_connections(server: Server, count: int) -> None:
    with trio.fail_after(60):
        while server.statistics().http != count:  # noqa: ASYNC110 - it has no event
            await trio.sleep(0.1)


async def test_idle_connection_is_closed(patient_clock: trio.testing.MockClock) -> None:
    async with serving(app=app) as server:
        stream = await open_stream(server, GET)
        await read_until(stream, b"answer")
        begun = trio.current_time()
        assert await stream.receive_some() == b""
        assert trio.current_time() - begun == pytest.approx(5, abs=0.1)
        await stream.aclose()


async def test_connection_is_used_again(patient_clock: trio.testing.MockClock) -> None:
    async with serving(app=app) as server:
        stream = await open_stream(server, GET)
        await read_until(stream, b"answer")
        await trio.sleep(4)
        await stream.send_all(GET)
        await read_until(stream, b"answer")
        assert server.statistics().http == 1
        await stream.aclose()


@pytest.mark.slow
async def test_request_that_stops_half_way_is_given_up(
    patient_clock: trio.testing.MockClock,
) -> None:
    async with serving(app=app) as server:
        stream = await open_stream(server, UPLOAD)
        await http_connections(server, 1)
        begun = trio.current_time()
        await http_connections(server, 0)
        assert 29 < trio.current_time() - begun < 33
        await stream.aclose()


@pytest.mark.slow
async def test_peer_that_does_not_read_is_given_up(patient_clock: trio.testing.MockClock) -> None:
    async with serving(app=app) as server:
        stream = await open_stream(server, GET.replace(b"/ ", b"/endless ", 1))
        await http_connections(server, 1)
        begun = trio.current_time()
        await http_connections(server, 0)
        assert 29 < trio.current_time() - begun < 33
        await stream.aclose()


async def test_application_that_fails_is_an_error_in_the_log_and_500(
    caplog: pytest.LogCaptureFixture, patient_clock: trio.testing.MockClock
) -> None:
    async with serving(app=app) as server:
        answer = await ask(server.port, GET.replace(b"/ ", b"/fail ", 1))
        assert answer.startswith(b"HTTP/1.1 500 ")
        assert "ZeroDivisionError" in caplog.text
        assert caplog.records[-1].levelno == logging.ERROR


async def test_application_that_stalls_is_ended_and_named_in_the_log(
    caplog: pytest.LogCaptureFixture, patient_clock: trio.testing.MockClock
) -> None:
    async def stalling(scope: dict[str, Any], receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            await trio.sleep(25 if scope["path"] == "/25" else 1000)
            await app(scope, receive, send)

    async with serving(app=stalling) as server:
        answer = await ask(server.port, GET.replace(b"/ ", b"/25 ", 1))
        assert answer.startswith(b"HTTP/1.1 200 ")
        assert [r for r in caplog.records if r.levelno >= logging.WARNING] == []
        answer = await ask(server.port, GET)
        assert answer.startswith(b"HTTP/1.1 500 ")
        assert "neither took nor gave" in caplog.text
        assert trio.current_time() == pytest.approx(60, abs=1)


@pytest.mark.parametrize("behind", [b"\r\n", GET, b"\0" * 100_000])
@pytest.mark.parametrize("last", [b"HTTP/1.0\r\n", b"HTTP/1.1\r\nConnection: close\r\n"])
async def test_what_stands_behind_the_last_request_is_no_reason_to_refuse_it(
    last: bytes, behind: bytes, patient_clock: trio.testing.MockClock
) -> None:
    data = b"POST / %bHost: x\r\nContent-Length: 5\r\n\r\nhello" % last
    async with serving(app=app) as server:
        # In a piece of its own, too.
        for pause in (0, 0.1):
            stream = await open_stream(server, data if pause else data + behind)
            if pause:
                await trio.sleep(pause)
                await stream.send_all(behind)
            answer = b"".join([bytes(chunk) async for chunk in stream])
            assert answer.startswith(b"HTTP/1.1 200 ")
            assert answer.endswith(b"\r\n\r\nanswer")
            assert answer.count(b"HTTP/1.1 ") == 1
            await stream.aclose()


async def test_an_answer_before_the_rest_of_a_body_says_that_it_is_the_last(
    patient_clock: trio.testing.MockClock,
) -> None:
    """Otherwise the next request, which may be one to publish, is lost."""
    unread = UPLOAD.replace(b"/ ", b"/unread ", 1)
    async with serving(app=app) as server:
        for read, answered in ((True, UPLOAD + b"67890"), (False, unread)):
            stream = await open_stream(server, answered)
            answer = await read_until(stream, b"answer")
            assert answer.startswith(b"HTTP/1.1 200 ")
            assert answer.lower().count(b"\r\nconnection: close\r\n") == (not read)
            if read:
                await stream.send_all(GET)
                assert (await read_until(stream, b"answer")).startswith(b"HTTP/1.1 200 ")
            else:
                assert await stream.receive_some() == b""
            await stream.aclose()


@pytest.mark.parametrize(
    ("trailer", "expected"),
    [
        (b"", 200),
        (b"A: b\r\n", 200),
        (b"A: b\r\n" * 128, 200),
        (b"A: b\r\n" * 129, 431),
        (b"A: " + b"b" * 17000 + b"\r\n", 431),
    ],
)
async def test_headers_behind_a_body_have_the_bounds_of_those_before_it(
    trailer: bytes, expected: int, patient_clock: trio.testing.MockClock
) -> None:
    chunked = b"Connection: close\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n"
    async with serving(app=app) as server:
        for data in (chunked + trailer + b"\r\n", chunked + trailer + b"\r\n" + GET * 99):
            answer = await ask(server.port, b"POST / HTTP/1.1\r\nHost: x\r\n" + data)
            assert answer.startswith(b"HTTP/1.1 %d " % expected)


async def test_there_are_no_more_connections_than_pending_sockets(
    patient_clock: trio.testing.MockClock,
) -> None:
    async with serving(app=app, limits=Limits(pending=1)) as server:
        first = await open_stream(server, GET)
        await read_until(first, b"answer")
        assert (await ask(server.port, GET)).startswith(b"HTTP/1.1 503 ")
        assert server.statistics().refused == {503: 1}
        await first.aclose()
        await http_connections(server, 0)


async def test_draining_closes_the_idle_and_answers_the_busy(
    patient_clock: trio.testing.MockClock,
) -> None:
    async with serving(app=app) as server:
        idle, busy = await open_stream(server, GET), await open_stream(server, UPLOAD)
        await read_until(idle, b"answer")
        await http_connections(server, 2)
        server.drain()
        assert await idle.receive_some() == b""
        await trio.sleep(3)
        await busy.send_all(b"67890")
        assert b"answer" in await read_until(busy, b"answer")
        assert await busy.receive_some() == b""
        for stream in (idle, busy):
            await stream.aclose()


async def test_request_that_breaks_the_machinery_ends_its_connection_only(
    caplog: pytest.LogCaptureFixture, patient_clock: trio.testing.MockClock
) -> None:
    caplog.set_level(logging.INFO)
    async with serving(app=app) as server:
        stream = await open_stream(server, CHAT.replace(b"/chat", b"/slowly"))
        await read_until(stream, b"no")
        # Hypercorn answers this with 400, in the midst of another answer.
        await stream.send_all(b"early")
        await http_connections(server, 0)
        await stream.aclose()
        assert "HTTP connection failed: LocalProtocolError" in caplog.text
        assert max(record.levelno for record in caplog.records) == logging.INFO
        stream = await open_stream(server, GET)
        await read_until(stream, b"answer")
        await stream.aclose()


async def test_upgrade_to_http_2_is_ignored(patient_clock: trio.testing.MockClock) -> None:
    """RFC 9110, section 7.8."""
    async with serving(app=app) as server:
        last = GET.replace(b"Host: x", b"Host: x\r\nConnection: close")
        answer = await ask(server.port, UPGRADE + last)
        assert answer.count(b"HTTP/1.1 200 ") == answer.count(b"answer") == 2


@pytest.mark.parametrize("options", [{}, {"app": app}])
async def test_preface_of_http_2_is_answered_with_505(
    options: dict[str, Any], patient_clock: trio.testing.MockClock
) -> None:
    async with serving(**options) as server:
        answer = await ask(server.port, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
        assert status(answer) == 505
        await deserted(server)
        assert trio.current_time() < 1
        assert server.statistics().refused == {505: 1}


CHUNKS = b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"
OLD = b"GET / HTTP/1.0\r\n\r\n"
WAITING = b"HEAD / HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 10\r\n\r\n"
CHAT = (
    b"GET /chat HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)
UPGRADE = (
    b"GET / HTTP/1.1\r\nHost: x\r\nUpgrade: h2c\r\nConnection: Upgrade, HTTP2-Settings\r\n"
    b"HTTP2-Settings: AAMAAABkAAQAAP__\r\n\r\n"
)
REQUESTS = [GET, UPLOAD + b"67890", CHUNKS, OLD, WAITING, CHAT, UPGRADE]


def damaged(data: bytes, chance: random.Random) -> bytes:
    damage = bytearray(data)
    for _ in range(chance.choice([0, 1, 2, 5, 20])):
        at = chance.randrange(len(damage) or 1)
        match chance.randrange(3):
            case 0:
                damage[at : at + 1] = chance.randbytes(1)
            case 1:
                del damage[at : at + chance.randint(1, 20)]
            case _:
                damage[at:at] = chance.randbytes(chance.randint(1, 9))
    return bytes(damage)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
async def test_damaged_requests_do_no_harm(
    seed: int, patient_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    chance = random.Random(seed)
    async with serving(app=app) as server:

        async def one(data: bytes) -> None:
            stream = await open_stream(server)
            try:
                await stream.send_all(data)
                with trio.move_on_after(chance.choice([0, 0.1, 40])):
                    while await stream.receive_some():
                        pass
            except trio.BrokenResourceError:
                pass
            finally:
                await trio.aclose_forcefully(stream)

        for _ in range(20):
            async with trio.open_nursery() as nursery:
                for _ in range(8):
                    several = b"".join(chance.choices(REQUESTS, k=chance.randint(1, 3)))
                    nursery.start_soon(one, damaged(several, chance))
        await deserted(server)
        await http_connections(server, 0)
    assert max(record.levelno for record in caplog.records) == logging.INFO


# Over TLS each answer that is the last ends with a close_notify (RFC 8446, section 6.1): a stream
# of Trio's fails without it.


async def open_tls(server: Server, data: bytes) -> trio.SSLStream[trio.SocketStream]:
    tcp = await trio.open_tcp_stream("127.0.0.1", server.port)
    stream = trio.SSLStream(tcp, tls_contexts()[1], server_hostname="localhost")
    await stream.send_all(data)
    return stream


@pytest.mark.parametrize(
    ("data", "end"),
    [
        (GET.replace(b"Host: x", b"Host: x\r\nConnection: close"), b"answer"),
        (b"GET / HTTP/1.0\r\n\r\n", b"answer"),
        (GET, b"answer"),  # and has been idle for too long
        (GET.replace(b"/", b"/fail", 1).replace(b"x", b"x\r\nConnection: close"), b""),
        (b"GET / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: none\r\n\r\n", b""),
    ],
    ids=["close", "HTTP/1.0", "idle", "fails", "bad"],
)
async def test_last_answer_over_tls_ends_with_close_notify(
    data: bytes, end: bytes, patient_clock: trio.testing.MockClock
) -> None:
    async with serving(app=app, ssl_context=tls_contexts()[0]) as server:
        stream = await open_tls(server, data)
        answer = b"".join([bytes(chunk) async for chunk in stream])
        assert answer.startswith(b"HTTP/1.1 ")
        assert answer.endswith(end)
        await stream.aclose()
        await deserted(server)


async def test_close_notify_waits_for_room_behind_a_large_answer(
    patient_clock: trio.testing.MockClock,
) -> None:
    async with serving(app=app, ssl_context=tls_contexts()[0]) as server:
        data = GET.replace(b"/", b"/large", 1).replace(b"x", b"x\r\nConnection: close")
        stream = await open_tls(server, data)
        size = 0
        async for chunk in stream:
            size += len(chunk)
            if size % 2**20 < len(chunk):
                await trio.sleep(0.1)
        assert size > LARGE
        await stream.aclose()
        await deserted(server)


async def test_draining_ends_with_close_notify(patient_clock: trio.testing.MockClock) -> None:
    async with serving(app=app, ssl_context=tls_contexts()[0]) as server:
        stream = await open_tls(server, GET)
        assert b"200" in await stream.receive_some()
        await http_connections(server, 1)
        server.drain()
        assert b"".join([bytes(chunk) async for chunk in stream]) in (b"", b"answer")
        await stream.aclose()


@asynccontextmanager
async def pending_http() -> AsyncIterator[tuple[trio.SSLStream[Trickle], PendingTLS]]:
    """A pending socket whose handshake is done, and its peer, over a socket pair."""
    peer, sock = socket_pair()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    stream, pending = await tls_handshake(peer, sock)
    yield stream, pending
    pending.abort()
    await trio.aclose_forcefully(stream)


async def answers_that_fit() -> int:
    count = 0
    async with pending_http() as (_, pending):
        with trio.move_on_after(1):
            while True:
                await pending.send_all(b"x" * 100)
                count += 1
    return count


async def test_close_notify_waits_for_room(autojump_clock: trio.testing.MockClock) -> None:
    count = await answers_that_fit()
    async with pending_http() as (stream, pending), trio.open_nursery() as nursery:
        for _ in range(count):
            await pending.send_all(b"x" * 100)
        pending.end_output()

        async def linger() -> None:
            while await pending.receive_some():
                pass

        nursery.start_soon(linger)
        await wait_all_tasks_blocked()
        assert b"".join([bytes(chunk) async for chunk in stream]) == b"x" * 100 * count
        await stream.aclose()


async def test_an_answer_that_was_cut_off_is_followed_by_nothing(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with pending_http() as (stream, pending):
        with trio.move_on_after(1):
            await pending.send_all(b"x" * LARGE)
        with pytest.raises(ConnectionAbortedError):
            await pending.send_all(b"y" * LARGE)
        pending.end_output()
        pending.abort()
        received = b""
        with pytest.raises(trio.BrokenResourceError):
            while True:
                received += await stream.receive_some()
        assert received == b"x" * len(received)
