"""The examples of compression."""

from __future__ import annotations

import pytest

import trio_beat
from tests.support.documents import examples, program
from tests.support.peer import dial
from tests.support.serving import serving


@pytest.mark.real
async def test_a_peer_that_offers_it_gets_it() -> None:
    async with program(examples("compression", "python")[0]) as running:
        port, target = await running.target()
        for offer, window in ((None, None), ("permessage-deflate", 15)):
            peer = await dial(port, target, offer=offer)
            assert await peer.text() == f"window: {window}"
            await peer.send_text("x" * 1000)
            assert await peer.text() == "x" * 1000
            assert (peer.received < 500) is (offer is not None)
            await peer.aclose()


@pytest.mark.real
@pytest.mark.parametrize("offered", [False, True])
async def test_a_client_offers_it(offered: bool) -> None:
    compression = trio_beat.Compression() if offered else None
    async with (
        serving(compression=compression) as server,
        program(examples("compression", "python")[1], server.port) as running,
    ):
        assert await running.line() == f"compressed: {offered}\n"
        assert await running.line() == "1600\n"
