"""What it costs to share the work among processes, and how many connections they can hold.

The servers are the command itself, over a broker that is a process of its own, and keep to one
core: where there are two, the load has the other. So what is compared is processor time, of all
processes of a server together; how much faster two cores are cannot be told from that.
"""

from __future__ import annotations

import contextlib
import math
import re
import tempfile
from collections.abc import AsyncIterator, Container, Mapping, Sequence
from pathlib import Path
from typing import IO, Final

import trio

from ._broker import open_broker
from ._processes import (
    Failed,
    Load,
    Server,
    bearable,
    counters,
    kernel_memory,
    most_connections,
    open_command,
    open_load,
    softirq,
)
from ._suite import Command, Figure, Goal, Options, Run, Table, warm_up
from .peers import WORKERS

#: Seconds between PINGs where what is counted is something else.
_QUIET: Final = 20.0
_ECHOES: Final = 50
_SIZE: Final = 100  #: bytes of a message
_WARM_UP: Final = 200
#: Beats of the hold test in which nothing happens; and those that a peer may miss.
_HOLD_BEATS: Final = 3
_MISSES: Final = 3
#: Mute ones for each worker: one is left out once in e ** 12 times.
_MUTE: Final = 12
#: Bytes that a connection may take in all, on both of its sides.
_MOST_BYTES: Final = 24 * 1024
#: Beats after its last byte in which a dead one is to be noticed: half a beat is granted.
_NOTICED: Final = _MISSES + 1.5
#: Seconds for which one that is late is waited for.
_LATE: Final = 30.0
#: Last lines of the server's log that are told when the hold test fails.
_SAID: Final = 2
#: Standard deviations by which a worker may have more connections than the mean.
_UNEVEN: Final = 8
_ENDED: Final = re.compile(r"worker (\d+): (\S+) /ws/hold ended: missed-beats")

FIGURES = (
    Figure("accept", "us an accept"),
    Figure("echo", "us an echo"),
    Figure("delivery", "us a delivery", 2),
    Figure("largest", "largest share by the mean", 3),
    Figure("more", "MiB of a worker more"),
)
GOALS = (
    Goal("accept", 1.2, "one_worker", server="two_workers"),
    Goal("echo", 1.2, "one_worker", server="two_workers"),
    Goal("delivery", 1.2, "one_worker", server="two_workers"),
    Goal("more", 25, server="two_workers"),
)


@contextlib.asynccontextmanager
async def _server(
    url: str, workers: int, *options: str, log: IO[str] | None = None, pinned: bool = True
) -> AsyncIterator[Server]:
    arguments = [f"--workers={workers}", f"--backend={url}", "--port=0", "--grace=0", *options]
    if log is None:
        arguments.append("--log-level=error")
    async with open_command("trio_beat", *arguments, log=log, pinned=pinned) as server:
        yield server


async def _share(server: Server, workers: int) -> float:
    """The most connections that a worker has, by the mean."""
    counts: dict[int, int] = {}
    with trio.move_on_after(30):
        while len(counts) < workers:
            health = await server.health()
            counts[health["worker"]] = health["connections"]
    if len(counts) < workers:
        raise Failed("a worker does not answer")
    return max(counts.values()) * workers / sum(counts.values())


async def _more(url: str, workers: int) -> float:
    """MiB that one worker more takes."""
    sizes = []
    for count in (workers, workers + 1):
        async with _server(url, count) as server:
            await trio.sleep(1)
            sizes.append(server.pss())
    return (sizes[1] - sizes[0]) / 2**20


