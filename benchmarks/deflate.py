"""What compression costs: memory of an idle connection, and of a message to many.

Each server with compression as it is by default, and without. Connections are measured after one
message each way, since some make what they compress with only then.
"""

from __future__ import annotations

from typing import Any

import trio

from ._processes import open_load, open_server
from ._suite import Command, Figure, Goal, Options, Run, warm_up
from .peers import DEFLATING

#: Bytes of JSON: of the message each way, and of those to many.
_ONE, _MANY = 1024, 4096
_WARM_UP = 5

_FIGURES = (
    Figure("memory", "KiB"),
    Figure("memory_off", "KiB, off"),
    Figure("cpu", "us/delivery"),
    Figure("cpu_off", "us/delivery, off"),
    Figure("share", "on/off", 2),
    Figure("wire", "bytes", 0),
    Figure("wire_off", "bytes, off", 0),
)
_GOALS = (
    *(Goal("memory", 0.40, peer) for peer in DEFLATING[1:]),
    *(Goal("cpu", 0.30, peer) for peer in DEFLATING[1:]),
    Goal("share", 1.10),
)


async def _memory(run: Run, peer: str, *, deflate: bool) -> float:
    """KiB of an idle connection that has sent and received one message."""
    options = run.options
    async with (
        open_server(peer, "echo", interval=options.interval, deflate=deflate) as server,
        open_load(module="benchmarks._load_deflate") as load,
    ):
        address: dict[str, Any] = {"host": "127.0.0.1", "port": server.port, "target": "/ws/bench"}
        if deflate:
            await load.call("offer")
        await load.call("connect", **address, count=warm_up(options.connections))
        await load.call("exchange", size=_ONE)
        before = server.pss()
        await load.call("connect", **address, count=options.connections)
        await load.call("exchange", size=_ONE)
        # Some free what they needed only at the next beats.
        await trio.sleep(2.5 * options.interval)
        return (server.pss() - before) / options.connections / 1024


async def _cpu(run: Run, peer: str, *, deflate: bool) -> tuple[float, float]:
    """Microseconds and bytes of a delivery."""
    options = run.options
    async with (
        # Beats are few here, so that what is counted is deliveries.
        open_server(peer, "fanout", interval=20.0, deflate=deflate) as server,
        open_load(module="benchmarks._load_deflate") as load,
    ):
        address: dict[str, Any] = {"host": "127.0.0.1", "port": server.port}
        subscribe, publish = "/ws/bench?subscribe-broadcast", "/ws/bench?publish-broadcast"
        if deflate:
            await load.call("offer")
        await load.call("connect", **address, target=subscribe, count=options.connections)
        await load.call("connect", **address, target=publish, count=1)
        await load.call("broadcast", publisher=publish, first=0, count=_WARM_UP, size=_MANY)
        cpu, count = server.cpu(), options.messages
        told = await load.call(
            "broadcast", publisher=publish, first=_WARM_UP, count=count, size=_MANY
        )
        used = server.cpu() - cpu
        run.check_load(peer, "messages", told["busy"])
        return 1e6 * used.total / told["delivered"], told["bytes"]


async def _measure(run: Run, peer: str) -> dict[str, float | None]:
    cpu, wire = await _cpu(run, peer, deflate=True)
    cpu_off, wire_off = await _cpu(run, peer, deflate=False)
    return {
        "memory": await _memory(run, peer, deflate=True),
        "memory_off": await _memory(run, peer, deflate=False),
        "cpu": cpu,
        "cpu_off": cpu_off,
        "share": cpu / cpu_off,
        "wire": wire,
        "wire_off": wire_off,
    }


async def _run(run: Run) -> None:
    async def measure(peer: str) -> dict[str, float | None]:
        return await _measure(run, peer)

    with run.progress(run.options.rounds * len(run.peers)):
        await run.alternate(measure)


COMMAND = Command(
    "deflate",
    "compression: idle connections, and one message to many",
    Options(connections=2000, messages=40, interval=4.0, peers=DEFLATING),
    Options(connections=200, messages=10, interval=0.5, rounds=1, peers=DEFLATING),
    ("connections", "messages", "interval"),
    lambda _: _FIGURES,
    lambda _: _GOALS,
    _run,
)
