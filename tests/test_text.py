"""Text from outside."""

from __future__ import annotations

from urllib.parse import urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trio_beat._text import (
    printable,
    public_backend,
    public_channel,
    public_url,
    split_url,
    without_queries,
)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain", "plain"),
        ("gr\u00fc\u00dfe \U0001f600", "gr\u00fc\u00dfe \U0001f600"),
        ("a\r2026 forged\n", r"a\r2026 forged\n"),
        ("\x1b[2J\x07\x7f", r"\x1b[2J\x07\x7f"),
        ("\x9b2J\x85", r"\x9b2J\x85"),  # C1: CSI and NEL
        ("\u2028\u2029", r"\u2028\u2029"),
        ("\u202e\u2066\u200f", r"\u202e\u2066\u200f"),  # bidirectional controls
        ("\ud800", r"\ud800"),
        ("\ufeff\U000e0041", r"\ufeff\U000e0041"),
    ],
)
def test_what_is_not_printable_is_escaped(text: str, shown: str) -> None:
    assert printable(text) == shown


@given(st.text(st.characters()))
def test_what_is_printable_can_be_written_as_one_line(text: str) -> None:
    shown = printable(text)
    assert shown.isprintable()
    assert len(shown.encode().splitlines()) <= 1
    assert printable(shown) == shown


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("/ws/news?token=s3cret", "/ws/news"),
        ("/ws/news#s3cret", "/ws/news"),
        ("/ws/a@b", "/ws/a@b"),
        ("/ws/news?to=//a:s3cret@b", "/ws/news"),
        ("//host/x?s3cret", "//host/x"),
        ("*", "*"),
        ("", ""),
        ("ws://user:s3cret@host:8000/ws/news?token=s3cret", "ws://host:8000/ws/news"),
        ("ws://host:8000/a@b", "ws://host:8000/a@b"),
        ("ws://host/?mail=a@b", "ws://host/"),
        ("ws://user:s3/cr?e#t@host/x", "ws://host/x"),
        ("ws://user:s3@cret@host/x", "ws://host/x"),
        ("ws://user@host", "ws://host"),
        ("redis://:s3cret@host:6379/0?prefix=x", "redis://host:6379/0"),
        ("user:s3cret@host/x", "host/x"),
        ("ws://[::1]:8000/?x", "ws://[::1]:8000/"),
        ("ws://[::1]/a", "ws://[::1]/a"),
        ("memory://", "memory://"),
    ],
)
def test_url_is_shown_without_what_may_be_secret(url: str, shown: str) -> None:
    assert public_url(url) == shown


@pytest.mark.parametrize(
    ("key", "shown"),
    [
        ("session:s3cret:news", "session:...:news"),
        ("session:s3:cret:news", "session:...:news"),
        ("session:s3cret", "session:..."),
        ("session:", "session:..."),
        ("session", "session"),
        ("user:session:news", "user:session:news"),
        ("broadcast:session:a", "broadcast:session:a"),
    ],
)
def test_key_of_a_channel_is_shown_without_that_of_a_session(key: str, shown: str) -> None:
    assert public_channel(key) == shown


def test_query_in_a_sentence_is_left_out() -> None:
    text = "unsupported protocol: GET /ws/news?token=s3cret HTTP/9.9"
    assert without_queries(text) == "unsupported protocol: GET /ws/news?... HTTP/9.9"
    assert without_queries("target '/?s3cret' has") == "target '/?...' has"
    assert without_queries("why? because") == "why? because"


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://:s3cret@host:6379/0?prefix=x", "redis://host:6379/0"),
        ("redis://bob:s3cret@h1:1,[::1]:2/main/0", "redis://h1:1,[::1]:2/main/0"),
        ("redis://host:6379/0?password=s3cret#s3cret", "redis://host:6379/0"),
        # not percent-encoded
        ("redis://bob:12/s3cret@host/0", "redis://host/0"),
        ("redis://bob:12?s3cret@host/0", "redis://host/0"),
        ("redis://bob:12#s3cret@host/0", "redis://host/0"),
        ("redis://bob:1//s3cret@host/0", "redis://host/0"),
        ("redis://bob:s3@cret@host/0", "redis://host/0"),
        ("redis://bob:s3\ncret@host/0", "redis://host/0"),
        ("redis://bob:s3cret@[", "redis://["),
        ("bob:s3cret@host", "host"),
        ("redis:bob:s3cret@host", "host"),
        # without the host
        ("redis://bob:s3cret", "redis://bob:..."),
        ("redis://bob:6379s3cret/0", "redis://bob:.../0"),
        ("redis://:s3[cret]", "redis://:..."),
        ("redis:bob:s3cret", "redis:..."),
        ("redis://h:1,bob:s3cret,[::1]:s3cret,h:2", "redis://h:1,bob:...,[::1]:...,h:2"),
        ("redis://[::1:s3cret", "redis://[::1:s3cret"),  # no port, but what should be an address
        ("memory://", "memory://"),
        ("memory", "memory"),
        ("localhost:6379", "localhost:6379"),
        ("", ""),
    ],
)
def test_url_of_a_backend_is_shown_without_what_may_be_secret(url: str, shown: str) -> None:
    assert public_backend(url) == shown


@given(st.text(), st.text(alphabet="abc:/?#[].,", max_size=8))
def test_nothing_before_the_host_of_a_backend_is_shown(password: str, host: str) -> None:
    assert public_backend(f"redis://{password}@{host}") == public_backend(f"redis://{host}")


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("ws://bob:s3cret", "ws://bob:..."),
        ("ws://bob:s3cret/x:y", "ws://bob:.../x:y"),
        ("ws://[::1]:s3cret/x", "ws://[::1]:.../x"),
        ("/ws/a:b", "/ws/a:b"),
    ],
)
def test_text_in_the_place_of_a_port_is_left_out(url: str, shown: str) -> None:
    assert public_url(url) == shown


@pytest.mark.parametrize(
    ("url", "netloc"),
    [
        ("x://h1,h2:1/a?b#c", "h1,h2:1"),
        ("x://[::1],[::2]:1/a?b#c", "[::1],[::2]:1"),
        ("x://h1,[::1]/a?b#c", "h1,[::1]"),
        ("X://bob:s,3@h1,[::1],h2/a?b#c", "bob:s,3@h1,[::1],h2"),
        ("x://bob:s,3@h/a?b#c", "bob:s,3@h"),
        ("x://h/a?b#c", "h"),
        ("x://,/a?b#c", ","),
    ],
)
def test_url_of_several_hosts_is_taken_apart(url: str, netloc: str) -> None:
    assert split_url(url) == ("x", netloc, "/a", "b", "c")


@given(st.text(alphabet="a_:/?#@,", max_size=8))
def test_other_urls_are_taken_apart_as_ever(url: str) -> None:
    assert split_url(url) == urlsplit(url)


@pytest.mark.parametrize("url", ["x://[", "x://[::1],[", "x://h,::1]", "x://[::1,::2]"])
def test_what_is_no_url_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match="IPv"):
        split_url(url)
