"""Where the broker is: what a URL says, and what is said about one that is wrong."""

from __future__ import annotations

import os
import ssl
import traceback
from pathlib import Path
from urllib.parse import SplitResult, quote

import pytest
import trustme
from cryptography.hazmat.primitives import serialization
from hypothesis import given
from hypothesis import strategies as st

from trio_beat import BackendError
from trio_beat.backends.redis.address import SCHEMES, Address


def parse(url: str) -> Address:
    return Address.from_text(url)


def refusal(url: str) -> str:
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - the caller looks at the text
        parse(url)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_host_is_enough() -> None:
    address = parse("redis://broker")
    assert address == Address(nodes=(("broker", 6379),))
    assert (address.service, address.database, address.username) == (None, 0, None)
    assert (address.password, address.password_file, address.prefix) == (None, None, "")
    assert (address.timeout, address.client_name, address.tls) == (5.0, "trio-beat", False)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_every_scheme(scheme: str) -> None:
    sentinel = scheme.endswith("+sentinel")
    address = parse(f"{scheme}://broker/main/2" if sentinel else f"{scheme}://broker/2")
    assert address.tls == scheme.startswith(("rediss", "valkeys"))
    assert address.service == ("main" if sentinel else None)
    assert address.nodes == (("broker", 26379 if sentinel else 6379),)
    assert address.database == 2
    assert address.shown.startswith(f"{scheme}://broker:")


@pytest.mark.parametrize("base", ["redis", "rediss", "valkey", "valkeys"])
def test_a_cluster_is_refused_with_that_word(base: str) -> None:
    assert "Cluster are not supported yet" in refusal(f"{base}+cluster://bob:s3cret@broker")


@pytest.mark.parametrize(
    ("hosts", "nodes"),
    [
        ("h", [("h", 6379)]),
        ("h:1", [("h", 1)]),
        ("H_1.example:65535", [("H_1.example", 65535)]),
        ("b\u00fccher.example", [("b\u00fccher.example", 6379)]),
        ("127.0.0.1:7000", [("127.0.0.1", 7000)]),
        ("[::1]", [("::1", 6379)]),
        ("[fe80::1%eth0]:7000", [("fe80::1%eth0", 7000)]),
        ("bob:pass@h:1", [("h", 1)]),
        ("bob:p,a:s,s@h:1", [("h", 1)]),
    ],
)
def test_host_and_port(hosts: str, nodes: list[tuple[str, int]]) -> None:
    assert list(parse(f"redis://{hosts}").nodes) == nodes


def test_several_sentinels() -> None:
    address = parse("redis+sentinel://h1,h2:26380,[::1],[::2]:1/main")
    assert address.nodes == (("h1", 26379), ("h2", 26380), ("::1", 26379), ("::2", 1))
    assert (address.service, address.database) == ("main", 0)
    shown = "redis+sentinel://h1:26379,h2:26380,[::1]:26379,[::2]:1/main/0"
    assert address.shown == shown
    assert parse("valkey+sentinel://h/my%2Fmain/3").service == "my/main"


def test_every_parameter() -> None:
    address = parse(
        "valkeys+sentinel://bob@h/main/1?prefix=a%20b%2B+&timeout=2.5&client_name=chat-1"
        "&password_file=/run/a+b&ca=ca.pem&cert=c.pem&key=k.pem&sentinel_username=eve"
        "&sentinel_password_file=/run/s"
    )
    assert address == Address(
        nodes=(("h", 26379),),
        scheme="valkeys+sentinel",
        service="main",
        database=1,
        username="bob",
        password_file=Path("/run/a+b"),
        prefix="a b++",
        timeout=2.5,
        client_name="chat-1",
        ca=Path("ca.pem"),
        cert=Path("c.pem"),
        key=Path("k.pem"),
        sentinel_username="eve",
        sentinel_password_file=Path("/run/s"),
    )


@pytest.mark.parametrize("prefix", ["a", "a:user", "users", "User", "a:b:"])
def test_a_prefix_is_any_text_that_no_key_begins_with(prefix: str) -> None:
    assert parse(f"redis://h?prefix={prefix}").prefix == prefix


def test_an_empty_prefix_is_none() -> None:
    assert parse("redis://h?prefix=") == parse("redis://h")


