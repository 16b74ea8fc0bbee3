"""Compression of a service below trio-websocket: what is the service's alone."""

from __future__ import annotations

import pytest
from trio.testing import MockClock

from tests.support.deflating import some_json
from tests.support.harness import echo, tls_contexts
from tests.support.peer import dial
from tests.support.trio_websocket import ProgramHandler, accepted, running, watched, whole
from trio_beat import Compression
from trio_beat.trio_websocket import open_service


@pytest.mark.parametrize("tls", [False, True])
async def test_the_service_compresses_what_it_accepts_itself(
    tls: bool, patient_clock: MockClock
) -> None:
    for_server, for_client = tls_contexts() if tls else (None, None)
    chosen = Compression()
    async with running(whole, handler=echo, context=for_server, compression=chosen) as program:
        peer = await dial(program.port, offer="permessage-deflate", ssl_context=for_client)
        for text in ("x" * 1000, "short", some_json(100_000)):
            await peer.send_text(text)
            assert await peer.text() == text
        counts = program.service.statistics().compression
        assert counts is not None
        assert (counts.accepted, counts.compressed, counts.inflated) == (1, 2, 3)
        await peer.aclose()


@pytest.mark.parametrize("program", [accepted, watched], ids=["accepted", "watched"])
async def test_what_trio_websocket_accepts_is_plain(
    program: ProgramHandler, patient_clock: MockClock
) -> None:
    async with running(program, handler=echo, compression=Compression()) as one:
        peer = await dial(one.port, offer="permessage-deflate")
        await peer.send_text("x" * 1000)
        assert await peer.text() == "x" * 1000
        assert peer.received > 1000
        counts = one.service.statistics().compression
        assert counts is not None
        assert (counts.accepted, counts.compressed, counts.inflated) == (0, 0, 0)
        await peer.aclose()


async def test_its_compression_is_checked() -> None:
    with pytest.raises(TypeError, match="it must be a Compression, or None"):
        open_service(compression="on")  # type: ignore[arg-type]
