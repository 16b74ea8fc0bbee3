"""What comes from the network before a connection is open, over real sockets."""

from __future__ import annotations

import logging
import socket
import ssl
from collections.abc import Iterator
from typing import Any

import pytest
import trio
import trio.testing

from tests.support.harness import tls_contexts
from tests.support.peer import HANDSHAKE, dial, reset
from tests.support.serving import ask, deserted, serving, status
from trio_beat import EndReason, Limits

TARGET = "/ws/news?subscribe-broadcast"


def request(target: str = TARGET, *, headers: str = "", without: str = "") -> bytes:
    """A WebSocket handshake; `without` leaves out the header of that name."""
    lines = HANDSHAKE.format(target=target, headers=headers).splitlines(keepends=True)
    kept = [line for line in lines if not without or not line.startswith(f"{without}:")]
    return "".join(kept).encode()


@pytest.fixture(autouse=True)
def nothing_above_info(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Whatever a peer does is an everyday event."""
    caplog.set_level(logging.DEBUG)
    yield
    records = caplog.get_records("call")
    assert [record for record in records if record.levelno > logging.INFO] == []
    assert any(record.name.startswith("trio_beat") for record in records)


BAD = [
    # What is not HTTP.
    (b"hello\r\n\r\n", 400, b"not HTTP"),
    (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400, b"not HTTP"),
    (b"\0", 400, b"not HTTP"),
    (b" ", 400, b"not HTTP"),
    (b"\r\n" * 100, 400, b"empty lines"),
    (b"\r" * 100, 400, b"not HTTP"),
    (b"GET /ws/news\r\n\r\n", 400, b"not HTTP"),
    (b"GET /ws/news FTP/1.1\r\n\r\n", 400, b"FTP/1.1"),
    (request().replace(b"HTTP/1.1", b"HTTP/1.0"), 505, b"HTTP/1.0"),
    (b"GET /ws/caf\xc3\xa9 HTTP/1.1\r\n\r\n", 400, b"not HTTP"),
    # What is not a WebSocket handshake.
    (request().replace(b"GET", b"POST"), 405, b"POST"),
    (request(without="Host"), 400, b"exactly one Host"),
    (request(headers="Host: elsewhere\r\n"), 400, b"exactly one Host"),
    (request(without="Upgrade"), 426, b"Upgrade"),
    (request(without="Connection"), 426, b"Connection"),
    (request(without="Sec-WebSocket-Key"), 400, b"Sec-WebSocket-Key"),
    (request().replace(b"ZSBub25jZQ==", b"ZQ=="), 400, b"Sec-WebSocket-Key"),
    (request(without="Sec-WebSocket-Version"), 426, b"expected 13"),
    (request().replace(b"Version: 13", b"Version: 8"), 426, b"expected 13"),
    (request(headers="no colon\r\n"), 400, b"no colon"),
    (request(headers="Content-Length: x\r\n"), 400, b""),
    # What is too long; that it has no end need not be waited for.
    (request("/ws/" + "x" * 8190), 414, b"over 8192 bytes"),
    (b"GET /ws/" + b"x" * 9000, 414, b"over 8192 bytes"),
    (request(headers=f"X: {'x' * 17000}\r\n"), 431, b""),
    (request(headers="".join(f"X-{n}: {n}\r\n" for n in range(300))), 431, b""),
    (b"GET /ws/news HTTP/1.1\r\nX: " + b"x" * 17000, 431, b"over 16384 bytes"),
    # What asks for channels that are not there.
    (request("/ws/"), 400, b"facility missing"),
    (request("/ws/?subscribe-broadcast"), 400, b"facility missing"),
    (request("/ws/a%00b"), 400, b"control characters"),
    (request("/ws/a%0D%0Ab"), 400, b"control characters"),
    (request("/ws/%ff"), 400, b"not UTF-8"),
    (request("/elsewhere"), 404, b"expected /ws/<facility>"),
    (request("/ws/news?subscribe-brodcast"), 400, b"'subscribe-brodcast'"),
    (request("/ws/news?publish-all&subscribe-broadcast"), 400, b"'publish-all'"),
    *(
        (request(f"/ws/news?{verb}-{audience}"), 403, f"'{verb}-{audience}'".encode())
        for verb in ("subscribe", "publish")
        for audience in ("user", "group", "session")
    ),
]


@pytest.mark.parametrize(("data", "code", "text"), BAD)
async def test_a_bad_request_is_told_what_is_wrong_with_it(
    data: bytes, code: int, text: bytes, patient_clock: trio.testing.MockClock
) -> None:
    async with serving() as server:
        answer = await ask(server.port, data)
        assert status(answer) == code
        assert text in answer.partition(b"\r\n\r\n")[2]
        # Nothing had to run out.
        assert trio.current_time() == 0
        await deserted(server)
        assert server.statistics().refused == {code: 1}
        assert server.statistics().accepted == 0


@pytest.mark.parametrize(
    ("data", "header"),
    [
        (request(without="Upgrade"), b"Upgrade: websocket"),
        (request(without="Upgrade"), b"Sec-WebSocket-Version: 13"),
        (request().replace(b"Version: 13", b"Version: 8"), b"Sec-WebSocket-Version: 13"),
        (request().replace(b"GET", b"PUT"), b"Allow: GET"),
    ],
)
async def test_a_refusal_says_what_would_be_right(
    data: bytes, header: bytes, patient_clock: trio.testing.MockClock
) -> None:
    async with serving() as server:
        head, _, _ = (await ask(server.port, data)).partition(b"\r\n\r\n")
        assert header in head.split(b"\r\n")


@pytest.mark.parametrize("size", [1, 7, 100])
async def test_a_request_may_come_in_pieces(
    size: int, patient_clock: trio.testing.MockClock
) -> None:
    data = request()
    async with serving() as server:
        async with await trio.open_tcp_stream("127.0.0.1", server.port) as stream:
            for begin in range(0, len(data), size):
                await stream.send_all(data[begin : begin + size])
                await trio.testing.wait_all_tasks_blocked()
            assert (await stream.receive_some()).startswith(b"HTTP/1.1 101 ")


async def test_what_comes_behind_the_request_is_not_lost(
    patient_clock: trio.testing.MockClock,
) -> None:
    frame = b"\x81\x82\0\0\0\0hi"
    async with serving() as server:
        target = "/ws/news?subscribe-broadcast&publish-broadcast&echo"
        async with await trio.open_tcp_stream("127.0.0.1", server.port) as stream:
            await stream.send_all(request(target) + frame)
            answer = b""
            while not answer.endswith(b"\x81\x02hi"):
                answer += await stream.receive_some()
            assert answer.startswith(b"HTTP/1.1 101 ")


@pytest.mark.parametrize("timeout", [10.0, 2.5])
async def test_a_slow_request_gets_408_when_the_time_is_over(
    timeout: float, patient_clock: trio.testing.MockClock
) -> None:
    limits = Limits(handshake_timeout=timeout)
    async with serving(limits=limits) as server, trio.open_nursery() as nursery:
        stream = await trio.open_tcp_stream("127.0.0.1", server.port)

        async def send_slowly() -> None:
            for byte in request():
                await stream.send_all(bytes([byte]))
                await trio.sleep(1)

        nursery.start_soon(send_slowly)
        answer = bytes(await stream.receive_some())
        assert trio.current_time() == timeout
        assert status(answer) == 408
        assert f"no request within {timeout:g} s".encode() in answer
        nursery.cancel_scope.cancel()
        await stream.aclose()


async def test_a_silent_peer_gets_408_and_is_gone_two_seconds_later(
    patient_clock: trio.testing.MockClock,
) -> None:
    async with serving() as server:
        async with await trio.open_tcp_stream("127.0.0.1", server.port) as stream:
            answer = bytes(await stream.receive_some())
            assert (trio.current_time(), status(answer)) == (10, 408)
            # It does not take the hint.
            await trio.sleep(1.9)
            assert server.statistics().pending == 1
            await trio.sleep(0.2)
            assert server.statistics().pending == 0
        assert server.statistics().refused == {408: 1}


def leave(sock: socket.socket) -> None:
    sock.close()


def half_close(sock: socket.socket) -> None:
    sock.shutdown(socket.SHUT_WR)


ways_to_leave = pytest.mark.parametrize("leaving", [leave, reset])


@ways_to_leave
@pytest.mark.parametrize("at_once", [True, False])
async def test_leaving_after_any_number_of_bytes_leaves_nothing(
    leaving: Any, at_once: bool, patient_clock: trio.testing.MockClock
) -> None:
    data = request()
    async with serving(limits=Limits(pending=len(data))) as server:
        socks = []
        for count in range(len(data)):
            sock = socket.create_connection(("127.0.0.1", server.port))
            sock.sendall(data[:count])
            if at_once:
                leaving(sock)
            socks.append(sock)
            await trio.lowlevel.checkpoint()
        if not at_once:
            await trio.sleep(1)
            assert server.statistics()[:2] == (0, len(data))
            for sock in socks:
                leaving(sock)
        await deserted(server)
        assert trio.current_time() < 3
        assert server.statistics().accepted == 0


async def test_a_request_that_ends_too_early_is_refused(
    patient_clock: trio.testing.MockClock,
) -> None:
    async with serving() as server:
        async with await trio.open_tcp_stream("127.0.0.1", server.port) as stream:
            await stream.send_all(request()[:-1])
            await stream.send_eof()
            answer = b"".join([bytes(data) async for data in stream])
        assert status(answer) == 400
        assert b"request ended before" in answer


@ways_to_leave
async def test_leaving_once_it_is_admitted_leaves_nothing(
    leaving: Any, patient_clock: trio.testing.MockClock
) -> None:
    async with serving() as server:
        for waits in (False, True):
            sock = socket.create_connection(("127.0.0.1", server.port))
            sock.sendall(request())
            if waits:
                sock.setblocking(False)
                await trio.lowlevel.wait_readable(sock)
                assert server.statistics().connections == 1
            leaving(sock)
            await deserted(server)
        ended = server.statistics().ended
        assert ended[EndReason.PEER] + ended[EndReason.LOST] == server.statistics().accepted
        assert trio.current_time() < 3


@ways_to_leave
async def test_leaving_without_its_refusal_leaves_nothing(
    leaving: Any, patient_clock: trio.testing.MockClock
) -> None:
    async with serving() as server:
        sock = socket.create_connection(("127.0.0.1", server.port))
        sock.sendall(b"hello\r\n\r\n")
        await trio.sleep(0.5)
        assert server.statistics().pending == 1
        leaving(sock)
        await deserted(server)
        assert trio.current_time() < 2


async def test_a_peer_that_does_not_read_its_refusal_is_not_waited_for(
    patient_clock: trio.testing.MockClock,
) -> None:
    async with serving() as server:
        with socket.create_connection(("127.0.0.1", server.port)) as sock:
            sock.sendall(b"hello\r\n\r\n")
            await trio.sleep(1.75)
            assert server.statistics().pending == 1
            await trio.sleep(0.5)
            assert server.statistics().pending == 0


# The same over TLS.


def client_hello() -> bytes:
    _, context = tls_contexts()
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = context.wrap_bio(incoming, outgoing, server_hostname="localhost")
    with pytest.raises(ssl.SSLWantReadError):
        tls.do_handshake()
    return outgoing.read()


async def ask_tls(port: int, data: bytes) -> bytes:
    _, context = tls_contexts()
    tcp = await trio.open_tcp_stream("127.0.0.1", port)
    async with trio.SSLStream(tcp, context, server_hostname="localhost") as stream:
        await stream.send_all(data)
        # An end without a close_notify fails here.
        return b"".join([bytes(chunk) async for chunk in stream])


@pytest.mark.parametrize(
    ("data", "code", "text"),
    [bad for bad in BAD if bad[1] in (403, 405, 414, 426, 431) or bad[2] == b"not HTTP"][::2],
)
async def test_a_bad_request_over_tls_is_told_what_is_wrong_with_it(
    data: bytes, code: int, text: bytes, patient_clock: trio.testing.MockClock
) -> None:
    context, _ = tls_contexts()
    async with serving(ssl_context=context) as server:
        answer = await ask_tls(server.port, data)
        assert status(answer) == code
        assert text in answer.partition(b"\r\n\r\n")[2]
        await deserted(server)
        assert server.statistics().refused == {code: 1}


@pytest.mark.parametrize(
    "data", [request(), b"PATCH / HTTP/1.1\r\n" + b"X: y\r\n" * 5000 + b"\r\n"]
)
async def test_http_without_tls_is_refused(
    data: bytes, patient_clock: trio.testing.MockClock
) -> None:
    context, _ = tls_contexts()
    async with serving(ssl_context=context) as server:
        answer = await ask(server.port, data)
        assert status(answer) == 400
        assert b"this port speaks TLS" in answer
        await deserted(server)
        assert trio.current_time() < 3


@pytest.mark.parametrize("data", [b"\0" * 100, b"\x16\x03\x01\x00\x05hello", b"\x15\x03\x01\0\0"])
async def test_neither_tls_nor_http_is_cut_off(
    data: bytes, patient_clock: trio.testing.MockClock
) -> None:
    context, _ = tls_contexts()
    async with serving(ssl_context=context) as server:
        try:
            answer = await ask(server.port, data)
        except trio.BrokenResourceError:
            answer = b""
        # At most TLS's own alert.
        assert not answer or answer[0] == 21
        await deserted(server)
        assert trio.current_time() < 3
        assert server.statistics().refused == {}


async def test_a_silent_peer_of_tls_is_gone(patient_clock: trio.testing.MockClock) -> None:
    context, _ = tls_contexts()
    async with serving(ssl_context=context) as server:
        # There is no way to give it an answer.
        assert await ask(server.port, b"") == b""
        assert server.statistics().refused == {408: 1}


@ways_to_leave
async def test_leaving_within_the_tls_handshake_leaves_nothing(
    leaving: Any, patient_clock: trio.testing.MockClock
) -> None:
    hello = client_hello()
    context, _ = tls_contexts()
    async with serving(ssl_context=context) as server:
        for count in range(0, len(hello) + 1, 8):
            sock = socket.create_connection(("127.0.0.1", server.port))
            sock.sendall(hello[:count])
            if count % 16:
                # It has been read when the end comes.
                await trio.testing.wait_all_tasks_blocked(0.001)
            leaving(sock)
            await trio.lowlevel.checkpoint()
        await deserted(server)
        assert trio.current_time() < 3
        assert server.statistics().accepted == 0
        assert server.statistics().refused == {}


@ways_to_leave
async def test_leaving_within_its_request_over_tls_leaves_nothing(
    leaving: Any, patient_clock: trio.testing.MockClock
) -> None:
    data = request()
    for_server, for_client = tls_contexts()
    async with serving(ssl_context=for_server) as server:
        for count in range(0, len(data) + 1, 16):
            tcp = await trio.open_tcp_stream("127.0.0.1", server.port)
            stream = trio.SSLStream(tcp, for_client, server_hostname="localhost")
            await stream.do_handshake()
            await stream.send_all(data[:count])
            sock = socket.socket(fileno=tcp.socket.detach())
            leaving(sock)
        await deserted(server)
        assert trio.current_time() < 3


async def test_a_slow_tls_handshake_is_cut_off(
    patient_clock: trio.testing.MockClock,
) -> None:
    context, _ = tls_contexts()
    async with serving(ssl_context=context) as server:
        async with await trio.open_tcp_stream("127.0.0.1", server.port) as stream:
            await stream.send_all(client_hello()[:20])
            await trio.sleep(9.75)
            assert server.statistics().pending == 1
            # There is no way to give it an answer.
            await trio.sleep(0.5)
            assert server.statistics().pending == 0
        assert server.statistics().refused == {408: 1}


async def test_a_slow_request_behind_tls_gets_408(patient_clock: trio.testing.MockClock) -> None:
    for_server, for_client = tls_contexts()
    async with serving(ssl_context=for_server) as server:
        tcp = await trio.open_tcp_stream("127.0.0.1", server.port)
        stream = trio.SSLStream(tcp, for_client, server_hostname="localhost")
        await stream.send_all(request()[:-1])
        assert status(b"".join([bytes(chunk) async for chunk in stream])) == 408
        assert trio.current_time() == 10
        await stream.aclose()
        await deserted(server)


async def test_half_a_request_over_tls_without_close_notify_is_told_what_is_wrong_with_it(
    patient_clock: trio.testing.MockClock,
) -> None:
    for_server, for_client = tls_contexts()
    async with serving(ssl_context=for_server) as server:
        tcp = await trio.open_tcp_stream("127.0.0.1", server.port)
        stream = trio.SSLStream(tcp, for_client, server_hostname="localhost")
        await stream.send_all(request()[:-1])
        await tcp.send_eof()
        assert status(b"".join([bytes(chunk) async for chunk in stream])) == 400
        await trio.aclose_forcefully(stream)
        await deserted(server)


async def test_leaving_once_it_is_admitted_over_tls_leaves_nothing(
    patient_clock: trio.testing.MockClock,
) -> None:
    for_server, for_client = tls_contexts()
    async with serving(ssl_context=for_server) as server:
        for _ in range(3):
            peer = await dial(server.port, TARGET, ssl_context=for_client)
            assert server.statistics().connections == 1
            await peer.aclose()
            await deserted(server)
        ended = server.statistics().ended
        assert ended[EndReason.PEER] + ended[EndReason.LOST] == 3
