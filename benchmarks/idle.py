"""What an idle connection costs: memory, processor time for each beat, and being let in."""

from __future__ import annotations

from typing import Any

import trio

from ._objects import census
from ._processes import Failed, Load, Server, kernel_memory, open_load, open_server
from ._statistics import unevenness
from ._suite import Command, Figure, Goal, Options, Run, Table

#: Connections before the first look at the memory: they pay for what all share.
_WARM_UP = 10
#: Intervals in which beats are counted.
_BEATS = 2
#: With TLS there are so many fewer: for its memory that is enough, and its handshakes take long.
_TLS_SHARE = 4
_BINS = 16
FLOOR = "floor"

FIGURES = (
    Figure("memory", "KiB"),
    Figure("memory_tls", "KiB, TLS"),
    Figure("kernel", "KiB, kernel"),
    Figure("cpu", "us/beat"),
    Figure("cpu_user", "user"),
    Figure("cpu_system", "system"),
    Figure("accepted", "accepted/s", 0),
    Figure("unevenness", "unevenness", 2),
)
GOALS = (
    Goal("memory", 7.5),
    Goal("memory", 0.50, "websockets"),
    Goal("memory", 0.30, "trio_websocket"),
    Goal("memory", 0.30, "websockets_trio"),
    Goal("cpu", 0.42, "websockets"),
    Goal("cpu", 0.20, "trio_websocket"),
    Goal("cpu", 0.20, "websockets_trio"),
    Goal("cpu", 1.1, "uvicorn"),
    Goal("accepted", 1.5, "websockets", at_least=True),
)


async def _beats(
    run: Run, peer: str, server: Server, load: Load, interval: float
) -> dict[str, float]:
    """Count what beats cost, and when they fall, for some intervals."""
    await load.call("record_beats")
    before, cpu = await load.call("counters"), server.cpu()
    await trio.sleep(_BEATS * interval)
    used = server.cpu() - cpu
    after = await load.call("counters")
    histogram = (await load.call("beats", interval=interval, bins=_BINS))["histogram"]
    pings = after["pings"] - before["pings"]
    if not pings:
        raise Failed("no PING came")
    if after["lost"]:
        raise Failed(f"{after['lost']} live connections lost")
    run.check_load(peer, (after["cpu"] - before["cpu"]) / (after["time"] - before["time"]))
    so_far = run.report.histograms.setdefault(peer, [0] * _BINS)
    run.report.histograms[peer] = [a + b for a, b in zip(so_far, histogram, strict=True)]
    return {
        "cpu": 1e6 * used.total / pings,
        "cpu_user": 1e6 * used.user / pings,
        "cpu_system": 1e6 * used.system / pings,
        "unevenness": unevenness(histogram),
    }


async def _plain(run: Run, peer: str) -> dict[str, float | None]:
    options = run.options
    count, interval = options.connections, options.interval
    # Kernel memory is looked at before there is a client: half of it is the client's.
    async with (
        open_server(peer, "idle", interval=interval) as server,
        open_load() as load,
    ):
        address: dict[str, Any] = {"host": "127.0.0.1", "port": server.port}
        target = "/ws/bench?subscribe-broadcast"
        await load.call("connect", **address, target=target, count=_WARM_UP)
        before, kernel = server.pss(), kernel_memory()
        let_in = await load.call("connect", **address, target=target, count=count)
        await trio.sleep(interval)
        figures: dict[str, float | None] = {}
        if peer != FLOOR:
            run.check_load(peer, let_in["busy"])
            figures.update(await _beats(run, peer, server, load, interval))
        now = kernel_memory()
        figures["memory"] = (server.pss() - before) / count / 1024
        figures["accepted"] = count / let_in["seconds"]
        if kernel is not None and now is not None:
            figures["kernel"] = (now - kernel) / 2 / count / 1024
        return figures


async def _tls(run: Run, peer: str) -> dict[str, float]:
    count = max(1, run.options.connections // _TLS_SHARE)
    interval = run.options.interval
    async with (
        open_server(peer, "idle", interval=interval, certificate=run.certificate) as server,
        open_load() as load,
    ):
        address: dict[str, Any] = {"host": "127.0.0.1", "port": server.port}
        address |= {"target": "/ws/bench", "ca": run.certificate.ca}
        await load.call("connect", **address, count=_WARM_UP)
        before = server.pss()
        await load.call("connect", **address, count=count)
        await trio.sleep(1.25 * interval)
        return {"memory_tls": (server.pss() - before) / count / 1024}


async def _run(run: Run) -> None:
    async def measure(peer: str) -> dict[str, float | None]:
        return {**await _plain(run, peer), **await _tls(run, peer)}

    async def floor(_: str) -> dict[str, float | None]:
        return await _plain(run, FLOOR)

    options = run.options
    with run.progress(options.rounds * len(run.peers) + 2):
        await run.alternate(measure)
        run.step("the floor")
        run.report.add(FLOOR, await run.attempt(FLOOR, floor))
        run.step("objects", 1)
        rows = await census(min(options.connections, 1000))
        for server, text in (
            ("trio_beat", "measured: all that the process grew by"),
            (FLOOR, "measured: the floor, a bare Trio task on a socket"),
        ):
            if (memory := run.report.value("memory", server)) is not None:
                rows.append([text, "", round(1024 * memory)])
        title = "What one idle connection of trio-beat consists of"
        run.report.tables.append(Table(title, ("object", "count", "bytes"), rows))
        run.step("", 1)


COMMAND = Command(
    "idle",
    "idle connections",
    Options(connections=4000, interval=4.0),
    Options(connections=400, interval=0.5, rounds=1),
    ("connections", "interval"),
    lambda _: FIGURES,
    lambda _: GOALS,
    _run,
)