@pytest.mark.parametrize(
    ("userinfo", "name", "password"),
    [
        ("bob:s3cret", "bob", "s3cret"),
        (":s3cret", None, "s3cret"),
        ("bob", "bob", None),
        ("bob:", "bob", None),
        ("", None, None),
        ("b%40b:%25%2F%3f%23%40%3A", "b@b", "%/?#@:"),
        ("b:a:b", "b", "a:b"),
        ("b:a@b", "b", "a@b"),
        ("b:a+b c", "b", "a+b c"),
        ("%C3%BC:\u00fc", "\u00fc", "\u00fc"),
    ],
)
def test_user_and_password(userinfo: str, name: str | None, password: str | None) -> None:
    address = parse(f"redis://{userinfo}@h")
    assert (address.username, address.password) == (name, password)


@given(st.text(min_size=1), st.text(min_size=1))
def test_whatever_is_percent_encoded_is_read(name: str, password: str) -> None:
    address = parse(f"redis://{quote(name, safe='')}:{quote(password, safe='')}@h:1/2")
    assert (address.username, address.password) == (name, password)
    assert (address.nodes, address.database) == ((("h", 1),), 2)


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("redis://", "no host"),
        ("redis:///0", "no host"),
        ("redis://bob:s3cret@", "no host"),
        ("redis://bob:s3cret@:6379", "a host is empty"),
        ("redis://h 1", "a host has characters"),
        ("redis://::1", "a host is empty"),
        ("redis://h1:1:2", "port of host 'h1' is not a number from 1 to 65535"),
        ("redis://h:0", "port of host 'h' is not a number from 1 to 65535"),
        ("redis://h:65536", "port of host 'h'"),
        ("redis://h:", "port of host 'h'"),
        ("redis://h:\u0661", "port of host 'h'"),
        ("redis://h:" + "9" * 5000, "port of host 'h'"),
        ("redis://h1,h2", "there are 2 hosts; one is allowed, redis+sentinel:// takes several"),
        ("valkeys://h1,h2", "valkey+sentinel://"),
        ("redis+sentinel://h1,/x", "a host is empty"),
        ("redis://h/x", "database 'x' is not a number, 0 or more"),
        ("redis://h/-1", "database '-1'"),
        ("redis://h/0/", "database '0/'"),
        ("redis://h/0/1", "database '0/1'"),
        ("redis://h/2147483648", "database '2147483648' is more than 2147483647"),
        ("redis://h/" + "9" * 5000, "database '99"),
        ("redis+sentinel://h", "no name of the primary; expected redis+sentinel://HOST"),
        ("redis+sentinel://h/", "no name of the primary"),
        ("redis+sentinel://h//0", "no name of the primary"),
        ("redis+sentinel://h/main/x", "database 'x'"),
        ("redis+sentinel://h/main/0/1", "more than a name and a database"),
        ("redis+sentinel://h/%ff", "the name of the primary is not UTF-8"),
        ("redis://h#x", "a fragment"),
        ("redis://h?prefx=x", "parameter 'prefx' is unknown; allowed are prefix, timeout,"),
        ("redis://h?&", "parameter '' is unknown"),
        ("redis://h?db=1", "parameter 'db' is unknown"),
        ("redis://h?prefix=a&prefix=a", "parameter prefix is given twice"),
        ("redis://h?prefix", "parameter prefix has no value"),
        ("redis://h?ca=", "parameter ca has no value"),
        ("redis://h?prefix=%f", "parameter prefix has a % without two hexadecimal digits"),
        ("redis://h?prefix=%ff", "parameter prefix is not UTF-8"),
        ("redis://h?prefix=user", "prefix 'user' begins like a key that has none"),
        ("redis://h?prefix=broadcast:x", "prefix 'broadcast:x' begins like a key"),
        ("redis://h?prefix=trio-beat", "prefix 'trio-beat' begins like a key"),
        ("redis://h?password_file=a%00b", "password_file is no file name"),
        ("redis://h?timeout=0", "timeout '0' is not a number of seconds > 0"),
        ("redis://h?timeout=nan", "timeout 'nan'"),
        ("redis://h?timeout=1_0", "timeout '1_0'"),
        ("redis://h?timeout=1e3", "timeout '1e3'"),
        ("redis://h?timeout=" + "9" * 400, "timeout '99"),
        ("redis://h?client_name=a%20b", "client_name 'a b' may have printable ASCII"),
        ("redis://h?client_name=%C3%BC", "client_name"),
        ("redis://h?client_name=a%0a", r"client_name 'a\n'"),
        ("redis://:x@h?password_file=f", "a password and a password_file; one of them"),
        ("redis://h?ca=f", "ca is of no use without TLS; see rediss://"),
        ("valkey+sentinel://h/x?cert=f", "cert is of no use without TLS; see valkeys+sentinel://"),
        ("rediss://h?key=f", "key is of no use without cert"),
        ("rediss://h?sentinel_username=f", "without Sentinel; see rediss+sentinel://"),
        ("redis://h?sentinel_password_file=f", "without Sentinel; see redis+sentinel://"),
        ("redis+sentinel://h/x?sentinel_username=f", "without sentinel_password_file"),
        ("redis://bob:%zz@h", "the password has a % without two hexadecimal digits"),
        ("redis://bob:100%@h", "the password has a % without two hexadecimal digits"),
        ("redis://%ff:x@h", "the user name is not UTF-8"),
        ("redis://\udcff:x@h", "the user name is not UTF-8"),
        ("http://h", "scheme 'http' is none of redis, rediss,"),
    ],
)
def test_a_wrong_part_is_named_with_what_is_allowed(url: str, words: str) -> None:
    assert words in refusal(url)


