"""What an idle connection costs: memory, processor time for each beat, and being let in.

Plain and over TLS, by one definition: what the server's processes run meanwhile, less what they run
without connections, and, while connections are let in, less the beats that fall there.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Set
from typing import Any, Final

import trio

from ._objects import census
from ._processes import (
    CPU,
    Certificate,
    Failed,
    Load,
    Server,
    kernel_memory,
    open_load,
    open_server,
)
from ._statistics import unevenness
from ._suite import TARGET, Command, Figure, Goal, Options, Run, Table, warm_up

#: Intervals in which beats are counted: over two, one server's figures differed by a third.
_BEATS: Final = 4
#: With TLS there are so many fewer: enough for its figures, and its handshakes take long.
_TLS_SHARE: Final = 2
#: Of the histogram: far more than any server has turns in an interval.
_BINS: Final = 100
#: Seconds for which a server is watched that has no connections, or an interval if that is less.
OWN: Final = 1.0
#: Connections that are opened one at a time.
_ALONE: Final = 50
FLOOR: Final = "floor"
_TLS: Final = "over TLS"

FIGURES = (
    Figure("memory", "KiB"),
    Figure("kernel", "KiB, kernel"),
    Figure("cpu", "us/beat"),
    Figure("cpu_user", "user", 0),
    Figure("cpu_system", "system", 0),
    Figure("accept", "us/accept", 0),
    Figure("accepted", "accepted/s", 0),
    Figure("unevenness", "unevenness", 2),
    Figure("memory_tls", "KiB", part=_TLS),
    Figure("cpu_tls", "us/beat", part=_TLS),
    Figure("cpu_user_tls", "user", 0, part=_TLS),
    Figure("cpu_system_tls", "system", 0, part=_TLS),
    Figure("handshake_tls", "ms/handshake", 2, part=_TLS),
    Figure("nagle_tls", "ms wait, Nagle", part=_TLS),
)
GOALS = (
    Goal("memory", 6.2),
    Goal("memory", 9.5, server="trio_beat_handler"),
    Goal("memory", 1.03, "trio_beat", server="trio_beat_identity"),
    Goal("memory", 0.50, "websockets"),
    Goal("memory", 0.30, "trio_websocket"),
    Goal("memory", 0.30, "websockets_trio"),
    Goal("cpu", 1.03, "trio_beat", server="trio_beat_identity"),
    Goal("cpu", 0.85, "picows"),
    Goal("cpu", 0.45, "uvicorn"),
    Goal("cpu", 0.22, "websockets"),
    Goal("cpu", 0.20, "trio_websocket"),
    Goal("cpu", 0.20, "websockets_trio"),
    Goal("accept", 1.0, "picows"),
    Goal("memory_tls", 21),
    Goal("memory_tls", 0.52, "uvicorn"),
    Goal("cpu_tls", 0.40, "uvicorn"),
    Goal("cpu_tls", 0.40, "picows"),
    Goal("handshake_tls", 1.0, "uvicorn"),
    # A delayed acknowledgement takes 40 ms.
    Goal("nagle_tls", 20),
)


async def own_cpu(server: Server, seconds: float) -> CPU:
    """What a server without connections runs in a second."""
    before = server.cpu()
    await trio.sleep(seconds)
    return (server.cpu() - before).scaled(1 / seconds)


async def beats(run: Run, name: str, server: Server, load: Load, own: CPU) -> tuple[CPU, list[int]]:
    """What a beat costs, and when beats fall, for some intervals."""
    interval = run.options.interval
    await load.call("record_beats")
    before, cpu, begun = await load.call("counters"), server.cpu(), trio.current_time()
    await trio.sleep(_BEATS * interval)
    used = server.cpu() - cpu - own.scaled(trio.current_time() - begun)
    after = await load.call("counters")
    histogram = (await load.call("beats", interval=interval, bins=_BINS))["histogram"]
    pings = after["pings"] - before["pings"]
    if not pings:
        raise Failed("no PING came")
    if after["lost"]:
        raise Failed(f"{after['lost']} live connections lost")
    run.check_load(name, "beats", (after["cpu"] - before["cpu"]) / (after["time"] - before["time"]))
    run.check_beats(name, after["open"], pings, _BEATS * after["open"])
    return used.scaled(1 / pings), histogram


async def _measure(
    run: Run,
    peer: str,
    count: int,
    certificate: Certificate | None,
    ciphers: Mapping[str, set[str]],
) -> dict[str, float | None]:
    """Measure a server with so many connections.

    Args:
        run: under way.
        peer: module name.
        count: of connections.
        certificate: None: no TLS.
        ciphers: adds by TLS version and cipher who was measured with it.
    """
    interval, tls = run.options.interval, "_tls" if certificate else ""
    name = f"{peer} {_TLS}" if tls else peer
    async with (
        open_server(peer, "idle", interval=interval, certificate=certificate) as server,
        open_load() as load,
    ):
        address: dict[str, Any] = {"host": "127.0.0.1", "port": server.port, "target": TARGET}
        figures: dict[str, float | None] = {}
        # Until the load has answered, it is still starting, and so may be the server.
        await load.call("counters")
        own = await own_cpu(server, min(OWN, interval))
        if certificate:
            address["ca"] = certificate.ca
            alone = await load.call("open_alone", **address, count=_ALONE)
            figures["nagle_tls"] = 1e3 * alone["seconds"]
        # A handshake takes the client longer than the server: there is no wave of them.
        address["spread"] = run.options.spread or (interval if certificate else 0.0)
        await load.call("connect", **address, count=warm_up(count))
        before, kernel = server.pss(), kernel_memory()
        then, cpu, begun = await load.call("counters"), server.cpu(), trio.current_time()
        let_in = await load.call("connect", **address, count=count)
        accepting = server.cpu() - cpu - own.scaled(trio.current_time() - begun)
        pings = (await load.call("counters"))["pings"] - then["pings"]
        run.check_load(name, "accepting", let_in["busy"])
        for cipher in let_in["ciphers"]:
            ciphers[cipher].add(peer)
        await trio.sleep(interval)
        beat = CPU(0.0, 0.0)
        if peer != FLOOR:
            beat, histogram = await beats(run, name, server, load, own)
            if not tls:
                # Of the last round: the sum of several would level out what does not fall evenly.
                run.report.histograms[peer] = histogram
                figures["unevenness"] = unevenness(histogram)
            figures[f"cpu{tls}"] = 1e6 * beat.total
            figures[f"cpu_user{tls}"] = 1e6 * beat.user
            figures[f"cpu_system{tls}"] = 1e6 * beat.system
        now = kernel_memory()
        figures[f"memory{tls}"] = (server.pss() - before) / count / 1024
        if not address["spread"]:
            figures["accepted"] = count / let_in["seconds"]
        each = (accepting.total - pings * beat.total) / count
        figures |= {"handshake_tls": 1e3 * each} if tls else {"accept": 1e6 * each}
        if not tls and kernel is not None and now is not None:  # half of it is the client's
            figures["kernel"] = (now - kernel) / 2 / count / 1024
        return figures


def _note_ciphers(run: Run, ciphers: Mapping[str, Set[str]]) -> None:
    """Say which TLS the servers were measured with: the same, if the comparison is fair."""
    for cipher, peers in ciphers.items():
        names = "all" if len(ciphers) == 1 else ", ".join(sorted(peers))
        run.note(f"TLS: {cipher}, certificate ECDSA P-256, no session resumed ({names})")


async def _run(run: Run) -> None:
    ciphers = defaultdict[str, set[str]](set)

    async def measure(server: str) -> dict[str, float | None]:
        count = run.options.connections
        plain = await _measure(run, server, count, None, ciphers)
        if server == FLOOR:
            return plain
        fewer = max(1, count // _TLS_SHARE)
        return plain | await _measure(run, server, fewer, run.certificate, ciphers)

    options = run.options
    if not options.spread:
        run.note(
            "connections come as fast as they are let in, and so do their beats: many share one "
            "turn of the server. Where they are spread, most servers pay more: see --spread. Over "
            "TLS they are, over an interval"
        )
    with run.progress(options.rounds * (len(run.peers) + 1) + 1):
        await run.alternate(measure, beside=[FLOOR])
        _note_ciphers(run, ciphers)
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
    ("connections", "interval", "spread"),
    lambda _: FIGURES,
    lambda _: GOALS,
    _run,
)
