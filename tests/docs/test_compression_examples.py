"""The example of compression."""

from __future__ import annotations

import pytest

from tests.support.documents import examples, program
from tests.support.peer import dial


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
