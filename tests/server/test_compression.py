"""Compression over a server: what is agreed on, counted, and refused."""

from __future__ import annotations

import pytest
from trio.testing import MockClock

from tests.support.deflating import some_json
from tests.support.harness import echo, tls_contexts
from tests.support.hub import reached
from tests.support.peer import HANDSHAKE, dial
from tests.support.serving import ask, serving, status
from trio_beat import Compression, Identity, Refused, Request, open_hub, serve

OFFER = "permessage-deflate; client_max_window_bits"
TEXT = some_json(4000)


@pytest.mark.parametrize("secure", [False, True])
@pytest.mark.parametrize("offer", [OFFER, "permessage-deflate; server_max_window_bits=9"])
async def test_messages_are_compressed_both_ways(
    patient_clock: MockClock, secure: bool, offer: str
) -> None:
    server_context, client_context = tls_contexts() if secure else (None, None)
    async with serving(echo, compression=Compression(), ssl_context=server_context) as server:
        peer = await dial(server.port, offer=offer, ssl_context=client_context)
        for text in (TEXT, "short", TEXT * 100):
            await peer.send_text(text)
            assert await peer.text() == text
        counts = server.statistics().compression
        assert counts is not None
        assert counts[:4] == (1, 0, 2, 0)
        assert counts.inflated == 3
        assert counts.bytes_before == len(TEXT * 101) > 3 * counts.bytes_after
        assert peer.received < counts.bytes_before / 2
        await peer.aclose()


async def test_it_is_off_unless_asked_for(patient_clock: MockClock) -> None:
    async with serving(echo) as server:
        peer = await dial(server.port, offer="nonsense;;")
        await peer.send_text(TEXT)
        assert await peer.text() == TEXT
        assert peer.received > len(TEXT)
        assert server.statistics().compression is None
        await peer.aclose()


async def test_a_peer_that_offers_nothing_that_is_there_is_plain(patient_clock: MockClock) -> None:
    async with serving(echo, compression=Compression()) as server:
        for offer in (None, "x-unknown", "permessage-deflate; server_max_window_bits=8"):
            peer = await dial(server.port, offer=offer)
            await peer.send_text(TEXT)
            assert await peer.text() == TEXT
            assert peer.received > len(TEXT)
            await peer.aclose()
        counts = server.statistics().compression
        assert counts is not None
        assert counts._asdict() == dict.fromkeys(counts._fields, 0) | {"declined": 1}


async def test_a_malformed_offer_is_refused(patient_clock: MockClock) -> None:
    headers = "Sec-WebSocket-Extensions: secret=;;\r\n"
    request = HANDSHAKE.format(target="/ws/news", headers=headers).encode()
    async with serving(echo, compression=Compression()) as server:
        answer = await ask(server.port, request)
        assert status(answer) == 400
        assert b"malformed Sec-WebSocket-Extensions" in answer
        assert b"secret" not in answer


async def test_a_refusal_by_a_close_frame_is_read(patient_clock: MockClock) -> None:
    async def admit(request: Request) -> Identity | None:
        raise Refused(403, "not you")

    options = {"admit": admit, "refuse_by": "close", "compression": Compression(threshold=0)}
    async with serving(echo, **options) as server:
        peer = await dial(server.port, offer=OFFER)
        close = await peer.closed()
        assert close is not None
        assert close.code == 4003
        counts = server.statistics().compression
        assert counts is not None
        assert counts.accepted == 0
        await peer.aclose()


async def test_a_hub_sends_what_each_can_read(patient_clock: MockClock) -> None:
    async with open_hub() as hub, serving(hub=hub, compression=Compression()) as server:
        plain = await dial(server.port)
        wide, narrow = [
            await dial(server.port, offer=f"permessage-deflate; server_max_window_bits={bits}")
            for bits in (15, 9)
        ]
        peers = (plain, wide, narrow)
        for text in (TEXT, TEXT * 100):
            assert await reached(hub, "broadcast:news", text) == 3
            assert [await peer.text() for peer in peers] == [text] * 3
        await wide.send_text(TEXT)
        assert await narrow.text() == TEXT
        late = await dial(server.port, offer=OFFER)
        assert await late.text() == TEXT  # the last one
        for peer in (*peers, late):
            await peer.aclose()


@pytest.mark.parametrize("value", [True, 6, "on", {}])
async def test_compression_is_checked(value: object) -> None:
    with pytest.raises(TypeError, match="it must be a Compression, or None"):
        await serve(echo, 0, compression=value)  # type: ignore[arg-type]
