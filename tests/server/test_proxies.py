"""Whom a trusted proxy tells, and that a client has no say in it."""

from __future__ import annotations

import logging
import socket
from collections.abc import Iterator, Sequence
from typing import Any, Final

import pytest
from hypothesis import given
from hypothesis import strategies as st
from websockets.datastructures import Headers

from tests.support.requests import head_of, request
from trio_beat._server.pending import PendingSocket, PendingTCP
from trio_beat._server.proxies import Client, Proxies, asked_for, wrong_proxy

FOR: Final = "X-Forwarded-For"
PROTO: Final = "X-Forwarded-Proto"
HOST: Final = "X-Forwarded-Host"
CLIENT: Final = "203.0.113.9"
Pairs = Sequence[tuple[str, str]]


class Connected(socket.socket):
    """A socket that says it is connected to an address of the test's choice."""

    address: Any = ("127.0.0.1", 4242)

    def getpeername(self) -> Any:
        if self.address is None:
            raise OSError("it has left")
        return self.address


class Secure(PendingTCP):
    secure = True


@pytest.fixture(scope="module")
def sock() -> Iterator[Connected]:
    with Connected() as connected:
        yield connected


@pytest.fixture
def own(sock: Connected) -> PendingSocket:
    """A socket of a proxy at 127.0.0.1."""
    sock.address = ("127.0.0.1", 4242)
    return PendingTCP(sock)


def ask(proxies: Proxies, pending: PendingSocket, *pairs: tuple[str, str]) -> Client:
    return proxies.client(pending, Headers([("Host", "own.test"), *pairs]))


def peers(pending: PendingSocket, trusted: Sequence[str], *lines: str) -> str:
    return ask(Proxies(trusted), pending, *((FOR, line) for line in lines)).peer


def test_without_a_trusted_proxy_nothing_is_believed(own: PendingSocket) -> None:
    pairs = [(FOR, CLIENT), (PROTO, "https"), (HOST, "evil.test"), ("Forwarded", f"for={CLIENT}")]
    for trusted in ((), ("127.0.0.2",), ("10.0.0.0/8", "unix", "::/0")):
        client = ask(Proxies(trusted), own, *pairs)
        assert client[1:] == ("127.0.0.1:4242", None, "own.test")
        assert str(client.address) == "127.0.0.1"
        assert not client.forwarded


def test_a_trusted_proxy_is_believed(own: PendingSocket) -> None:
    for trusted in ("127.0.0.1", "127.0.0.0/8", "::ffff:127.0.0.1", "::ffff:127.0.0.0/104"):
        client = ask(Proxies([trusted]), own, (FOR, CLIENT), (PROTO, "https"))
        assert client[1:] == (CLIENT, "https", "own.test")
        assert str(client.address) == CLIENT
        assert client.forwarded


@pytest.mark.parametrize(
    ("lines", "client"),
    [
        ([], "127.0.0.1:4242"),
        ([CLIENT], CLIENT),
        ([f"10.0.0.7, {CLIENT}"], CLIENT),
        ([f"{CLIENT}, 10.0.0.7"], CLIENT),
        ([CLIENT, "10.0.0.7,10.0.0.8", "10.0.0.9"], CLIENT),
        ([f"10.9.9.9, 192.0.2.1, {CLIENT},10.0.0.7"], CLIENT),
        (["192.0.2.1", CLIENT, "10.0.0.7"], CLIENT),
        ([f"{CLIENT}, 192.0.2.1"], "192.0.2.1"),
        # all of them are trusted: the first one asks itself
        (["10.0.0.7, 10.0.0.8"], "10.0.0.7"),
        # ports, IPv6, and IPv4 mapped into it
        ([f"{CLIENT}:5, 10.0.0.7:80"], CLIENT),
        (["[2001:db8::1]:5, 10.0.0.7"], "2001:db8::1"),
        (["2001:db8::1, [fd00::7]:443"], "2001:db8::1"),
        ([f"::ffff:{CLIENT}, ::ffff:10.0.0.7"], CLIENT),
        ([f"192.0.2.1,[::ffff:{CLIENT}]:5\t,  10.0.0.7"], CLIENT),
        # what cannot be read ends the count
        ([""], "127.0.0.1:4242"),
        (["unknown"], "127.0.0.1:4242"),
        ([f"{CLIENT}, unknown"], "127.0.0.1:4242"),
        ([f"{CLIENT}, _hidden, 10.0.0.7"], "10.0.0.7"),
        ([f"{CLIENT}, unknown", "10.0.0.7, 10.0.0.8"], "10.0.0.7"),
        ([f"{CLIENT},, 10.0.0.7"], "10.0.0.7"),
        ([f"{CLIENT},", "10.0.0.7"], "10.0.0.7"),
        ([f"for={CLIENT}, 10.0.0.7"], "10.0.0.7"),
    ],
)
def test_addresses_are_read_from_the_right(
    own: PendingSocket, lines: list[str], client: str
) -> None:
    assert peers(own, ["127.0.0.1", "10.0.0.0/8", "fd00::/8"], *lines) == client


