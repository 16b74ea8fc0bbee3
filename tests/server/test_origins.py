"""Which pages may connect."""

from __future__ import annotations

import logging
from ipaddress import ip_address
from typing import Any, Literal

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import MockClock
from websockets.datastructures import Headers

from tests.support.harness import idle, tls_contexts
from tests.support.peer import HANDSHAKE, dial
from tests.support.serving import ask, deserted, serving, status
from trio_beat import Refused, Request, connect, serve
from trio_beat._server.origins import Origins, parse_host, parse_origin
from trio_beat._server.proxies import Client

_Scheme = Literal["http", "https"] | None


def refusal(
    *origins: str, host: str, scheme: _Scheme = None, allowed: Any = (), option: str | None = None
) -> Refused | None:
    """How a request is refused that has these headers; None: it passes."""
    client = Client(ip_address("192.0.2.1"), "192.0.2.1:5", scheme, host)
    headers = Headers([("Host", host), *(("Origin", origin) for origin in origins)])
    try:
        Origins(allowed, option=option).check(client, headers)
    except Refused as exc:
        return exc
    return None


@pytest.mark.parametrize(
    ("origin", "host"),
    [
        ("http://example.com", "example.com"),
        ("https://example.com", "example.com"),
        ("http://example.com", "example.com:80"),
        ("https://example.com", "example.com:443"),
        ("https://example.com:443", "example.com"),
        ("http://example.com:8000", "example.com:8000"),
        ("https://example.com:8000", "example.com:8000"),
        ("http://example.com:080", "example.com"),
        ("http://example.com:0", "example.com:0"),
        ("http://example.com:65535", "example.com:65535"),
        ("http://example.com", "example.com:"),
        ("HTTP://EXAMPLE.com", "example.COM"),
        ("http://example.com.", "example.com"),
        ("http://example.com", "example.com.:80"),
        ("http://localhost:3000", "localhost:3000"),
        ("http://under_score.example", "under_score.example"),
        ("https://xn--mnchen-3ya.example", "xn--mnchen-3ya.example"),
        ("http://192.0.2.1:8000", "192.0.2.1:8000"),
        ("http://[::1]:8000", "[::1]:8000"),
        ("http://[::1]", "[0:0:0:0:0:0:0:1]:80"),
        ("http://[2001:DB8::A]", "[2001:db8::a]"),
        ("http://[::ffff:192.0.2.1]", "[::ffff:c000:201]"),
        ("ws://example.com", "example.com"),
        ("wss://example.com", "example.com:443"),
    ],
)
def test_the_own_origin_passes(origin: str, host: str) -> None:
    assert refusal(origin, host=host) is None


@pytest.mark.parametrize(
    ("origin", "host"),
    [
        ("http://example.com", "example.org"),
        ("http://example.com:3000", "example.com:8000"),
        ("https://example.com", "example.com:80"),
        ("http://example.com", "example.com:443"),
        ("http://example.com:8000", "example.com"),
        ("http://a.example.com", "example.com"),
        ("http://example.com", "a.example.com"),
        ("http://example.com.evil.example", "example.com"),
        ("http://evil-example.com", "example.com"),
        ("http://[::1]", "[::2]"),
        ("http://127.0.0.1:8000", "localhost:8000"),
        ("null", "example.com"),
        ("null", "null"),
        ("file://", "example.com"),
        ("chrome-extension://localhost", "localhost"),
        ("capacitor://localhost", "localhost"),
    ],
)
def test_another_origin_is_refused(origin: str, host: str) -> None:
    refused = refusal(origin, host=host)
    assert refused is not None
    assert refused.status == 403
    assert f"Origin {origin} is not allowed: Host is {host};" in refused.text
    assert refused.logged == refused.text
    assert f'allowed_origins=["{origin}"]' in refused.text
    assert refusal(origin, host=host, allowed=[origin]) is None
    assert refusal(origin, host=host, allowed=["*"]) is None


def test_a_request_without_an_origin_passes() -> None:
    for host in ("example.com", "", "not a host"):
        assert refusal(host=host) is None
        assert refusal(host=host, scheme="https") is None


