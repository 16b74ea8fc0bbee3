"""The examples of what an application can hook into: messages, admission, observers."""

from __future__ import annotations

import pytest

from tests.support.documents import examples, program
from tests.support.peer import dial


@pytest.mark.real
async def test_one_message_goes_to_many() -> None:
    async with program(examples("embedding", "python")[1]) as running:
        port, target = await running.target()
        peers = [await dial(port, target) for _ in range(3)]
        await peers[0].send_text("hello")
        for peer in peers:
            assert await peer.text() == "hello"
            await peer.aclose()
