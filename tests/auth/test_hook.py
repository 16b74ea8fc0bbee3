"""What an application is asked, and what its answers mean."""

from __future__ import annotations

import gzip
import logging
import ssl
import subprocess
import sys
from typing import Any

import pytest

from tests.support.application import Application, answer, playing, says
from trio_beat import Identity, Refused, Request
from trio_beat.auth import Hook

BOB = says(answer(200, '{"user": "bob"}'))
COOKIE = ("Cookie", "sessionid=s3cret")


def request(
    *headers: tuple[str, str], peer: str = "192.0.2.1:4242", secure: bool = False
) -> Request:
    pairs = [("Host", "site.example"), *headers]
    return Request.of("/ws/news?token=s3cret", pairs, peer=peer, secure=secure)


def hook(application: Application, **options: Any) -> Hook:
    """A hook that is patient, whatever else the machine does."""
    return Hook(application.url, timeout=60, **options)


async def refusal(asked: Hook, peers: Request) -> Refused:
    with pytest.raises(Refused) as caught:
        await asked(peers)
    assert caught.value.__context__ is None
    return caught.value


async def test_an_answer_is_an_identity() -> None:
    async with playing(BOB) as application:
        assert await hook(application)(request(COOKIE)) == Identity(user="bob")


async def test_what_is_sent() -> None:
    async with playing(BOB) as application:
        peers = request(
            ("cookie", "sessionid=s3cret"),
            ("Cookie", "theme=dark"),
            ("Authorization", "Token s3cret"),
            ("User-Agent", "Browser/1.0 \xe4"),
            ("Origin", "https://site.example"),
            ("X-Api-Key", "key"),
            ("x-api-key", "more"),
            ("Accept-Language", "de"),
            ("Accept-Encoding", "gzip"),
            ("Connection", "Upgrade, X-Api-Key"),
            ("Upgrade", "websocket"),
            ("X-Forwarded-For", "10.0.0.1"),
            ("X-Forwarded-Proto", "https"),
            ("X-Forwarded-Host", "evil.example"),
            ("Forwarded", "for=10.0.0.1"),
        )
        await hook(application, headers=["X-API-Key"])(peers)
        assert application.requests[0].startswith("GET /hook HTTP/1.1\r\n")
        assert application.headers() == {
            "host": "site.example",
            "connection": "close",
            "accept": "application/json, text/plain;q=0.5",
            "accept-encoding": "identity",
            "user-agent": "Browser/1.0 \xe4",
            "origin": "https://site.example",
            "x-forwarded-for": "192.0.2.1",
            "x-forwarded-proto": "http",
            "authorization": "Token s3cret",
            "cookie": "sessionid=s3cret; theme=dark",
            "x-api-key": "key, more",
        }


@pytest.mark.parametrize(
    ("peer", "secure", "sent"),
    [
        ("192.0.2.1:4242", True, ("192.0.2.1", "https")),
        ("[2001:db8::1]:4242", False, ("2001:db8::1", "http")),
        ("[fe80::1%eth0]:4242", False, ("fe80::1", "http")),
        ("192.0.2.1", True, ("192.0.2.1", "https")),
        ("2001:db8::5", False, ("2001:db8::5", "http")),
        ("local", True, (None, "https")),
        ("unknown", False, (None, "http")),
    ],
)
async def test_address_and_scheme_are_as_the_server_knows_them(
    peer: str, secure: bool, sent: tuple[str | None, str]
) -> None:
    async with playing(BOB) as application:
        await hook(application)(request(COOKIE, peer=peer, secure=secure))
        headers = application.headers()
        assert (headers.get("x-forwarded-for"), headers["x-forwarded-proto"]) == sent


async def test_a_token_of_the_subprotocol_is_sent_as_authorization() -> None:
    async with playing(BOB) as application:
        await hook(application)(request(("Sec-WebSocket-Protocol", "chat, bearer, abc.def")))
        headers = application.headers()
        assert headers["authorization"] == "Bearer abc.def"
        assert "sec-websocket-protocol" not in headers


async def test_authorization_is_never_passed_over_for_a_subprotocol() -> None:
    async with playing(BOB) as application:
        offered = ("Sec-WebSocket-Protocol", "bearer, abc")
        await hook(application)(request(("Authorization", "Basic x"), offered))
        assert application.headers()["authorization"] == "Basic x"


async def test_without_a_credential_the_application_is_not_asked() -> None:
    async with playing(BOB) as application:
        asked = hook(application, headers=["X-Key"])
        plain = request(("User-Agent", "Browser/1.0"), ("Sec-WebSocket-Protocol", "chat"))
        assert await asked(plain) is None
        assert application.connections == 0
        for credential in (COOKIE, ("Authorization", ""), ("x-key", "1")):
            assert await asked(request(credential)) == Identity(user="bob")
        assert application.connections == 3  # one for each request


