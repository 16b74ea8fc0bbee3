"""Pages, health and the publish API, over HTTP as they are served."""

from __future__ import annotations

import resource
import ssl
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from functools import partial
from http.client import HTTPConnection
from pathlib import Path

import httpx
import pytest
import trio
import trustme

from tests.support.command import clean_environment, command
from tests.support.hub import AskedBackend
from tests.support.peer import HANDSHAKE, Peer, dial
from tests.support.serving import ask
from trio_beat import Heartbeat, Hub, Limits, Server, open_hub, serve
from trio_beat._site.api import API
from trio_beat._site.app import Site, make_app
from trio_beat._site.tokens import Token, Tokens, digest
from trio_beat.backends import Backend

TOKEN = {"Authorization": "Bearer s3cret"}
SECURITY_HEADERS = {
    (
        "content-security-policy: default-src 'self'; connect-src 'self' ws: wss:; "
        "base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
    ),
    "x-content-type-options: nosniff",
    "referrer-policy: no-referrer",
}


def api(hub: Hub, *tokens: Token) -> API:
    return API(hub=hub, tokens=Tokens(tokens, requests=0, size=0), max_message_size=1000)


@asynccontextmanager
async def serving(
    *,
    token: str | None = "s3cret",
    context: ssl.SSLContext | None = None,
    backend: str | Backend = "memory://",
) -> AsyncIterator[tuple[Server, Hub]]:
    async with open_hub(backend) as hub, trio.open_nursery() as nursery:
        site = Site(
            hub=hub,
            draining=lambda: server.draining,
            statistics=lambda: server.statistics()._asdict(),
            heartbeat=Heartbeat(message="</script>"),
            path_prefix="/ws/",
            api=None if token is None else api(hub, Token(name="x", digest=digest(token.encode()))),
        )
        run = partial(
            serve,
            None,
            0,
            hub=hub,
            app=make_app(site),
            ssl_context=context,
            limits=Limits(message_size=1000),
        )
        server: Server = await nursery.start(run)
        yield server, hub
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def http(*, token: str | None = "s3cret") -> AsyncIterator[tuple[httpx.AsyncClient, Server]]:
    async with serving(token=token) as (server, _):
        url = f"http://127.0.0.1:{server.port}"
        async with httpx.AsyncClient(base_url=url) as client:
            yield client, server


async def binary(peer: Peer) -> bytes:
    while True:
        frame = await peer.frame()
        assert frame is not None
        if frame.opcode.name == "BINARY":
            return bytes(frame.data)


async def test_publishing_reaches_the_subscribers() -> None:
    async with http() as (client, server):
        first = await dial(server.port, "/ws/news?subscribe-broadcast")
        second = await dial(server.port, "/ws/news?subscribe-broadcast")
        other = await dial(server.port, "/ws/sport?subscribe-broadcast")
        response = await client.post("/api/publish/news", content="hello", headers=TOKEN)
        assert (response.status_code, response.content) == (204, b"")
        assert [await first.text(), await second.text()] == ["hello", "hello"]
        assert (await client.post("/api/publish/x", headers=TOKEN)).status_code == 204
        for peer in (first, second, other):
            await peer.aclose()


@pytest.mark.parametrize(
    "content_type",
    ["", "text/plain; charset=utf-8", "application/json", "application/x-www-form-urlencoded"],
)
async def test_text_types_are_published_as_text(content_type: str) -> None:
    async with http() as (client, server):
        peer = await dial(server.port)
        headers = TOKEN | ({"Content-Type": content_type} if content_type else {})
        await client.post("/api/publish/news", content="grüße".encode(), headers=headers)
        assert await peer.text() == "grüße"
        await peer.aclose()


async def test_other_types_are_published_as_binary() -> None:
    async with http() as (client, server):
        peer = await dial(server.port)
        headers = TOKEN | {"Content-Type": "application/octet-stream"}
        await client.post("/api/publish/news", content=b"\xff\x00", headers=headers)
        assert await binary(peer) == b"\xff\x00"
        await peer.aclose()


async def test_facility_is_decoded_once() -> None:
    async with http() as (client, server):
        peer = await dial(server.port, "/ws/a%2525%2Fb?subscribe-broadcast")
        await client.post("/api/publish/a%2525%2Fb", content="x", headers=TOKEN)
        assert await peer.text() == "x"
        await peer.aclose()