@pytest.mark.parametrize(
    ("origin", "scheme", "passes"),
    [
        ("https://example.com", None, True),
        ("http://example.com", None, True),
        ("https://example.com", "https", True),
        ("wss://example.com", "https", True),
        ("http://example.com", "https", False),
        ("ws://example.com", "https", False),
        ("http://example.com", "http", True),
        ("https://example.com", "http", False),
    ],
)
def test_the_scheme_counts_where_it_is_known(origin: str, scheme: _Scheme, passes: bool) -> None:
    refused = refusal(origin, host="example.com", scheme=scheme)
    assert (refused is None) is passes
    if refused is not None:
        assert f"this server is {scheme}://example.com;" in refused.text
        assert "nginx" not in refused.text
        # A proxy has ended TLS, and another one behind it told of itself alone.
        assert ("X-Forwarded-Proto" in refused.text) is (scheme == "http")


def test_the_scheme_counts_on_another_port_too() -> None:
    refused = refusal("http://example.com:8443", host="example.com:8443", scheme="https")
    assert refused is not None
    assert "this server is https://example.com:8443;" in refused.text


@pytest.mark.parametrize(
    ("origin", "host", "hint"),
    [
        ("http://example.com:8000", "example.com", True),  # nginx's $host
        ("https://example.com", "127.0.0.1:8000", True),  # nginx's default
        ("https://example.com", "[::1]:8000", True),
        ("https://example.com", "backend", True),
        ("https://evil.example", "example.com", False),
        ("null", "127.0.0.1:8000", False),
        ("app://example.com", "127.0.0.1:8000", False),
    ],
)
def test_a_proxy_that_changes_host_is_told_how_not_to(origin: str, host: str, hint: bool) -> None:
    refused = refusal(origin, host=host, option="--allowed-origin")
    assert refused is not None
    assert f"; --allowed-origin {origin} allows it" in refused.text
    assert ("proxy_set_header Host $http_host;" in refused.text) is hint


@pytest.mark.parametrize(
    ("origin", "allowed", "passes"),
    [
        ("https://a.example", "https://a.example", True),
        ("https://a.example", "HTTPS://A.example.", True),
        ("https://a.example", "https://a.example:443", True),
        ("https://a.example:8443", "https://a.example", False),
        ("http://a.example", "https://a.example", False),
        ("http://a.example", "a.example", True),
        ("https://a.example", "a.example", True),
        ("https://a.example:8443", "a.example", False),
        ("https://a.example:8443", "a.example:8443", True),
        ("http://a.example:8443", "a.example:8443", True),
        ("wss://a.example", "https://a.example", True),
        ("https://a.example", "wss://a.example", True),
        ("http://[::1]:3000", "http://[0::1]:3000", True),
        ("null", "NULL", True),
        ("null", "file://", False),
        ("file://", "null", False),
        ("moz-extension://0f-1a", "moz-extension://0f-1a", True),
        ("moz-extension://0f-1b", "moz-extension://0f-1a", False),
        ("app://.", "app://.", True),
        # subdomains
        ("https://b.a.example", "*.a.example", True),
        ("http://b.a.example", "*.a.example", True),
        ("https://c.b.a.example", "*.a.example", True),
        ("https://b.a.example.", "*.a.example", True),
        ("https://a.example", "*.a.example", False),
        ("https://ba.example", "*.a.example", False),
        ("https://b.a.example.evil.example", "*.a.example", False),
        ("https://b.a.example:8443", "*.a.example", False),
        ("https://b.a.example:8443", "*.a.example:8443", True),
        ("https://b.a.example", "*.a.example:8443", False),
        ("https://b.a.example", "https://*.a.example", True),
        ("http://b.a.example", "https://*.a.example", False),
        ("http://b.localhost:3000", "*.localhost:3000", True),
        ("http://localhost:3000", "*.localhost:3000", False),
        ("app://b.a.example", "*.a.example", False),
        ("null", "*.a.example", False),
        ("http://[::a.example]", "*.a.example", None),
    ],
)
def test_what_is_allowed_beside_it(origin: str, allowed: str, passes: bool | None) -> None:
    refused = refusal(origin, host="server.example", allowed=["x.example", allowed])
    assert (refused is None) is bool(passes)
    if refused is not None:
        assert refused.status == (400 if passes is None else 403)
    assert refusal("https://server.example", host="server.example", allowed=[allowed]) is None


