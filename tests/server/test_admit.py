"""An application decides which requests are admitted."""

from __future__ import annotations

import contextlib
import gc
import logging
import socket
import ssl
import weakref
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from tests.support.harness import tls_contexts
from tests.support.hub import reached
from tests.support.peer import HANDSHAKE, Peer, dial, reset
from tests.support.serving import RARELY, deserted, serving, status
from trio_beat import Connection, EndReason, Limits, Refused, Request, Server, open_hub, serve
from trio_beat._server.pending import PendingTCP

TARGET = "/ws/news?subscribe-broadcast&token=s3cret"
REQUEST = HANDSHAKE.format(target=TARGET, headers="Cookie: session=s3cret\r\n").encode()


async def stay(connection: Connection) -> None:
    await connection.send("hello")
    await trio.sleep_forever()


class Way:
    """A way in: TCP or TLS, to a handler or to a hub."""

    def __init__(self, *, secure: bool, handler: bool) -> None:
        self.secure = secure
        self.handler = stay if handler else None
        self.server_context: ssl.SSLContext | None = None
        self.client_context: ssl.SSLContext | None = None
        if secure:
            self.server_context, self.client_context = tls_contexts()

    def serving(self, admit: Any, **options: Any) -> Any:
        return serving(self.handler, admit=admit, ssl_context=self.server_context, **options)

    async def dial(self, server: Server) -> Peer:
        return await dial(
            server.port,
            TARGET,
            headers="Cookie: session=s3cret\r\n",
            ssl_context=self.client_context,
        )

    async def open(self, server: Server) -> trio.SocketStream | trio.SSLStream[trio.SocketStream]:
        tcp = await trio.open_tcp_stream("127.0.0.1", server.port)
        if self.client_context is None:
            return tcp
        return trio.SSLStream(tcp, self.client_context, server_hostname="localhost")

    async def ask(self, server: Server, data: bytes = REQUEST) -> bytes:
        """Send a request, and give back all that is answered."""
        async with await self.open(server) as stream:
            await stream.send_all(data)
            return b"".join([bytes(chunk) async for chunk in stream])


@pytest.fixture(params=["tcp-handler", "tcp-hub", "tls-handler", "tls-hub"])
def way(request: pytest.FixtureRequest) -> Way:
    return Way(secure="tls" in request.param, handler="handler" in request.param)


async def test_an_admitted_peer_is_connected(way: Way, patient_clock: MockClock) -> None:
    requests = []
    kept = []

    async def admit(request: Request) -> None:
        await trio.sleep(1)
        requests.append((request.cookies["session"], request.query, request.secure, request.peer))
        kept.append(request)

    async with open_hub() as hub:

        async def handler(connection: Connection) -> None:
            assert connection.request is kept[0]
            assert connection.request.cookies["session"] == "s3cret"
            await connection.send("hello")
            await trio.sleep_forever()

        options: dict[str, Any] = {} if way.handler else {"hub": hub}
        way.handler = handler if way.handler else None
        async with way.serving(admit, **options) as server:
            peer = await way.dial(server)
            if not way.handler:
                assert await reached(hub, "broadcast:news", "hello") == 1
            assert await peer.text() == "hello"
            assert server.statistics()[:4] == (1, 0, 0, 1)
            await peer.aclose()
            await deserted(server)
            assert server.statistics().refused == {}
    [(session, query, secure, address)] = requests
    assert (session, query) == ("s3cret", "subscribe-broadcast&token=s3cret")
    assert secure is way.secure
    assert address.startswith("127.0.0.1:")