def test_a_chain_has_an_end(own: PendingSocket) -> None:
    """One who has a trusted address of its own makes no work without a bound."""
    chain = ", ".join([CLIENT, *["10.0.0.7"] * 31])
    assert peers(own, ["127.0.0.1", "10.0.0.0/8"], chain) == CLIENT
    assert peers(own, ["127.0.0.1", "10.0.0.0/8"], f"{chain}, 10.0.0.7") == "10.0.0.7"
    lines = chain.split(", ")
    assert peers(own, ["127.0.0.1", "10.0.0.0/8"], *lines) == CLIENT
    assert peers(own, ["127.0.0.1", "10.0.0.0/8"], *lines, "10.0.0.7") == "10.0.0.7"


@pytest.mark.parametrize(
    ("values", "scheme"),
    [
        ([], None),
        (["http"], "http"),
        (["HTTPS"], "https"),
        (["ws"], "http"),
        (["wss"], "https"),
        (["https, http"], "http"),
        (["http", "https"], "https"),
        ([""], None),
        (["gopher"], None),
        (["https,"], None),
        (['"https"'], None),
    ],
)
def test_the_last_scheme_counts(
    own: PendingSocket, sock: Connected, values: list[str], scheme: str | None
) -> None:
    proxies = Proxies(["127.0.0.1"])
    pairs = [(PROTO, value) for value in values]
    assert ask(proxies, own, *pairs).scheme == scheme
    # With TLS of our own it is known without the proxy's word.
    secure = Secure(sock)
    assert ask(proxies, secure, *pairs).scheme == (scheme or "https")
    assert ask(Proxies(), secure, (PROTO, "http")).scheme == "https"


@pytest.mark.parametrize(
    ("values", "host"),
    [
        ([], "own.test"),
        (["site.test"], "site.test"),
        (["site.test:8443"], "site.test:8443"),
        (["[2001:db8::1]:8443"], "[2001:db8::1]:8443"),
        (["evil.test, site.test"], "site.test"),
        (["evil.test", "site.test"], "site.test"),
        ([""], "own.test"),
        (["two words"], "own.test"),
        (["user@site.test"], "own.test"),
        (["site.test/path"], "own.test"),
        (["site.test:x"], "own.test"),
        (["s\xedte.test"], "own.test"),
    ],
)
def test_the_last_host_counts_where_that_is_asked_for(
    own: PendingSocket, values: list[str], host: str
) -> None:
    pairs = [(HOST, value) for value in values]
    assert ask(Proxies(["127.0.0.1"], forwarded_host=True), own, *pairs).host == host
    assert ask(Proxies(["127.0.0.1"]), own, *pairs).host == "own.test"
    assert ask(Proxies(["10.0.0.1"], forwarded_host=True), own, *pairs).host == "own.test"


def test_the_own_host_is_as_it_came(own: PendingSocket) -> None:
    for trusted in ((), ("127.0.0.1",)):
        for host in ("a,b", "", "[::1]:80", "s\xedte.test"):
            assert Proxies(trusted).client(own, Headers([("Host", host)])).host == host


def test_a_request_may_have_no_host(own: PendingSocket) -> None:
    proxies = Proxies(["127.0.0.1"], forwarded_host=True)
    assert proxies.client(own, Headers()).host == ""
    assert proxies.client(own, Headers([(HOST, "site.test")])).host == "site.test"


