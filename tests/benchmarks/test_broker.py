"""The broker that the benchmark starts, ends and watches."""

from __future__ import annotations

import time

import pytest
import trio

from benchmarks._broker import open_broker
from benchmarks._processes import Failed, run_module


@pytest.mark.real
async def test_a_broker_is_told_from_its_first_answer_and_ends_with_the_context() -> None:
    async with open_broker() as broker:
        assert await broker.ask("SET", "key", "value") == b"OK"
        broker.kill()
        with pytest.raises(OSError, match="attempts to connect"):
            await broker.ask("PING")
        begun = time.monotonic()
        assert begun < await broker.start() <= time.monotonic()
        assert await broker.ask("GET", "key") is None  # it keeps nothing
    with pytest.raises(OSError, match="attempts to connect"):
        await broker.ask("PING")


@pytest.mark.real
async def test_a_broker_tells_when_channels_are_subscribed() -> None:
    async with open_broker() as broker, trio.open_nursery() as nursery:
        stream = await trio.open_tcp_stream("127.0.0.1", broker.port)
        begun = time.monotonic()

        async def subscribe_later() -> None:
            await trio.sleep(0.1)
            await stream.send_all(b"SUBSCRIBE a b\r\n")

        nursery.start_soon(subscribe_later)
        assert await broker.wait_subscribed(2) - begun >= 0.1
        await stream.aclose()


@pytest.mark.real
@pytest.mark.parametrize("way", ["backend", "coredis", "coredis_script"])
async def test_every_way_publishes_and_keeps_the_message(way: str) -> None:
    options = ["--tasks", "3", "--seconds", "0.1"]
    async with open_broker() as broker:
        told = await run_module("benchmarks._publishers", way, broker.url, *options)
        assert told["confirmed"] > 0
        assert told["seconds"] >= 0.1
        assert 0 < told["cpu"] <= told["seconds"]
        for channel in range(3):
            assert await broker.ask("GET", f"broadcast:p{channel}") == b"x" * 100
        stats = (await broker.ask("INFO", "commandstats")).decode()
        calls = {
            line.split(":")[0]: int(line.split("calls=")[1].split(",")[0])
            for line in stats.splitlines()
            if "calls=" in line
        }
        assert calls["cmdstat_publish"] == calls["cmdstat_set"] > told["confirmed"]


@pytest.mark.real
async def test_publishers_without_a_broker_have_failed() -> None:
    options = ["--tasks", "1", "--seconds", "0.1"]
    async with open_broker() as broker:
        url = broker.url
    with pytest.raises(Failed, match="ended"):
        await run_module("benchmarks._publishers", "backend", url, *options)