@pytest.mark.parametrize(
    ("hosts", "words"),
    [
        ("[::1]x", "a host is not HOST, HOST:PORT, or an IPv6 address in [brackets]"),
        ("[::1", "a host is not HOST"),
        ("x[::1]", "a host is not HOST"),
        ("[::x]", "what stands in [brackets] is not an IPv6 address"),
        ("[127.0.0.1]", "is not an IPv6 address"),
    ],
)
def test_what_is_no_ipv6_address_is_named(hosts: str, words: str) -> None:
    # Not every Python takes such a URL apart.
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - the text is looked at below
        Address.parse(SplitResult("redis", hosts, "", "", ""))
    assert words in str(caught.value)


#: Passwords that people do not percent-encode, and other ways to get a URL wrong.
LEAKS = [
    "redis://bob:s3/cret@h",
    "redis://bob:s3?cret@h",
    "redis://bob:s3#cret@h",
    "redis://bob:12/s3cret@h",
    "redis://bob:12?s3cret@h",
    "redis://bob:12#s3cret@h",
    "redis://bob:12?prefix=s3cret@h",
    "redis://bob:%zzs3cret@h",
    "redis://bob:%ffs3cret@h",
    "redis://bob:s3cret@h:x",
    "redis://bob:s3cret@[",
    "redis://bob:s3cret\u2100@h",
    "redis://[s3cret]",
    "redis://bob:s3cret@h/x",
    "redis://bob:s3cret@h?x=1",
    "redis://bob:s3cret@h1,h2",
    "redis://bob:s3cret@h?password_file=x",
    "redis://bob:s3cret",
    "redis://:s3cret",
    "redis://h:6379:s3cret",
    "redis://h?password=s3cret",
    "redis://h?Auth=s3cret",
    "redis://h?sentinel_password=s3cret",
    "redis+cluster://bob:s3cret@h",
    "redis+sentinel://bob:s3cret@h",
    "redis+sentinel://bob:s3cret@h1,h2:x/main",
]


@pytest.mark.parametrize("url", LEAKS)
def test_no_error_has_the_password(url: str) -> None:
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - whatever it says
        parse(url)
    told = "".join(traceback.format_exception(caught.value.with_traceback(None)))
    assert "s3cret" not in told
    assert "cret" not in told.replace("secret", "")


def test_a_password_in_the_query_is_told_where_to_go() -> None:
    assert "password_file" in refusal("redis://h?password=s3cret")


def test_the_password_is_not_shown() -> None:
    address = parse("redis://bob:s3cret@h:1/2?prefix=x")
    assert address.password == "s3cret"
    assert "s3cret" not in repr(address)
    assert address.shown == str(address.shown) == "redis://h:1/2"


def test_the_password_is_read_from_its_file_each_time(tmp_path: Path) -> None:
    file = tmp_path / "password"
    address = parse(f"redis+sentinel://bob@h/x?password_file={file}&sentinel_password_file={file}")
    for text, password in [
        ("one", "one"),
        ("two\n", "two"),
        ("three\r\n", "three"),
        (" f\u00fcnf \n\n", " f\u00fcnf \n"),
    ]:
        file.write_bytes(text.encode())
        assert address.read_password() == password
        assert address.read_sentinel_password() == password


