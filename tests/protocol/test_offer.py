"""What a client offers of compression, and what may be answered (RFC 7692, section 7.1)."""

from __future__ import annotations

import contextlib
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from websockets.extensions.permessage_deflate import ServerPerMessageDeflateFactory
from websockets.headers import build_extension, parse_extension
from websockets.uri import parse_uri
from websockets.utils import accept_key

from trio_beat import Compression, HandshakeFailed
from trio_beat._protocol.client_handshake import Opened, OpeningHandshake
from trio_beat._protocol.extensions import Negotiation
from trio_beat._protocol.offer import agreed_bits, make_offer

NAME = "permessage-deflate; "
#: What an answer must have where the largest window is offered.
LEAST = NAME + "server_no_context_takeover"


def agree(*values: str, most: int = 15) -> int | None:
    return agreed_bits(Compression(window_bits=most), values)


def test_windows_are_named_where_they_are_not_the_largest() -> None:
    offer = NAME + "client_no_context_takeover; server_no_context_takeover; client_max_window_bits"
    assert make_offer(Compression()) == offer
    smaller = make_offer(Compression(window_bits=10))
    assert smaller == offer + "=10; server_max_window_bits=10"


@pytest.mark.parametrize("client", range(9, 16))
@pytest.mark.parametrize("server", range(9, 16))
def test_agrees_with_servers_of_ours(client: int, server: int) -> None:
    ours = Compression(window_bits=client)
    deflate, response = Negotiation(Compression(window_bits=server)).answer([make_offer(ours)])
    assert deflate is not None
    assert response is not None
    assert deflate.compression.window_bits == min(client, server)
    assert agreed_bits(ours, [response]) == client


@pytest.mark.parametrize("most", range(9, 16))
@pytest.mark.parametrize("wanted", [None, *range(9, 16)])
def test_agrees_with_servers_of_websockets(most: int, wanted: int | None) -> None:
    """Theirs would keep a window unless it is asked not to."""
    ours = Compression(window_bits=most)
    factory = ServerPerMessageDeflateFactory(
        server_max_window_bits=wanted, client_max_window_bits=wanted
    )
    ((_, parameters),) = parse_extension(make_offer(ours))
    answer, theirs = factory.process_request_params(parameters, [])
    bits = agreed_bits(ours, [build_extension([(factory.name, list(answer))])])
    assert theirs.local_no_context_takeover
    assert theirs.remote_no_context_takeover
    assert theirs.remote_max_window_bits == bits == min(most, wanted or 15)


@pytest.mark.parametrize(
    ("answer", "bits"),
    [
        (LEAST, 15),
        (LEAST + "; client_no_context_takeover", 15),
        (LEAST + "; server_max_window_bits=8", 15),
        (LEAST + "; client_max_window_bits=9", 9),
        (LEAST + '; client_max_window_bits="12"; server_max_window_bits=15', 12),
    ],
)
def test_the_server_may_choose_less(answer: str, bits: int) -> None:
    assert agree(answer) == bits


def test_no_answer_is_none() -> None:
    assert agree() is None


NOT = [
    (NAME.rstrip("; "), "has no server_no_context_takeover, which was asked for"),
    (NAME + "client_no_context_takeover", "has no server_no_context_takeover"),
    (LEAST + "; server_no_context_takeover", "has server_no_context_takeover several times"),
    (LEAST + "; client_max_window_bits=9; client_max_window_bits=9", "bits several times"),
    (NAME + "server_no_context_takeover=1", "server_no_context_takeover with a value"),
    (LEAST + "; client_max_window_bits", "client_max_window_bits without a value of 8 to 15"),
    (LEAST + "; server_max_window_bits", "server_max_window_bits without a value"),
    (LEAST + "; server_max_window_bits=16", "server_max_window_bits without a value"),
    (LEAST + "; client_max_window_bits=09", "client_max_window_bits without a value"),
    (LEAST + "; client_max_window_bits=8", "client_max_window_bits=8; zlib has no window below 9"),
    (LEAST + "; secret=1", "has an unknown parameter of permessage-deflate"),
    (LEAST + "; Client_No_Context_Takeover", "has an unknown parameter"),
    ("secret", "has an extension that was not offered; it may be permessage-deflate"),
    (LEAST + ", secret", "has an extension that was not offered"),
    ("x-webkit-deflate-frame", "has an extension that was not offered"),
    ("Permessage-Deflate; server_no_context_takeover", "that was not offered"),
    (f"{LEAST}, {LEAST}", "has permessage-deflate several times; it may be there once"),
    ("", "has a malformed Sec-WebSocket-Extensions"),
    (",", "has a malformed Sec-WebSocket-Extensions"),
    (LEAST + ";", "has a malformed Sec-WebSocket-Extensions"),
    ("secret=;;", "has a malformed Sec-WebSocket-Extensions"),
]