@pytest.mark.parametrize(
    "path", ["/api/publis%68/news", "/%61pi/publish%2Fnews", "{}/api/publish/news"]
)
@pytest.mark.parametrize("target", ["/ws/news", "/w%73/news", "/ws%2Fn%65ws", "ws://x/%77s/news"])
async def test_paths_are_compared_decoded(path: str, target: str) -> None:
    async with serving() as (server, _):
        peer = await dial(server.port, f"{target}?subscribe-broadcast")
        path = path.format(f"http://127.0.0.1:{server.port}")
        request = (
            f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nConnection: close\r\n"
            "Authorization: Bearer s3cret\r\n\r\nhello"
        )
        answer = await ask(server.port, request.encode())
        assert answer.startswith(b"HTTP/1.1 204 ")
        assert await peer.text() == "hello"
        await peer.aclose()


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Authorization": "Bearer wrong"},
        {"Authorization": "Basic s3cret"},
        {"Authorization": "Bearer s3cretly"},
        {"Authorization": "s3cret"},
    ],
)
async def test_publishing_needs_the_token(headers: dict[str, str]) -> None:
    async with http() as (client, _):
        response = await client.post("/api/publish/news", content="x", headers=headers)
        assert response.status_code == 401
        assert response.headers["WWW-Authenticate"] == "Bearer"
        assert "Bearer <token>" in response.text


async def test_without_a_token_there_is_no_publishing() -> None:
    async with http(token=None) as (client, _):
        response = await client.post("/api/publish/news", content="x", headers=TOKEN)
        assert response.status_code == 404


@pytest.mark.parametrize(
    ("path", "content", "status", "words"),
    [
        ("news", b"x" * 1001, 413, "over 1000 bytes"),
        ("news", b"\xff", 400, "not UTF-8"),
        ("", b"x", 400, "facility missing"),
        ("a%00b", b"x", 400, "control characters"),
        ("%ff", b"x", 400, "not UTF-8"),
    ],
)
async def test_bad_publication_is_explained(
    path: str, content: bytes, status: int, words: str
) -> None:
    async with http() as (client, _):
        response = await client.post(f"/api/publish/{path}", content=content, headers=TOKEN)
        assert response.status_code == status
        assert words in response.text


async def test_message_at_the_limit_is_published() -> None:
    async with http() as (client, _):
        response = await client.post("/api/publish/news", content=b"x" * 1000, headers=TOKEN)
        assert response.status_code == 204


async def test_large_body_is_refused_before_all_of_it_has_come() -> None:
    """And the answer is not lost by closing on what is still coming."""
    async with serving() as (server, _):
        stream = await trio.open_tcp_stream("127.0.0.1", server.port)
        head = (
            "POST /api/publish/news HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000000\r\n"
            "Authorization: Bearer s3cret\r\n\r\n"
        )
        await stream.send_all(head.encode() + b"x" * 500_000)
        answer = b""
        while chunk := await stream.receive_some(65536):
            answer += chunk
        assert answer.startswith(b"HTTP/1.1 413 ")
        await stream.aclose()


async def test_body_that_does_not_come_is_not_waited_for(
    patient_clock: trio.testing.MockClock,
) -> None:
    async with serving() as (server, _):
        stream = await trio.open_tcp_stream("127.0.0.1", server.port)
        head = (
            "POST /api/publish/news HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n"
            "Authorization: Bearer s3cret\r\n\r\n"
        )
        await stream.send_all(head.encode())
        answer = b""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_trickle, stream)
            while chunk := await stream.receive_some(65536):
                answer += chunk
            nursery.cancel_scope.cancel()
        assert answer.startswith(b"HTTP/1.1 408 ")
        assert 30 <= trio.current_time() < 33
        await stream.aclose()


async def _trickle(stream: trio.SocketStream) -> None:
    while True:
        await trio.sleep(1)
        await stream.send_all(b"x")


async def test_publishing_while_the_backend_is_away_is_503() -> None:
    backend = AskedBackend()
    async with serving(backend=backend) as (server, _):
        backend.go_away()
        url = f"http://127.0.0.1:{server.port}/api/publish/news"
        async with httpx.AsyncClient() as client:
            response = await client.post(url, content="x", headers=TOKEN)
        assert (response.status_code, response.headers["Retry-After"]) == (503, "5")
        assert "try again later" in response.text


