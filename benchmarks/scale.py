"""Whether the cost of a connection stays flat, and how many can be held."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AsyncExitStack
from typing import Any

import trio

from ._processes import (
    Failed,
    Load,
    Server,
    bearable,
    counters,
    most_connections,
    open_load,
    open_server,
)
from ._suite import OURS, TARGET, Command, Figure, Goal, Options, Run, Table, warm_up
from .peers import IDLE_ONLY

#: Intervals in which beats are counted.
_BEATS = 2
_HOLD_BEATS = 3
#: Bytes that a connection may take in all, on both of its sides: see `bearable`.
_MOST_BYTES = 48 * 1024


def _figures(options: Options) -> list[Figure]:
    sizes = options.sizes
    return [
        *(Figure(f"memory_{size}", f"KiB at {size:,}") for size in sizes),
        Figure("memory_growth", "x", 2),
        *(Figure(f"cpu_{size}", f"us/beat at {size:,}") for size in sizes),
        Figure("cpu_growth", "x", 2),
    ]


def _goals(options: Options) -> list[Goal]:
    return [Goal("memory_growth", 1.05), Goal("cpu_growth", 1.05)]


async def _measure(run: Run, peer: str, sizes: Sequence[int]) -> dict[str, float | None]:
    """Measure up to the largest of these sizes that the server lets in."""
    options = run.options
    figures: dict[str, float | None] = {figure.key: None for figure in _figures(options)}
    async with (
        open_server(peer, "idle", interval=options.interval) as server,
        open_load() as load,
    ):
        arguments: dict[str, Any] = {"host": "127.0.0.1", "port": server.port, "target": TARGET}
        await load.call("connect", **arguments, count=warm_up(options.sizes[0]))
        before, connected = server.pss(), 0
        for size in sizes:
            try:
                await load.call("connect", **arguments, count=size - connected)
                connected = size
                figures[f"cpu_{size}"] = await _beats(run, peer, server, load)
                figures[f"memory_{size}"] = (server.pss() - before) / size / 1024
            except Failed as exc:
                run.report.failed |= peer in OURS
                run.note(f"{peer} cannot be measured with {size:,} connections: {exc}")
                break
    least, most = options.sizes[0], options.sizes[-1]
    for kind in ("memory", "cpu"):
        low, high = figures[f"{kind}_{least}"], figures[f"{kind}_{most}"]
        if low is not None and high is not None:
            figures[f"{kind}_growth"] = high / low
    return figures


async def _beats(run: Run, peer: str, server: Server, load: Load) -> float:
    """Microseconds of processor time that a beat takes."""
    await trio.sleep(run.options.interval)
    then, cpu = await load.call("counters"), server.cpu()
    await trio.sleep(_BEATS * run.options.interval)
    used, now = server.cpu() - cpu, await load.call("counters")
    if now["lost"]:
        raise Failed(f"{now['lost']} live connections lost")
    pings: int = now["pings"] - then["pings"]
    run.check_load(peer, "beats", (now["cpu"] - then["cpu"]) / (now["time"] - then["time"]))
    run.check_beats(peer, now["open"], pings, _BEATS * now["open"])
    if not pings:
        raise Failed("no PING came")
    return 1e6 * used.total / pings


async def _hold(run: Run) -> None:
    options = run.options
    total, interval = bearable(options.hold, _MOST_BYTES), options.hold_interval
    if total < options.hold:
        run.note(f"memory is enough to hold {total:,} connections, not {options.hold:,}")
    share = min(options.per_process, most_connections())
    counts = [min(share, total - begin) for begin in range(0, total, share)]
    pairs: list[tuple[Server, Load]] = []
    async with AsyncExitStack() as stack:
        seconds = 0.0
        for number, count in enumerate(counts):
            run.step(f"hold: {sum(counts[:number]):,} of {total:,}")
            server = await stack.enter_async_context(
                open_server("trio_beat", "idle", interval=interval)
            )
            load = await stack.enter_async_context(open_load())
            pairs.append((server, load))
            let_in = await load.call(
                "connect", host="127.0.0.1", port=server.port, target=TARGET, count=count
            )
            seconds += let_in["seconds"]
        run.step(f"hold: {total:,} for {_HOLD_BEATS} beats")
        cpu = sum(server.cpu().total for server, _ in pairs)
        before = await counters([load for _, load in pairs])
        await trio.sleep(_HOLD_BEATS * interval)
        cpu = sum(server.cpu().total for server, _ in pairs) - cpu
        after = await counters([load for _, load in pairs])
        memory = sum(server.pss() for server, _ in pairs)
    lost, pings = after["lost"], after["pings"] - before["pings"]
    run.check_beats("trio_beat", after["open"], pings, _HOLD_BEATS * total)
    run.report.failed |= lost > 0
    run.report.tables.append(
        Table(
            f"Held for {_HOLD_BEATS} beats of {interval:g} s",
            (
                "connections",
                "live ones lost",
                "processes",
                "PINGs answered",
                "let in within, s",
                "memory of all, MiB",
                "CPU of one core",
            ),
            [
                [
                    after["open"],
                    lost,
                    len(counts),
                    pings,
                    round(seconds, 1),
                    round(memory / 2**20),
                    f"{cpu / (_HOLD_BEATS * interval):.1%}",
                ]
            ],
        )
    )


async def _run(run: Run) -> None:
    sizes = {peer: list(run.options.sizes) for peer in run.peers}

    async def measure(peer: str) -> dict[str, float | None]:
        figures = await _measure(run, peer, sizes[peer])
        # What it did not let in once it is not asked for again, each time for a minute.
        sizes[peer] = [size for size in sizes[peer] if figures[f"memory_{size}"] is not None]
        return figures

    await run.alternate_and_hold(measure, _hold)


_PEERS = tuple(peer for peer in Options().peers if peer not in IDLE_ONLY)

COMMAND = Command(
    "scale",
    "rising numbers of connections",
    Options(sizes=(1000, 4000, 16_000), interval=4.0, hold=100_000, peers=_PEERS),
    Options(
        sizes=(100, 400, 1600), interval=0.5, rounds=1, hold=2000, hold_interval=2.0, peers=_PEERS
    ),
    ("sizes", "interval", "hold", "hold_interval", "per_process"),
    _figures,
    _goals,
    _run,
)
