"""What a client's URL, headers and other arguments may be."""

from __future__ import annotations

import enum
import re
import ssl
import traceback
from typing import Any

import pytest

from tests.support.fake_server import URL
from tests.support.harness import tls_contexts
from trio_beat import connect
from trio_beat._client.address import make_address


class Word(str, enum.Enum):  # noqa: UP042 - a StrEnum is formatted by its value
    NAME = "X-Token"
    VALUE = "chat"


def test_members_of_enumerations_are_sent_by_their_values() -> None:
    address = make_address(
        URL, headers=[(Word.NAME, Word.VALUE)], subprotocols=[Word.VALUE], ssl_context=None
    )
    ((name, value),), (subprotocol,) = address.headers, address.subprotocols
    assert f"{name} {value} {subprotocol}" == "X-Token chat chat"


class TestArguments:
    @pytest.mark.parametrize(
        "url",
        [
            "http://localhost/",
            "localhost:8000",
            "ws:///path",
            "ws://localhost/#part",
            "ws://localhost:port/",
            "ws://localhost:99999/",
            "ws://[::1/",
            "ws://user@localhost/",
            "ws://localhost/a b",
            "",
        ],
    )
    def test_of_no_websocket(self, url: str) -> None:
        with pytest.raises(ValueError, match=r"^'.*' (is not the URL of a WebSocket|has char)"):
            connect(url)

    @pytest.mark.parametrize(
        ("options", "text"),
        [
            ({"headers": {"Host": "x"}}, "the handshake's own"),
            ({"headers": {"sec-websocket-key": "x"}}, "the handshake's own"),
            ({"headers": {"A b": "x"}}, "cannot be sent"),
            ({"headers": {"A": "x "}}, "cannot be sent"),
            ({"headers": {"A": "\t"}}, "cannot be sent"),
            ({"headers": {"Content-Length": "0"}}, "the handshake's own"),
            ({"ssl_context": tls_contexts()[0]}, "ssl_context is a server's"),
            ({"headers": [("A", "x\r\nB: y")]}, "cannot be sent"),
            ({"headers": [("A", "\u2028")]}, "cannot be sent"),
            ({"subprotocols": ["a b"]}, "is not a token"),
            ({"subprotocols": "chat"}, "must be a sequence of names"),
            ({"ssl_context": ssl.create_default_context()}, "is not secure"),
            ({"connect_timeout": 0}, "connect_timeout is 0"),
            ({"message_size": 0}, "message_size is 0"),
            ({"inbound": 0}, "inbound is 0"),
            ({"outbox": -1}, "outbox is -1"),
        ],
    )
    def test_that_can_never_be_right(self, options: dict[str, Any], text: str) -> None:
        with pytest.raises(ValueError, match=text):
            connect(URL, **options)


@pytest.mark.parametrize(
    "url",
    [
        "http://user:s3cret@host/?token=s3cret",
        "ws://user:s3cret@host/?token=s3cret#fragment",
        "ws://user:s3/cret@host/",
        "ws://host/\x01?token=s3cret",
        "ws://user:s3cret@\u2100/",
    ],
)
def test_url_that_is_not_valid_is_shown_without_its_secrets(url: str) -> None:
    with pytest.raises(ValueError, match="://") as caught:
        connect(url)
    told = "".join(traceback.format_exception(caught.value.with_traceback(None)))
    assert not re.search("s3|cret", told)


def test_header_that_cannot_be_sent_is_named_without_its_value() -> None:
    with pytest.raises(ValueError, match="header 'Authorization' or its value") as caught:
        connect("ws://host/", headers={"Authorization": "Bearer s3cret\n"})
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"url": b"ws://host/?token=s3cret"}, "^url is a bytes; it must be a text$"),
        ({"headers": "Authorization: s3cret"}, "^headers is a str; it must be a mapping, or pairs"),
        ({"headers": None}, "^headers is a NoneType; it must be a mapping, or pairs of texts$"),
        ({"headers": ["s3cret"]}, "^headers has what is no pair; it must be"),
        ({"headers": [("A", "B", "s3cret")]}, "^headers has what is no pair; it must be"),
        ({"subprotocols": ["bearer", "s3cret="]}, "^subprotocol 2 is not a token"),
        ({"subprotocols": ["bearer", b"s3cret"]}, "^subprotocol 2 is not a token"),
        ({"subprotocols": "s3cret"}, "^subprotocols is a text; it must be a sequence of names$"),
    ],
)
def test_what_may_be_secret_is_not_quoted(arguments: dict[str, Any], text: str) -> None:
    with pytest.raises((TypeError, ValueError), match=text) as caught:
        connect(**{"url": URL, **arguments})
    assert "s3cret" not in str(caught.value)


def test_an_address_shows_no_secret() -> None:
    address = make_address("ws://u:s3cret@host/?t=s3cret", {"A": "s3cret"}, ["s3cret"], None)
    assert "s3cret" not in repr(address)
