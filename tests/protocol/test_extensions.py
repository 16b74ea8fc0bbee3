"""Agreeing on compression (RFC 7692, section 7.1)."""

import contextlib
from itertools import product
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from websockets.extensions.permessage_deflate import ClientPerMessageDeflateFactory
from websockets.headers import parse_extension

from trio_beat import Compression, Refused
from trio_beat._protocol.extensions import Negotiation

NAMES = ("server_no_context_takeover", "client_no_context_takeover")
BITS = [str(bits) for bits in range(8, 16)]
#: Every legal offer: each parameter is there or not, with each of its values.
LEGAL = list(
    product(
        (False, True),
        (False, True),
        (None, *BITS),
        (None, "", *BITS),
    )
)


def offer(server: bool, client: bool, server_bits: str | None, client_bits: str | None) -> str:
    parts = ["permessage-deflate"]
    parts += [name for name, there in zip(NAMES, (server, client), strict=True) if there]
    if server_bits is not None:
        parts.append(f"server_max_window_bits={server_bits}")
    if client_bits is not None:
        parts.append("client_max_window_bits" + (f"={client_bits}" if client_bits else ""))
    return "; ".join(parts)


def bits_of(client_bits: str | None) -> int | Literal[True] | None:
    if client_bits is None:
        return None
    return int(client_bits) if client_bits else True


def answer(*values: str, most: int = 15) -> str | None:
    return Negotiation(Compression(window_bits=most)).answer(values)[1]


def test_there_are_360_legal_offers() -> None:
    assert len({offer(*legal) for legal in LEGAL}) == 2 * 2 * 9 * 10 == 360


@pytest.mark.parametrize("most", [9, 12, 15])
def test_every_legal_offer_is_answered_as_the_rfc_allows(most: int) -> None:
    for server, client, server_bits, client_bits in LEGAL:
        text = offer(server, client, server_bits, client_bits)
        negotiation = Negotiation(Compression(window_bits=most))
        deflate, response = negotiation.answer([text])
        if server_bits == "8":  # zlib has no such window
            assert deflate is None
            assert response is None
            assert negotiation.statistics().declined == 1
            continue
        assert deflate is not None
        assert response is not None
        ((name, parameters),) = parse_extension(response)
        assert name == "permessage-deflate"
        answered = dict(parameters)
        assert len(answered) == len(parameters)
        assert all(answered.pop(name, "") is None for name in NAMES)
        granted = min(most, int(server_bits or 15))
        assert deflate.compression.window_bits == granted
        # Section 7.1.2.1: named where the offer names it; 7.1.2.2: never where it was not offered.
        window = {"server_max_window_bits": str(granted)}
        assert answered == (window if server_bits is not None or granted < 15 else {})


def test_clients_of_websockets_agree_to_every_answer() -> None:
    for server, client, server_bits, client_bits in LEGAL:
        if "8" in (server_bits, client_bits):  # which websockets does not offer
            continue
        factory = ClientPerMessageDeflateFactory(
            server_no_context_takeover=server,
            client_no_context_takeover=client,
            server_max_window_bits=None if server_bits is None else int(server_bits),
            client_max_window_bits=bits_of(client_bits),
        )
        response = answer(offer(server, client, server_bits, client_bits))
        assert response is not None
        factory.process_response_params(parse_extension(response)[0][1], [])


@pytest.mark.parametrize(
    "parameters",
    [
        "server_max_window_bits",
        "server_max_window_bits=8",
        "server_max_window_bits=7",
        "server_max_window_bits=16",
        "server_max_window_bits=09",
        "server_max_window_bits=+9",
        "server_max_window_bits=nine",
        "client_max_window_bits=7",
        "client_max_window_bits=16",
        "client_max_window_bits=015",
        "server_no_context_takeover=1",
        "client_no_context_takeover=true",
        "server_no_context_takeover; server_no_context_takeover",
        "client_max_window_bits; client_max_window_bits=10",
        "server_max_window_bits=10; server_max_window_bits=10",
        "mystery",
        "Server_No_Context_Takeover",
    ],
)
def test_an_offer_that_cannot_be_served_is_declined_and_the_next_one_tried(parameters: str) -> None:
    negotiation = Negotiation(Compression())
    bad = f"permessage-deflate; {parameters}"
    assert negotiation.answer([bad]) == (None, None)
    assert negotiation.statistics().declined == 1
    for values in ([f"{bad}, permessage-deflate"], [bad, "permessage-deflate"]):
        deflate, response = negotiation.answer(values)
        assert deflate is not None
        assert response == "permessage-deflate; " + "; ".join(NAMES)
    assert negotiation.statistics().declined == 3


def test_extensions_that_are_unknown_are_passed_over_and_not_counted() -> None:
    negotiation = Negotiation(Compression())
    assert negotiation.answer(["permessage-bzip2, x-webkit-deflate-frame"]) == (None, None)
    assert negotiation.answer([]) == (None, None)
    assert negotiation.statistics().declined == 0
    assert negotiation.answer(["mux; max=4, permessage-deflate"])[0] is not None


def test_values_may_be_quoted() -> None:
    response = answer('permessage-deflate; server_max_window_bits="10"')
    assert response is not None
    assert response.endswith("server_max_window_bits=10")


@pytest.mark.parametrize("value", ["", ",", "permessage-deflate;", "a=b", 'x; y="a b"', "\x7f"])
def test_a_malformed_header_is_refused_and_not_quoted(value: str) -> None:
    with pytest.raises(Refused) as raised:
        answer(value)
    assert raised.value.status == 400
    assert raised.value.logged == "bad request: malformed Sec-WebSocket-Extensions"
    assert raised.value.__cause__ is None


@given(st.lists(st.text(st.characters(max_codepoint=255)), max_size=3))
def test_any_header_is_answered_or_refused(values: list[str]) -> None:
    negotiation = Negotiation(Compression())
    with contextlib.suppress(Refused):
        deflate, response = negotiation.answer(values)
        assert (deflate is None) == (response is None)


def test_connections_share_what_is_agreed_on() -> None:
    negotiation = Negotiation(Compression(window_bits=12))
    first, _ = negotiation.answer(["permessage-deflate"])
    second, _ = negotiation.answer(["permessage-deflate; server_max_window_bits=14"])
    third, _ = negotiation.answer(["permessage-deflate; server_max_window_bits=10"])
    assert first is second is not third