async def test_a_refused_peer_gets_status_text_and_headers(
    way: Way, patient_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)

    async def admit(request: Request) -> None:
        await trio.lowlevel.checkpoint()
        headers = [("WWW-Authenticate", "Bearer"), ("Set-Cookie", "a=1"), ("Set-Cookie", "b=2")]
        raise Refused(401, "no session s3cret", headers, logged="no such session")

    async with way.serving(admit) as server:
        answer = await way.ask(server)
        await deserted(server)
        assert server.statistics().refused == {401: 1}
        assert server.statistics().accepted == 0
    assert status(answer) == 401
    head, _, body = answer.partition(b"\r\n\r\n")
    assert body == b"no session s3cret\n"
    assert head.startswith(b"HTTP/1.1 401 Unauthorized\r\n")
    assert b"\r\nWWW-Authenticate: Bearer\r\nSet-Cookie: a=1\r\nSet-Cookie: b=2" in head
    assert "refused: 401 no such session" in caplog.text
    assert "s3cret" not in caplog.text


async def test_an_exception_is_answered_with_500_and_logged(
    way: Way, patient_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)

    async def admit(request: Request) -> None:
        await trio.lowlevel.checkpoint()
        raise OSError("the database is away")

    async with way.serving(admit) as server:
        answer = await way.ask(server)
        await deserted(server)
        assert server.statistics().refused == {500: 1}
        assert sum(server.statistics().ended.values()) == 0
    assert status(answer) == 500
    assert b"database" not in answer
    [record] = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert record.name == "trio_beat.server"
    assert record.levelname == "ERROR"
    assert record.exc_info is not None
    assert "OSError: the database is away" in caplog.text
    assert "s3cret" not in caplog.text
    assert TARGET not in caplog.text


async def test_it_has_the_handshakes_time(way: Way, patient_clock: MockClock) -> None:
    cancelled = []

    async def admit(request: Request) -> None:
        try:
            await trio.sleep_forever()
        finally:
            cancelled.append(trio.current_time())

    async with way.serving(admit, limits=Limits(handshake_timeout=2.5)) as server:
        answer = await way.ask(server)
        assert status(answer) == 408
        assert b"not admitted within 2.5 s" in answer
        assert cancelled == [2.5]
        await deserted(server)
        assert server.statistics().refused == {408: 1}


async def _shielded() -> None:
    with trio.CancelScope(shield=True):
        await trio.sleep(3)


async def _catching() -> None:
    with contextlib.suppress(trio.Cancelled):
        await trio.sleep_forever()


@pytest.mark.parametrize("wait", [_shielded, _catching])
async def test_one_that_ignores_the_end_of_its_time_admits_no_peer(
    patient_clock: MockClock, wait: Callable[[], Awaitable[None]]
) -> None:
    async def admit(request: Request) -> None:
        await wait()

    async with serving(stay, admit=admit, limits=Limits(handshake_timeout=2.5)) as server:
        async with await trio.open_tcp_stream("127.0.0.1", server.port) as stream:
            await stream.send_all(REQUEST)
            answer = bytes(await stream.receive_some())
        assert status(answer) == 408
        assert server.statistics().accepted == 0


async def test_it_has_what_the_request_left_of_the_time(patient_clock: MockClock) -> None:
    async def admit(request: Request) -> None:
        await trio.sleep(2)

    async with serving(stay, admit=admit, limits=Limits(handshake_timeout=3)) as server:
        async with await trio.open_tcp_stream("127.0.0.1", server.port) as stream:
            await stream.send_all(REQUEST[:-1])
            await trio.sleep(1.5)
            await stream.send_all(REQUEST[-1:])
            answer = bytes(await stream.receive_some())
        assert status(answer) == 408
        assert trio.current_time() == 3


async def test_draining_cancels_it(way: Way, patient_clock: MockClock) -> None:
    asked = trio.Event()

    async def admit(request: Request) -> None:
        asked.set()
        await trio.sleep_forever()

    async with open_hub() as hub, trio.open_nursery() as nursery:
        server = await nursery.start(
            partial(
                serve,
                way.handler,
                0,
                hub=None if way.handler else hub,
                admit=admit,
                ssl_context=way.server_context,
                heartbeat=RARELY,
            )
        )

        async def drain() -> None:
            await asked.wait()
            server.drain()

        nursery.start_soon(drain)
        answer = await way.ask(server)
    assert status(answer) == 503
    assert b"server is shutting down" in answer
    assert server.statistics()[:2] == (0, 0)
    assert server.statistics().refused == {503: 1}