@pytest.mark.parametrize(
    "origin",
    [
        "",
        "example.com",
        "https://",
        "https:example.com",
        "https:///example.com",
        "//example.com",
        "https://example.com/",
        "https://example.com/path",
        "https://example.com?s3cret",
        "https://example.com#s3cret",
        "https://user:s3cret@example.com",
        "https://example.com@",
        "https://example.com\\",
        "https://example.com:65536",
        "https://example.com:99999999999999999999999",
        "https://example.com:-1",
        "https://example.com:http",
        "https://example.com:\u00b2",
        "https://example.com:1:2",
        "https://exa mple.com",
        "https://a.example https://b.example",
        "https://a.example, https://b.example",
        "https://example..com",
        "https://.example.com",
        "https://example.com..",
        "https://m\u00fcnchen.example",
        "https://m%C3%BCnchen.example",
        "https://*.example.com",
        "https://[::1",
        "https://[::g]",
        "https://[1:2]",
        "https://[fe80::1%25eth0]",
        "https://[::1]8000",
        "https://::1",
        "Null",
        "chrome-extension://a/b",
        "1http://example.com",
        "http\x85://example.com",
        "https://example.com\x9b31m",
        "https://" + "a" * 300,
    ],
)
def test_a_malformed_origin_is_refused(origin: str) -> None:
    for scheme in (None, "https"):
        refused = refusal(origin, host="example.com", scheme=scheme)
        assert refused is not None
        assert refused.status == 400
        assert "expected SCHEME://HOST, SCHEME://HOST:PORT or null" in refused.text
        assert refused.text.isprintable()
        assert refused.logged == "Origin is malformed"
    assert refusal(origin, host="example.com", allowed=["*"]) is None


def test_several_origins_are_refused() -> None:
    refused = refusal("https://example.com", "https://example.com", host="example.com")
    assert refused is not None
    assert refused.status == 400


@pytest.mark.parametrize(
    "host",
    ["", "a b", "user:s3cret@a", "a:b", "a:65536", "a/b", "a, b", "[::1", "[:]", "\xe4", "a\x9b"],
)
def test_a_page_needs_a_host_that_can_be_read(host: str) -> None:
    refused = refusal("https://a", host=host)
    assert refused is not None
    assert refused.status == 400
    assert refused.text.isprintable()
    assert refused.text.startswith("bad request: Host '")
    assert refused.logged == "bad request: Host is malformed"
    assert refused.__cause__ is None
    assert refused.__suppress_context__
    assert refusal("https://a", host=host, allowed=["https://a"]) is None


#: What a header's value may have (RFC 9110, section 5.5).
_VALUES = st.text(
    st.sampled_from(["\t", *map(chr, (*range(32, 127), *range(128, 256)))]), max_size=40
)


@given(_VALUES, _VALUES)
def test_any_origin_is_answered_in_one_printable_line(origin: str, host: str) -> None:
    refused = refusal(origin, host=host)
    assert refused is None or (refused.text.isprintable() and refused.logged.isprintable())
    with_scheme = refusal(f"https://{origin}", host=host, allowed=["*.example"])
    assert with_scheme is None or with_scheme.text.isprintable()


@given(
    st.sampled_from(["http", "https"]),
    st.from_regex(r"[a-z0-9-]{1,9}(\.[a-z0-9-]{1,9}){0,3}", fullmatch=True),
    st.none() | st.integers(0, 65535),
)
def test_what_is_read_is_what_was_written(scheme: str, host: str, port: int | None) -> None:
    authority = host if port is None else f"{host}:{port}"
    assert parse_host(authority) == (host, port)
    origin = parse_origin(f"{scheme}://{authority}")
    assert parse_origin(str(origin)) == origin
    assert refusal(str(origin), host=authority) is None


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "https://a.example/",
        "https://a.example/b",
        "https://",
        "://a.example",
        "*://a.example",
        "https://*",
        "https://*a.example",
        "https://b.*.example",
        "*.*.example",
        "a.example:*",
        "a.example:65536",
        "https://m\u00fcnchen.example",
        "https://\u212a.example",
        "http://https://a.example",
        "app://*.example",
        "app://*",
        "*.1.2.3",
        "*.[::1]",
        "*.0x7f",
        "**",
    ],
)
def test_what_cannot_be_allowed_is_named(text: str) -> None:
    with pytest.raises(ValueError, match=r"^allowed_origins has ") as caught:
        Origins(["https://b.example", text])
    # What stands where a port should may be a password.
    assert repr(text).removesuffix("*'") in str(caught.value)
    assert "should " in str(caught.value)