@pytest.mark.parametrize(
    ("headers", "status", "text"),
    [
        ([("Authorization", "a"), ("Authorization", "b")], 401, "more than one Authorization"),
        ([("Sec-WebSocket-Protocol", "bearer")], 401, "without a token"),
    ],
)
async def test_what_cannot_be_passed_on_is_refused(
    headers: list[tuple[str, str]], status: int, text: str
) -> None:
    async with playing(BOB) as application:
        refused = await refusal(hook(application), request(*headers))
        assert refused.status == status
        assert text in refused.text
        assert "s3cret" not in refused.text
        assert application.connections == 0


@pytest.mark.parametrize("status", [401, 403])
async def test_the_application_refuses(status: int, caplog: pytest.LogCaptureFixture) -> None:
    text = answer(status, "no s3cret here" + "x" * 2000, "Content-Type: text/plain")
    async with playing(says(text)) as application:
        refused = await refusal(hook(application), request(COOKIE))
        assert refused.status == status
        assert refused.text.startswith("no s3cret herexxx")
        assert len(refused.text) == 1024
        assert "s3cret" not in refused.logged
        page = answer(status, "<p>s3cret", "Content-Type: text/html", "WWW-Authenticate: Basic")
        application.script = says(page)
        refused = await refusal(hook(application), request(COOKIE))
        assert "<p>" not in refused.text
        assert refused.headers == ((("WWW-Authenticate", "Basic"),) if status == 401 else ())
    assert caplog.records == []  # the server logs the refusal


CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
FULL = '{"info": "' + "x" * (65536 - 12) + '"}'


@pytest.mark.parametrize(
    "data",
    [
        b'HTTP/1.0 200 OK\r\n\r\n{"user": "bob"}',  # its end is that of the connection
        CHUNKED + b'7\r\n{"user"\r\n8;x=y\r\n: "bob"}\r\n0\r\nX-Trailer: 1\r\n\r\n',
        b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n" + answer(200, '{"user": "bob"}'),
        answer(200, '{"user": "bob"}', "Content-Encoding: identity"),
        answer(200, '{"user": "bob"}') + b"HTTP/1.1 500 smuggled\r\n\r\n",
    ],
    ids=["http-1.0", "chunked", "hints", "identity", "more-behind"],
)
async def test_all_ways_to_answer(data: bytes) -> None:
    async with playing(says(data)) as application:
        assert await hook(application)(request(COOKIE)) == Identity(user="bob")


async def test_an_answer_may_have_64_kib() -> None:
    async with playing(says(answer(200, FULL))) as application:
        identity = await hook(application)(request(COOKIE))
        assert identity is not None
        assert len(identity.info) == 65536 - 12


WRONG = [
    (answer(200, "<p>s3cret"), "answered no identity: no JSON: wrong at character 0"),
    (answer(200, '{"usr": "s3cret"}'), "answered no identity: unknown name 'usr'"),
    (answer(200, FULL + " "), "answered no identity: more than 65,536 bytes"),
    (
        answer(200, gzip.compress(b" " * 10**7), "Content-Encoding: gzip"),
        "answered with a Content-Encoding",
    ),
    (answer(403, b"s3cret", "Content-Encoding: br"), "answered with a Content-Encoding"),
]
UNCLEAR = [
    (answer(301, "", "Location: https://s3cret.example"), "answered 301"),
    (answer(204), "answered 204"),
    (answer(206, "{}"), "answered 206"),
    (answer(304), "answered 304"),
    (answer(404, "s3cret"), "answered 404"),
    (answer(407, "s3cret"), "answered 407"),
    (answer(500, "s3cret"), "answered 500"),
    (answer(503, "s3cret"), "answered 503"),
    (b"HTTP/1.1 101 Switching Protocols\r\n\r\n", "answered no HTTP, or not all of it"),
    (b"s3cret s3cret\r\n\r\n", "answered no HTTP, or not all of it"),
    (b"HTTP/1.1 200 OK\r\nContent-Le", "answered no HTTP, or not all of it"),
    (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n{}", "answered no HTTP, or not all of it"),
    (CHUNKED + b"2\r\n{}\r\n", "answered no HTTP, or not all of it"),
    (CHUNKED + b"s3cret\r\n{}\r\n", "answered no HTTP, or not all of it"),
    (
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\n{}}",
        "answered no HTTP, or not all of it",
    ),
    (b"HTTP/1.1 200 OK\r\nX: " + b"x" * 10**6, "answered no HTTP, or not all of it"),
    (b"HTTP/1.1 100 Go on\r\n\r\n" * 10**5, "answered too much"),
    (CHUNKED + b"1;%s\r\n{\r\n" % (b"x" * 9000) * 100, "answered too much"),
    (b"", "closed the connection without an answer"),
]