@pytest.mark.parametrize(("answer", "why"), NOT)
def test_a_wrong_answer_fails_and_is_not_quoted(answer: str, why: str) -> None:
    with pytest.raises(HandshakeFailed, match=re.escape(why)) as raised:
        agree(answer)
    assert "secret" not in str(raised.value)
    assert raised.value.__context__ is None


def test_a_smaller_window_that_was_asked_for_must_be_answered() -> None:
    with pytest.raises(HandshakeFailed, match="no server_max_window_bits, which was asked for"):
        agree(LEAST, most=10)
    asked = LEAST + "; server_max_window_bits="
    for answer in (asked + "11", asked + "10; client_max_window_bits=11"):
        with pytest.raises(HandshakeFailed, match="_bits=11; at most 10 was offered"):
            agree(answer, most=10)
    assert agree(asked + "9", most=10) == 10
    assert agree(asked + "10; client_max_window_bits=9", most=10) == 9


def test_several_lines_are_one_answer() -> None:
    with pytest.raises(HandshakeFailed, match="several times"):
        agree(LEAST, LEAST)
    with pytest.raises(HandshakeFailed, match="malformed"):
        agree(LEAST, "")


@given(
    st.lists(st.text(st.characters(max_codepoint=255)), max_size=3),
    st.integers(9, 15),
)
def test_any_header_is_agreed_to_or_fails(values: list[str], most: int) -> None:
    with contextlib.suppress(HandshakeFailed):
        assert agree(*values, most=most) in (None, *range(9, most + 1))


_PARAMETER = st.tuples(
    st.sampled_from(
        [
            "server_no_context_takeover",
            "client_no_context_takeover",
            "server_max_window_bits",
            "client_max_window_bits",
            "other",
        ]
    ),
    st.sampled_from([None, "7", "8", "9", "12", "15", "16", "09"]),
)


@given(st.lists(_PARAMETER, max_size=5), st.integers(9, 15))
def test_what_is_agreed_to_is_what_was_offered(
    parameters: list[tuple[str, str | None]], most: int
) -> None:
    answer = "; ".join(
        [NAME.rstrip("; "), *(name + (f"={value}" if value else "") for name, value in parameters)]
    )
    try:
        bits = agree(answer, most=most)
    except HandshakeFailed:
        return
    answered = dict(parameters)
    assert len(answered) == len(parameters)
    assert answered.pop("server_no_context_takeover") is None
    assert answered.pop("client_no_context_takeover", None) is None
    assert bits == int(answered.pop("client_max_window_bits", None) or most)
    assert 8 <= int(answered.pop("server_max_window_bits", None) or most) <= most
    assert not answered


def opened(answer: str, compression: Compression | None) -> Opened:
    """What comes of a handshake that a server answers with some more headers."""
    handshake = OpeningHandshake(parse_uri("ws://localhost/"), compression=compression)
    found = re.search(rb"Sec-WebSocket-Key: (.*)\r\n", handshake.request)
    assert found is not None
    offers = re.findall(rb"(?m)^Sec-WebSocket-Extensions: (.*)\r$", handshake.request)
    assert offers == ([] if compression is None else [make_offer(compression).encode()])
    head = (
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        f"Sec-WebSocket-Accept: {accept_key(found[1].decode())}\r\n{answer}\r\nbehind"
    )
    result = handshake.receive(head.encode())
    assert result is not None
    return result


def test_a_handshake_tells_what_was_agreed_on() -> None:
    line = f"SEC-websocket-extensions: {LEAST}; client_max_window_bits=11\r\n"
    assert opened(line, Compression()) == Opened(None, b"behind", 11)
    assert opened("", Compression()) == Opened(None, b"behind", None)
    assert opened("", None) == Opened(None, b"behind", None)


def test_a_handshake_without_an_offer_takes_no_extension() -> None:
    with pytest.raises(HandshakeFailed, match="no extensions supported"):
        opened(f"Sec-WebSocket-Extensions: {LEAST}\r\n", None)


def test_a_handshake_fails_by_a_wrong_answer() -> None:
    line = f"Sec-WebSocket-Extensions: {LEAST}\r\n"
    with pytest.raises(HandshakeFailed, match="several times"):
        opened(2 * line, Compression())
