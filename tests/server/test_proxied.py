"""A server behind a trusted proxy: everywhere the client stands in the proxy's place."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from typing import Any, Final

import pytest
import trio
from trio.testing import MockClock

from tests.support.application import answer, playing, says
from tests.support.harness import echo, tls_contexts
from tests.support.peer import HANDSHAKE, Peer, dial
from tests.support.serving import ask, deserted, serving, status
from trio_beat import (
    Closed,
    Connection,
    Identity,
    Limits,
    ObservedConnection,
    Observer,
    Refused,
    Request,
    Server,
)
from trio_beat.auth import Hook

CLIENT: Final = "203.0.113.9"
TOLD: Final = (
    f"X-Forwarded-For: {CLIENT}\r\nX-Forwarded-Proto: https\r\nX-Forwarded-Host: site.test\r\n"
)
TRUSTED: Final[dict[str, Any]] = {"trusted_proxies": ["127.0.0.1"], "forwarded_host": True}


class Peers(Observer):
    """Notes the peers of all that is told."""

    def __init__(self) -> None:
        self.told: list[tuple[str, str]] = []

    def opened(self, connection: ObservedConnection) -> None:
        self.told.append(("opened", connection.peer))

    def ended(self, connection: ObservedConnection, closed: Closed) -> None:
        self.told.append(("ended", connection.peer))

    def refused(self, peer: str, status: int) -> None:
        self.told.append((str(status), peer))


def lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    """What was logged of peers."""
    return [record.getMessage() for record in caplog.records if hasattr(record, "peer")]


async def leave(peer: Peer, server: Server) -> None:
    await peer.send_close()
    await peer.closed()
    await peer.aclose()
    await deserted(server)


@pytest.mark.parametrize("secure", [False, True], ids=["tcp", "tls"])
@pytest.mark.parametrize("admits", [False, True], ids=["at-once", "asked"])
async def test_a_connection_is_its_clients(
    secure: bool, admits: bool, patient_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "trio_beat")
    observer = Peers()
    requests: list[Request] = []

    async def admit(request: Request) -> Identity:
        requests.append(request)
        return Identity(user="bob")

    async def handler(connection: Connection) -> None:
        assert connection.request is not None
        requests.append(connection.request)
        await connection.send(connection.peer)
        await echo(connection)

    context, client = tls_contexts() if secure else (None, None)
    options = {**TRUSTED, "ssl_context": context, "observer": observer}
    async with serving(handler, admit=admit if admits else None, **options) as server:
        peer = await dial(server.port, "/ws/x", headers=TOLD, ssl_context=client)
        assert await peer.text() == CLIENT
        await leave(peer, server)
    assert len(requests) == 1 + admits
    for request in requests:
        assert (request.peer, request.secure) == (CLIENT, True)
        assert request.headers["Host"] == "site.test"
        assert repr(request) == f"<Request for '/ws/x' from {CLIENT} over TLS>"
    assert observer.told == [("opened", CLIENT), ("ended", CLIENT)]
    assert lines(caplog) == [f"{CLIENT} /ws/x ended: peer (1000)"]


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"trusted_proxies": ["127.0.0.1"]}, (CLIENT, True, "localhost")),
        ({"trusted_proxies": ["127.0.0.2", "::1"]}, (None, False, "localhost")),
        ({}, (None, False, "localhost")),
    ],
)
async def test_no_more_is_believed_than_was_asked_for(
    options: dict[str, Any], told: tuple[str | None, bool, str], patient_clock: MockClock
) -> None:
    async def handler(connection: Connection) -> None:
        request = connection.request
        assert request is not None
        assert request.peer == connection.peer
        seen = [request.peer, request.secure, request.headers["Host"]]
        await connection.send(json.dumps(seen))
        await echo(connection)

    async with serving(handler, **options) as server:
        tcp = await trio.open_tcp_stream("127.0.0.1", server.port)
        own = tcp.socket.getsockname()[1]
        peer = await dial(server.port, "/ws/x", headers=TOLD, tcp=tcp)
        seen = json.loads(await peer.text())
        assert seen == [told[0] or f"127.0.0.1:{own}", *told[1:]]
        await leave(peer, server)


async def test_a_refused_peer_is_a_client(
    patient_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "trio_beat")
    observer = Peers()

    async def admit(request: Request) -> Identity:
        if request.path == "/ws/fail":
            raise ZeroDivisionError
        raise Refused(403, "not you")

    async with serving(admit=admit, observer=observer, **TRUSTED) as server:
        for target in ("/elsewhere", "/ws/x?subscribe-broadcast", "/ws/fail"):
            request = HANDSHAKE.format(target=target, headers=TOLD).encode()
            assert status(await ask(server.port, request)) in (404, 403, 500)
        # what is no handshake has a client, too
        request = f"GET /ws/x HTTP/1.1\r\nHost: localhost\r\n{TOLD}\r\n".encode()
        assert status(await ask(server.port, request)) == 426
    assert observer.told == [(code, CLIENT) for code in ("404", "403", "500", "426")]
    refusals = [line for line in lines(caplog) if " refused: " in line]
    assert len(refusals) == 4
    assert all(line.startswith(f"{CLIENT} refused: ") for line in refusals)
    assert f"{CLIENT} admit failed" in caplog.messages


async def test_a_hook_is_told_of_the_client(patient_clock: MockClock) -> None:
    async with playing(says(answer(200, '{"user": "bob"}'))) as application:
        admit = Hook(application.url, timeout=60)
        async with serving(admit=admit, **TRUSTED) as server:
            peer = await dial(server.port, headers=f"Cookie: sessionid=1\r\n{TOLD}")
            await leave(peer, server)
        headers = application.headers()
    assert headers["host"] == "site.test"
    assert (headers["x-forwarded-for"], headers["x-forwarded-proto"]) == (CLIENT, "https")
    assert "x-forwarded-host" not in headers


async def scope_app(scope: dict[str, Any], receive: Any, send: Any) -> None:
    """Answer with what the application is told."""
    if scope["type"] != "http":
        return
    hosts = [value.decode() for name, value in scope["headers"] if name == b"host"]
    body = json.dumps([scope["client"], scope["scheme"], hosts]).encode()
    headers = [(b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def get(*headers: str, version: str = "1.1") -> bytes:
    return "".join(
        f"{line}\r\n" for line in (f"GET / HTTP/{version}", "Host: localhost", *headers, "")
    ).encode()


async def scopes(server: Server, requests: Sequence[bytes]) -> tuple[str, list[Any]]:
    """What the application is told of requests of one connection, and its own address."""
    async with await trio.open_tcp_stream("127.0.0.1", server.port) as stream:
        own: str = f"127.0.0.1:{stream.socket.getsockname()[1]}"
        told = []
        for request in requests:
            await stream.send_all(request)
            data = b""
            while not data.endswith(b"]]"):
                chunk = await stream.receive_some(65536)
                assert chunk, data
                data += chunk
            told.append(json.loads(data.partition(b"\r\n\r\n")[2]))
    return own, told


async def test_an_application_sees_the_client_of_each_request(patient_clock: MockClock) -> None:
    """A proxy sends those of many clients over one connection."""
    requests = [
        get(f"X-Forwarded-For: {CLIENT}", "X-Forwarded-Proto: https"),
        get("X-Forwarded-For: 2001:db8::1", "x-forwarded-host: site.test"),
        get("X-Forwarded-For: 192.0.2.1", f"X-FORWARDED-FOR: {CLIENT}", "X-Forwarded-Proto: ws"),
        get(),
    ]
    async with serving(app=scope_app, **TRUSTED) as server:
        own, told = await scopes(server, requests)
    port = int(own.rpartition(":")[2])
    assert told == [
        [[CLIENT, 0], "https", ["localhost"]],
        [["2001:db8::1", 0], "http", ["site.test"]],
        [[CLIENT, 0], "http", ["localhost"]],
        [["127.0.0.1", port], "http", ["localhost"]],
    ]


async def test_an_application_sees_nothing_that_a_client_made_up(
    patient_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async with serving(app=scope_app) as server:
        own, told = await scopes(server, [get(*TOLD.splitlines())] * 2)
    port = int(own.rpartition(":")[2])
    assert told == [[["127.0.0.1", port], "http", ["localhost"]]] * 2
    [warned] = [m for m in caplog.messages if "--trusted-proxy" in m]
    assert warned.startswith(f"{own} sends X-Forwarded-For ")


async def test_an_http_client_may_be_refused(
    patient_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "trio_beat")
    async with serving(app=scope_app, limits=Limits(pending=1), **TRUSTED) as server:
        async with await trio.open_tcp_stream("127.0.0.1", server.port) as stream:
            await stream.send_all(get())
            await stream.receive_some(65536)
            assert status(await ask(server.port, get(*TOLD.splitlines()))) == 503
    [line] = lines(caplog)
    assert line.startswith(f"{CLIENT} refused: 503 ")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"trusted_proxies": ["proxy.test"]}, "trusted proxy 'proxy.test' should be an address"),
        ({"forwarded_host": True}, "forwarded_host is of no use"),
    ],
)
async def test_serve_says_what_is_wrong(options: dict[str, Any], words: str) -> None:
    with pytest.RaisesGroup(pytest.RaisesExc(ValueError, match=words), flatten_subgroups=True):
        async with serving(**options):
            raise AssertionError("it began to serve")