async def _measure(run: Run, peer: str) -> Mapping[str, float | None]:
    options, workers = run.options, WORKERS.index(peer) + 1
    figures: dict[str, float | None] = {}
    async with contextlib.AsyncExitStack() as stack:
        broker = await stack.enter_async_context(open_broker())
        server = await stack.enter_async_context(
            _server(broker.url, workers, f"--interval={_QUIET}")
        )
        load = await stack.enter_async_context(open_load())
        address = {"host": "127.0.0.1", "port": server.port}
        many, publish = "/ws/many?subscribe-broadcast", "/ws/many?publish-broadcast"
        await load.call("connect", **address, target=many, count=warm_up(_WARM_UP))
        cpu = server.cpu()
        told = await load.call("connect", **address, target=many, count=options.connections)
        figures["accept"] = 1e6 * (server.cpu() - cpu).total / options.connections
        run.check_load(peer, "accepting", told["busy"])
        if workers > 1:
            figures["largest"] = await _share(server, workers)
        await load.call("connect", **address, target=publish, count=1)
        common = {"publisher": publish, "slow": "", "size": _SIZE}
        await load.call("publish", first=0, count=3, **common)
        cpu = server.cpu()
        told = await load.call("publish", first=3, count=max(1, options.messages // 25), **common)
        figures["delivery"] = 1e6 * (server.cpu() - cpu).total / told["delivered"]
        run.check_load(peer, "deliveries", told["busy"])
        if told["lost"]:
            raise Failed(f"{told['lost']} deliveries were lost")
        echoing = await stack.enter_async_context(open_load())
        target = "/ws/e{}?subscribe-broadcast&publish-broadcast&echo"
        await echoing.call("connect", **address, target=target, count=_ECHOES)
        await echoing.call("echo", size=_SIZE, seconds=options.seconds / 10, text=True)
        cpu = server.cpu()
        told = await echoing.call("echo", size=_SIZE, seconds=options.seconds, text=True)
        figures["echo"] = 1e6 * (server.cpu() - cpu).total / told["messages"]
        run.check_load(peer, "echoes", told["busy"])
        if workers > 1:
            figures["more"] = await _more(broker.url, workers)
    return figures


def even_share(most: int) -> int:
    """How many connections a worker may get on average, so that none gets more than so many.

    The kernel draws the worker of each, so their number is Poisson's or nearly so.
    """
    root = math.sqrt(most + _UNEVEN**2 / 4) - _UNEVEN / 2
    return max(1, int(root**2))


async def _hold(run: Run) -> None:
    """Hold very many connections, and see that none is lost and that dead ones are noticed."""
    options = run.options
    interval = options.hold_interval
    share = min(options.per_process, even_share(most_connections()))
    total = bearable(options.hold, _MOST_BYTES)
    if total < options.hold:
        run.note(f"memory is enough to hold {total:,} connections, not {options.hold:,}")
    workers = max(2, -(-total // share))
    counts = [total // workers + (number < total % workers) for number in range(workers)]
    async with contextlib.AsyncExitStack() as stack:
        path = Path(stack.enter_context(tempfile.TemporaryDirectory())) / "log"
        # Appended, so that the server writes at the end wherever it is read.
        log = stack.enter_context(path.open("a"))
        broker = await stack.enter_async_context(open_broker())
        arguments = [f"--interval={interval}", f"--misses={_MISSES}"]
        arguments.append(f"--max-connections={most_connections()}")
        kernel = kernel_memory()
        try:
            server = await stack.enter_async_context(
                _server(broker.url, workers, *arguments, log=log, pinned=False)
            )
            own, begun = server.pss(), trio.current_time()
            loads = await _fill(run, stack, server, counts)
            seconds = trio.current_time() - begun
            run.step(f"hold: {total:,} for {_HOLD_BEATS} beats")
            await trio.sleep(interval)
            rows = await _quiet(run, server, loads, total, own, kernel)
            run.step(f"hold: {_MUTE * workers} of {total:,} fall silent")
            rows += await _dead(run, loads, workers, interval, path)
        except Failed as exc:
            said = path.read_text().splitlines()[-_SAID:]
            raise Failed("; the server: ".join([str(exc), *said])) from exc
    title = f"{total:,} connections over {workers} workers, beats of {interval:g} s"
    rows = [("let in within, s", f"{seconds:.0f}"), *rows]
    run.report.tables.append(Table(title, ("", "hold test"), rows))


async def _fill(
    run: Run, stack: contextlib.AsyncExitStack, server: Server, counts: Sequence[int]
) -> list[Load]:
    """Open so many connections from each load, one load after the other.

    Raises:
        Failed: not all were let in; it tells how many were.
    """
    loads, total = list[Load](), sum(counts)
    for number, count in enumerate(counts):
        run.step(f"hold: {sum(counts[:number]):,} of {total:,}")
        loads.append(
            await stack.enter_async_context(
                open_load(module="benchmarks._load_quiet", pinned=False)
            )
        )
        try:
            await loads[-1].call(
                "connect",
                host="127.0.0.1",
                port=server.port,
                source=f"127.1.{number // 250}.{number % 250 + 1}",
                target="/ws/hold",
                count=count,
            )
        except Failed as exc:
            held = (await counters(loads))["open"]
            raise Failed(f"{held:,} of {total:,} were held, then {exc}") from exc
    return loads


async def _quiet(
    run: Run, server: Server, loads: Sequence[Load], total: int, own: int, kernel: int | None
) -> list[tuple[str, str]]:
    """While nothing happens but beats."""
    seconds = _HOLD_BEATS * run.options.hold_interval
    cpu, irq, before = server.cpu(), softirq(), await counters(loads)
    await trio.sleep(seconds)
    used, served = (server.cpu() - cpu), softirq() - irq
    after = await counters(loads)
    pings = after["pings"] - before["pings"]
    run.check_beats("two_workers", total, pings, _HOLD_BEATS * total)
    run.report.failed |= after["lost"] > 0 or after["odd"] > 0
    memory, now = server.pss(), kernel_memory()
    held = "-" if kernel is None or now is None else f"{(now - kernel) / total / 1024:.1f}"
    return [
        ("open", f"{after['open']:,}"),
        ("live ones lost", f"{after['lost']:,}"),
        ("PINGs answered", f"{pings:,}"),
        ("memory of the server, MiB", f"{memory / 2**20:,.0f}"),
        ("its KiB a connection", f"{(memory - own) / total / 1024:.1f}"),
        ("KiB a connection in the kernel, both ends", held),
        ("CPU of the server, of one core", f"{used.total / seconds:.1%}"),
        ("in system calls of it", f"{used.system / seconds:.1%}"),
        ("us a beat", f"{1e6 * used.total / pings:.1f}"),
        ("softirqs of the machine, of one core", f"{served / seconds:.1%}"),
        ("CPU of the load, of one core", f"{(after['cpu'] - before['cpu']) / seconds:.1%}"),
    ]


async def _dead(
    run: Run, loads: Sequence[Load], workers: int, interval: float, log: Path
) -> list[tuple[str, str]]:
    """Some fall silent, at each worker; the log says whose they were."""
    since: dict[str, float] = {}
    for load in loads:
        told = await load.call("mute", count=_MUTE)
        since |= dict.fromkeys(told["names"], told["time"])
    gone: dict[str, float] = {}
    noticed: set[int] = set()
    end = trio.current_time() + _NOTICED * interval + _LATE
    while (len(gone) < len(since) or len(noticed) < workers) and trio.current_time() < end:
        await trio.sleep(interval / 5)
        for load in loads:
            gone |= (await load.call("gone"))["gone"]
        noticed = _noticed(log, since)
    lost = (await counters(loads))["lost"]
    worst = max((gone[name] - since[name] for name in gone), default=0.0) / interval
    if worst > _NOTICED:
        run.note(f"hold: a dead one was noticed after {worst:.1f} beats, and not {_NOTICED:g}")
    unnoticed = len(since) - len(gone)
    run.report.failed |= unnoticed > 0 or lost > 0 or len(noticed) < workers
    return [
        ("fell silent", f"{len(since):,}"),
        ("not noticed", f"{unnoticed:,}"),
        ("noticed after at most, beats", f"{worst:.2f}"),
        ("workers that noticed one", f"{len(noticed)} of {workers}"),
        ("live ones lost in the end", f"{lost:,}"),
    ]


def _noticed(log: Path, names: Container[str]) -> set[int]:
    """The numbers of the workers that have given up one of these."""
    return {int(number) for number, name in _ENDED.findall(log.read_text()) if name in names}


async def _run(run: Run) -> None:
    async def measure(peer: str) -> Mapping[str, float | None]:
        return await _measure(run, peer)

    await run.alternate_and_hold(measure, _hold)


COMMAND = Command(
    "workers",
    "one worker, and two together",
    Options(connections=2000, messages=2000, seconds=3.0, peers=WORKERS),
    Options(connections=300, messages=250, seconds=0.5, rounds=1, peers=WORKERS),
    ("connections", "messages", "seconds", "hold", "hold_interval", "per_process"),
    lambda _: FIGURES,
    lambda _: GOALS,
    _run,
    "two_workers",
)
