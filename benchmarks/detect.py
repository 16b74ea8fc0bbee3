"""How surely each server notices a dead peer, and spares a live one.

No server is busy here, so all of them are measured at once, each with a load of its own; where it
is allowed, each pair in a network of its own that is cut at the end.
"""

from __future__ import annotations

import signal
from contextlib import ExitStack
from typing import Any, Final

import trio

from ._network import SERVER, Network, NoNamespaces, network
from ._processes import Load, Server, open_load, open_server
from ._statistics import median
from ._suite import Command, Figure, Goal, Options, Run
from .peers import IDLE_ONLY

MISSES: Final = 3
#: Intervals for which a handler sleeps, and a large message takes: longer than any server waits.
_SLOW: Final = 6
#: Messages for a handler that sleeps: more than any server's buffer holds.
_FLOOD: Final = ["sleep {seconds}", *["x" * 1024] * 200]
_LARGE: Final = 512 * 1024
_FROZEN: Final = 3
_LIVING: Final = ("slow", "large", "live")
#: What must be known of some of them.
_NOTES: Final = {
    "picows": "picows gives up after one unanswered PING: its library allows no more",
    "hypercorn": "hypercorn does not look at what answers its PINGs",
}
#: A server that has not noticed so many intervals after it should have never does.
_NEVER: Final = 3


def _few(options: Options) -> int:
    """How many connections have a slow handler, and how many send slowly."""
    return max(1, options.connections // 4)


def _figures(options: Options) -> list[Figure]:
    few = _few(options)
    return [
        Figure("silent", "silent, s", 2),
        Figure("silent_worst", "worst", 2, always=True),
        Figure("silent_missed", "unnoticed", 0, always=True),
        Figure("cut", "cut, s", 2),
        Figure("cut_worst", "worst", 2, always=True),
        Figure("cut_missed", "unnoticed", 0, always=True),
        Figure("killed", f"live dropped of {options.connections + 2 * few}", 0, always=True),
        Figure("killed_frozen", "frozen", 0, always=True),
        Figure("killed_slow", f"slow handler, of {few}", 0, always=True),
        Figure("killed_large", f"slow sender, of {few}", 0, always=True),
        Figure("killed_idle", "no reason", 0, always=True),
    ]


def _goals(options: Options) -> list[Goal]:
    latest = (MISSES + 1) * options.interval + 0.3
    return [
        *(Goal(f"{kind}_worst", latest) for kind in ("silent", "cut")),
        *(Goal(f"{kind}_missed", 0) for kind in ("silent", "cut")),
        Goal("killed", 0),
    ]


async def _noticed(
    kind: str, group: str, server: Server, load: Load, gone: frozenset[str] = frozenset()
) -> dict[str, float | None]:
    """How long after each peer's last byte the server's application knew.

    Args:
        kind: prefix of the figures.
        group: of connections.
        gone: those that had ended before; there is nothing to notice.
    """
    last_bytes = await load.call("last_sent", target=f"/ws/{group}")
    silent_since = {target: when for target, when in last_bytes.items() if target not in gone}
    if not silent_since:
        return {}
    delays = [server.ends[t] - since for t, since in silent_since.items() if t in server.ends]
    missed = len(silent_since) - len(delays)
    figures: dict[str, float | None] = {f"{kind}_missed": missed}
    # Where some are never noticed, no delay would tell the truth.
    if not missed:
        figures |= {kind: median(delays), f"{kind}_worst": max(delays)}
    return figures


def _count(server: Server, group: str) -> int:
    return sum(target.startswith(f"/ws/{group}") for target in server.ends)


async def _scenario(
    options: Options, server: Server, load: Load, net: Network | None
) -> dict[str, float | None]:
    interval, figures = options.interval, dict[str, float | None]()
    host = SERVER if net else "127.0.0.1"
    few = _few(options)
    groups = {"live": options.connections, "mute": options.connections, "slow": few, "large": few}
    for group, count in groups.items():
        # Spread over an interval, so that peers fall silent at all times of a beat.
        spread = interval if group in ("live", "mute") else 0.0
        arguments: dict[str, Any] = {"target": f"/ws/{group}-{{}}", "count": count}
        await load.call("connect", host=host, port=server.port, spread=spread, **arguments)
    await server.collect_ends(1.5 * interval)

    await load.call("mute", target="/ws/mute")
    flood = [text.format(seconds=_SLOW * interval) for text in _FLOOD]
    await load.call("send", target="/ws/slow", texts=flood)
    seconds = _SLOW * interval
    await load.call("trickle", target="/ws/large", size=_LARGE, seconds=seconds, parts=100)
    await server.collect_ends((MISSES + 1 + _NEVER) * interval)
    figures |= await _noticed("silent", "mute", server, load)
    slow, large, idle = (_count(server, group) for group in _LIVING)

    server.send_signal(signal.SIGSTOP)
    await trio.sleep(_FROZEN * interval)
    server.send_signal(signal.SIGCONT)
    await server.collect_ends((MISSES + 1) * interval)
    frozen = sum(_count(server, group) for group in _LIVING) - (slow + large + idle)
    figures |= {
        "killed": slow + large + idle + frozen,
        "killed_frozen": frozen,
        "killed_slow": slow,
        "killed_large": large,
        "killed_idle": idle,
    }

    if net is not None:
        gone = frozenset(server.ends)
        net.cut()
        await server.collect_ends((MISSES + 1 + _NEVER) * interval)
        figures |= await _noticed("cut", "live", server, load, gone)
    return figures


async def _measure(run: Run, peer: str, namespaces: bool) -> dict[str, float | None]:
    options = run.options
    with ExitStack() as stack:
        net = stack.enter_context(network(peer)) if namespaces else None
        async with (
            open_server(
                peer,
                "detect",
                interval=options.interval,
                misses=MISSES,
                host=SERVER if net else "127.0.0.1",
                namespace=net.server if net else None,
                pinned=False,
            ) as server,
            open_load(namespace=net.client if net else None, pinned=False) as load,
        ):
            return await _scenario(options, server, load, net)


async def _run(run: Run) -> None:
    try:
        with network("trial"):
            namespaces = True
    except NoNamespaces as exc:
        run.note(f"no network is cut: {exc}")
        namespaces = False

    async def measure(peer: str) -> dict[str, float | None]:
        return await _measure(run, peer, namespaces)

    for peer, text in _NOTES.items():
        if peer in run.peers:
            run.note(text)

    async def take(peer: str) -> None:
        run.report.add(peer, await run.attempt(peer, measure))
        run.step(f"{peer} done", 1)

    with run.progress(run.options.rounds * len(run.peers)):
        for number in range(run.options.rounds):
            run.step(f"round {number + 1}: all at once")
            async with trio.open_nursery() as nursery:
                for peer in run.peers:
                    nursery.start_soon(take, peer)


_PEERS = tuple(peer for peer in Options().peers if peer not in IDLE_ONLY)

COMMAND = Command(
    "detect",
    "dead peers noticed, live ones spared",
    Options(connections=20, interval=1.0, peers=_PEERS),
    Options(connections=8, interval=0.5, rounds=1, peers=_PEERS),
    ("connections", "interval"),
    _figures,
    _goals,
    _run,
)