async def test_ready_while_the_backend_is_there() -> None:
    backend = AskedBackend()
    async with serving(backend=backend) as (server, _):
        url = f"http://127.0.0.1:{server.port}"
        async with httpx.AsyncClient(base_url=url) as client:
            for times in (1, 2):
                ready = await client.get("/readyz")
                assert (ready.status_code, ready.text) == (200, "ready\n")
                backend.go_away()
                ready = await client.get("/readyz")
                assert (ready.status_code, ready.text) == (503, "backend is away\n")
                assert ready.headers["Retry-After"] == "5"
                assert ready.headers["Cache-Control"] == "no-store"
                # The process lives all the same.
                health = await client.get("/healthz")
                hub = health.json()["hub"]
                assert (health.status_code, hub["available"], hub["outages"]) == (200, False, times)
                backend.come_back()


async def test_not_ready_while_the_server_is_shutting_down() -> None:
    async with open_hub() as hub:
        site = Site(
            hub=hub,
            draining=lambda: True,
            statistics=dict,
            heartbeat=Heartbeat(),
            path_prefix="/ws/",
        )
        transport = httpx.ASGITransport(make_app(site))
        async with httpx.AsyncClient(transport=transport, base_url="http://x") as client:
            ready = await client.get("/readyz")
    assert (ready.status_code, ready.text) == (503, "server is shutting down\n")


async def test_health_counts() -> None:
    async with http() as (client, server):
        peer = await dial(server.port)
        await client.get("/nothing")
        health = (await client.get("/healthz")).json()
        assert health["status"] == "ok"
        assert (health["connections"], health["accepted"], health["http"]) == (1, 1, 1)
        assert health["hub"]["subscriptions"] == 1
        assert set(health["ended"]) >= {"peer", "missed-beats", "slow", "lost"}
        await peer.aclose()


async def test_page_has_what_it_needs_and_nothing_from_elsewhere() -> None:
    async with http() as (client, _):
        page = await client.get("/")
        assert page.status_code == 200
        assert "default-src 'self'" in page.headers["Content-Security-Policy"]
        for path in ("/page.js", "/page.css", "/icon.svg"):
            assert f'"{path}"' in page.text
            assert (await client.get(path)).status_code == 200


async def test_the_client_is_served_with_its_types() -> None:
    async with http() as (client, _):
        script = await client.get("/trio-beat.js")
        assert script.headers["Content-Type"].startswith("text/javascript")
        assert "export class TrioBeat" in script.text
        types = await client.get("/trio-beat.d.ts")
        assert "export class TrioBeat" in types.text


async def test_heartbeat_message_cannot_break_out_of_the_page() -> None:
    async with http() as (client, _):
        page = (await client.get("/")).text
        assert page.count("</script>") == 2
        assert r"\u003c/script>" in page


@pytest.mark.parametrize(("method", "path", "status"), [("GET", "/x", 404), ("PUT", "/", 405)])
async def test_errors_are_plain_text(method: str, path: str, status: int) -> None:
    async with http() as (client, _):
        response = await client.request(method, path)
        assert response.status_code == status
        assert response.headers["Content-Type"].startswith("text/plain")