@pytest.mark.parametrize(
    ("address", "trusted", "peer"),
    [
        (("::1", 4242, 0, 0), "::1", CLIENT),
        (("::1", 4242, 0, 0), "127.0.0.1", "[::1]:4242"),
        (("::ffff:127.0.0.1", 4242, 0, 0), "127.0.0.1", CLIENT),
        (("::ffff:127.0.0.1", 4242, 0, 0), "::ffff:0:0/96", CLIENT),
        (("127.0.0.1", 4242), "::ffff:0:0/96", CLIENT),
        (("fe80::1%lo", 4242, 0, 1), "fe80::/10", CLIENT),
        # `::/0` stands for IPv6, to which IPv4 does not belong however it is written
        (("::ffff:127.0.0.1", 4242, 0, 0), "::/0", "127.0.0.1:4242"),
        ("", "unix", CLIENT),
        ("", "127.0.0.1", "local"),
        (("127.0.0.1", 4242), "unix", "127.0.0.1:4242"),
        # it has left, and nobody knows whether it was trusted
        (None, "unix", "unknown"),
        (None, "0.0.0.0/0", "unknown"),
    ],
)
def test_proxies_of_all_families(sock: Connected, address: Any, trusted: str, peer: str) -> None:
    sock.address = address
    assert peers(PendingTCP(sock), [trusted], CLIENT) == peer


def test_a_unix_socket_has_no_address() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        for pairs in ([], [(FOR, "unix:")], [(FOR, "unknown")]):
            client = ask(Proxies(["unix"]), PendingTCP(ours), *pairs)
            assert not client.forwarded
            assert client == (None, "local", None, "own.test")


addresses: Final = st.one_of(
    st.ip_addresses().map(str),
    st.just(f"::ffff:{CLIENT}"),
    st.sampled_from(["127.0.0.1", "10.0.0.7", "1.2.3.4:5", "[::1]:5", "unknown", "_hidden", ""]),
)
values: Final = st.one_of(
    st.lists(addresses, max_size=4).map(", ".join),
    st.sampled_from(["https", "http", "wss", "evil.test", "a,b", ","]),
    st.text("0123456789abcdef.:,[] \t\"'=;%-", max_size=20),
)
claims: Final = st.lists(
    st.tuples(st.sampled_from([FOR, PROTO, HOST, "Forwarded", "X-Real-IP", FOR.lower()]), values),
    max_size=6,
)


def appended(pairs: Pairs, name: str, value: str, *, joined: bool) -> list[tuple[str, str]]:
    """What a proxy makes of a header: it appends a value to the lines that came, or a line."""
    same = [text for key, text in pairs if key.lower() == name.lower()]
    if not joined:
        return [*pairs, (name, value)]
    others = [(key, text) for key, text in pairs if key.lower() != name.lower()]
    return [*others, (name, ", ".join([*same, value]))]


@given(claims, st.lists(st.booleans(), min_size=3, max_size=3), st.integers(1, 3))
def test_a_client_has_no_say(sent: list[tuple[str, str]], joined: list[bool], proxies: int) -> None:
    """Whatever it sends, and whether proxies append to a line or add one."""
    trusted = Proxies(["127.0.0.1", "10.0.0.0/8"], forwarded_host=True)
    chain = [CLIENT, "10.0.0.7", "10.0.0.8"][:proxies]

    def through(pairs: Pairs) -> Client:
        for before in chain:
            pairs = appended(pairs, FOR, before, joined=joined[0])
            pairs = appended(pairs, PROTO, "https", joined=joined[1])
            pairs = appended(pairs, HOST, "site.test", joined=joined[2])
        with Connected() as sock:
            return ask(trusted, PendingTCP(sock), *pairs)

    assert through(sent) == through([])
    assert through(sent)[1:] == (CLIENT, "https", "site.test")


@given(claims)
def test_one_that_is_not_trusted_has_no_say(sent: list[tuple[str, str]]) -> None:
    with Connected() as sock:
        client = ask(Proxies(["10.0.0.0/8"], forwarded_host=True), PendingTCP(sock), *sent)
    assert client[1:] == ("127.0.0.1:4242", None, "own.test")


