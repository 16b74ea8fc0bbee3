"""The examples of programs that use trio-websocket."""

from __future__ import annotations

import pytest

from tests.support.documents import document, examples, program
from tests.support.peer import dial
from trio_beat import trio_websocket


@pytest.mark.real
@pytest.mark.parametrize("number", [0, 1])
async def test_a_program_echoes(number: int) -> None:
    async with program(examples("trio-websocket", "python")[number]) as running:
        peer = await dial(*await running.target())
        await peer.send_text("hello")
        assert await peer.text() == "hello"
        await peer.send_close(1000)
        close = await peer.closed()
        assert close is not None
        assert close.code == 1000
        await peer.aclose()


@pytest.mark.real
async def test_a_program_has_a_hub() -> None:
    async with program(examples("trio-websocket", "python")[2]) as running:
        port, target = await running.target()
        one, two = await dial(port, target), await dial(port, target)
        await one.send_text("hello")
        assert await two.text() == "hello"
        for peer in (one, two):
            await peer.aclose()


@pytest.mark.parametrize("name", trio_websocket.__all__)
def test_each_name_is_mentioned(name: str) -> None:
    assert f"``{name}" in document("trio-websocket")