async def test_websocket_on_a_used_connection_is_told_to_take_its_own() -> None:
    async with serving() as (server, _):
        stream = await trio.open_tcp_stream("127.0.0.1", server.port)
        await stream.send_all(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
        assert (await stream.receive_some(65536)).startswith(b"HTTP/1.1 200 ")
        await stream.send_all(
            b"GET /ws/news HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
        )
        answer = b""
        while b"connection of its own" not in answer:
            chunk = await stream.receive_some(65536)
            assert chunk, answer
            answer += chunk
        assert b"HTTP/1.1 421 " in answer
        await stream.aclose()


async def test_websocket_elsewhere_is_told_where() -> None:
    async with serving() as (server, _):
        stream = await trio.open_tcp_stream("127.0.0.1", server.port)
        await stream.send_all(HANDSHAKE.format(target="/chat", headers="").encode())
        answer = b""
        while b"expected /ws/<facility>" not in answer:
            chunk = await stream.receive_some(65536)
            assert chunk, answer
            answer += chunk
        assert answer.startswith(b"HTTP/1.1 404 ")
        await stream.aclose()


async def test_only_http_1_1_is_spoken_over_tls() -> None:
    authority = trustme.CA()
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.set_alpn_protocols(["h2", "http/1.1"])
    authority.issue_cert("localhost").configure_cert(context)
    trust = ssl.create_default_context()
    authority.configure_trust(trust)
    async with serving(context=context) as (server, _):
        async with httpx.AsyncClient(verify=trust) as client:
            response = await client.get(f"https://localhost:{server.port}/healthz")
            assert (response.status_code, response.http_version) == (200, "HTTP/1.1")
        peer = await dial(server.port, ssl_context=trust)
        await peer.aclose()
        # The application's context offers it all the same.
        trust.set_alpn_protocols(["h2"])
        tcp = await trio.open_tcp_stream("127.0.0.1", server.port)
        stream = trio.SSLStream(tcp, trust, server_hostname="localhost", https_compatible=True)
        await stream.send_all(PREFACE)
        assert stream.selected_alpn_protocol() == "h2"
        assert (await stream.receive_some(4096)).startswith(b"HTTP/1.1 505 ")
        await stream.aclose()


PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00"


GARBAGE = b"GET / HTTP/1.1\r\nHost: x\r\nX : y\r\n\r\n"
TWICE = b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"
CHAT = HANDSHAKE.format(target="/chat", headers="").encode()


@pytest.mark.parametrize(
    ("data", "status"),
    [
        *(
            (f"{line} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode(), status)
            for line, status in [
                ("GET /", 200),
                ("GET /page.js", 200),
                ("HEAD /trio-beat.js", 200),
                ("GET /healthz", 200),
                ("GET /nothing", 404),
                ("PUT /", 405),
                ("POST /api/publish/x", 401),
                ("OPTIONS *", 404),
                ("GET /ws/", 426),
                ("GET /w%73/x", 426),
            ]
        ),
        (b"hello\r\n\r\n", 400),
        (b"GET / HTTP/9.9\r\nHost: x\r\n\r\n", 505),
        (GARBAGE, 400),
        (b"GET / HTTP/1.1\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"x" * 20_000 + b"\r\n\r\n", 431),
        (b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip, chunked\r\n\r\n", 501),
        (TWICE + GARBAGE, 200),
        (TWICE + CHAT.replace(b"/chat", b"/ws/news"), 200),
        (CHAT, 404),
        (CHAT.replace(b"Sec-WebSocket-Key", b"X"), 400),
    ],
)
async def test_security_headers_are_on_every_answer(data: bytes, status: int) -> None:
    async with serving() as (server, _):
        answer = await ask(server.port, data)
    assert answer.startswith(b"HTTP/1.1 %d " % status)
    heads = [b"HTTP/1.1 " + part for part in answer.split(b"HTTP/1.1 ")[1:]]
    assert len(heads) == (2 if data.startswith(TWICE) else 1)
    for head in heads:
        lines = head.partition(b"\r\n\r\n")[0].lower().decode().split("\r\n")
        assert set(lines) >= SECURITY_HEADERS
        assert lines.count("x-content-type-options: nosniff") == 1


async def test_security_headers_are_on_an_unexpected_failure(
    patient_clock: trio.testing.MockClock,
) -> None:
    async with serving() as (server, hub):

        def fail() -> None:
            raise ZeroDivisionError

        hub.statistics = fail  # type: ignore[method-assign,assignment]
        answer = await ask(server.port, TWICE)
        assert answer.startswith(b"HTTP/1.1 500 ")
        assert b"frame-ancestors 'none'" in answer


@pytest.mark.real
def test_health_is_told_without_a_free_descriptor(tmp_path: Path) -> None:
    with command(tmp_path) as running:
        with closing(HTTPConnection("127.0.0.1", running.port, timeout=20)) as client:

            def ask_for(path: str) -> int:
                client.request("GET", path)
                response = client.getresponse()
                response.read()
                return response.status

            # It has been accepted when this is answered.
            assert ask_for("/nothing") == 404
            client.auto_open = 0
            pid = running.process.pid
            used = len(list(Path(f"/proc/{pid}/fd").iterdir()))
            resource.prlimit(pid, resource.RLIMIT_NOFILE, (used, used))
            paths = ("/healthz", "/", "/page.js", "/else")
            assert [ask_for(path) for path in paths] == [200, 200, 200, 404]
    assert "ERROR" not in running.log()


@pytest.mark.real
def test_pages_are_utf_8_whatever_the_locale() -> None:
    script = (
        "import pathlib, trio_beat._site.app as app; from trio_beat import Heartbeat;"
        "page = (pathlib.Path(app.__file__).parent / 'static/index.html').read_bytes();"
        "assert not page.isascii(), 'it shows nothing';"
        "site = app.Site(hub=None, draining=bool, statistics=dict, heartbeat=Heartbeat(),"
        " path_prefix='/ws/'); app.make_app(site)"
    )
    environment = clean_environment(LC_ALL="C", PYTHONUTF8="0", PYTHONCOERCECLOCALE="0")
    subprocess.run([sys.executable, "-c", script], check=True, timeout=30, env=environment)