def test_a_password_in_what_is_allowed_is_not_shown() -> None:
    for text in ("https://bob:s3cret@a.example", "bob:s3cret@a.example", "https://a?s3cret"):
        with pytest.raises(ValueError, match="no path, user or password") as caught:
            Origins([text])
        assert "s3cret" not in str(caught.value)
        assert caught.value.__suppress_context__


async def test_what_is_allowed_is_a_sequence_of_texts() -> None:
    for wrong in ("https://a.example", b"x", 5, [5], [b"https://a.example"]):
        with pytest.raises(TypeError, match="allowed_origins"):
            await serve(idle, 0, allowed_origins=wrong)  # type: ignore[arg-type]


def request(*headers: str) -> bytes:
    lines = "".join(f"{header}\r\n" for header in headers)
    return HANDSHAKE.format(target="/ws/news?subscribe-broadcast", headers=lines).encode("latin-1")


@pytest.mark.parametrize("asks", [False, True], ids=["nobody", "admit"])
@pytest.mark.parametrize("handles", [False, True], ids=["hub", "handler"])
async def test_a_server_refuses_foreign_pages(
    handles: bool, asks: bool, patient_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    asked: list[str | None] = []

    async def admit(request: Request) -> None:
        asked.append(request.headers.get("Origin"))

    options: dict[str, Any] = {"admit": admit} if asks else {}
    handler = idle if handles else None
    async with serving(handler, allowed_origins=["https://a.example"], **options) as server:
        answer = await ask(server.port, request("Origin: https://evil.example", "Cookie: k=s3cret"))
        assert status(answer) == 403
        assert b"Origin https://evil.example is not allowed: Host is localhost;" in answer
        for headers in (("Origin: https://a.example",) * 2, ("Origin: a\x85\x9bb",)):
            answer = await ask(server.port, request(*headers))
            assert status(answer) == 400
            assert answer.partition(b"\r\n\r\n")[2].strip().decode("ascii").isprintable()
        assert server.statistics().refused == {403: 1, 400: 2}
        assert asked == []
        for origin in ("https://a.example", "http://localhost", "https://localhost"):
            peer = await dial(server.port, headers=f"Origin: {origin}\r\n")
            await peer.aclose()
        async with connect(f"ws://localhost:{server.port}/ws/news"):
            pass
        await deserted(server)
    expected = ["https://a.example", "http://localhost", "https://localhost", None]
    assert asked == (expected if asks else [])
    assert "refused: 403 Origin https://evil.example is not allowed" in caplog.text
    assert "s3cret" not in caplog.text


async def test_the_servers_own_tls_tells_the_scheme(patient_clock: MockClock) -> None:
    for_server, for_client = tls_contexts()
    async with serving(idle, ssl_context=for_server) as server:
        tcp = await trio.open_tcp_stream("127.0.0.1", server.port)
        async with trio.SSLStream(tcp, for_client, server_hostname="localhost") as stream:
            await stream.send_all(request("Origin: http://localhost"))
            answer = b"".join([bytes(data) async for data in stream])
        assert status(answer) == 403
        assert b"Host is" not in answer
        assert b"this server is https://localhost;" in answer
        peer = await dial(
            server.port, headers="Origin: https://localhost\r\n", ssl_context=for_client
        )
        await peer.aclose()
        await deserted(server)


async def test_a_page_is_told_by_a_close_code_where_it_is_wanted(patient_clock: MockClock) -> None:
    async with serving(idle, refuse_by="close") as server:
        peer = await dial(server.port, headers="Origin: https://evil.example\r\n")
        close = await peer.closed()
        assert close is not None
        assert close.code == 4003
        assert close.reason.startswith("Origin https://evil.example is not allowed: Host is local")
        await peer.aclose()
        await deserted(server)


async def test_the_check_can_be_switched_off(patient_clock: MockClock) -> None:
    async with serving(idle, allowed_origins=["*"]) as server:
        for origin in ("https://evil.example", "null", "not an origin"):
            peer = await dial(server.port, headers=f"Origin: {origin}\r\n")
            await peer.aclose()
        await deserted(server)