def test_without_a_file_it_is_what_the_url_has() -> None:
    assert parse("redis://:s3cret@h").read_password() == "s3cret"
    assert parse("redis://h").read_password() is None
    # A user is asked for by name also where it needs none.
    assert parse("redis://bob@h").read_password() == ""
    assert parse("redis+sentinel://:s3cret@h/x").read_sentinel_password() is None


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "cannot read '.*/password': No such file"),
        (b"", "/password' is empty"),
        (b"\n", "is empty"),
        (b"s3cret\xff", "is not UTF-8"),
        (b"s3cret" * 20_000, "has more than 65536 bytes"),
    ],
)
def test_a_file_without_a_password_is_explained(
    content: bytes | None, words: str, tmp_path: Path
) -> None:
    file = tmp_path / "password"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(BackendError, match=f"^password_file: .*{words}") as caught:
        parse(f"redis://h?password_file={file}").read_password()
    told = "".join(traceback.format_exception(caught.value.with_traceback(None)))
    assert "s3cret" not in told


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "password")
    with pytest.raises(BackendError, match="/password' is not a regular file"):
        parse(f"redis://h?password_file={tmp_path / 'password'}").read_password()


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Certificates of a private authority."""
    path = tmp_path_factory.mktemp("tls")
    authority = trustme.CA()
    authority.cert_pem.write_to_path(path / "ca.pem")
    leaf = authority.issue_cert("client.example")
    leaf.private_key_and_cert_chain_pem.write_to_path(path / "both.pem")
    leaf.private_key_pem.write_to_path(path / "key.pem")
    leaf.cert_chain_pems[0].write_to_path(path / "cert.pem")
    authority.issue_cert("x.example").private_key_pem.write_to_path(path / "other.pem")
    (path / "text.pem").write_text("no certificate")
    (path / "empty.pem").write_text("")
    return path


def test_tls_checks_certificate_and_host_name(files: Path) -> None:
    for query in ("", f"?ca={files}/ca.pem"):
        context = parse(f"rediss://h{query}").make_ssl_context()
        assert context is not None
        assert (context.verify_mode, context.check_hostname) == (ssl.CERT_REQUIRED, True)
    assert context is not None
    assert len(context.get_ca_certs()) == 1
    assert parse("redis://h").make_ssl_context() is None


@pytest.mark.parametrize("query", ["cert={0}/cert.pem&key={0}/key.pem", "cert={0}/both.pem"])
def test_a_client_certificate_has_its_key_in_the_same_file_or_another(
    query: str, files: Path
) -> None:
    assert parse(f"rediss://h?{query.format(files)}").make_ssl_context() is not None


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ("ca={0}/nowhere.pem", r"ca: cannot read '.*nowhere\.pem': No such file"),
        ("ca={0}/text.pem", r"ca: '.*text\.pem' has no certificate"),
        ("ca={0}/empty.pem", r"ca: '.*empty\.pem' has no certificate"),
        ("ca={0}", "ca: cannot read '.*"),
        ("cert={0}/nowhere.pem", r"cert: cannot read '.*nowhere\.pem': No such file"),
        ("cert={0}/cert.pem", r"cert: in '.*cert\.pem' are no certificate and key"),
        ("cert={0}/cert.pem&key={0}/other.pem", r"'.*cert\.pem' and '.*other\.pem' are no"),
        ("cert={0}/cert.pem&key={0}/nowhere.pem", "cert: cannot read '.*': No such file"),
        ("cert={0}/text.pem", r"cert: in '.*text\.pem' are no certificate"),
    ],
)
def test_a_file_of_tls_that_cannot_be_used_is_named(query: str, words: str, files: Path) -> None:
    with pytest.raises(BackendError, match=words) as caught:
        parse(f"rediss://h?{query.format(files)}").make_ssl_context()
    assert "\n" not in str(caught.value)


def test_an_encrypted_key_asks_nobody(files: Path) -> None:
    key = serialization.load_pem_private_key((files / "key.pem").read_bytes(), None)
    locked = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.BestAvailableEncryption(b"x"),
    )
    (files / "locked.pem").write_bytes(locked)
    address = parse(f"rediss://h?cert={files}/cert.pem&key={files}/locked.pem")
    with pytest.raises(BackendError, match="its private key is encrypted"):
        address.make_ssl_context()
