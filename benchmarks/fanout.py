"""What it costs to send one message to many connections, one of which does not read."""

from __future__ import annotations

from typing import Any

from ._processes import open_load, open_server
from ._suite import Command, Figure, Goal, Options, Run
from .peers import IDLE_ONLY

#: The large ones first, so that the small ones, too, find a slow subscriber's backlog.
_SIZES = {"large": 16 * 1024, "small": 100}
#: Of the large messages there are fewer: together they must fit where a slow subscriber's wait.
_LARGE_SHARE = 2
_WARM_UP = 3
#: What the slow subscriber's kernel takes, in bytes.
_SLOW_BUFFER = 4096

FIGURES = (
    *(
        Figure(f"{kind}_{key}", f"{label}, {size}", digits, always=key in ("worst", "lost"))
        for kind, size in (("small", "100 B"), ("large", "16 KiB"))
        for key, label, digits in (
            ("cpu", "us", 1),
            ("p50", "p50 ms", 1),
            ("p99", "p99 ms", 1),
            ("worst", "worst ms", 1),
            ("lost", "lost", 0),
        )
    ),
    Figure("slow_lost", "lost by the slow one", 0, always=True),
)
GOALS = (
    *(Goal(f"{kind}_cpu", 0.70, "websockets") for kind in _SIZES),
    *(Goal(f"{kind}_cpu", 1.15, "picows") for kind in _SIZES),
    *(Goal(f"{kind}_lost", 0) for kind in (*_SIZES, "slow")),
)


async def _measure(run: Run, peer: str) -> dict[str, float | None]:
    options, figures = run.options, dict[str, float | None]()
    async with (
        open_server(peer, "fanout", interval=options.interval) as server,
        open_load() as load,
    ):
        address: dict[str, Any] = {"host": "127.0.0.1", "port": server.port}
        subscribe, publish = "/ws/bench?subscribe-broadcast", "/ws/bench?publish-broadcast"
        slow = f"{subscribe}&slow"
        await load.call("connect", **address, target=subscribe, count=options.connections)
        await load.call("connect", **address, target=publish, count=1)
        await load.call("connect", **address, target=slow, count=1, receive_buffer=_SLOW_BUFFER)
        published = 0

        async def publish_some(size: int, count: int) -> dict[str, Any]:
            nonlocal published
            messages = {"first": published, "count": count, "size": size}
            published += count
            return await load.call("publish", publisher=publish, slow=slow, **messages)

        await load.call("pause", target=slow)
        # The first messages pay for what all share.
        for size in _SIZES.values():
            await publish_some(size, _WARM_UP)
        for kind, size in _SIZES.items():
            count = max(1, options.messages // (1 if kind == "small" else _LARGE_SHARE))
            cpu = server.cpu()
            told = await publish_some(size, count)
            used = server.cpu() - cpu
            run.check_load(peer, f"{kind} messages", told["busy"])
            figures[f"{kind}_cpu"] = 1e6 * used.total / told["delivered"]
            for key in ("p50", "p99", "worst"):
                figures[f"{kind}_{key}"] = 1e3 * told[key]
            figures[f"{kind}_lost"] = told["lost"]
        figures["slow_lost"] = (await load.call("resume", target=slow, count=published))["lost"]
    return figures


async def _run(run: Run) -> None:
    async def measure(peer: str) -> dict[str, float | None]:
        return await _measure(run, peer)

    with run.progress(run.options.rounds * len(run.peers)):
        await run.alternate(measure)


_PEERS = tuple(peer for peer in Options().peers if peer not in IDLE_ONLY)

COMMAND = Command(
    "fanout",
    "one message to many subscribers, one of them slow",
    # Beats are few here, so that what is counted is deliveries.
    Options(connections=4000, messages=40, interval=20.0, peers=_PEERS),
    Options(connections=300, messages=40, interval=20.0, rounds=1, peers=_PEERS),
    ("connections", "messages", "interval"),
    lambda _: FIGURES,
    lambda _: GOALS,
    _run,
)
