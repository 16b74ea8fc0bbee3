"""The examples of what an application can hook into: messages, admission, observers."""

from __future__ import annotations

import pytest

from tests.support.broker import open_broker
from tests.support.documents import examples, program
from tests.support.peer import HANDSHAKE, dial
from tests.support.serving import ask


@pytest.mark.real
async def test_one_message_goes_to_many() -> None:
    async with program(examples("embedding", "python")[1]) as running:
        port, target = await running.target()
        peers = [await dial(port, target) for _ in range(3)]
        await peers[0].send_text("hello")
        for peer in peers:
            assert await peer.text() == "hello"
            await peer.aclose()


@pytest.mark.real
async def test_requests_are_admitted_or_refused() -> None:
    origin = "Origin: https://example.org\r\n"
    async with program(examples("embedding", "python")[2]) as running:
        port, target = await running.target()
        peer = await dial(port, target, headers=origin + "Cookie: token=token-of-alice\r\n")
        assert await peer.text() == "hello, alice"
        await peer.aclose()
        foreign = "Origin: https://example.com\r\n"
        for headers, status in ((foreign, b"403"), ("", b"401"), (origin, b"401")):
            answer = await ask(port, HANDSHAKE.format(target=target, headers=headers).encode())
            assert answer.startswith(b"HTTP/1.1 " + status)
            assert (b"\r\nWWW-Authenticate: Cookie\r\n" in answer) == (status == b"401")


@pytest.mark.real
async def test_an_observer_counts() -> None:
    async with program(examples("embedding", "python")[3]) as running:
        port, target = await running.target()
        for count in (1, 2):
            peer = await dial(port, target)
            assert await peer.text() == "that is all"
            await peer.aclose()
            assert await running.line() == f"handler: {count}\n"


@pytest.mark.real
async def test_an_outage_is_followed() -> None:
    async with open_broker() as broker:
        text = examples("embedding", "python")[4].replace("6379", str(broker.port))
        async with program(text) as running:
            peer = await dial(*await running.target())
            assert (await peer.text()).startswith("message ")
            broker.kill()
            assert (await running.line()).startswith("away: ")
            assert await running.line() == "not published\n"
            await broker.restart()
            while (line := await running.line()) != "back\n":
                assert line == "not published\n"
            assert (await peer.text()).startswith("message ")  # it was kept
            await peer.aclose()
