"""Connections without a network whose messages are compressed."""

from __future__ import annotations

import pytest
import trio
from trio.testing import MockClock

from tests.support.deflating import some_json
from tests.support.harness import echo
from trio_beat import Compression, Connection, Heartbeat, Limits, open_hub
from trio_beat.testing import open_pair, open_pairs

BEAT = "--heartbeat--"
SMALL = Compression(threshold=0, window_bits=10)


@pytest.mark.parametrize("content", ["", "x", "é" * 2000, b"", b"\0" * 5000, some_json(200_000)])
async def test_both_sides_compress(content: str | bytes, autojump_clock: MockClock) -> None:
    async with open_pairs(echo, compression=SMALL) as pairs:
        peer = await pairs.connect()
        assert peer.connection.compression == SMALL
        await peer.send(content)
        assert await peer.receive() == content
        counts = pairs.server.statistics().compression
        assert counts is not None
        assert (counts.accepted, counts.inflated) == (1, 1)
        assert counts.compressed == (len(content) > 1)


@pytest.mark.parametrize(
    ("compression", "compress"), [(None, None), (None, True), (SMALL, False), (None, False)]
)
async def test_both_have_to(
    compression: Compression | None, compress: bool | None, autojump_clock: MockClock
) -> None:
    async with open_pair(echo, compression=compression, compress=compress) as peer:
        assert peer.connection.compression is None
        await peer.send("x" * 1000)
        assert await peer.receive() == "x" * 1000


@pytest.mark.parametrize("behind", [None, "x"])
async def test_a_compressed_answer_to_a_text_heartbeat_is_a_beat(
    behind: str | None, autojump_clock: MockClock
) -> None:
    """A browser compresses it, as it does each message."""
    received: list[str | bytes] = []

    async def handler(connection: Connection) -> None:
        async for message in connection:
            received.append(message)

    options = {"compression": SMALL, "heartbeat": Heartbeat(1.0, 2, BEAT)}
    async with open_pair(handler, echo_heartbeats=True, **options) as peer:  # type: ignore[arg-type]
        for _ in range(5):
            await trio.sleep(1)
            if behind is not None:
                await peer.send(behind)
        assert peer.text_heartbeats >= 4
        assert peer.connection.closed is None
    assert set(received) <= {behind}


async def test_what_inflates_to_more_than_the_limit(autojump_clock: MockClock) -> None:
    async with open_pair(echo, compression=SMALL, limits=Limits(message_size=10_000)) as peer:
        for size in (9_999, 10_000):
            await peer.send(b"\0" * size)
            assert await peer.receive() == b"\0" * size
        await peer.send(b"\0" * 10_001)
        assert (await peer.wait_closed()).code == 1009


async def test_a_hub_with_plain_peers_beside(autojump_clock: MockClock) -> None:
    text = some_json(100_000)
    async with open_hub() as hub, open_pairs(hub=hub, compression=SMALL) as pairs:
        target = "/ws/news?subscribe-broadcast"
        peers = [await pairs.connect(target, compress=it) for it in (True, False)]
        await hub.publish("broadcast:news", text)
        await hub.publish("broadcast:news", "behind")
        for peer in peers:
            assert [await peer.receive(), await peer.receive()] == [text, "behind"]
        counts = pairs.server.statistics().compression
        assert counts is not None
        assert counts.accepted == 1
