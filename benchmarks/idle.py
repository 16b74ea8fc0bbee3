"""What an idle connection costs: memory, processor time for each beat, and being let in."""

from __future__ import annotations

from typing import Any

import trio

from ._objects import census
from ._processes import Failed, Load, Server, kernel_memory, open_load, open_server
from ._statistics import unevenness
from ._suite import TARGET, Command, Figure, Goal, Options, Run, Table, warm_up

#: Intervals in which beats are counted.
_BEATS = 2
#: With TLS there are so many fewer: for its memory that is enough, and its handshakes take long.
_TLS_SHARE = 4
#: Of the histogram: far more than any server has turns in an interval.
_BINS = 100
FLOOR = "floor"

FIGURES = (
    Figure("memory", "KiB"),
    Figure("memory_tls", "KiB, TLS"),
    Figure("kernel", "KiB, kernel"),
    Figure("cpu", "us/beat"),
    Figure("cpu_user", "user", 0),
    Figure("cpu_system", "system", 0),
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
    run.check_load(peer, "beats", (after["cpu"] - before["cpu"]) / (after["time"] - before["time"]))
    run.check_beats(peer, after["open"], pings, _BEATS * after["open"])
    # Of the last round: the sum of several would level out what does not fall evenly.
    run.report.histograms[peer] = histogram
    return {
        "cpu": 1e6 * used.total / pings,
        "cpu_user": 1e6 * used.user / pings,
        "cpu_system": 1e6 * used.system / pings,
        "unevenness": unevenness(histogram),
    }


async def _plain(run: Run, peer: str) -> dict[str, float | None]:
    options = run.options
    count, interval = options.connections, options.interval
    async with (
        open_server(peer, "idle", interval=interval) as server,
        open_load() as load,
    ):
        address: dict[str, Any] = {"host": "127.0.0.1", "port": server.port, "target": TARGET}
        await load.call("connect", **address, count=warm_up(count))
        before, kernel = server.pss(), kernel_memory()
        let_in = await load.call("connect", **address, count=count)
        await trio.sleep(interval)
        figures: dict[str, float | None] = {}
        run.check_load(peer, "accepting", let_in["busy"])
        if peer != FLOOR:
            figures.update(await _beats(run, peer, server, load, interval))
        now = kernel_memory()
        figures["memory"] = (server.pss() - before) / count / 1024
        figures["accepted"] = count / let_in["seconds"]
        if kernel is not None and now is not None:  # half of it is the client's
            figures["kernel"] = (now - kernel) / 2 / count / 1024
        return figures


async def _tls(run: Run, peer: str) -> dict[str, float]:
    count = max(1, run.options.connections // _TLS_SHARE)
    interval = run.options.interval
    async with (
        open_server(peer, "idle", interval=interval, certificate=run.certificate) as server,
        open_load() as load,
    ):
        address: dict[str, Any] = {"host": "127.0.0.1", "port": server.port, "target": TARGET}
        address["ca"] = run.certificate.ca
        await load.call("connect", **address, count=warm_up(count))
        before = server.pss()
        await load.call("connect", **address, count=count)
        await trio.sleep(1.25 * interval)
        if lost := (await load.call("counters"))["lost"]:
            raise Failed(f"{lost} live connections lost over TLS")
        return {"memory_tls": (server.pss() - before) / count / 1024}


async def _run(run: Run) -> None:
    async def measure(server: str) -> dict[str, float | None]:
        plain = await _plain(run, server)
        return plain if server == FLOOR else {**plain, **await _tls(run, server)}

    options = run.options
    with run.progress(options.rounds * (len(run.peers) + 1) + 1):
        await run.alternate(measure, beside=[FLOOR])
        run.step("objects")
        try:
            rows = await census(min(options.connections, 1000))
        except Failed as exc:
            run.note(f"objects were not counted: {exc}")
            run.report.failed = True
            return
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