async def test_one_that_ends_as_draining_begins_admits_no_peer(patient_clock: MockClock) -> None:
    async def admit(request: Request) -> None:
        await trio.lowlevel.checkpoint()
        server.drain()

    async with serving(stay, admit=admit) as server:
        async with await trio.open_tcp_stream("127.0.0.1", server.port) as stream:
            await stream.send_all(REQUEST)
            answer = bytes(await stream.receive_some())
        assert status(answer) == 503
        assert server.statistics().accepted == 0


@pytest.mark.parametrize("leave", [socket.socket.close, reset])
@pytest.mark.parametrize("late", [False, True], ids=["admitted", "too late"])
async def test_a_peer_that_leaves_meanwhile_leaves_nothing(
    leave: Callable[[socket.socket], None],
    late: bool,
    way: Way,
    patient_clock: MockClock,
    caplog: pytest.LogCaptureFixture,
) -> None:
    asked = trio.Event()

    async def admit(request: Request) -> None:
        asked.set()
        await trio.sleep(60 if late else 5)

    async with way.serving(admit) as server:
        stream = await way.open(server)
        await stream.send_all(REQUEST)
        await asked.wait()
        tcp = stream.transport_stream if isinstance(stream, trio.SSLStream) else stream
        leave(socket.socket(fileno=tcp.socket.detach()))
        begin = trio.current_time()
        await trio.sleep(1)
        assert server.statistics().pending == 1
        await trio.sleep(8 if late else 3)  # in one step of the clock
        await deserted(server)
        # It keeps its slot no longer than the handshake's time.
        assert trio.current_time() - begin <= (10 if late else 5) + 1
        ended = server.statistics().ended
        assert ended[EndReason.PEER] + ended[EndReason.LOST] == server.statistics().accepted
        assert server.statistics().accepted == (0 if late else 1)
    assert not [record for record in caplog.records if record.levelno > logging.INFO]


async def test_the_last_place_is_given_once(way: Way, patient_clock: MockClock) -> None:
    answers: list[bytes] = []
    asked = []

    async def admit(request: Request) -> None:
        asked.append(request)
        await trio.sleep(1)

    async with way.serving(admit, limits=Limits(connections=1)) as server:

        async def come() -> None:
            async with await way.open(server) as stream:
                await stream.send_all(REQUEST)
                answers.append(bytes(await stream.receive_some()))
                await trio.sleep(5)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(come)
            nursery.start_soon(come)
            await trio.sleep(3)
            # There is no room any more: nothing is asked.
            assert status(await way.ask(server)) == 503
            assert len(asked) == 2
            assert server.statistics().connections == 1
        await deserted(server)
        assert server.statistics().refused == {503: 2}
    assert sorted(answer[9:12] for answer in answers) == [b"101", b"503"]


async def test_pending_sockets_are_limited_meanwhile(patient_clock: MockClock) -> None:
    async def admit(request: Request) -> None:
        await trio.sleep(5)

    async with serving(stay, admit=admit, limits=Limits(pending=1)) as server:
        async with await trio.open_tcp_stream("127.0.0.1", server.port) as one:
            await one.send_all(REQUEST)
            await trio.sleep(1)
            async with await trio.open_tcp_stream("127.0.0.1", server.port) as two:
                assert status(bytes(await two.receive_some())) == 503
            assert (await one.receive_some()).startswith(b"HTTP/1.1 101 ")
        await deserted(server)


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"hello\r\n\r\n", 400),
        (REQUEST.replace(b"Upgrade: websocket\r\n", b""), 426),
        (REQUEST.replace(b"/ws/news", b"/elsewhere"), 404),
    ],
)
async def test_it_is_not_asked_about_what_is_wrong_anyway(
    data: bytes, code: int, patient_clock: MockClock
) -> None:
    asked = []

    async def admit(request: Request) -> None:
        asked.append(request)

    async with serving(admit=admit) as server:
        async with await trio.open_tcp_stream("127.0.0.1", server.port) as stream:
            await stream.send_all(data)
            answer = b"".join([bytes(chunk) async for chunk in stream])
    assert status(answer) == code
    assert asked == []