@pytest.mark.parametrize("name", [FOR, PROTO, HOST, "Forwarded"])
def test_an_unknown_proxy_is_told_once(
    own: PendingSocket, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    proxies = Proxies(["10.0.0.1"])
    ask(proxies, own)
    assert not caplog.records
    for _ in range(3):
        ask(proxies, own, (name, "s3cret"))
    [record] = caplog.records
    assert record.levelno == logging.WARNING
    assert record.name == "trio_beat.server"
    text = record.getMessage()
    assert text.startswith(f"127.0.0.1:4242 sends {name} ")
    assert "--trusted-proxy" in text
    assert "trusted_proxies" in text
    assert "s3cret" not in text


def test_one_that_has_left_is_not_told_of(
    sock: Connected, caplog: pytest.LogCaptureFixture
) -> None:
    """It may have been trusted; and it is not taken for the one that is to be told of."""
    proxies = Proxies(["127.0.0.1"])
    sock.address = None
    ask(proxies, PendingTCP(sock), (FOR, CLIENT))
    assert not caplog.records
    for address in (("127.0.0.2", 4242), "", ("127.0.0.3", 4242)):
        sock.address = address
        ask(proxies, PendingTCP(sock), (FOR, CLIENT))
    assert [message.split()[0] for message in caplog.messages] == ["127.0.0.2:4242"]


def test_a_trusted_proxy_is_not_told_of(
    own: PendingSocket, caplog: pytest.LogCaptureFixture
) -> None:
    ask(Proxies(["127.0.0.1"]), own, (FOR, CLIENT), ("Forwarded", "for=x"))
    assert not caplog.records


@pytest.mark.parametrize(
    ("trusted", "error", "words"),
    [
        ("127.0.0.1", TypeError, "trusted_proxies is '127.0.0.1'; it must be a list"),
        (b"127.0.0.1", TypeError, "it must be a list of texts"),
        (None, TypeError, "it must be a list of texts"),
        ([1], TypeError, "trusted proxy is 1"),
        (["proxy.test"], ValueError, "'proxy.test' should be an address, a network .* or unix"),
        (["UNIX"], ValueError, "'UNIX' should be"),
        ([""], ValueError, "'' should be"),
        (["10.0.0.0/33"], ValueError, "'10.0.0.0/33' should be"),
        (["127.0.0.1:80"], ValueError, "should be"),
        (["::1", "10.0.0.1/8"], ValueError, "'10.0.0.1/8' has bits .* should be 10.0.0.0/8"),
    ],
)
def test_what_is_no_proxy(trusted: Any, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        Proxies(trusted)


def test_a_forwarded_host_needs_a_proxy() -> None:
    with pytest.raises(ValueError, match="of no use without trusted_proxies"):
        Proxies(forwarded_host=True)
    with pytest.raises(TypeError, match="forwarded_host is 1"):
        Proxies(["::1"], forwarded_host=1)  # type: ignore[arg-type]
    assert wrong_proxy("unix") is wrong_proxy("::/0") is None


def test_the_host_is_put_where_applications_look() -> None:
    head = head_of(request("X-Host: Host: x", "Cookie: a=1", line="GET /Host:%20x HTTP/1.1"))
    parsed = Headers(Host="localhost")
    assert asked_for(head, parsed, "localhost") == (head, parsed)
    told, headers = asked_for(head, parsed, "site.test:8443")
    assert told.raw == head.raw.replace(b"Host: localhost", b"Host: site.test:8443")
    assert (told.target, headers["Host"]) == (head.target, "site.test:8443")
    assert headers["X-Host"] == "Host: x"


def test_a_socket_is_known_by_its_client(own: PendingSocket) -> None:
    proxies = Proxies(["127.0.0.1"])
    assert own.peer == "127.0.0.1:4242"
    proxies.identify(own, head_of(request(f"{FOR}: {CLIENT}", "Bad : header")))
    assert own.peer == "127.0.0.1:4242"
    proxies.identify(own, head_of(request(f"{FOR}: {CLIENT}")))
    assert own.peer == CLIENT