@pytest.mark.parametrize(
    ("data", "text", "level"),
    [(*case, "ERROR") for case in WRONG] + [(*case, "WARNING") for case in UNCLEAR],
)
async def test_what_is_not_clear_is_503(
    data: bytes, text: str, level: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    async with playing(says(data)) as application:
        refused = await refusal(hook(application), request(COOKIE))
        assert refused.status == 503
        assert refused.headers == (("Retry-After", "5"),)
        assert application.connections == 1
    (record,) = caplog.records
    assert record.levelname == level
    url = application.url
    assert record.getMessage().startswith(f"192.0.2.1:4242 not identified: {url} {text}")
    assert "s3cret" not in caplog.text + refused.text + refused.logged


async def test_a_key_that_the_application_sets_is_not_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG)
    data = answer(200, "{}", "Set-Cookie: sessionid=s3cret")
    async with playing(says(data)) as application:
        assert await hook(application)(request(COOKIE)) == Identity()
    assert caplog.records == []
    logging.getLogger("httpcore.http11").debug("of others")
    assert [record.getMessage() for record in caplog.records] == ["of others"]


async def test_of_many_failures_few_have_a_line(caplog: pytest.LogCaptureFixture) -> None:
    async with playing(says(answer(500))) as application:
        asked = hook(application)
        for _ in range(30):
            await refusal(asked, request(COOKIE))
    assert len(caplog.records) < 30


async def test_environment_and_query(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:9")
    async with playing(BOB) as application:
        url = f"http://127.0.0.1:{application.port}?key=s3cret"
        asked = Hook(url, timeout=60)
        # A request that another server has parsed may have none.
        await asked(Request.of("/", [COOKIE], peer="local"))
        assert application.requests[0].startswith("GET /?key=s3cret HTTP/1.1\r\n")
        assert application.headers()["host"] == f"127.0.0.1:{application.port}"
        assert "s3cret" not in repr(asked)


@pytest.mark.parametrize(
    ("url", "text"),
    [
        ("ws://app/hook", "it must be http://host"),
        ("app/hook", "it must be http://host"),
        ("http:///hook", "it must be http://host"),
        ("http://app:port/hook", "it must be http://host"),
        ("http://app:0/hook", "it must be http://host"),
        ("http://app:65536/hook", "it must be http://host"),
        ("http://[::1/hook", "it must be http://host"),
        ("http://bob:s3cret@app/hook", "has a user or a password"),
        ("http://@app/hook", "has a user or a password"),
        ("http://app/hook#s3cret", "has a fragment"),
        ("http://app/a b", "must be percent-encoded"),
        ("http://app/a\nb", "must be percent-encoded"),
        ("http://größe/", "must be percent-encoded"),
        ("http://app/?s3cret=ö", "must be percent-encoded"),
    ],
)
def test_urls_that_cannot_be_asked(url: str, text: str) -> None:
    with pytest.raises(ValueError, match=text) as caught:
        Hook(url)
    assert "s3cret" not in str(caught.value)
    assert caught.value.__context__ is None


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"timeout": 0}, ValueError, "timeout is 0"),
        ({"timeout": None}, TypeError, "timeout is None"),
        ({"concurrency": 0}, ValueError, "concurrency is 0"),
        ({"concurrency": 1.5}, TypeError, "concurrency is 1.5"),
        ({"headers": "X-Key"}, TypeError, "several names"),
        ({"headers": [1]}, TypeError, "header is 1"),
        ({"headers": ["X Key"]}, ValueError, "is not a token"),
        ({"headers": ["X-Key", "x-key"]}, ValueError, "passed on already"),
        ({"headers": ["cookie"]}, ValueError, "passed on already"),
        ({"ssl_context": ssl.create_default_context()}, ValueError, "is not https://"),
        ({"ssl_context": 1}, TypeError, "ssl_context is 1"),
        ({"url": b"http://app/"}, TypeError, "url is b'http"),
    ],
)
def test_arguments_that_cannot_be_right(
    options: dict[str, Any], error: type[Exception], text: str
) -> None:
    with pytest.raises(error, match=text):
        Hook(**{"url": "http://app/hook", **options})


def test_a_context_of_a_server_is_refused() -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    with pytest.raises(ValueError, match="is a server's"):
        Hook("https://app/hook", ssl_context=context)


@pytest.mark.parametrize(
    "name",
    [
        *("Host", "Connection", "Upgrade", "TE", "Transfer-Encoding", "Proxy-Authorization"),
        *("Content-Length", "Content-Type", "Accept-Encoding", "Sec-WebSocket-Key", "Expect"),
        *("Forwarded", "X-Forwarded-For", "x-forwarded-host", "X_Forwarded_For"),
    ],
)
def test_headers_that_are_never_passed_on(name: str) -> None:
    with pytest.raises(ValueError, match="is not to be passed on"):
        Hook("http://app/hook", headers=[name])


def test_importing_the_package_does_not_import_what_hooks_need() -> None:
    program = """
import sys
sys.modules["httpcore"] = None
import trio_beat.auth
assert "Hook" in dir(trio_beat.auth)
assert "trio_beat.auth.hook" not in sys.modules
try:
    trio_beat.auth.Hook
except ImportError as exc:
    assert "pip install 'trio-beat[auth]'" in str(exc), exc
else:
    raise AssertionError
try:
    trio_beat.auth.Unknown
except AttributeError:
    print("right")
"""
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert ran.stdout == "right\n", ran.stderr