async def test_what_a_peer_may_do_is_decided_after_it(patient_clock: MockClock) -> None:
    """Who it is decides it."""
    asked = []

    async def admit(request: Request) -> None:
        asked.append(request.path)

    data = REQUEST.replace(b"subscribe-broadcast", b"subscribe-user")
    async with serving(admit=admit) as server:
        async with await trio.open_tcp_stream("127.0.0.1", server.port) as stream:
            await stream.send_all(data)
            answer = b"".join([bytes(chunk) async for chunk in stream])
    assert status(answer) == 403
    assert asked == ["/ws/news"]


async def hello(scope: Any, receive: Any, send: Any) -> None:
    if scope["type"] == "lifespan":
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await send({"type": "lifespan.shutdown.complete"})
        return
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"hello"})


async def test_it_is_not_asked_about_http(patient_clock: MockClock) -> None:
    asked = []

    async def admit(request: Request) -> None:
        asked.append(request.path)

    async with serving(admit=admit, app=hello) as server:
        async with await trio.open_tcp_stream("127.0.0.1", server.port) as stream:
            request = b"GET /hello HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
            await stream.send_all(request)
            answer = b"".join([bytes(chunk) async for chunk in stream])
        assert answer.startswith(b"HTTP/1.1 200 ")
        assert asked == []
        peer = await dial(server.port)
        assert asked == ["/ws/news"]
        await peer.aclose()
        await deserted(server)


async def test_what_a_peer_sends_meanwhile_is_not_lost(way: Way, patient_clock: MockClock) -> None:
    async def echo(connection: Connection) -> None:
        async for message in connection:
            await connection.send(message)

    async def admit(request: Request) -> None:
        await trio.sleep(1)

    if way.handler is None:
        return
    way.handler = echo
    async with way.serving(admit) as server:
        async with await way.open(server) as stream:
            await stream.send_all(REQUEST + b"\x81\x82\0\0\0\0hi")
            await trio.sleep(0.5)
            await stream.send_all(b"\x81\x82\0\0\0\0ho")
            answer = b""
            while not answer.endswith(b"\x81\x02hi\x81\x02ho"):
                answer += await stream.receive_some()
        await deserted(server)


async def test_one_refusal_may_be_raised_again_and_again(
    monkeypatch: pytest.MonkeyPatch, patient_clock: MockClock
) -> None:
    """It keeps nothing of those that it was raised for."""
    refused = Refused(403, "no")
    pending: list[weakref.ref[PendingTCP]] = []
    made = PendingTCP.__init__

    def make(this: PendingTCP, sock: socket.socket) -> None:
        pending.append(weakref.ref(this))
        made(this, sock)

    async def admit(request: Request) -> None:
        raise refused

    monkeypatch.setattr(PendingTCP, "__init__", make)
    way = Way(secure=False, handler=True)
    async with way.serving(admit) as server:
        gc.disable()
        try:
            for _ in range(5):
                assert status(await way.ask(server)) == 403
            await deserted(server)
            await wait_all_tasks_blocked()
            assert len(pending) == 5
            assert not any(ref() for ref in pending)
        finally:
            gc.enable()


async def test_admit_must_be_callable() -> None:
    with pytest.raises(TypeError, match="admit is 'no'"):
        await serve(stay, 0, admit="no")  # type: ignore[arg-type]


def cancel_scopes() -> int:
    gc.collect()
    return sum(type(thing) is trio.CancelScope for thing in gc.get_objects())


@pytest.mark.slow
async def test_nothing_is_left_of_the_time_that_it_had(patient_clock: MockClock) -> None:
    async def admit(request: Request) -> None:
        await trio.sleep(1)

    async with serving(stay, admit=admit) as server:
        counts = []
        for _ in range(3):
            peer = await dial(server.port)
            await peer.aclose()
            await deserted(server)
            await trio.sleep(60)  # Trio forgets a deadline when it is over
            counts.append(cancel_scopes())
        assert counts[0] == counts[-1]
