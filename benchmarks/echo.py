"""What a message costs that comes in and goes out again."""

from __future__ import annotations

from ._processes import open_load, open_server
from ._suite import Command, Figure, Goal, Options, Run
from .peers import IDLE_ONLY

_SIZES = {"small": (100, True), "large": (64 * 1024, False)}

FIGURES = (
    Figure("small_rate", "messages/s, 100 B", 0),
    Figure("small_cpu", "us, 100 B"),
    Figure("large_rate", "messages/s, 64 KiB", 0),
    Figure("large_cpu", "us, 64 KiB"),
)
GOALS = (
    Goal("small_cpu", 0.95, "websockets_uvloop"),
    Goal("large_cpu", 1.0, "websockets_uvloop"),
    Goal("small_cpu", 0.5, "trio_websocket"),
    Goal("large_cpu", 0.5, "trio_websocket"),
)


async def _measure(run: Run, peer: str) -> dict[str, float | None]:
    options, figures = run.options, dict[str, float | None]()
    async with (
        open_server(peer, "echo", interval=options.interval) as server,
        open_load() as load,
    ):
        await load.call(
            "connect",
            host="127.0.0.1",
            port=server.port,
            target="/ws/bench",
            count=options.connections,
        )
        for kind, (size, text) in _SIZES.items():
            # The first messages pay for what all share.
            await load.call("echo", size=size, seconds=options.seconds / 10, text=text)
            cpu = server.cpu()
            told = await load.call("echo", size=size, seconds=options.seconds, text=text)
            used = server.cpu() - cpu
            run.check_load(peer, f"{kind} messages", told["busy"])
            figures[f"{kind}_rate"] = told["messages"] / told["seconds"]
            figures[f"{kind}_cpu"] = 1e6 * used.total / told["messages"]
    return figures


async def _run(run: Run) -> None:
    async def measure(peer: str) -> dict[str, float | None]:
        return await _measure(run, peer)

    with run.progress(run.options.rounds * len(run.peers)):
        await run.alternate(measure)


_PEERS = tuple(peer for peer in Options().peers if peer not in IDLE_ONLY)

COMMAND = Command(
    "echo",
    "messages in and out",
    Options(connections=50, seconds=3.0, interval=20.0, peers=_PEERS),
    Options(connections=50, seconds=0.7, interval=20.0, rounds=1, peers=_PEERS),
    ("connections", "seconds", "interval"),
    lambda _: FIGURES,
    lambda _: GOALS,
    _run,
)
