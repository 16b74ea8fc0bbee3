"""What the browser's client makes of a server that closes."""

from __future__ import annotations

import pytest
import trio
from selenium import webdriver

from tests.support.browser import chromium, wait_for
from tests.support.http import log, open_clients, open_each, state
from tests.support.page import drive, serving_page
from trio_beat import Connection

__all__ = ["chromium"]  # a fixture

pytestmark = [pytest.mark.real, pytest.mark.browser]

ENDS = [1008, 4000, 4099]
COME_BACK = [1000, 1011, 4100]
BUSY = [1012, 1013]
#: Pauses are as long as they can be, and every timer fires early.
_FASTER = """
const real = window.setTimeout;
Math.random = () => 0.999999;
window.setTimeout = (callback, delay) => real(callback, delay / 80);
"""


async def close(connection: Connection) -> None:
    """Close with the code that the path ends with."""
    code = int(connection.path.rpartition("/")[2])
    await connection.aclose(code, f"this is {code}")


async def test_close_codes_end_it_or_bring_it_back(chromium: webdriver.Chrome) -> None:
    async with serving_page(close) as server:

        def use() -> None:
            codes = ENDS + COME_BACK + BUSY
            # Every pause is as short as it can be.
            chromium.execute_script("Math.random = () => 0")
            open_each(chromium, [f"ws://127.0.0.1:{server.port}/ws/{code}" for code in codes])

            def lost(number: int) -> int:
                return len(log(chromium, "reconnecting", "close", client=number))

            returning = range(len(ENDS), len(ENDS + COME_BACK))
            wait_for(chromium, lambda _: all(lost(number) >= 1 for number in range(len(codes))))
            wait_for(chromium, lambda _: all(lost(number) >= 2 for number in returning), 20)
            for number, code in enumerate(codes):
                entries = log(chromium, "open", "reconnecting", "close", client=number)
                first, second = entries[:2]
                assert first.kind == "open"
                assert second.detail["code"] == code
                assert second.detail["reason"] == f"this is {code}"
                if code in ENDS:
                    # The others came back meanwhile.
                    assert second.kind == "close"
                    assert len(entries) == 2
                    assert state(chromium, number) == "closed"
                    continue
                assert second.kind == "reconnecting"
                if code in BUSY:
                    assert second.detail["pause"] == 8
                else:
                    assert second.detail["pause"] == 1
                    assert entries[2].kind == "open"
                    assert entries[2].at - second.at >= 1 - 0.01
            chromium.execute_script("clients.forEach((client) => client.close())")

        await drive(chromium, server, use)


async def test_pauses_grow_until_a_connection_has_lived_for_an_interval(
    chromium: webdriver.Chrome,
) -> None:
    connections = 0

    async def close_soon(connection: Connection) -> None:
        nonlocal connections
        connections += 1
        if connections == 6:
            await trio.sleep(1.5)

    async with serving_page(close_soon) as server:

        def use() -> None:
            chromium.execute_script(_FASTER)
            # So many misses: the shortened timers are no reason to give up an attempt.
            url = f"ws://127.0.0.1:{server.port}/ws/"
            open_clients(chromium, url, interval=1, misses=400)
            wait_for(chromium, lambda c: len(log(c, "reconnecting")) >= 8, 30)
            pauses = [entry.detail["pause"] for entry in log(chromium, "reconnecting")[:8]]
            assert pauses == pytest.approx([4, 8, 16, 30, 30, 4, 8, 16], rel=0.001)
            chromium.execute_script("clients[0].close()")

        await drive(chromium, server, use)
